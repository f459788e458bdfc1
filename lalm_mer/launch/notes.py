"""What a reader of a run's figures has to know of its model and of the utterances that it could not take."""

from __future__ import annotations

from lalm_mer.launch.data import RunData
from lalm_mer.models.clap import Clap
from lalm_mer.models.families.base import Family

__all__ = ["RANDOM_NOTE", "run_notes"]

RANDOM_NOTE = "The base model is randomly initialised: its figures say nothing about the published model."
"""For ``run.json``."""


def run_notes(model: Family | Clap, data: RunData) -> list[str]:
    """Whether the weights are random, what is known of the corpus in their training data, and what was refused.

    Args:
        model: the base model
        data: the three sides of the fold
    """
    notes = [RANDOM_NOTE] if model.randomly_initialised else []
    known = model.contamination.get(data.folded.corpus.name)
    if known is not None and not model.randomly_initialised:
        notes.append(f"Contamination of {model.name}: {known}")
    for split, lines in data.refused.items():
        left = "unscored, counted as errors" if split == "test" else "left out"
        notes.append(f"{len(lines)} utterances of {split} {left}: {'; '.join(lines[:5])}")
    return notes
