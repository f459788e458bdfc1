"""From settings to a trainer, with the history of its training on disk and one line an evaluation in the log."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import get_reporting_integration_callbacks

from lalm_mer.core.errors import ConfigError, one_line
from lalm_mer.evaluation.metrics import METRICS, UAR, Metric
from lalm_mer.launch.config.settings import ScoringSettings, TrainSettings
from lalm_mer.launch.run.engine import Engine, check_accelerator
from lalm_mer.recognizers.training import Examples, RecognizerTrainer

__all__ = ["make_trainer", "seed_everything"]


class _History(TrainerCallback):  # type: ignore[misc]
    """Keeps history.jsonl equal to the trainer's own log, also after a resume, and prints the evaluations."""

    def __init__(self, path: Path, metric: Metric) -> None:
        self._path = path
        self._metric = metric

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ANN401
        if state.is_world_process_zero:
            self._path.write_text("".join(_lines(state.log_history)), encoding="utf-8")

    def on_log(
        self,
        args: Any,  # noqa: ANN401
        state: TrainerState,
        control: TrainerControl,
        **_: Any,  # noqa: ANN401
    ) -> None:
        if not state.is_world_process_zero or not state.log_history:
            return
        for line in _lines(state.log_history[-1:]):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
            row = json.loads(line)
            if row["split"] == "dev" and not sys.stderr.isatty():
                figure = f"dev {self._metric.short_title} {row[self._metric.name]:.3f}"
                line = f"step {row['step']}/{state.max_steps}: dev loss {row['loss']:.3f}, {figure}"
                print(line, flush=True)  # noqa: T201 the log's one line an evaluation


def _lines(log_history: list[dict[str, float]]) -> list[str]:
    """history.jsonl rows of a trainer's log."""
    rows: list[dict[str, object]] = []
    for entry in log_history:
        where = {"step": entry["step"], "epoch": entry.get("epoch")}
        if "eval_loss" in entry:
            dev = {key: entry[f"eval_{key}"] for key in ("loss", *METRICS) if f"eval_{key}" in entry}
            rows.append({**where, "split": "dev", **dev})
        elif "loss" in entry:
            extra: dict[str, object] = {key: entry[key] for key in ("learning_rate", "grad_norm") if key in entry}
            rows.append({**where, "split": "train", "loss": entry["loss"], **extra})
    return [json.dumps(row) + "\n" for row in rows]


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and quiet what transformers says of its own loading."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(seed)


def make_trainer(
    model: nn.Module,
    settings: ScoringSettings,
    engine: Engine,
    *,
    folder: Path,
    history: Path,
    seed: int,
    train: Examples | None = None,
    dev: Examples | None = None,
    class_weights: Sequence[float] | None = None,
    best_by: str = UAR,
) -> RecognizerTrainer:
    """Build the trainer that learns (with ``TrainSettings``) or only scores.

    Args:
        model: the recognizer
        settings: names as in TrainingArguments
        engine: what the run was launched with; checked against what accelerate set up
        folder: of checkpoints
        history: history.jsonl
        seed: of weights, order and dropout
        train: training examples
        dev: examples that choose the checkpoint
        class_weights: what the training loss of each of the K classes is multiplied by; None weights all alike
        best_by: one of ``METRICS``, which they choose it by

    Raises:
        ConfigError: if the engine found is not the one expected, or a package of ``report_to`` is not installed
    """
    passed = _arguments(settings, engine, folder, seed)
    callbacks: list[TrainerCallback] = []
    if isinstance(settings, TrainSettings):
        passed |= _selection(settings, best_by)
        callbacks.append(_History(history, METRICS[best_by]))
        if settings.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    arguments = _training_arguments(passed)
    _require_reporters(arguments.report_to)
    trainer = RecognizerTrainer(
        model,
        arguments,
        train_examples=train,
        dev_examples=dev,
        class_weights=class_weights,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log as a dict
    check_accelerator(engine, trainer.accelerator)
    return trainer


def _require_reporters(names: Sequence[str]) -> None:
    """Check that transformers can log to each name, before its Trainer would end in a traceback."""
    try:
        for callback in get_reporting_integration_callbacks(names):
            callback()
    except (ImportError, RuntimeError, ValueError) as error:
        raise ConfigError(f"key 'train.report_to': {', '.join(names)}: {one_line(error)}") from error


def _arguments(settings: ScoringSettings, engine: Engine, folder: Path, seed: int) -> dict[str, Any]:
    """TrainingArguments: every setting that has a name of theirs, and what follows from engine and folder."""
    known = {field.name for field in fields(TrainingArguments)}
    passed = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name in known}
    if not passed.get("gradient_checkpointing"):  # passed only where wanted: transformers warns of the name
        passed.pop("gradient_checkpointing", None)
    return passed | {
        "output_dir": str(folder),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_backend": "gloo" if settings.use_cpu and engine.num_processes > 1 else None,
        "deepspeed": engine.deepspeed_config_file,
        "remove_unused_columns": False,
        "report_to": passed.get("report_to") or "none",
        "disable_tqdm": not sys.stderr.isatty(),
        "seed": seed,
        "data_seed": seed,
    }


def _training_arguments(passed: dict[str, Any]) -> TrainingArguments:
    try:
        return TrainingArguments(**passed)
    except ValueError as error:  # it checks values and their combinations
        raise ConfigError(f"section 'train': transformers.TrainingArguments says: {one_line(error)}") from error


def _selection(settings: TrainSettings, best_by: str) -> dict[str, Any]:
    """TrainingArguments by which dev chooses: evaluation and saving go together."""
    return {
        "save_strategy": settings.eval_strategy,
        "save_steps": settings.eval_steps or 500,
        "load_best_model_at_end": True,
        "metric_for_best_model": best_by,
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,  # the patience of early stopping
    }
