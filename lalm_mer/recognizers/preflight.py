"""Checks of a recognizer before it is trained or scores a test set: a few seconds that may save hours.

Three passes compare the scores of a few inputs with those of the same inputs with other audio and other transcripts,
and in a batch with alone; ``recognizers.memory`` needs a fourth.

Swapped audio has the length of the audio that it replaces, so that placeholders, positions and padding stay the same:
a model that uses only the duration of the audio then gives exactly the same scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.core.schema import Input
from lalm_mer.recognizers.base import Collator, require_numbers
from lalm_mer.recognizers.language.collator import IGNORED
from lalm_mer.recognizers.scoring import run_batch

__all__ = [
    "Effects", "Parity", "batch_effects", "evaluating", "label_scores", "require_change", "require_parity",
    "require_supervised", "single_effects", "swapped_audio", "swapped_transcripts", "token_rows",
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


def label_scores(model: nn.Module, collator: Collator, inputs: Sequence[Input]) -> Tensor:
    """Label log-probabilities, (N, K), float64, of one batch of a model in evaluation mode.

    Raises:
        ModelError: if one is NaN
    """
    scores = run_batch(model, collator(inputs))["log_probs"].double().cpu()
    require_numbers(scores.numpy(), "preflight")
    return scores


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


@dataclass(frozen=True)
class Effects:
    """Effects of a batch and of other inputs on the scores.

    Args:
        parity: effect of a batch
        changes: ``audio`` and ``transcript``, if they were swapped -> median over utterances of the largest absolute
            difference of a label log-probability; the largest over the labels, because the log-probability of an
            almost certain label is 0 with any audio
    """

    parity: Parity
    changes: dict[str, float]


def batch_effects(
    model: nn.Module,
    collator: Collator,
    inputs: Sequence[Input],
    swapped: Mapping[str, Sequence[Input]],
    *,
    tolerance: float,
) -> Effects:
    """Compare two batches, and the input with the most padding with itself alone: three passes.

    An input and its swapped variant are in the same row of two batches of the same shape, so that the scores of a model
    that does not use the difference are equal to the last bit::

        row           0 ... N-1        N ... 2N-1             2N
        first batch   inputs           transcript swapped     the longest of these, unless the inputs have it
        second batch  audio swapped    inputs                 the same

    If only one of the two is swapped, there are only the first N rows. The bound of parity is ``tolerance`` times the
    largest of 1, the largest score, and the ratio of the model's epsilon to that of float32 (bfloat16: 65536, so that
    1e-5 becomes 0.66).

    Args:
        model: the recognizer, in evaluation mode
        collator: makes batches to score
        inputs: N inputs of different lengths, since otherwise nothing is padded
        swapped: ``audio`` and ``transcript``, those that are checked -> the same N inputs with another one
        tolerance: bound for scores near 1 in float32
    """
    count, both = len(inputs), len(swapped) == 2
    first = [*inputs, *swapped["transcript"]] if both else list(inputs)
    lengths = [_length(collator, each) for each in first]
    padded = min(range(count), key=lengths.__getitem__)
    longest = max(range(len(first)), key=lengths.__getitem__)
    last = first[longest : longest + 1] if longest >= count else []
    scores = label_scores(model, collator, [*first, *last])
    differences = [scores[padded] - label_scores(model, collator, [inputs[padded]])[0]]
    changes: dict[str, float] = {}
    if swapped:
        second = [*swapped["audio"], *inputs] if both else list(*swapped.values())
        other_scores = label_scores(model, collator, [*second, *last])
        changed = (scores - other_scores).abs().amax(dim=1)
        starts = {"audio": 0, "transcript": count if both else 0}
        changes = {what: float(changed[starts[what] : starts[what] + count].median()) for what in swapped}
        if both:
            differences.append(scores[:count] - other_scores[count : 2 * count])  # the inputs, in other rows
    difference = float(torch.stack([each.abs().max() for each in differences]).max())
    epsilon, size = _epsilon(model), max(1.0, float(scores.abs().max()))
    return Effects(Parity(difference, tolerance * max(size, epsilon / _EPSILON_32), epsilon), changes)


def single_effects(
    model: nn.Module,
    collator: Collator,
    inputs: Sequence[Input],
    swapped: Mapping[str, Sequence[Input]],
    *,
    trained: bool,
) -> Effects:
    """As ``batch_effects`` for a recognizer that takes one utterance at a time: at most three passes if it passes.

    The first input decides if it changes enough; otherwise the median over all inputs does.

    Args:
        model: the recognizer, in evaluation mode
        collator: makes batches to score
        inputs: N inputs
        swapped: ``audio`` and ``transcript``, those that are checked -> the same N inputs with another one
        trained: whether the weights are trained
    """
    parity = Parity(0.0, 0.0, _epsilon(model))
    least = _least_change(parity, trained=trained)
    known: dict[int, Tensor] = {}

    def change(row: int, other: Input) -> Tensor:
        if row not in known:
            known[row] = label_scores(model, collator, [inputs[row]])
        return (known[row] - label_scores(model, collator, [other])).abs().amax()

    changes = {}
    for what, others in swapped.items():
        found = [change(0, others[0])]
        if not found[0] > least:
            found += [change(row, other) for row, other in enumerate(others) if row]
        changes[what] = float(torch.stack(found).median())
    return Effects(parity, changes)


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


def require_change(change: float, what: str, name: str, *, parity: Parity, trained: bool) -> float:
    """Check that other audio, or another transcript, changes the scores.

    In float32 the change must exceed 100 times the effect of a batch, taken as at least 1e-6. In half precision, where
    speech may change scores by less, it must exceed the effect of a batch and the dtype's epsilon. With random weights
    any change is enough.

    Args:
        change: of ``Effects.changes``
        what: ``audio`` or ``transcript``
        name: name of the model
        parity: effect of a batch
        trained: whether the weights are trained

    Returns:
        the value that the change must exceed

    Raises:
        ModelError: if the change is not larger
    """
    least = _least_change(parity, trained=trained)
    if not change > least:
        expected = f"more than {least:.1e}" if trained else "any change"
        raise ModelError(
            f"{name} does not use the {what}: swapping it changes the label scores by {change:.1e} (median), expected "
            f"{expected}; check that the prompt's {what} slot is filled and all weights are loaded, or {_SKIP}"
        )
    return least


def _least_change(parity: Parity, *, trained: bool) -> float:
    if not trained:
        return 0.0
    if parity.epsilon <= _EPSILON_32:
        return _TIMES_NOISE * max(parity.difference, _FLOOR_32)
    return max(parity.difference, parity.epsilon)


def _length(collator: Collator, given: Input) -> int:
    """Number of tokens of an input and its answers; 0 without a language model, which pads nothing."""
    tokens = collator([given]).get("input_ids")
    return 0 if tokens is None else tokens.shape[1]


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
    in_place = batch["input_ids"][0, _predicting(batch) + 1].tolist()
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
    counted = set((_predicting(batch) + 1).tolist())
    tokens = enumerate(batch["input_ids"][0].tolist())
    for is_audio, group in groupby(tokens, key=lambda numbered: numbered[1] == audio_token):
        run = list(group)
        for place, token in run[:1] if is_audio else run:
            yield token, place in counted, len(run) if is_audio else 0


def _predicting(batch: dict[str, Tensor]) -> Tensor:
    """Positions that predict the tokens that the loss of a batch of one counts."""
    return batch["sources"][0, batch["source_of"][batch["targets"] != IGNORED]]
