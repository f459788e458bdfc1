"""The preflight of a run: its examples, its device and what it prints; and the supervised tokens of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from torch import nn

from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.processes import is_first_process
from lalm_mer.core.progress import size_text
from lalm_mer.core.schema import Example, Input
from lalm_mer.corpora.prepared import PreparedCorpus
from lalm_mer.examples.augmented_examples import earlier_occurrences
from lalm_mer.launch.build.model_run import LoadedRun, open_model_run
from lalm_mer.launch.config.sections import ScoringSettings, TrainSettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.launch.run.engine import Engine, run_device
from lalm_mer.models.families.base import Family
from lalm_mer.models.pretrained import PretrainedModel
from lalm_mer.recognizers.base import Setup, kind_of
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.memory import available_bytes, estimate_memory, stored_bytes
from lalm_mer.recognizers.preflight import (
    batch_effects,
    evaluating,
    require_change,
    require_parity,
    require_supervised,
    single_effects,
    swapped_audio,
    swapped_transcripts,
    token_rows,
)
from lalm_mer.recognizers.scoring import run_batch

__all__ = ["CheckedRun", "check_run", "dump_labels", "preflight"]

_CHECKED = 4  # examples
_OPENED = 32  # at most, to find those
_SENSIBLE_S = 0.5  # shorter examples are used only if there are no others
_DUMPED = 3


class CheckedExamples(Protocol):
    """Examples of which a few are checked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def durations_s(self) -> list[float | None]:
        """Duration of each in seconds, without decoding; None without audio."""

    def utterances(self) -> pd.DataFrame:
        """``utterance_id`` and ``transcript`` of each, in order."""


@dataclass(frozen=True)
class CheckedRun:
    """What is checked of a run.

    Args:
        model: a ``Family`` or a ``Clap``
        recognizer: of the model
        setup: its prompts, or descriptions of labels
        examples: those that it trains on, or scores
        corpora: theirs
        sizes: section ``train`` if it trains, else section ``scoring``
    """

    model: PretrainedModel
    recognizer: nn.Module
    setup: Setup
    examples: CheckedExamples
    corpora: Sequence[PreparedCorpus]
    sizes: ScoringSettings

    @property
    def trains(self) -> bool:
        """Whether it trains."""
        return isinstance(self.sizes, TrainSettings)


def preflight(
    loaded: LoadedRun, recognizer: nn.Module, settings: ZeroShotSettings | FinetuneSettings, engine: Engine
) -> None:
    """``check_run`` of a run; with ``preflight`` false in its settings, nothing is checked.

    Args:
        loaded: the run
        recognizer: of its model
        settings: of the run
        engine: the expected engine

    Raises:
        ModelError: as ``check_run``
        AudioError: likewise
    """
    trains = isinstance(settings, FinetuneSettings)
    run = CheckedRun(
        loaded.model,
        recognizer,
        loaded.setup,
        loaded.data.train if trains else loaded.data.scored_test,
        [loaded.data.folded.corpus],
        settings.train if isinstance(settings, FinetuneSettings) else settings.scoring,
    )
    check_run(run, engine, skipped=not settings.preflight)


def check_run(run: CheckedRun, engine: Engine, *, skipped: bool = False) -> None:
    """Check what would spoil a run, before the trainer is created; the first process prints a line per check.

    Weights, modes and random generators do not change. The model moves to the device of the trainer, and back only if
    the engine will shard it.

    Args:
        run: the run
        engine: the expected engine
        skipped: whether nothing is checked

    Raises:
        ModelError: if the model does not use audio or transcript, scores differ in a batch, or the loss counts tokens
            other than the answer's
        AudioError: if a waveform does not have the sampling rate of the model
    """
    if skipped:
        _print(["skipped (preflight=false)"])
        return
    started, recognizer = time.monotonic(), run.recognizer
    uses_audio = run.setup.uses("audio")
    chosen = _choose(run.examples, uses_audio=uses_audio, uses_transcript=run.setup.uses("transcript"))
    inputs = [example.input for example in chosen]
    if uses_audio:
        _print([_rates(run, inputs)])
    if run.model.has_language_model:
        _print(_supervised(run.model, cast(LanguageRecognizer, recognizer), chosen[0]))
    device = run_device(run.sizes)
    if stored_bytes(recognizer) > available_bytes(device, recognizer):
        _print(
            [
                f"the weights need {size_text(stored_bytes(recognizer))}, and {device} has "
                f"{size_text(available_bytes(device, recognizer))}: use of audio and transcript, and batches, are not "
                "checked"
            ]
        )
        return
    sharded = engine.distributed_type in ("FSDP", "DEEPSPEED")
    with evaluating(recognizer, device, moves_back=sharded):
        _print(_scores(run, inputs))
        _print(_memory(run, _longest(run.examples, uses_audio=uses_audio), sharded=sharded))
    _print([f"done in {time.monotonic() - started:.1f} s"])


