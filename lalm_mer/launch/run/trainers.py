"""Trainers from settings, with the history of the training on disk, and the training of a run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from lalm_mer.core.errors import ConfigError, one_line
from lalm_mer.core.names import FULL, OPTIMIZERS
from lalm_mer.core.notes import Note, NoteCode, sentence
from lalm_mer.core.output import write_text, writing
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.progress import LOG_INTERVAL_S
from lalm_mer.core.provenance import hash_file
from lalm_mer.evaluation.metrics import METRICS, UAR, Floats, Metric
from lalm_mer.evaluation.target_metrics import TARGET_METRICS, TargetMetric, metric_called
from lalm_mer.examples.dataset import InputDataset
from lalm_mer.launch.build.data import RunData, inputs_under
from lalm_mer.launch.build.loss import make_loss
from lalm_mer.launch.config.sections import ScoringSettings, TrainSettings
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings
from lalm_mer.launch.run.engine import Engine, check_accelerator
from lalm_mer.launch.run.resources import parameters_of
from lalm_mer.launch.run.run_folder import RunFolder
from lalm_mer.launch.run.speed import SpeedLine, check_compiled, print_speed
from lalm_mer.recognizers.base import Scores, as_scores
from lalm_mer.recognizers.checkpoints import TRAINED, last_complete_checkpoint, saved_processes
from lalm_mer.recognizers.losses import Loss
from lalm_mer.recognizers.optimizers import OptimizerReport
from lalm_mer.recognizers.score_journal import ScoreJournal
from lalm_mer.recognizers.scoring import score_by_trainer
from lalm_mer.recognizers.training import Examples, Inputs, RecognizerTrainer
from lalm_mer.recognizers.waiting import advice_on
from lalm_mer.sharing.adapter_context import origin_of

__all__ = ["make_trainer", "score_dev", "score_test", "seed_everything", "train_and_score", "trained"]


class _OfOneDevice(TrainingArguments):  # type: ignore[misc]
    """Arguments of a process that uses one device; transformers would use all GPUs that a plain start finds."""

    @property
    def n_gpu(self) -> int:
        """Number of GPUs of this process, 0 or 1."""
        return min(int(super().n_gpu), 1)


class _History(TrainerCallback):  # type: ignore[misc]
    """Writes history.jsonl, also after resuming, and prints a line per evaluation if there is no progress bar."""

    def __init__(self, path: Path, metric: Metric | TargetMetric) -> None:
        self._path = path
        self._metric = metric

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:  # noqa: ANN401
        if state.is_world_process_zero:
            write_text(self._path, "".join(_lines(state.log_history)))

    def on_log(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:  # noqa: ANN401
        if not state.is_world_process_zero:
            return
        for line in _lines(state.log_history[-1:]):
            with writing(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(line)
            row = json.loads(line)
            if row["split"] == "dev" and not sys.stderr.isatty():
                result = f"dev loss {row['loss']:.3f}, dev {self._metric.short_title} {row[self._metric.name]:.3f}"
                print(f"step {row['step']}/{state.max_steps}: {result}", flush=True)  # noqa: T201 for logs


class _ScoringProgress(TrainerCallback):  # type: ignore[misc]
    """Prints a line from time to time while utterances are scored, where there is no progress bar."""

    def __init__(self) -> None:
        self._batches = 0
        self._printed = time.monotonic()

    def on_prediction_step(self, args: Any, state: TrainerState, *_: Any, eval_dataloader: Any, **__: Any) -> None:  # noqa: ANN401
        self._batches += 1
        if state.is_world_process_zero and time.monotonic() - self._printed >= LOG_INTERVAL_S:
            self._printed = time.monotonic()
            print(f"scored {self._batches} of {len(eval_dataloader)} batches", flush=True)  # noqa: T201 for logs

    def on_evaluate(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        self._batches = 0

    def on_predict(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        self._batches = 0


def _lines(log_history: list[dict[str, float]]) -> list[str]:
    """Rows of history.jsonl from the log of a trainer."""
    rows: list[dict[str, object]] = []
    for entry in log_history:
        where = {"step": entry["step"], "epoch": entry.get("epoch")}
        if "eval_loss" in entry:
            dev = {key: entry[f"eval_{key}"] for key in ("loss", *METRICS, *TARGET_METRICS) if f"eval_{key}" in entry}
            rows.append({**where, "split": "dev", **dev})
        elif "loss" in entry:
            train: dict[str, object] = {
                key: entry[key] for key in ("loss", "learning_rate", "grad_norm") if key in entry
            }
            rows.append({**where, "split": "train", **train})
    return [json.dumps(row) + "\n" for row in rows]


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and silence the loading messages of transformers."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(seed)


def train_and_score(
    model: nn.Module,
    settings: FinetuneSettings | BaselineSettings,
    engine: Engine,
    run: RunFolder,
    data: RunData,
    *,
    saved_as: str,
) -> None:
    """Train from the last complete checkpoint, if there is one, score test and dev, and finish the run.

    Args:
        model: the recognizer
        settings: of the run; its ``train`` and ``seed`` are used
        engine: the expected engine
        run: the run folder
        data: train, dev and test of the fold
        saved_as: folder in the run folder for what was trained
    """
    loss = make_loss(settings.loss, data)
    towers = not isinstance(settings, BaselineSettings)
    trainer = trained(
        model,
        settings.train,
        engine,
        run,
        seed=settings.seed,
        train=data.train,
        dev=data.dev,
        best_by=data.folded.folds.protocol.primary_metric,
        class_weights=data.class_weights if loss is None else None,
        loss=loss,
        towers=towers,
    )
    weights = hash_file(Path(str(trainer.state.best_model_checkpoint)) / TRAINED) if run.writes else None
    scores = None
    if settings.split.score_test:
        journal = run.journal("test", data.scored_test, weights)
        scores = score_test(trainer, InputDataset(data.scored_test), journal, towers=towers)
    recognizer, kind = trainer.recognizer, run.record.task_kind
    collator = recognizer.scoring_collators[0] if kind == "single" else recognizer.joint_collator  # as in training
    dev_journal = run.journal("dev", data.dev, weights)
    on_dev = as_scores(kind, trainer.score(InputDataset(data.dev), collator, dev_journal))
    if run.writes and run.record.method == FULL:  # before the weights, which would otherwise be used without its checks
        origin_of(run.record).write(run.path / saved_as)
    trainer.save_trained(run.path / saved_as)
    if scores is None:
        run.finish_dev(data, on_dev)
    else:
        run.finish(data, scores, on_dev)
    trainer.close()


def trained(
    model: nn.Module,
    settings: TrainSettings,
    engine: Engine,
    run: RunFolder,
    *,
    seed: int,
    train: Examples,
    dev: Examples,
    best_by: str,
    class_weights: Sequence[float] | None = None,
    loss: Loss | None = None,
    towers: bool = True,
) -> RecognizerTrainer:
    """Train from the last complete checkpoint, if there is one; the model then has the weights that were best on dev.

    Args:
        model: the recognizer
        settings: section ``train``
        engine: the expected engine
        run: the run folder
        seed: as of ``make_trainer``, and so are the others
        train: training examples
        dev: examples that select the checkpoint
        best_by: metric that selects it
        class_weights: as of ``make_trainer``
        loss: likewise
        towers: as of ``advice_on``
    """
    run.count(parameters_of(model, training=True))  # before an engine shards them
    trainer = make_trainer(
        model,
        settings,
        engine,
        folder=run.checkpoints,
        history=run.history,
        seed=seed,
        train=train,
        dev=dev,
        class_weights=class_weights,
        loss=loss,
        best_by=best_by,
    )
    trainer.add_callback(SpeedLine(trainer.recognizer, engine.mixed_precision))
    checkpoint = last_complete_checkpoint(run.checkpoints, removes=run.writes)
    if checkpoint is not None and run.writes:
        _print_resuming(checkpoint, engine)
    if settings.auto_find_batch_size:
        _find_batch_size(trainer, run, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    _print_waiting(trainer, "training", towers=towers)
    return trainer


def _print_resuming(checkpoint: Path, engine: Engine) -> None:
    step = checkpoint.name.rpartition("-")[2]
    saved = saved_processes(checkpoint)
    differ = saved not in (None, engine.num_processes)
    other = f" (of {saved} process(es); random draws, such as dropout, will be others)" if differ else ""
    print(f"resuming from step {step}: {as_recorded(checkpoint)}{other}", flush=True)  # noqa: T201 for the user


def _find_batch_size(trainer: RecognizerTrainer, run: RunFolder, checkpoint: Path | None) -> None:
    """Use the largest batch that fits, print it, and note it in run.json."""
    largest = trainer.args.per_device_train_batch_size
    size = trainer.find_batch_size(checkpoint)
    facts = {"found": size, "largest": largest, "accumulated": trainer.args.gradient_accumulation_steps}
    note = Note(NoteCode.FOUND_BATCH_SIZE, facts=facts)
    run.add_notes(note)
    if run.writes:
        print(sentence(note), flush=True)  # noqa: T201 for the user


def _print_waiting(trainer: RecognizerTrainer, doing: str, *, towers: bool) -> None:
    line = advice_on(trainer.waiting[doing], doing, trainer.args.dataloader_num_workers, towers=towers)
    if line is not None and trainer.is_world_process_zero():
        print(line, flush=True)  # noqa: T201 for the user


def score_test(trainer: RecognizerTrainer, inputs: Inputs, journal: ScoreJournal, *, towers: bool = True) -> Scores:
    """Scores of the N test inputs by all processes; the first process announces it, since it may take long.

    Args:
        trainer: of the recognizer
        inputs: N inputs
        journal: keeps the scores on disk while they are computed
        towers: as of ``advice_on``
    """
    if not trainer.state.global_step:  # or the training has printed it
        print_speed(trainer.recognizer, trainer.accelerator.mixed_precision)
    if trainer.is_world_process_zero():
        print(f"scoring {len(inputs)} test utterances", flush=True)  # noqa: T201 for the user
    scores = score_by_trainer(trainer, inputs, journal)
    if "scoring" in trainer.waiting:  # not if the journal has all scores
        _print_waiting(trainer, "scoring", towers=towers)
    return scores


def score_dev(trainer: RecognizerTrainer, run: RunFolder, data: RunData, settings: ZeroShotSettings) -> Floats:
    """Label log-probabilities of the dev utterances of a run without training, by all processes."""
    inputs = inputs_under(data.dev, settings.scoring.condition, settings.seed)
    return score_by_trainer(trainer, inputs, run.journal("dev", data.dev)).values


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
    loss: Loss | None = None,
    best_by: str = UAR,
) -> RecognizerTrainer:
    """Create a trainer for training (with ``TrainSettings``) or only for scoring.

    Args:
        model: the recognizer
        settings: names as in TrainingArguments
        engine: the expected engine
        folder: folder of the checkpoints
        history: path of history.jsonl
        seed: seed of weights, order and dropout
        train: training examples
        dev: examples that select the checkpoint; None to train without checkpoints
        class_weights: factor of the training loss of each of the K classes; None for equal weights
        loss: of scores and targets; None for one that the recognizer computes itself
        best_by: one of ``primary_metrics``, which selects the checkpoint

    Raises:
        ConfigError: if accelerate set up another engine than the expected one, a value or a combination of values is
            refused by TrainingArguments, or a package of ``report_to`` is not installed
    """
    check_compiled(model, engine)
    passed = _arguments(settings, engine, folder, seed, best_by if dev is not None else None)
    callbacks: list[TrainerCallback] = [] if sys.stderr.isatty() else [_ScoringProgress()]
    if isinstance(settings, TrainSettings):
        callbacks.append(_History(history, metric_called(best_by)))
        if settings.optim != OPTIMIZERS[0]:
            callbacks.append(OptimizerReport())
        if settings.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    try:
        arguments = _OfOneDevice(**passed)
    except ValueError as error:
        raise ConfigError(f"section 'train': transformers.TrainingArguments says: {one_line(error)}") from error
    _require_reporters(arguments.report_to)
    trainer = RecognizerTrainer(
        model,
        arguments,
        train_examples=train,
        dev_examples=dev,
        class_weights=class_weights,
        loss=loss,
        tokens_per_batch=settings.tokens_per_batch,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log as a dict
    check_accelerator(engine, trainer.accelerator)
    return trainer


def _arguments(
    settings: ScoringSettings, engine: Engine, folder: Path, seed: int, best_by: str | None
) -> dict[str, Any]:
    """Arguments of TrainingArguments: all settings of the same name, and those that follow from others."""
    known = {field.name for field in fields(TrainingArguments)} - {"auto_find_batch_size"}  # changes the step, as it is
    passed = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name in known}
    if not passed.get("gradient_checkpointing"):  # transformers warns if it is passed at all
        passed.pop("gradient_checkpointing", None)
    if isinstance(settings, TrainSettings) and best_by is None:
        passed |= {"eval_strategy": "no", "save_strategy": "no"}
    elif isinstance(settings, TrainSettings):
        passed |= {
            "save_strategy": settings.eval_strategy,  # a checkpoint for each evaluation
            "save_steps": settings.eval_steps or 500,
            "load_best_model_at_end": True,
            "metric_for_best_model": best_by,
            "greater_is_better": True,
            "restore_callback_states_from_checkpoint": True,  # the patience of early stopping
        }
    return passed | {
        "output_dir": str(folder),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_backend": "gloo" if settings.use_cpu and engine.num_processes > 1 else None,
        "deepspeed": engine.deepspeed_config_file,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,  # a loss that is not finite ends the training
        "report_to": passed.get("report_to") or "none",
        "disable_tqdm": not sys.stderr.isatty(),
        "seed": seed,
        "data_seed": seed,
    }


def _require_reporters(names: Sequence[str]) -> None:
    """Check that transformers can log to each name, since its Trainer would end with a traceback."""
    try:
        for callback in get_reporting_integration_callbacks(names):
            callback()
    except (ImportError, RuntimeError, ValueError) as error:
        raise ConfigError(f"key 'train.report_to': {', '.join(names)}: {one_line(error)}") from error
