"""The folder of an aligned model: base model and what was trained, merged, with a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lalm_mer.core.names import COMPOSED_OF
from lalm_mer.core.output import write_text, writing
from lalm_mer.core.run_record import MODEL_FOLDER, RUN_FILE, RunRecord, read_record
from lalm_mer.core.strict_json import read_object
from lalm_mer.evaluation.predictions import DEV_PREDICTIONS_FILE, Predictions
from lalm_mer.evaluation.report.figures import training_curves
from lalm_mer.evaluation.report.text import with_interval
from lalm_mer.evaluation.scores import score
from lalm_mer.models.composed_card import composed_card
from lalm_mer.sharing.adapter_context import AdapterContext, read_merged_from, with_contexts
from lalm_mer.sharing.hub_ids import published_id
from lalm_mer.sharing.merging import merge
from lalm_mer.sharing.model_card import plain

__all__ = ["accuracy_by_kind", "write_aligned"]

_CURVE = "alignment.png"
_METRIC = "weighted_accuracy"


def write_aligned(run: Path, contexts: Sequence[AdapterContext]) -> Path:
    """Write ``model`` in the folder of a finished alignment, if it is not complete there, and return it.

    Its card has the accuracy on dev for each kind of question, and the curve of the training.

    Args:
        run: the run folder
        contexts: what it was trained on, a context for each corpus

    Raises:
        PredictionError: if a file of the run is damaged
        OutputError: if it cannot be written
    """
    out = run / MODEL_FOLDER
    if (out / "README.md").is_file():
        return out
    if not out.is_dir():
        merge(str(run), out)
    merged = read_merged_from(out)
    if merged is not None:
        with_contexts(merged, contexts).write(out)
    history = pd.read_json(run / "history.jsonl", lines=True)
    with writing(out / _CURVE):
        FigureCanvasAgg(training_curves([history], _METRIC, 50.0)).print_png(out / _CURVE)
    record = read_record(run / RUN_FILE)
    text = _text(record, accuracy_by_kind(run), history)
    origin = read_object(out / "config.json").get(COMPOSED_OF)
    if isinstance(origin, dict):
        card = composed_card(origin, text)
    else:
        base = published_id(record.base_model or "") or "a model in a local folder"
        card = f"# An aligned audio-language model\n\nBase model: {plain(base)}, whose licence applies.\n\n{text}\n"
    write_text(out / "README.md", card)
    return out


def accuracy_by_kind(run: Path) -> dict[str, dict[str, Any]]:
    """Kind of a question -> accuracy of the choice between its two answers on dev, with its interval and ``n``.

    Raises:
        PredictionError: if the predictions are damaged
    """
    table = Predictions.read(run / DEV_PREDICTIONS_FILE)
    kinds = table.frame["utterance_id"].str.rpartition("/")[2]
    found = {}
    for kind in sorted(kinds.unique()):
        metrics = score(replace(table, frame=table.frame[kinds == kind].reset_index(drop=True)))
        found[kind] = {**metrics[_METRIC], "n": metrics["n"]}
    return found


def _text(record: RunRecord, by_kind: dict[str, dict[str, Any]], history: pd.DataFrame) -> str:
    """The section of the card on the training."""
    kinds = [f"| {kind} | {with_interval(entry)} | {entry['n']} |" for kind, entry in by_kind.items()]
    dev = history[history["split"] == "dev"]
    steps = [
        f"| {row.step} | {row.loss:.3f} | {100 * getattr(row, _METRIC):.1f} |" for row in dev.itertuples(index=False)
    ]
    speech = f"{plain(record.corpus)}{' (synthetic speech)' if record.synthetic else ''}"
    lines = [
        f"Aligned on {speech} by questions about its audio (`recipes/align.py`), seed {record.seed}. Accuracy of the "
        "choice between two answers on dev, in percent with 95% intervals by speaker; chance is 50:",
        "\n".join(["| question | accuracy | questions |", "|---|---|---|", *kinds]),
        f"![Loss and accuracy by step]({_CURVE})",
        "\n".join(["| step | dev loss | dev accuracy |", "|---|---|---|", *steps]),
        "It was not trained to name emotions.",
    ]
    return "\n\n".join(lines)
