"""An audio-language model as a recognizer: a batch of prompts and answers -> log-probabilities of K labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from torch import Tensor, nn

from lalm_mer.core.errors import ModelError
from lalm_mer.core.schema import Example
from lalm_mer.models.adapters import save_trained
from lalm_mer.models.attention import DEFAULT, FLASH, FLEX
from lalm_mer.models.families.base import Family, TowerOutput
from lalm_mer.models.families.parts.compiling import COMPILED_WIDTHS, is_compiled, naming_compiler
from lalm_mer.recognizers.base import TargetCollator
from lalm_mer.recognizers.language.collator import IGNORED, AnswerCollator, TrainingAnswerCollator
from lalm_mer.recognizers.language.joint import JointCollator, split_prompts
from lalm_mer.recognizers.language.packing import masked_inputs
from lalm_mer.recognizers.language.prefix import PrefixStore
from lalm_mer.recognizers.language.prompt_setup import PromptSetup

__all__ = ["LanguageRecognizer", "label_log_probs"]


def label_log_probs(answer_log_probs: Tensor, label_of_answer: Tensor) -> Tensor:
    """Score of each label: logsumexp over its surface forms, then log_softmax over the K labels.

    Args:
        answer_log_probs: (B, A), summed over the tokens of each answer and its stop token
        label_of_answer: (A,), index of the label of each answer

    Returns:
        (B, K), each row a distribution

    Example:
        >>> import torch
        >>> label_log_probs(torch.log(torch.tensor([[0.1, 0.1, 0.2]])), torch.tensor([0, 0, 1])).exp()
        tensor([[0.5000, 0.5000]])
    """
    label_count = int(label_of_answer.max()) + 1
    scores = [answer_log_probs[:, label_of_answer == label].logsumexp(dim=1) for label in range(label_count)]
    return torch.stack(scores, dim=1).log_softmax(dim=1)


class LanguageRecognizer(nn.Module):
    """A family's model and its prompts as a ``Recognizer``.

    Outside of training, answered examples are run once and not for every utterance (``prefix``). What is stored of them
    is removed by ``train`` and ``eval``, so weights must not change between these calls and ``forward``.

    Args:
        family: the model, possibly with an adapter in it
        setup: its prompts and the score of an answer; the training loss is always the sum over tokens
        model: the family's model as peft wraps it; None for the base model alone
        packing: whether rows of a batch contain several utterances
        torch_compile: whether the layers of the language model are compiled; rows are then padded to multiples of
            ``COMPILED_WIDTHS``

    Raises:
        ConfigError: if the layers of the language model are not known
    """

    def __init__(
        self,
        family: Family,
        setup: PromptSetup,
        model: PeftModel | None = None,
        *,
        packing: bool = False,
        torch_compile: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any = family.model if model is None else model
        self.family = family
        self.setup = setup
        rows: dict[str, Any] = {
            "shots": setup.shots, "packing": packing, "widths": COMPILED_WIDTHS if torch_compile else 1
        }  # fmt: skip
        self.scoring_collators = tuple(
            AnswerCollator(family, prompt, setup.label_set, order=order, number=number, **rows)
            for number, (prompt, order) in enumerate(setup.variants)
        )
        if torch_compile:
            family.compile_language_model()
        self._prefixes = PrefixStore(family, [collator.prefix for collator in self.scoring_collators])
        self.kind, self.targets = setup.kind, setup.targets
        several = len(self.scoring_collators) > 1 or setup.kind != "single"
        self.joint_collator = JointCollator(self.scoring_collators) if several else self.scoring_collators[0]
        self.training_collator: Any = (
            TrainingAnswerCollator(family, setup.prompts[0], setup.label_set, order=setup.orders[0], **rows)
            if setup.kind == "single"
            else TargetCollator(self.joint_collator)
        )
        self.label_set, self.modalities = setup.label_set, setup.modalities
        self.sampling_rate = family.sampling_rate if setup.uses("audio") else None
        self.content_free = setup.content_free(family.sampling_rate)
        self._no_split_modules = list(family.fsdp_layers)  # accelerate reads it: FSDP shards these one by one

    def right_answer(self, example: Example) -> str:
        """The text of the answer that training on an example teaches."""
        return self.label_set.forms_of(example.label)[0]

    def refuses(self, duration_s: float) -> str | None:
        """The reason why it cannot take audio of this duration, in seconds; None if it can."""
        return self.family.refuses(duration_s) if self.setup.uses("audio") else None

    def forward(self, input_ids: Tensor, truth: Tensor | None = None, **batch: Tensor) -> dict[str, Tensor]:
        """Run a batch of an ``AnswerCollator`` or a ``JointCollator``.

        Args:
            input_ids: (B, T), or (B, P, T) for P prompts
            truth: (B,), index of the true label
            batch: the other tensors of the collator; those of the audio tower begin with ``audio_``

        Returns:
            ``log_probs`` (B, K) if all answers are packed, (B, P, K) for P prompts, or of another task than ``single``
            the ``scores`` (B, P) of its targets; with ``truth``, ``losses`` (B,):
            negative log-probability of the first answer of each true label, and ``items`` (B,): its number of tokens,
            with the stop token
        """
        audio = {name: batch.pop(name) for name in tuple(batch) if name.startswith("audio_")}
        tokens = {"input_ids": input_ids, **batch}
        tower_output = self.family.encode_audio(**audio) if audio else None
        if input_ids.ndim == 2:
            return self._run(tower_output, truth, **tokens)
        prompts = [self._run(tower_output, None, **prompt)["log_probs"] for prompt in split_prompts(tokens)]
        log_probs = torch.stack(prompts, dim=1)
        return {"log_probs": log_probs} if self.kind == "single" else {"scores": self.setup.scores(log_probs)}

    def _run(
        self,
        tower_output: TowerOutput | None,
        truth: Tensor | None,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        visible_until: Tensor,
        sources: Tensor,
        source_of: Tensor,
        targets: Tensor,
        label_of_answer: Tensor,
        prefix: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run one prompt of each input."""
        if tower_output is not None and not (input_ids == self.family.audio_token_id).any():
            # silence of no utterance: its frames are not used, but every weight takes part in the pass
            unused = replace(tower_output, lengths=torch.zeros_like(tower_output.lengths))
            tower_output = None if self.family.single_pass_reason else unused
        several = targets.shape[1] > 1
        language_model: Any = self.family.submodule("language_model")
        cache = None
        number, length = (0, 0) if prefix is None else prefix[0].tolist()  # the same in every row
        if length:
            cache = self._prefixes.keys_values(number, input_ids.device).beginning(len(input_ids), length, grows=False)
        inputs = masked_inputs(
            input_ids,
            position_ids,
            visible_until,
            implementation=self._implementation(shared=several or length > 0, device=input_ids.device),
            dtype=language_model.dtype,
            dense=several or rows is not None or bool(self.family.compiled),  # one kind of mask, one graph
            earlier=length,
        )
        with naming_compiler():
            hidden = self.family.hidden_states(inputs, tower_output, cache)
        rows = torch.arange(len(hidden), device=hidden.device) if rows is None else rows
        predicting = hidden[rows[:, None], sources]  # logits only of these
        answers = _token_log_probs(self.family.logits(predicting), source_of, targets).sum(dim=2)  # (B, A)
        tokens = (targets != IGNORED).sum(dim=2)
        output = {}
        if truth is not None:
            true_answer = (label_of_answer == truth[:, None]).int().argmax(dim=1, keepdim=True)
            output = {"losses": -answers.gather(1, true_answer)[:, 0], "items": tokens.gather(1, true_answer)[:, 0]}
        if several:
            scored = answers / tokens if self.setup.label_score == "mean" else answers
            output["log_probs"] = label_log_probs(scored, label_of_answer[0])  # the same in every row
        return output

    def _implementation(self, *, shared: bool, device: torch.device) -> str:
        """The implementation of attention for which the mask of a pass is made.

        FlashAttention takes no rows in which answers share a prompt or a prefix.
        """
        found = self.family.attention("language_model")
        used = DEFAULT if found is None or self.family.single_pass_reason else found.used
        if used == FLEX and device.type == "cpu" and torch.is_grad_enabled():
            raise ModelError(
                "model.attn_implementation: flex_attention has no backward pass on the CPU; train with sdpa there"
            )
        return DEFAULT if used == FLASH and shared else used

    def speed(self) -> list[str]:
        """How it computes: attention of each tower, data type and more, as found in the model and not in settings."""
        family = self.family
        found = {tower: attention.used for tower in family.towers if (attention := family.attention(tower)) is not None}
        parts = [f"{tower} {used}" for tower, used in found.items()]
        if found.get("language_model") == FLASH:
            parts.append(f"{DEFAULT} where answers share a prompt")
        language_model: Any = family.submodule("language_model")
        parts.append(str(language_model.dtype).removeprefix("torch."))
        if not all(parameter.is_floating_point() for parameter in language_model.parameters()):
            parts.append("weights in 4 bits")
        modules = list(family.model.modules())
        recomputes = any(getattr(module, "gradient_checkpointing", False) is True for module in modules)
        compiled = bool(family.compiled) and all(map(is_compiled, family.compiled))
        others = {
            "packing": self.scoring_collators[0].packing,
            "compiled": compiled,
            "gradient checkpointing": recomputes,
        }
        return [*parts, *(name for name, present in others.items() if present)]

    def train(self, mode: bool = True) -> Self:
        """Set the mode; weights may have changed, so stored keys and values are removed."""
        self._prefixes.clear()
        return super().train(mode)

    @property
    def saves_every_weight(self) -> bool:
        """Whether ``save_trained`` writes the complete model, because it has no adapter."""
        return bool(self.family.trained_in_full)

    def save_trained(self, folder: Path) -> None:
        """Write what was trained, an adapter or the complete model, in the format of its library, which can load it
        without this one.
        """
        save_trained(self.family, self.model, folder)

    # The version of the Trainer decides which of the two it calls, and with which options. Reentrant, they would need
    # inputs with a gradient.

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        *args: Any,  # noqa: ANN401 as in transformers
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Store few activations and recompute the others in the backward pass; arguments as in transformers."""
        model: Any = self.family.model
        model.gradient_checkpointing_enable(_not_reentrant(gradient_checkpointing_kwargs), *args, **kwargs)

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        *args: Any,  # noqa: ANN401 as in transformers
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """The same under its newer name."""
        model: Any = self.family.model
        model.activation_checkpointing_enable(_not_reentrant(activation_checkpointing_kwargs), *args, **kwargs)


def _not_reentrant(of_torch: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of torch's checkpoint function."""
    return {"use_reentrant": False, **(of_torch or {})}


def _token_log_probs(logits: Tensor, source_of: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of every answer token, (B, A, L), zero where there is none, from logits (B, S, V)."""
    logits = logits.float()
    every = torch.arange(len(logits), device=logits.device)[:, None, None]
    log_probs = logits[every, source_of, targets.clamp(min=0)] - logits.logsumexp(dim=-1)[every, source_of]
    return log_probs.masked_fill(targets == IGNORED, 0.0)
