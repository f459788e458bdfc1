"""The two-step forward as one module: batch -> log-probabilities of answers, and of the K labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lalm_mer.models.collator import IGNORED
from lalm_mer.models.families.base import Family, LanguageInputs

__all__ = ["AnswerModel", "label_log_probs"]


def label_log_probs(answer_log_probs: Tensor, label_of_answer: Sequence[int], label_count: int) -> Tensor:
    """Score of each label: logsumexp over its surface forms, then log_softmax over the K labels.

    Args:
        answer_log_probs: (B, A), summed over the tokens of each answer and its stop token
        label_of_answer: index of the label of each of the A answers
        label_count: K

    Returns:
        (B, K), each row a distribution

    Example:
        >>> import torch
        >>> label_log_probs(torch.log(torch.tensor([[0.1, 0.1, 0.2]])), [0, 0, 1], 2).exp()
        tensor([[0.5000, 0.5000]])
    """
    owner = torch.tensor(label_of_answer, device=answer_log_probs.device)
    scores = [answer_log_probs[:, owner == label].logsumexp(dim=1) for label in range(label_count)]
    return torch.stack(scores, dim=1).log_softmax(dim=1)


class AnswerModel(nn.Module):
    """A family's model behind the interface that training and scoring share.

    Args:
        family: the model, which an adapter may already be part of
        label_of_answer: index of the label of each packed answer, as ``answer_forms`` gives them
        label_count: K
        model: the family's model as peft wraps it; None for the bare model
        length_normalised: score an answer by the mean over its tokens in place of their sum; the loss stays the sum
    """

    def __init__(
        self,
        family: Family,
        label_of_answer: Sequence[int],
        label_count: int,
        model: PeftModel | None = None,
        *,
        length_normalised: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any = family.model if model is None else model
        self.family = family
        self.label_of_answer = list(label_of_answer)
        self.label_count = label_count
        self.length_normalised = length_normalised

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        segment_ids: Tensor,
        sources: Tensor,
        targets: Tensor,
        truth: Tensor,
        **audio: Tensor,
    ) -> dict[str, Tensor]:
        """Run a batch of an ``AnswerCollator``.

        Returns:
            ``losses`` (B,): negative log-probability of each true answer; ``items`` (B,): its tokens, the stop token
            counted; and, where all answers are packed, ``log_probs`` (B, K)
        """
        tower_output = self.family.encode_audio(**audio) if audio else None
        if tower_output is not None and not (input_ids == self.family.audio_token_id).any():
            # silence heard for nobody: its projected frames go nowhere, but every weight takes part
            nobodys = replace(tower_output, lengths=torch.zeros_like(tower_output.lengths))
            tower_output = None if self.family.whole else nobodys
        several = targets.shape[1] > 1
        mask = _shared_prompt_mask(segment_ids, self._dtype()) if several else (segment_ids >= 0).long()
        hidden = self.family.hidden_states(LanguageInputs(input_ids, position_ids, mask), tower_output)
        answers = _token_log_probs(self.family, hidden, sources, targets).sum(dim=2)  # (B, A)
        tokens = (targets != IGNORED).sum(dim=2)
        if not several:
            return {"losses": -answers[:, 0], "items": tokens[:, 0]}
        first = torch.tensor([self.label_of_answer.index(k) for k in range(self.label_count)], device=truth.device)
        true_answer = first[truth][:, None]
        return {
            "losses": -answers.gather(1, true_answer)[:, 0],
            "items": tokens.gather(1, true_answer)[:, 0],
            "log_probs": label_log_probs(
                answers / tokens if self.length_normalised else answers, self.label_of_answer, self.label_count
            ),
        }

    def save_trained(self, folder: Path) -> None:
        """Write what was trained, in the format of its library, so that others can load it without this one."""
        self.model.save_pretrained(folder)

    # The Trainer calls the one or the other, by its version. Not reentrant: frozen inputs need no gradient then.

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Keep few activations and compute the others again in the backward pass."""
        model: Any = self.family.model
        model.gradient_checkpointing_enable({"use_reentrant": False} | (gradient_checkpointing_kwargs or {}))

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """The same under its newer name."""
        model: Any = self.family.model
        model.activation_checkpointing_enable({"use_reentrant": False} | (activation_checkpointing_kwargs or {}))

    def _dtype(self) -> torch.dtype:
        language_model: Any = self.family.submodule("language_model")
        dtype: torch.dtype = language_model.dtype
        return dtype


def _shared_prompt_mask(segment_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, T, T): every token sees the prompt and its own answer, up to itself."""
    length = segment_ids.shape[1]
    causal = torch.ones((length, length), dtype=torch.bool, device=segment_ids.device).tril()
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    prompt = segment_ids[:, None, :] == 0
    allowed = causal & (same | prompt)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segment_ids.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def _token_log_probs(family: Family, hidden: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of every answer token, (B, A, L), zero where there is none; logits for these positions alone."""
    rows = torch.arange(len(hidden), device=hidden.device)[:, None, None]
    logits = family.logits(hidden[rows, sources]).float()  # (B, A, L, V)
    wanted = targets.clamp(min=0)
    log_probs = logits.gather(-1, wanted[..., None]).squeeze(-1) - logits.logsumexp(dim=-1)
    return log_probs.masked_fill(targets == IGNORED, 0.0)
