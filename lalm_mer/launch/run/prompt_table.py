"""The metrics of each prompt and label order of a run that averages several: prompts.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lalm_mer.core.output import atomic_path
from lalm_mer.core.plain_text import plain_cells
from lalm_mer.evaluation.metrics import METRICS, UAR
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.report.text import percent
from lalm_mer.recognizers.base import PromptScores

__all__ = ["PROMPTS_FILE", "write_prompts"]

PROMPTS_FILE = "prompts.csv"


def write_prompts(path: Path, tables: Sequence[tuple[PromptScores, Predictions]]) -> str:
    """Write a row for each prompt and label order; returns a line for the user with the lowest and highest UAR.

    Args:
        path: the file
        tables: at least two prompts, each with its table of test predictions

    Raises:
        OutputError: if it cannot be written
    """
    rows = []
    for scores, predictions in tables:
        frame = predictions.frame
        truth, predicted = frame["truth"].tolist(), frame["prediction"].tolist()
        metrics = {metric.name: metric.from_labels(truth, predicted, predictions.labels) for metric in METRICS.values()}
        rows.append({"prompt": scores.prompt, "first_label": scores.first_label, **metrics})
    table = pd.DataFrame(rows)
    with atomic_path(path) as partial:
        plain_cells(table).to_csv(partial, index=False, encoding="utf-8")
    uar = table[UAR]
    return (
        f"test UAR of each of {len(table)} prompts and label orders: {percent(uar.min())} to {percent(uar.max())}, "
        f"mean {percent(uar.mean())} ({path.name})"
    )
