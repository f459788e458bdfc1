"""Durations of runs of audio-language models before any has run, from the operations that they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lalm_mer.core.errors import ConfigError, LalmMerError
from lalm_mer.core.names import GENERATION
from lalm_mer.launch.build.defaults import with_model, with_targets
from lalm_mer.launch.build.prompts import open_prompts
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.launch.cross_validation.plan import PlannedRun, folded_of
from lalm_mer.launch.estimate import Estimate, Method, empty_family, estimate
from lalm_mer.models.families import DUAL_ENCODERS, REMOTE

__all__ = ["predicted_seconds"]


@dataclass(frozen=True)
class _Costs:
    """Operations for one utterance of mean duration, once; ``learning`` is None without training."""

    scoring: Estimate
    learning: Estimate | None


def predicted_seconds(runs: Sequence[PlannedRun], tflops: float) -> tuple[dict[str, float], dict[str, str]]:
    """Name of a run -> seconds, and for rows without a prediction: row -> why.

    A frozen audio tower counts once for each utterance, as it is stored. Not counted are loading, reading audio and the
    checks before a run.

    Args:
        runs: not finished
        tflops: 10^12 operations per second that are reached
    """
    costs: dict[str, _Costs] = {}
    unknown: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for run in runs:
        if run.row not in costs and run.row not in unknown:
            try:
                costs[run.row] = _costs(run)
            except LalmMerError as error:
                unknown[run.row] = str(error)
        if run.row in costs:
            seconds[run.name] = _operations(run, costs[run.row]) / (tflops * 1e12)
    return seconds, unknown


def _costs(run: PlannedRun) -> _Costs:
    """Operations of the runs of a row.

    Raises:
        ConfigError: if there is no prediction for such runs
        ModelError: if config or processor of the model cannot be read
    """
    settings = run.settings
    without = (*DUAL_ENCODERS, REMOTE)
    if not isinstance(settings, ZeroShotSettings | FinetuneSettings) or settings.model.family in without:
        raise ConfigError("operations are known for audio-language models alone")
    if isinstance(settings, ZeroShotSettings) and settings.answering.mode == GENERATION:
        raise ConfigError("the length of generated answers is not known")
    settings = with_model(settings)
    folded = folded_of(settings.data.dir, settings.split.protocol)
    setup = open_prompts(settings, folded.label_set)
    settings = with_targets(settings, setup)
    durations = folded.corpus.columns(["duration_s"])["duration_s"].dropna()
    mean_s, longest_s = float(durations.mean()), float(durations.max())
    model = settings.model
    empty = partial(empty_family, model.family, model.id, model.revision, model.dtype)
    predicted = partial(estimate, setup=setup, mean_s=mean_s, longest_s=longest_s)
    scoring = predicted(empty(), method=Method(quantization=model.quantization))
    if not isinstance(settings, FinetuneSettings):
        return _Costs(scoring, None)
    family, size = empty(), settings.train.per_device_train_batch_size  # a new model, which the method changes
    method = Method.of(settings.adapter, family, quantization=model.quantization, batch_size=size)
    return _Costs(scoring, predicted(family, method=method))


def _operations(run: PlannedRun, costs: _Costs) -> float:
    """Operations of one run."""
    settings, sizes, scoring, learning = run.settings, run.sizes, costs.scoring, costs.learning
    if learning is None or not isinstance(settings, FinetuneSettings):
        return sizes["test"] * scoring.flops
    train, count = settings.train, settings.split.train_utterances or sizes["train"]
    epochs = train.num_train_epochs
    if train.max_steps > 0:
        epochs = train.max_steps * train.per_device_train_batch_size * train.gradient_accumulation_steps / count
    stored = scoring.tower_flops if learning.tower_flops else 0.0
    learned = learning.tower_flops + epochs * (learning.flops - learning.tower_flops)
    on_dev = stored + (epochs + 1) * (scoring.flops - stored)
    return count * learned + sizes["dev"] * on_dev + sizes["test"] * scoring.flops
