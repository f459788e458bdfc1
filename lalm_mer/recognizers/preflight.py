"""What is asked of a recognizer before anything is learnt or scored by it: seconds, against hours that would be lost.

Swapped audio keeps the length of the audio it stands in for, so that placeholders, positions and padding stay as they
were: a model that does not hear then gives the very same scores, whatever it makes of lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

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
    "SKIP",
    "Parity",
    "batch_parity",
    "label_scores",
    "left_as_found",
    "median_change",
    "no_batches",
    "require_change",
    "require_parity",
    "require_supervised",
    "swapped_audio",
    "swapped_transcripts",
    "token_rows",
]

SKIP = "preflight=false goes on without this check"
_EPSILON_32 = torch.finfo(torch.float32).eps
_FLOOR_32 = 1e-6  # of float32 scores that happen to agree to the last bit
_TIMES_NOISE = 100


@contextmanager
def left_as_found(model: nn.Module, device: torch.device, *, moves_back: bool = False) -> Iterator[None]:
    """Evaluation mode on ``device``, without gradients; modes and random generators are as they were afterwards.

    Args:
        model: the recognizer
        device: where it runs meanwhile
        moves_back: whether it goes back to where it was
    """
    modes = {module: module.training for module in model.modules()}
    home = next(model.parameters()).device
    model.to(device)  # outside inference mode, which would make parameters that cannot learn
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.inference_mode():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        if moves_back:
            model.to(home)


def label_scores(
    model: nn.Module, collator: Collator, inputs: Sequence[Input], *, batch_size: int | None = None
) -> Tensor:
    """Label log-probabilities, (N, K), float64.

    Args:
        model: the recognizer, in evaluation mode
        collator: of batches to be scored
        inputs: N inputs
        batch_size: how many in a batch; None for all
    """
    size = batch_size or len(inputs)
    batches = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    return torch.cat([run_batch(model, collator(batch))["log_probs"].double().cpu() for batch in batches])


@dataclass(frozen=True)
class Parity:
    """How far scores depend on what else is in the batch.

    Args:
        difference: largest, of a label log-probability in a batch and alone
        bound: most that rounding explains
        epsilon: distance of 1 from the next number, in the coarsest dtype among the model's parameters
    """

    difference: float
    bound: float
    epsilon: float


def batch_parity(model: nn.Module, collator: Collator, inputs: Sequence[Input], *, tolerance: float) -> Parity:
    """Scores of all inputs in one batch against those of each alone.

    The bound is ``tolerance`` times the largest score where that is above 1, for rounding grows with it, or times how
    much coarser than float32 the model's dtype is where that is more (bfloat16: 65536, so that 1e-5 becomes 0.66).

    Args:
        model: the recognizer, in evaluation mode
        collator: of batches to be scored
        inputs: of different lengths, or nothing is padded
        tolerance: for scores about 1 in float32
    """
    together = label_scores(model, collator, inputs)
    alone = label_scores(model, collator, inputs, batch_size=1)
    epsilon = _epsilon(model)
    size = max(1.0, float(together.abs().max()))
    return Parity(float((together - alone).abs().max()), tolerance * max(size, epsilon / _EPSILON_32), epsilon)


def no_batches(model: nn.Module) -> Parity:
    """What a batch does to a recognizer that takes one utterance at a time: nothing."""
    return Parity(0.0, 0.0, _epsilon(model))


def require_parity(parity: Parity, name: str) -> None:
    """Check that scores do not depend on what else is in the batch.

    Raises:
        ModelError: if they do
    """
    if not parity.difference <= parity.bound:  # NaN is no parity either
        raise ModelError(
            f"{name}: a batch changes scores by {parity.difference:.1e}, and rounding explains {parity.bound:.1e} at "
            f"most: padding leaks; set per_device batch sizes to 1, or {SKIP}"
        )


def swapped_audio(inputs: Sequence[Input]) -> list[Input]:
    """Each input with the audio of the next, cut or repeated to its own length."""
    following = [*inputs[1:], *inputs[:1]]
    return [
        replace(own, waveform=_fitted(other.waveform, own.waveform))
        for own, other in zip(inputs, following, strict=True)
    ]


def swapped_transcripts(inputs: Sequence[Input]) -> list[Input]:
    """Each input with the transcript of the next that has another; itself where there is none."""
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

    The largest, because the log-probability of a label that is as good as certain is 0 whatever the audio.

    Args:
        model: the recognizer, in evaluation mode
        collator: of batches to be scored
        inputs: N inputs
        others: the same inputs with something changed
        batch_size: how many in a batch; None for all
    """
    before, after = (label_scores(model, collator, each, batch_size=batch_size) for each in (inputs, others))
    return float((before - after).abs().amax(dim=1).median())


