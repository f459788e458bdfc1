"""Checks of a recognizer before it is trained or scores a test set: a few seconds that may save hours.

Swapped audio has the length of the audio that it replaces, so that placeholders, positions and padding stay the same:
a model that uses only the duration of the audio then gives exactly the same scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.core.schema import Input
from lalm_mer.recognizers.base import Collator
from lalm_mer.recognizers.language.collator import IGNORED
from lalm_mer.recognizers.scoring import run_batch

__all__ = [
    "Parity", "batch_parity", "evaluating", "label_scores", "median_change", "no_batches", "require_change",
    "require_parity", "require_supervised", "swapped_audio", "swapped_transcripts", "token_rows",
]  # fmt: skip

_SKIP = "set preflight=false to skip this check"
_EPSILON_32 = torch.finfo(torch.float32).eps
_FLOOR_32 = 1e-6  # of float32 scores that happen to agree to the last bit
_TIMES_NOISE = 100


@contextmanager
def evaluating(model: nn.Module, device: torch.device, *, moves_back: bool = False) -> Iterator[None]:
    """Run the block in evaluation mode on ``device`` without gradients; restore modes and random generators.

    Args:
        model: the recognizer
        device: device during the block
        moves_back: whether the recognizer returns to its earlier device
    """
    modes = {module: module.training for module in model.modules()}
    earlier = next(model.parameters()).device
    model.to(device)  # outside of inference mode, which would create parameters that cannot be trained
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.inference_mode():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        if moves_back:
            model.to(earlier)


def label_scores(
    model: nn.Module, collator: Collator, inputs: Sequence[Input], *, batch_size: int | None = None
) -> Tensor:
    """Label log-probabilities, (N, K), float64, of a model in evaluation mode; without ``batch_size`` in one batch."""
    size = batch_size or len(inputs)
    batches = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    return torch.cat([run_batch(model, collator(batch))["log_probs"].double().cpu() for batch in batches])


@dataclass(frozen=True)
class Parity:
    """How much scores depend on the other utterances of the batch.

    Args:
        difference: largest difference between a label log-probability in a batch and alone
        bound: largest difference that rounding explains
        epsilon: distance of 1 from the next number, in the coarsest dtype of the model's parameters
    """

    difference: float
    bound: float
    epsilon: float


def batch_parity(model: nn.Module, collator: Collator, inputs: Sequence[Input], *, tolerance: float) -> Parity:
    """Compare the scores of all inputs in one batch with those of each alone.

    The bound is ``tolerance`` times the largest of 1, the largest score, and the ratio of the model's epsilon to that
    of float32 (bfloat16: 65536, so that 1e-5 becomes 0.66).

    Args:
        model: the recognizer, in evaluation mode
        collator: makes batches to score
        inputs: of different lengths, since otherwise nothing is padded
        tolerance: bound for scores near 1 in float32
    """
    together = label_scores(model, collator, inputs)
    alone = label_scores(model, collator, inputs, batch_size=1)
    epsilon = _epsilon(model)
    size = max(1.0, float(together.abs().max()))
    return Parity(float((together - alone).abs().max()), tolerance * max(size, epsilon / _EPSILON_32), epsilon)


def no_batches(model: nn.Module) -> Parity:
    """The parity of a recognizer that takes one utterance at a time."""
    return Parity(0.0, 0.0, _epsilon(model))


def require_parity(parity: Parity, name: str) -> None:
    """Check that scores do not depend on the other utterances of the batch.

    Raises:
        ModelError: if they do
    """
    if not parity.difference <= parity.bound:  # also refuses NaN
        raise ModelError(
            f"{name}: a batch changes scores by {parity.difference:.1e}, rounding explains at most {parity.bound:.1e}: "
            f"padding affects the scores; set per_device batch sizes to 1, or {_SKIP}"
        )


def swapped_audio(inputs: Sequence[Input]) -> list[Input]:
    """Each input with the audio of the next one, cut or repeated to its own length."""
    following = [*inputs[1:], *inputs[:1]]
    return [
        replace(own, waveform=_fitted(other.waveform, own.waveform))
        for own, other in zip(inputs, following, strict=True)
    ]


def swapped_transcripts(inputs: Sequence[Input]) -> list[Input]:
    """Each input with the transcript of the next one that has a different transcript; unchanged if there is none."""
    swapped = []
    for place, own in enumerate(inputs):
        others = (*inputs[place + 1 :], *inputs[:place])
        transcript = next((each.transcript for each in others if each.transcript != own.transcript), own.transcript)
        swapped.append(replace(own, transcript=transcript))
    return swapped


def median_change(
    model: nn.Module,
    collator: Collator,
    inputs: Sequence[Input],
    others: Sequence[Input],
    *,
    batch_size: int | None = None,
) -> float:
    """Median over utterances of the largest absolute difference of a label log-probability.

    The largest over the labels, because the log-probability of an almost certain label is 0 with any audio.

    Args:
        model: the recognizer, in evaluation mode
        collator: makes batches to score
        inputs: N inputs
        others: the same inputs with another audio or transcript
        batch_size: inputs per batch; None for a single batch
    """
    before, after = (label_scores(model, collator, each, batch_size=batch_size) for each in (inputs, others))
    return float((before - after).abs().amax(dim=1).median())


def require_change(change: float, what: str, name: str, *, parity: Parity, trained: bool) -> float:
    """Check that other audio, or another transcript, changes the scores.

    In float32 the change must exceed 100 times the effect of a batch, taken as at least 1e-6. In half precision, where
    speech may change scores by less, it must exceed the effect of a batch and the dtype's epsilon. With random weights
    any change is enough.

    Args:
        change: result of ``median_change``
        what: ``audio`` or ``transcript``
        name: name of the model
        parity: effect of a batch
        trained: whether the weights are trained

    Returns:
        the value that the change must exceed

    Raises:
        ModelError: if the change is not larger
    """
    if parity.epsilon <= _EPSILON_32:
        least = _TIMES_NOISE * max(parity.difference, _FLOOR_32)
    else:
        least = max(parity.difference, parity.epsilon)
    least = least if trained else 0.0
    if not change > least:
        expected = f"more than {least:.1e}" if trained else "any change"
        raise ModelError(
            f"{name} does not use the {what}: swapping it changes the label scores by {change:.1e} (median), expected "
            f"{expected}; check that the prompt's {what} slot is filled and all weights are loaded, or {_SKIP}"
        )
    return least


def _epsilon(model: nn.Module) -> float:
    return float(max(torch.finfo(each.dtype).eps for each in model.parameters() if each.is_floating_point()))


def _fitted(other: Waveform | None, own: Waveform | None) -> Waveform:
    assert other is not None
    assert own is not None
    return replace(own, samples=np.resize(other.samples, len(own.samples)))


# Tokens of a training batch of an AnswerCollator


def require_supervised(batch: dict[str, Tensor], answer: Sequence[int], decode: Callable[[list[int]], str]) -> None:
    """Check that the loss of a batch of one counts the answer and its stop token, in their positions, and nothing else.

    Args:
        batch: a training batch with one example
        answer: token ids of the answer and the stop token
        decode: converts token ids to text

    Raises:
        ModelError: showing the tokens found
    """
    counted = batch["targets"] != IGNORED
    found = batch["targets"][counted].tolist()
    in_place = batch["input_ids"][0, batch["sources"][counted] + 1].tolist()
    for where, ids in (("the loss counts", found), ("the tokens at the positions of the loss are", in_place)):
        if ids != list(answer):
            raise ModelError(
                f"{where} {[decode([token]) for token in ids[:12]]} ({len(ids)} tokens), expected the answer and the "
                f"stop token alone, {[decode([token]) for token in answer]}; correct the collator or the chat "
                f"template, or {_SKIP}"
            )


def token_rows(batch: dict[str, Tensor], audio_token: int) -> Iterator[tuple[int, bool, int]]:
    """Tokens of a batch of one, in order: id, whether the loss counts it, and the number of consecutive audio
    placeholders, joined to one row (0 for other tokens).
    """
    counted = set((batch["sources"][batch["targets"] != IGNORED] + 1).tolist())
    tokens = enumerate(batch["input_ids"][0].tolist())
    for is_audio, group in groupby(tokens, key=lambda numbered: numbered[1] == audio_token):
        run = list(group)
        for place, token in run[:1] if is_audio else run:
            yield token, place in counted, len(run) if is_audio else 0
