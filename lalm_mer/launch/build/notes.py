"""What a reader of a run's figures has to know of its model and of the utterances that it could not take."""

from __future__ import annotations

from lalm_mer.launch.build.data import RunData
from lalm_mer.models.registry import PretrainedModel
from lalm_mer.recognizers.base import Setup

__all__ = ["RANDOM_NOTE", "run_notes"]

RANDOM_NOTE = "The base model is randomly initialised: its figures say nothing about the published model."
"""For ``run.json``."""


def run_notes(model: PretrainedModel, data: RunData, setup: Setup) -> list[str]:
    """Whether the weights are random, what is known of the corpus in their training data, and what was refused.

    Args:
        model: the base model
        data: train, dev and test of the fold
        setup: what the model is prompted with
    """
    notes = [RANDOM_NOTE] if model.randomly_initialised else []
    known = model.contamination.get(data.folded.corpus.name)
    if known is not None and not model.randomly_initialised:
        notes.append(f"Contamination of {model.name}: {known}")
    for split, lines in data.refused.items():
        left = "unscored, counted as errors" if split == "test" else "left out"
        notes.append(f"{len(lines)} utterances of {split} {left}: {'; '.join(lines[:5])}")
    if setup.shots:
        notes.append(f"Every prompt holds {len(setup.shots)} answered training utterances.")
    return notes