def dump_labels(settings: FinetuneSettings) -> None:
    """Print the tokens of a few training examples, and whether the loss counts them; nothing is trained.

    Raises:
        ConfigError: if the model has no language model
    """
    loaded = open_model_run(settings).load()
    if not loaded.model.has_language_model:
        raise ConfigError(f"--dump-labels: {settings.model.family} is not trained on tokens; leave it out")
    if loaded.data.folded.task.kind != "single":
        raise ConfigError("--dump-labels: the task has no single label, and all answers are supervised; leave it out")
    family = cast(Family, loaded.model)
    collate = loaded.recognizer().training_collator
    for index in range(min(_DUMPED, len(loaded.data.train))):
        example = loaded.data.train[index]
        lines = [f"utterance {example.input.utterance_id}, label {example.label}: id, supervised, token"]
        for token, counted, audio in token_rows(collate([example]), family.audio_token_id):
            shown = f"<audio x {audio}>" if audio else repr(family.tokenizer.decode([token]))
            lines.append(f"{token:>8} {'yes' if counted else '-':>3} {shown}")
        if is_first_process():
            print("\n".join(lines), flush=True)  # noqa: T201 the purpose of the flag


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        if is_first_process():
            print(f"preflight: {line}", flush=True)  # noqa: T201 before hours are spent


# Examples


def _choose(examples: CheckedExamples, *, uses_audio: bool, uses_transcript: bool) -> list[Example]:
    """The shortest sensible examples, preferably of different transcripts and durations.

    If the run uses audio, they have audio, if there is any. None is repeated or silent, and no two have the same audio.
    """
    table = examples.utterances()
    columns = {name: list(table[name]) for name in ("utterance_id", "transcript")}
    known = examples.durations_s()
    durations = [round(duration_s or 0.0, 2) for duration_s in known]
    with_audio = [row for row, duration_s in enumerate(known) if duration_s is not None]
    able = with_audio if uses_audio and with_audio else range(len(known))
    rows = sorted(able, key=lambda row: (durations[row] < _SENSIBLE_S, durations[row], row))
    repeats, *compared = (
        dict(zip(rows, earlier_occurrences([values[row] for row in rows]), strict=True))
        for values in (columns["utterance_id"], durations, *([columns["transcript"]] if uses_transcript else []))
    )
    rows.sort(key=lambda row: (repeats[row], sum(times[row] for times in compared)))
    found: list[Example] = []
    for row in rows[:_OPENED]:
        example = examples[row]
        if _has_new_audio(example.input, [each.input for each in found]):
            found.append(example)
        if len(found) == _CHECKED:
            break
    return found or [examples[rows[0]]]


def _has_new_audio(given: Input, found: Sequence[Input]) -> bool:
    """Whether audio is missing, or neither silent nor equal to that of an earlier input in their common duration."""
    if given.waveform is None:
        return True
    own = given.waveform.samples
    others = [each.waveform.samples for each in found if each.waveform is not None]
    return own.min() < own.max() and not any(np.array_equal(own[: len(other)], other[: len(own)]) for other in others)


def _longest(examples: CheckedExamples, *, uses_audio: bool) -> Example:
    """The example of the longest audio, then of the longest transcript."""
    durations = examples.durations_s() if uses_audio else [None] * len(examples)
    transcripts = [len(text) if isinstance(text, str) else 0 for text in examples.utterances()["transcript"]]
    return examples[max(range(len(durations)), key=lambda row: (durations[row] or 0.0, transcripts[row]))]


# Checks


def _rates(run: CheckedRun, inputs: Sequence[Input]) -> str:
    name, expected = run.model.name, run.model.sampling_rate
    for given in inputs:
        rate = None if given.waveform is None else given.waveform.sampling_rate
        if rate != expected and not given.without_audio:
            raise AudioError(
                f"utterance {given.utterance_id}: its waveform is at {rate} Hz, {name} takes {expected} Hz; "
                "resample it",
                "sampling_rate",
            )
    columns = [corpus.columns(["sampling_rate"])["sampling_rate"].dropna() for corpus in run.corpora]
    found = sorted({int(rate) for rates in columns for rate in rates})
    done = "unchanged" if found == [expected] else "resampled"
    return f"sampling rate: {name} takes {expected} Hz; corpus {', '.join(map(str, found))} Hz, {done}"


