"""Notes on the results of a run: its model, and the utterances that it cannot use."""

from __future__ import annotations

from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.launch.build.data import RunData
from lalm_mer.models.registry import PretrainedModel
from lalm_mer.recognizers.base import Setup

__all__ = ["run_notes"]

_EXAMPLES = 5


def run_notes(model: PretrainedModel, data: RunData, setup: Setup) -> list[Note]:
    """Notes on random weights or contamination of the model, on refused utterances, and on answered examples."""
    notes = []
    known = model.contamination.get(data.folded.corpus.name)
    if model.randomly_initialised:
        notes.append(Note(NoteCode.RANDOMLY_INITIALISED))
    elif known is not None:
        notes.append(Note(NoteCode.CONTAMINATION, facts={"model": model.name, "known": known}))
    for split, refused in data.refused.items():
        code = NoteCode.UNSCORED if split == "test" else NoteCode.LEFT_OUT
        ids = tuple(refused)[:_EXAMPLES]
        notes.append(Note(code, split, len(refused), ids, tuple(refused[name] for name in ids)))
    if setup.shots:
        notes.append(Note(NoteCode.ANSWERED_EXAMPLES, "train", len(setup.shots)))
    return notes
