"""One variant at a time: opened as a recipe opens a run, measured, and its results kept for comparison."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from lalm_mer.core.config import build_config, to_dict
from lalm_mer.core.names import GENERATION
from lalm_mer.core.schema import Example
from lalm_mer.examples.dataset import InputDataset
from lalm_mer.launch.benchmark.data import Place, evenly
from lalm_mer.launch.benchmark.measuring import Timing, reset_peak, timed, used_bytes
from lalm_mer.launch.benchmark.plain import PlainPrompts, generate_answers, plain_trainer, score_full_sequences
from lalm_mer.launch.build.adapting import adapt
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.build.model_run import LoadedRun, open_model_run
from lalm_mer.launch.config.benchmark import OURS, TRAIN, ArmSettings, ComparisonSettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.launch.estimate import Estimate, Method, empty_family, estimate, flowing_towers
from lalm_mer.launch.run.answering import open_answering
from lalm_mer.launch.run.encoded_data import encoded_data
from lalm_mer.launch.run.engine import Engine, expected_engine
from lalm_mer.launch.run.resources import peak_bytes
from lalm_mer.launch.run.trainers import make_trainer, seed_everything
from lalm_mer.models.families.base import Family
from lalm_mer.models.from_config import random_weights
from lalm_mer.recognizers.base import Scores
from lalm_mer.recognizers.cost import Work, model_flops, tower_costs, tower_positions
from lalm_mer.recognizers.language.answers import answer_forms, answer_tree
from lalm_mer.recognizers.scoring import score_by_trainer
from lalm_mer.recognizers.training import RecognizerTrainer

__all__ = ["Bench", "Facts", "Measured", "arm_settings"]

_ENGINES = {"cpu": "accelerate_configs/cpu.yaml", "cuda": "accelerate_configs/single_gpu.yaml"}


@dataclass(frozen=True)
class Measured:
    """One measurement of a variant, and what it computed.

    Args:
        timing: in seconds
        peak_bytes: largest memory so far
        log_probs: (N, K) label log-probabilities; None if it gives none
        losses: training loss of each step; empty for scoring
        gradients: parameter -> its gradient in the first step, on the CPU; empty for scoring
    """

    timing: Timing
    peak_bytes: int
    log_probs: npt.NDArray[np.float64] | None = None
    losses: tuple[float, ...] = ()
    gradients: dict[str, Tensor] = field(default_factory=dict)

    @property
    def has_results(self) -> bool:
        """Whether there is something to compare."""
        return self.log_probs is not None or bool(self.losses)


@dataclass(frozen=True)
class Facts:
    """What one measurement of the variant processes.

    Args:
        utterances: number of them
        audio_s: their duration together, in seconds
        tokens: positions of the language model without padding, of all of them
        flops: operations that are needed for all of them
        predicted_bytes: memory that ``lalm-mer estimate`` predicts; None for a plain variant
        predicted_weights: part of it for the weights
        predicted_flops: operations that it predicts, from the mean duration
        loaded_bytes: memory before the first measurement
        quantization: ``nf4`` or None
        batch_size: utterances per batch
    """

    utterances: int
    audio_s: float
    tokens: float
    flops: float
    predicted_bytes: int | None
    predicted_weights: int | None
    predicted_flops: float | None
    loaded_bytes: int
    quantization: str | None
    batch_size: int


class Bench:
    """Variants of one comparison in this process; one model is in memory at a time.

    Args:
        place: folders and settings of the benchmark
        comparison: the comparison
    """

    def __init__(self, place: Place, comparison: ComparisonSettings) -> None:
        self._place = place
        self._comparison = comparison
        self._device = place.settings.device
        self._key = ""
        self._loaded: LoadedRun | None = None
        self._data: dict[str, RunData] = {}  # model.tower_cache -> data, with stored tower outputs or without
        self._recognizer: Any = None
        self._initial: dict[str, Tensor] = {}

    def measure(self, arm: ArmSettings, *, keeps_results: bool) -> Measured:
        """Do the work of a variant once; training starts from the same weights each time.

        Args:
            arm: the variant
            keeps_results: whether to return losses and gradients, which takes time
        """
        settings = self._open(arm)
        self._recognizer.family.set_attention(settings.model.attn_implementation)
        reset_peak(self._device)
        if isinstance(settings, FinetuneSettings):
            return self._train(arm, settings, keeps_results=keeps_results)
        return self._score(arm, settings)

    def facts(self, arm: ArmSettings) -> Facts:
        """What one measurement of a variant processes."""
        settings = self._open(arm)
        loaded_bytes = used_bytes(self._device)
        assert self._loaded is not None
        family, data = cast(Family, self._loaded.model), self._loaded.data
        trains = isinstance(settings, FinetuneSettings)
        examples = data.train if trains else data.test
        costs, positions = tower_costs(family), tower_positions(family.name)
        trained = flowing_towers(family) if trains else None
        cached = settings.model.tower_cache == "require"
        works: list[Work] = []
        durations_s: list[float] = []
        for example in examples:  # one after the other, so that memory does not grow with their number
            works.append(self._work(example, 0 if cached else positions.per_token, trains=trains))
            durations_s += [] if example.input.waveform is None else [example.input.waveform.duration_s]
        predicted = self._estimate(settings, durations_s) if arm.path == OURS else None
        return Facts(
            utterances=len(works),
            audio_s=sum(durations_s),
            tokens=sum(work.tokens for work in works),
            flops=sum(model_flops(costs, work, trained, family.trained_in_full) for work in works),
            predicted_bytes=None if predicted is None else predicted.memory.total,
            predicted_weights=None if predicted is None else predicted.memory.weights,
            predicted_flops=None
            if predicted is None
            else (predicted.flops - cached * predicted.tower_flops) * len(works),
            loaded_bytes=loaded_bytes,
            quantization=settings.model.quantization,
            batch_size=_batch_size(settings),
        )

    def _estimate(self, settings: ZeroShotSettings | FinetuneSettings, durations_s: Sequence[float]) -> Estimate:
        """What ``lalm-mer estimate`` says, from the config of the model alone."""
        model = settings.model
        empty = empty_family(model.family, model.id, None, model.dtype)
        empty.full_window = model.full_window
        size = min(_batch_size(settings), len(durations_s))
        method = Method(quantization=model.quantization, batch_size=size)
        if isinstance(settings, FinetuneSettings):
            method = Method.of(settings.adapter, empty, quantization=model.quantization, batch_size=size)
        mean_s = sum(durations_s) / len(durations_s)
        return estimate(empty, self._recognizer.setup, method, mean_s=mean_s, longest_s=max(durations_s))

    def _open(self, arm: ArmSettings) -> ZeroShotSettings | FinetuneSettings:
        """Settings of a variant; the model is kept if it would be loaded again in the same way."""
        settings = arm_settings(self._place, self._comparison, arm)
        sizes = settings.train if isinstance(settings, FinetuneSettings) else settings.scoring
        content = to_dict(settings) | dict.fromkeys(("train", "scoring", "answering", "output"))
        content["packing"] = sizes.packing  # of the recognizer's collators
        cached = content["model"].pop("tower_cache")
        content["model"].pop("attn_implementation")  # set for each measurement
        if repr(content) != self._key:
            self._load(settings)
            self._key = repr(content)
        if cached not in self._data:
            engine = expected_engine(settings.engine, sizes, settings.model.dtype)
            assert self._loaded is not None
            with redirect_stdout(io.StringIO()):
                self._data[cached] = encoded_data(self._loaded, self._recognizer, settings, engine)
        return settings

    def _load(self, settings: ZeroShotSettings | FinetuneSettings) -> None:
        """Load model and utterances, and add the adapter, in place of what was loaded."""
        self._key, self._loaded, self._recognizer, self._initial = "", None, None, {}
        self._data = {}
        gc.unfreeze()
        if self._device == "cuda":  # or two models would need its memory
            gc.collect()
        seed_everything(settings.seed)
        with redirect_stdout(io.StringIO()), random_weights(self._device, settings.seed):
            loaded = open_model_run(settings).load()
            count = self._comparison.utterances or self._place.settings.data.utterances
            loaded = replace(loaded, data=evenly(loaded.data, count))
            run = loaded.settings
            if isinstance(run, FinetuneSettings):
                recognizer = adapt(loaded, run.adapter, shown=False)
                self._initial = {name: each.detach().clone() for name, each in _trainable(recognizer)}
            else:
                recognizer = loaded.recognizer()
        self._loaded, self._recognizer = loaded, recognizer
        gc.freeze()  # accelerate collects garbage in every training: up to a second over all that was imported

    def _prompts(self) -> PlainPrompts:
        assert self._loaded is not None
        recognizer = self._recognizer
        return PlainPrompts(recognizer.family, recognizer.setup.prompts[0], recognizer.label_set)

    def _score(self, arm: ArmSettings, settings: ZeroShotSettings) -> Measured:
        data, recognizer = self._data[settings.model.tower_cache], self._recognizer
        inputs: Any = InputDataset(data.scored_test)
        engine, size = expected_engine(settings.engine, settings.scoring), settings.scoring.per_device_eval_batch_size
        work: Callable[[], Any]
        if arm.path == "generate":
            work = partial(generate_answers, self._prompts(), inputs, size)
        elif arm.path == "full_sequence":
            work = partial(score_full_sequences, self._prompts(), inputs, size)
        elif settings.answering.mode == GENERATION:
            answering = open_answering(recognizer, data, settings.answering)
            work = partial(answering.answer, inputs, settings.scoring, engine)
        else:
            trainer = self._trainer(settings, engine)
            work = partial(score_by_trainer, trainer, inputs)
        recognizer.to(self._device).eval()
        timing, result = timed(work, self._device)
        values = result.values if isinstance(result, Scores) else result
        log_probs = values if isinstance(values, np.ndarray) else None
        return Measured(timing, peak_bytes(self._device), log_probs)

    def _train(self, arm: ArmSettings, settings: FinetuneSettings, *, keeps_results: bool) -> Measured:
        recognizer: Any = self._recognizer
        with torch.no_grad():
            for name, parameter in _trainable(recognizer):
                parameter.copy_(self._initial[name])
                parameter.grad = None
        examples: Any = self._data[settings.model.tower_cache].train
        ours = self._trainer(settings, expected_engine(settings.engine, settings.train, settings.model.dtype), examples)
        trainer = ours if arm.path == OURS else plain_trainer(ours, self._prompts(), examples)
        observed = _Observed(dict(_trainable(recognizer)))
        if keeps_results:
            trainer.add_callback(observed)
        timing, _ = timed(trainer.train, self._device)
        return Measured(timing, peak_bytes(self._device), None, tuple(observed.losses), observed.gradients)

    def _trainer(
        self,
        settings: ZeroShotSettings | FinetuneSettings,
        engine: Engine,
        examples: Any = None,  # noqa: ANN401
    ) -> RecognizerTrainer:
        trains = isinstance(settings, FinetuneSettings)
        return make_trainer(
            self._recognizer,
            settings.train if isinstance(settings, FinetuneSettings) else settings.scoring,
            engine,
            folder=self._place.runs / "checkpoints",
            history=self._place.runs / "history.jsonl",
            seed=settings.seed,
            train=examples if trains else None,
        )

    def _work(self, example: Example, per_token: float, *, trains: bool) -> Work:
        """What one utterance needs: one pass over the prompt and the tree of its answers."""
        recognizer: Any = self._recognizer
        ids, _ = recognizer.scoring_collators[0].render(example.input)
        family, labels = recognizer.family, recognizer.label_set
        forms = [labels.forms_of(example.label)[0]] if trains else [form for _, form in answer_forms(labels)]
        tree = answer_tree(list(map(family.answer_ids, forms)), complete=trains)
        audio = sum(token == family.audio_token_id for token in ids)
        return Work(audio * per_token, audio, len(ids) + len(tree.tokens), tree.source_count)


class _Observed(TrainerCallback):  # type: ignore[misc]
    """Keeps the loss of every step, and the gradients of the first."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self._parameters = parameters
        self.losses: list[float] = []
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        if not self.gradients:
            self.gradients = {
                name: each.grad.detach().cpu().clone()
                for name, each in self._parameters.items()
                if each.grad is not None
            }

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:  # noqa: ANN401
        if "loss" in logs:
            self.losses.append(logs["loss"])


def arm_settings(place: Place, comparison: ComparisonSettings, arm: ArmSettings) -> ZeroShotSettings | FinetuneSettings:
    """Settings of the run of a variant.

    Raises:
        ConfigError: naming the key, if it is wrong
    """
    trains, device = comparison.kind == TRAIN, place.settings.device
    schema: Any = FinetuneSettings if trains else ZeroShotSettings
    content = place.run | {
        "output": {"dir": str(place.runs / "unused")},
        "engine": {"accelerate_config": _ENGINES[device]},
        "train" if trains else "scoring": {"use_cpu": device == "cpu"} | ({"logging_steps": 1} if trains else {}),
    }
    settings = build_config(schema, content, "benchmark", comparison=comparison.settings, variant=arm.settings)
    return cast("ZeroShotSettings | FinetuneSettings", settings)


def _batch_size(settings: ZeroShotSettings | FinetuneSettings) -> int:
    if isinstance(settings, FinetuneSettings):
        return settings.train.per_device_train_batch_size
    return settings.scoring.per_device_eval_batch_size


def _trainable(recognizer: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, each) for name, each in recognizer.named_parameters() if each.requires_grad]
