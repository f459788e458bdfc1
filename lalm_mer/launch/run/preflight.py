"""The preflight of a run: which examples are asked, where, and what is printed of it; and the tokens a run learns."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import parse_flag_from_env
from torch import nn

from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.processes import is_first_process
from lalm_mer.core.schema import Example, Input
from lalm_mer.examples.augmented_examples import AugmentedExamples, earlier_occurrences
from lalm_mer.examples.dataset import ExampleDataset
from lalm_mer.launch.build.model_run import LoadedRun, open_model_run
from lalm_mer.launch.config.settings import FinetuneSettings, ScoringSettings, ZeroShotSettings
from lalm_mer.launch.run.engine import Engine
from lalm_mer.models.families.base import Family
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.memory import available_bytes, estimate_memory, stored_bytes
from lalm_mer.recognizers.preflight import (
    batch_parity,
    left_as_found,
    median_change,
    no_batches,
    require_change,
    require_parity,
    require_supervised,
    swapped_audio,
    swapped_transcripts,
    token_rows,
)
from lalm_mer.recognizers.scoring import run_batch

__all__ = ["dump_labels", "preflight"]

_ASKED = 4
_LOOKED_AT = 32  # utterances opened at most, to find those
_SENSIBLE_S = 0.5  # shorter ones only where there are no others
_DUMPED = 3


def preflight(
    loaded: LoadedRun, model: nn.Module, settings: ZeroShotSettings | FinetuneSettings, engine: Engine
) -> None:
    """Check what would spoil a run; a line each, printed by the first process.

    Before the trainer is made, for an engine may share the model out then. It is left as it was found, but for the
    device, where that is the trainer's too.

    Args:
        loaded: what the run is made of
        model: the recognizer that is to learn or to score
        settings: of the run; ``preflight`` false does nothing
        engine: what the run was launched with

    Raises:
        ModelError: if the model is deaf, blind to transcripts, not the same in a batch, or learns other tokens than
            the answer's
        AudioError: if a waveform has another rate than the model takes
    """
    if not settings.preflight:
        _say("left out (preflight=false)")
        return
    started = time.monotonic()
    uses_audio = loaded.setup.uses("audio")
    examples: ExampleDataset | AugmentedExamples = loaded.data.train
    if isinstance(settings, ZeroShotSettings):
        examples = loaded.data.test.select(loaded.data.scored)
    chosen = _chosen(examples, uses_audio=uses_audio, uses_transcript=loaded.setup.uses("transcript"))
    inputs = [example.input for example in chosen]
    if uses_audio:
        _say(_rates(loaded, inputs))
    if loaded.model.has_language_model:
        for line in _supervised(loaded.model, cast(LanguageRecognizer, model), chosen[0]):
            _say(line)
    sizes = _sizes(settings)
    device = _device(sizes)
    if stored_bytes(model) > available_bytes(device, model):
        _say(
            f"the weights take {_size(stored_bytes(model))}, and {device} has {_size(available_bytes(device, model))}: "
            "not asked whether it hears and reads, nor what a batch does"
        )
        return
    sharded = engine.distributed_type in ("FSDP", "DEEPSPEED")
    with left_as_found(model, device, moves_back=sharded):
        for line in _scores(loaded, model, inputs, _largest_batch(sizes)):
            _say(line)
        for line in _memory(loaded, model, settings, _longest(examples, uses_audio=uses_audio), sharded=sharded):
            _say(line)
    _say(f"done in {time.monotonic() - started:.1f} s")


def dump_labels(settings: FinetuneSettings) -> None:
    """Print the tokens of a few training examples, and which of them the loss counts; nothing is trained.

    Raises:
        ConfigError: if the model learns no tokens
    """
    loaded = open_model_run(settings).load()
    if not loaded.model.has_language_model:
        raise ConfigError(f"--dump-labels: {settings.model.family} learns no tokens; leave it out")
    family = cast(Family, loaded.model)
    decode = _decoder(family)
    collate = loaded.recognizer().training_collator
    for index in range(min(_DUMPED, len(loaded.data.train))):
        example = loaded.data.train[index]
        batch = collate([example])
        lines = [f"utterance {example.input.utterance_id}, label {example.label}: id, supervised, token"]
        for token, counted, audio in token_rows(batch, family.audio_token_id):
            shown = f"<audio x {audio}>" if audio else repr(decode([token]))
            lines.append(f"{token:>8} {'yes' if counted else '-':>3} {shown}")
        if is_first_process():
            print("\n".join(lines), flush=True)  # noqa: T201 what was asked for


def _say(line: str) -> None:
    if is_first_process():
        print(f"preflight: {line}", flush=True)  # noqa: T201 what a user should see before hours are spent


# Which examples


def _chosen(examples: ExampleDataset | AugmentedExamples, *, uses_audio: bool, uses_transcript: bool) -> list[Example]:
    """The shortest sensible examples, with audio where it is heard, of different transcripts and lengths if there are.

    No utterance stands twice, none is silent and no two have the same audio.
    """
    table = examples.utterances()
    names, transcripts = list(table["utterance_id"]), list(table["transcript"])
    known = examples.durations_s()
    durations = [round(duration_s or 0.0, 2) for duration_s in known]
    with_audio = [row for row, duration_s in enumerate(known) if duration_s is not None]
    able = with_audio if uses_audio and with_audio else range(len(names))
    rows = sorted(able, key=lambda row: (durations[row] < _SENSIBLE_S, durations[row], row))
    again, *compared = (
        dict(zip(rows, earlier_occurrences([values[row] for row in rows]), strict=True))
        for values in (names, durations, *([transcripts] if uses_transcript else []))
    )
    rows.sort(key=lambda row: (again[row], sum(times[row] for times in compared)))
    found: list[Example] = []
    for row in rows[:_LOOKED_AT]:
        example = examples[row]
        if _sounds_new(example.input, [each.input for each in found]):
            found.append(example)
        if len(found) == _ASKED:
            break
    return found or [examples[rows[0]]]


def _sounds_new(given: Input, found: Sequence[Input]) -> bool:
    if given.waveform is None:
        return True
    own = given.waveform.samples
    others = [each.waveform.samples for each in found if each.waveform is not None]
    return own.min() < own.max() and not any(_begin_alike(own, other) for other in others)


def _begin_alike(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> bool:
    common = min(len(first), len(second))
    return np.array_equal(first[:common], second[:common])


def _longest(examples: ExampleDataset | AugmentedExamples, *, uses_audio: bool) -> Example:
    """The longest by its audio, then by its transcript."""
    durations = examples.durations_s() if uses_audio else [None] * len(examples)
    transcripts = [len(words) if isinstance(words, str) else 0 for words in examples.utterances()["transcript"]]
    return examples[max(range(len(durations)), key=lambda row: (durations[row] or 0.0, transcripts[row]))]


# What is asked of them


def _rates(loaded: LoadedRun, inputs: Sequence[Input]) -> str:
    family = loaded.model
    found = sorted(
        {int(rate) for rate in loaded.data.folded.corpus.columns(["sampling_rate"])["sampling_rate"].dropna()}
    )
    for given in inputs:
        if given.without_audio:
            continue
        rate = None if given.waveform is None else given.waveform.sampling_rate
        if rate != family.sampling_rate:
            raise AudioError(
                f"utterance {given.utterance_id}: its waveform is at {rate} Hz, {family.name} takes "
                f"{family.sampling_rate} Hz; resample it",
                "sampling_rate",
            )
    done = "as it is" if found == [family.sampling_rate] else "resampled"
    rates = ", ".join(map(str, found))
    return f"sampling rate: {family.name} takes {family.sampling_rate} Hz; corpus {rates} Hz, {done}"


def _supervised(family: Any, recognizer: LanguageRecognizer, example: Example) -> Iterator[str]:  # noqa: ANN401 a Family
    decode = _decoder(family)
    answer = family.answer_ids(recognizer.label_set.forms_of(example.label)[0])
    batch = recognizer.training_collator([example])
    require_supervised(batch, answer, decode)
    words, stop = decode(answer[:-1]), decode(answer[-1:])
    yield f"supervised: {words!r} {stop} ({len(answer)} tokens, utterance {example.input.utterance_id})"
    prompt = batch["segment_ids"][0] == 0
    audio = int((batch["input_ids"][0][prompt] == family.audio_token_id).sum())
    yield f"prompt: {int(prompt.sum())} tokens, {audio} of them audio placeholders"


def _scores(loaded: LoadedRun, model: nn.Module, inputs: Sequence[Input], batch_size: int) -> Iterator[str]:
    """Batch parity first: the effects of audio and transcript are compared with it."""
    family, recognizer = loaded.model, cast(Any, model)
    collator = recognizer.scoring_collators[0]
    alone = math.isinf(family.batch_tolerance)
    if alone:
        parity = no_batches(model)
        yield f"batch parity: not checked, because {family.name} takes one utterance at a time"
    else:
        parity = batch_parity(model, collator, inputs, tolerance=family.batch_tolerance)
        if batch_size > 1:
            require_parity(parity, family.name)
        bound = f"at most {parity.bound:.1e}" if batch_size > 1 else "only reported, for batches are of 1"
        yield f"batch parity: {parity.difference:.1e} between {len(inputs)} in a batch and one by one ({bound})"
    different = {"audio": len(inputs), "transcript": len({each.transcript for each in inputs})}
    swaps = (
        ("audio", "hears", loaded.setup.uses("audio"), swapped_audio),
        ("transcript", "reads", loaded.setup.uses("transcript"), swapped_transcripts),
    )
    for what, verb, used, swapped in swaps:
        if not used:
            continue
        if different[what] < 2:
            yield f"{verb}: not asked, for there are no two utterances that differ in {what}"
            continue
        change = median_change(model, collator, inputs, swapped(inputs), batch_size=1 if alone else None)
        least = require_change(change, what, family.name, parity=parity, trained=not family.randomly_initialised)
        wanted = f"more than {least:.1e}" if least else "any change, for its weights are random"
        yield f"{verb}: another {what} moves label scores by {change:.1e} (median; expected {wanted})"


def _memory(
    loaded: LoadedRun,
    model: nn.Module,
    settings: ZeroShotSettings | FinetuneSettings,
    longest: Example,
    *,
    sharded: bool,
) -> Iterator[str]:
    learns = isinstance(settings, FinetuneSettings)
    sizes = _sizes(settings)
    key = "train.per_device_train_batch_size" if learns else "scoring.per_device_eval_batch_size"
    batch_size = getattr(sizes, key.partition(".")[2])
    recognizer = cast(Any, model)
    batch = recognizer.training_collator([longest]) if learns else recognizer.scoring_collators[0]([longest.input])
    batch.pop("labels", None)
    memory = estimate_memory(
        model,
        partial(run_batch, model, batch),
        batch_size=batch_size,
        learns=learns,
        checkpointing=getattr(sizes, "gradient_checkpointing", False),
    )
    device = next(model.parameters()).device
    free = available_bytes(device, model)
    learning = f"gradients {_size(memory.gradients)}, AdamW {_size(memory.optimizer)}, " if learns else ""
    yield (
        f"memory: about {_size(memory.total)}{' before the engine shares it out' if sharded else ''}, {device} has "
        f"{_size(free)}: weights {_size(memory.weights)}, {learning}activations {_size(memory.activations)} "
        f"(batch of {batch_size}, all as long as {longest.input.utterance_id})"
    )
    if memory.total > free:
        ways = [f"lower {key}"]
        ways += ["train.gradient_checkpointing=true"] if learns else []
        ways += ["model.quantization=nf4"] if loaded.model.quantised_tower else []
        yield f"WARNING: that may be more than there is; {', or '.join(ways)}"


def _size(count: float) -> str:
    """Bytes for a person.

    Example:
        >>> _size(3 * 2**20), _size(2.5 * 2**30)
        ('3.0 MiB', '2.5 GiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _decoder(family: Family) -> Callable[[list[int]], str]:
    """Words of token ids, special tokens shown."""

    def decode(ids: list[int]) -> str:
        return str(family.tokenizer.decode(ids))

    return decode


def _sizes(settings: ZeroShotSettings | FinetuneSettings) -> ScoringSettings:
    return settings.train if isinstance(settings, FinetuneSettings) else settings.scoring


def _largest_batch(sizes: ScoringSettings) -> int:
    return max(sizes.per_device_eval_batch_size, getattr(sizes, "per_device_train_batch_size", 1))


# Where


def _device(sizes: ScoringSettings) -> torch.device:
    """The device that the trainer will take."""
    on_cpu = sizes.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    accelerator = None if on_cpu else torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))
