"""Builder of the training loss."""

from __future__ import annotations

import numpy as np

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import LOSSES_OF
from lalm_mer.core.settings import naming_keys
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.config.loss import LossSettings
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings
from lalm_mer.models.families import DUAL_ENCODERS
from lalm_mer.recognizers.losses import SMALLEST_CCC_BATCH, Loss

__all__ = ["check_loss", "make_loss", "resolved_kind"]


def resolved_kind(settings: LossSettings, task_kind: str) -> str:
    """The kind of the loss: that of the settings, or the default of the kind of task."""
    return LOSSES_OF[task_kind][0] if settings.kind is None else settings.kind


def check_loss(settings: FinetuneSettings | BaselineSettings, task_kind: str) -> None:
    """Check that the loss fits the task, the recognizer and the batches, before anything is loaded.

    Raises:
        ConfigError: naming the key
    """
    loss, kind = settings.loss, resolved_kind(settings.loss, task_kind)
    if kind not in LOSSES_OF[task_kind]:
        raise ConfigError(
            f"key 'loss.kind': {kind}, but the task of the protocol is {task_kind}; expected null or one of "
            f"{', '.join(LOSSES_OF[task_kind])}"
        )
    family = settings.model.family if isinstance(settings, FinetuneSettings) else None
    compares = family in DUAL_ENCODERS
    changes = {
        "soft_labels": loss.soft_labels,
        "logit_adjustment": loss.logit_adjustment > 0,
        "label_smoothing": loss.label_smoothing > 0,
    }
    for key, changed in changes.items():
        if changed and (task_kind != "single" or kind == "contrastive"):
            raise ConfigError(
                f"key 'loss.{key}': {getattr(loss, key)}; only for a task of one label an utterance and not for "
                f"contrastive, this is {task_kind} and {kind}"
            )
    if kind == "contrastive" and not compares:
        raise ConfigError(
            f"key 'loss.kind': contrastive; only the families {' and '.join(DUAL_ENCODERS)} compare audio with "
            "descriptions"
        )
    if compares and task_kind != "single":
        raise ConfigError(
            f"key 'split.protocol': its task is {task_kind}; {family} compares audio with one "
            "description of each label; choose a protocol of one label an utterance"
        )
    size = settings.train.per_device_train_batch_size
    if kind == "ccc" and size < SMALLEST_CCC_BATCH:
        raise ConfigError(
            f"key 'train.per_device_train_batch_size': {size}; the ccc of a batch needs {SMALLEST_CCC_BATCH} "
            "utterances or more; or set loss.kind=mse"
        )
    if kind == "ccc" and settings.train.tokens_per_batch is not None:
        raise ConfigError("key 'train.tokens_per_batch': batches of unknown size have no ccc; set loss.kind=mse")
    if task_kind == "scalar" and settings.balance.class_weights != "none":
        raise ConfigError("key 'balance.class_weights': a task on numbers has no classes; set none")
    if task_kind != "single" and "class" in settings.balance.sampling:
        raise ConfigError(
            f"key 'balance.sampling': {settings.balance.sampling}; an utterance of a {task_kind} task has no single "
            "class; set none or group"
        )


def make_loss(settings: LossSettings, data: RunData) -> Loss | None:
    """The loss of a run, after ``check_loss``; None for one that the recognizer computes itself.

    Raises:
        ConfigError: naming the key, if logit adjustment finds no training example of a label
    """
    task = data.folded.task
    kind = resolved_kind(settings, task.kind)
    changed = settings.soft_labels or settings.logit_adjustment or settings.label_smoothing
    if kind == "contrastive" or (task.kind == "single" and kind == "cross_entropy" and not changed):
        return None
    with naming_keys("loss"):
        return Loss(
            task.kind,
            kind,
            focal_gamma=settings.focal_gamma,
            log_priors=_log_priors(data) if settings.logit_adjustment else None,
            logit_adjustment=settings.logit_adjustment,
            label_smoothing=settings.label_smoothing,
            class_weights=data.class_weights,
            ranges=data.folded.ranges,
        )


def _log_priors(data: RunData) -> list[float]:
    """Logarithms of the frequencies of the labels among the training examples."""
    labels, truths = data.folded.task.targets, data.train.truths()
    counts = np.array([truths.count(label) for label in labels])
    if not counts.all():
        raise ConfigError(
            f"argument 'logit_adjustment': label {labels[int(counts.argmin())]!r} has no training example; set 0"
        )
    return [float(value) for value in np.log(counts / counts.sum())]
