"""What a reader of a run's figures has to know of its model and of the utterances that it could not take."""

from __future__ import annotations

from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.launch.build.data import RunData
from lalm_mer.models.pretrained import PretrainedModel
from lalm_mer.recognizers.base import Setup

__all__ = ["run_notes"]

_EXAMPLES = 5


def run_notes(model: PretrainedModel, data: RunData, setup: Setup) -> list[Note]:
    """Whether the weights are random, what is known of the corpus in their training data, and what was refused.

    Args:
        model: the base model
        data: train, dev and test of the fold
        setup: what the model is prompted with
    """
    notes = []
    known = model.contamination.get(data.folded.corpus.name)
    if model.randomly_initialised:
        notes.append(Note(NoteCode.RANDOMLY_INITIALISED))
    elif known is not None:
        notes.append(Note(NoteCode.CONTAMINATION, facts={"model": model.name, "known": known}))
    for split, refused in data.refused.items():
        code = NoteCode.UNSCORED if split == "test" else NoteCode.LEFT_OUT
        examples = list(refused.items())[:_EXAMPLES]
        ids, reasons = tuple(name for name, _ in examples), tuple(reason for _, reason in examples)
        notes.append(Note(code, split, len(refused), ids, reasons))
    if setup.shots:
        notes.append(Note(NoteCode.ANSWERED_EXAMPLES, "train", len(setup.shots)))
    return notes