def require_change(change: float, what: str, name: str, *, parity: Parity, trained: bool) -> float:
    """Check that other audio, or another transcript, moves the scores.

    In float32 it must move them by 100 times what a batch does (by 1e-6 at the least). In half precision that would be
    more than speech does: there it must be told from rounding, what a batch does or the dtype's epsilon. Random weights
    may hardly hear: there it must move them at all.

    Args:
        change: as ``median_change`` tells it
        what: ``audio`` or ``transcript``
        name: of the model
        parity: what a batch does
        trained: whether the weights are

    Returns:
        what was asked for

    Raises:
        ModelError: if the scores stay where they were
    """
    if parity.epsilon <= _EPSILON_32:
        least = _TIMES_NOISE * max(parity.difference, _FLOOR_32)
    else:
        least = max(parity.difference, parity.epsilon)
    least = least if trained else 0.0
    if not change > least:
        sense = {"audio": "deaf", "transcript": "blind to transcripts"}[what]
        asked = f"more than {least:.1e}" if trained else "any change"
        raise ModelError(
            f"{name} is {sense}: another {what} moves its label scores by {change:.1e} (median), expected {asked}; see "
            f"that the prompt's {what} slot is filled and all weights are loaded, or {SKIP}"
        )
    return least


def _epsilon(model: nn.Module) -> float:
    return float(max(torch.finfo(each.dtype).eps for each in model.parameters() if each.is_floating_point()))


def _fitted(other: Waveform | None, own: Waveform | None) -> Waveform:
    assert other is not None
    assert own is not None
    return replace(own, samples=np.resize(other.samples, len(own.samples)))


# Tokens of a training batch, as AnswerCollator makes it


def require_supervised(batch: dict[str, Tensor], answer: Sequence[int], decode: Callable[[list[int]], str]) -> None:
    """Check that the loss of a batch of one counts the answer and its stop token, at their places, and nothing else.

    Args:
        batch: of the training collator, one given
        answer: token ids of the answer and the stop token
        decode: words of token ids

    Raises:
        ModelError: showing the tokens found
    """
    counted = batch["targets"] != IGNORED
    found = batch["targets"][counted].tolist()
    in_place = batch["input_ids"][0, batch["sources"][counted] + 1].tolist()
    for where, ids in (("the loss counts", found), ("the loss looks for its tokens where there are", in_place)):
        if ids != list(answer):
            raise ModelError(
                f"{where} {[decode([token]) for token in ids[:12]]} ({len(ids)} tokens), expected the answer and the "
                f"stop token alone, {[decode([token]) for token in answer]}; mend the collator or the chat template, "
                f"or {SKIP}"
            )


def token_rows(batch: dict[str, Tensor], audio_token: int) -> Iterator[tuple[int, bool, int]]:
    """Tokens of a batch of one, in order: id, whether the loss counts it, and how many audio placeholders it stands for
    (0 for any other token).
    """
    counted = set((batch["sources"][batch["targets"] != IGNORED] + 1).tolist())
    ids = batch["input_ids"][0].tolist()
    place = 0
    while place < len(ids):
        run = 0
        while place + run < len(ids) and ids[place + run] == audio_token:
            run += 1
        yield ids[place], place in counted, run
        place += max(run, 1)