def _supervised(family: Any, recognizer: LanguageRecognizer, example: Example) -> Iterator[str]:  # noqa: ANN401 a Family
    if kind_of(recognizer) != "single":
        yield f"supervised: the {recognizer.kind} targets {', '.join(recognizer.targets)}, by the scores of all answers"
        return
    decode = family.tokenizer.decode
    answer = family.answer_ids(recognizer.right_answer(example))
    batch = recognizer.training_collator([example])
    require_supervised(batch, answer, decode)
    text, stop = decode(answer[:-1]), decode(answer[-1:])
    yield f"supervised: {text!r} {stop} ({len(answer)} tokens, utterance {example.input.utterance_id})"
    prompt = batch["input_ids"][0, : batch["sources"][0, 0] + 1]
    audio = int((prompt == family.audio_token_id).sum())
    yield f"prompt: {len(prompt)} tokens, {audio} of them audio placeholders"


def _scores(run: CheckedRun, inputs: Sequence[Input]) -> Iterator[str]:
    """Effect of a batch, and with it those of other audio and of another transcript, in three passes."""
    family, recognizer, sizes = run.model, run.recognizer, run.sizes
    trained = not family.randomly_initialised
    collator = cast(Any, recognizer).scoring_collators[0]
    different = {"audio": len(inputs), "transcript": len({each.transcript for each in inputs})}
    swaps = {"audio": swapped_audio, "transcript": swapped_transcripts}
    swapped = {what: swap(inputs) for what, swap in swaps.items() if run.setup.uses(what) and different[what] >= 2}
    if math.isinf(family.batch_tolerance):
        effects = single_effects(recognizer, collator, inputs, swapped, trained=trained)
        yield f"batch parity: not checked, because {family.name} takes one utterance at a time"
    else:
        effects = batch_effects(recognizer, collator, inputs, swapped, tolerance=family.batch_tolerance)
        numbers = sizes.per_device_eval_batch_size, getattr(sizes, "per_device_train_batch_size", 1)
        batched = sizes.tokens_per_batch is not None or max(numbers) > 1
        if batched:
            require_parity(effects.parity, family.name)
        bound = f"at most {effects.parity.bound:.1e}" if batched else "not required with batches of 1"
        yield f"batch parity: {effects.parity.difference:.1e} between utterances in a batch and alone ({bound})"
    for what in swaps:
        if not run.setup.uses(what):
            continue
        if what not in swapped:
            yield f"uses the {what}: not checked, because no two utterances differ in {what}"
            continue
        change = effects.changes[what]
        least = require_change(change, what, family.name, parity=effects.parity, trained=trained)
        expected = f"more than {least:.1e}" if least else "any change, because its weights are random"
        yield f"uses the {what}: swapping it changes label scores by {change:.1e} (median; expected {expected})"


def _memory(run: CheckedRun, longest: Example, *, sharded: bool) -> Iterator[str]:
    trains, sizes, recognizer = run.trains, run.sizes, cast(Any, run.recognizer)
    key = "train.per_device_train_batch_size" if trains else "scoring.per_device_eval_batch_size"
    batch = recognizer.training_collator([longest]) if trains else recognizer.scoring_collators[0]([longest.input])
    if sizes.tokens_per_batch is None:
        most = int(getattr(sizes, key.partition(".")[2]))
    else:
        key, most = f"{key.partition('.')[0]}.tokens_per_batch", sizes.tokens_per_batch // batch["input_ids"].numel()
    batch_size = max(1, min(most, len(run.examples)))  # a batch has no more than there are
    for name in ("labels", "target"):
        batch.pop(name, None)
    memory = estimate_memory(
        recognizer,
        partial(run_batch, recognizer, batch),
        batch_size=batch_size,
        learns=trains,
        checkpointing=getattr(sizes, "gradient_checkpointing", False),
    )
    device = next(recognizer.parameters()).device
    free = available_bytes(device, recognizer)
    training = f"gradients {size_text(memory.gradients)}, AdamW {size_text(memory.optimizer)}, " if trains else ""
    yield (
        f"memory: about {size_text(memory.total)}{' before sharding' if sharded else ''}, {device} has "
        f"{size_text(free)}: weights {size_text(memory.weights)}, {training}activations "
        f"{size_text(memory.activations)} (batch of {batch_size}, "
        f"all as long as {longest.input.utterance_id})"
    )
    if memory.total > free:
        ways = [f"lower {key}"]
        ways += ["train.gradient_checkpointing=true"] if trains else []
        if run.model.trained_in_full:
            ways += ["fewer towers in adapter.full", "an adapter (adapter.kind=lora)"]
        elif run.model.quantised_tower:
            ways += ["model.quantization=nf4"]
        yield f"WARNING: this may not fit; {', or '.join(ways)}"
