"""The plain ways, as the documentation of transformers and peft shows them: padded windows, no cache, whole sequences.

They share nothing with ``lalm_mer.recognizers`` but the words of prompts and answers, so that results can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer

from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.training import RecognizerTrainer

__all__ = ["PlainPrompts", "generate_answers", "plain_trainer", "score_full_sequences"]

_NEW_TOKENS = 32
_IGNORED = -100


@dataclass(frozen=True)
class PlainPrompts:
    """Batches made by the model's own processor.

    Args:
        family: the model; only its processor and its tokens are used
        prompt: the prompt
        label_set: the labels; the first surface form of each is its answer
    """

    family: Family
    prompt: Prompt
    label_set: LabelSet

    def to_generate(self, inputs: Sequence[Input]) -> dict[str, Tensor]:
        """Prompts, padded at the left."""
        return self._processed(inputs, [""] * len(inputs), side="left")

    def with_labels(self, inputs: Sequence[Input]) -> list[dict[str, Tensor]]:
        """For each label a batch of all prompts with that answer, and ``labels``."""
        return [self._answered(inputs, [label] * len(inputs)) for label in self.label_set.labels]

    def to_train(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Prompts with their true answers, and ``labels``."""
        return self._answered([each.input for each in examples], [each.label for each in examples])

    def _answered(self, inputs: Sequence[Input], labels: Sequence[str]) -> dict[str, Tensor]:
        answers = [self.label_set.forms_of(label)[0] + self.family.stop_token for label in labels]
        batch = self._processed(inputs, answers, side="right")
        batch["labels"] = torch.full_like(batch["input_ids"], _IGNORED)
        ends = batch["attention_mask"].sum(dim=1).tolist()
        for row, (end, answer) in enumerate(zip(ends, answers, strict=True)):
            start = end - len(self.family.tokenizer(answer, add_special_tokens=False)["input_ids"])
            batch["labels"][row, start:end] = batch["input_ids"][row, start:end]
        return batch

    def _processed(self, inputs: Sequence[Input], answers: Sequence[str], *, side: str) -> dict[str, Tensor]:
        processor = self.family.processor
        texts = [self._text(given) + answer for given, answer in zip(inputs, answers, strict=True)]
        waveforms = [each.waveform.samples for each in inputs if each.waveform is not None]
        processor.tokenizer.padding_side = side
        rate = self.family.sampling_rate
        return dict(processor(text=texts, audio=waveforms, sampling_rate=rate, padding=True, return_tensors="pt"))

    def _text(self, given: Input) -> str:
        conversation = self.prompt.conversation(given, self.label_set)
        messages = [
            {
                "role": message.role,
                "content": [
                    {"type": "audio", "audio_url": ""} if part.kind == "audio" else {"type": "text", "text": part.words}
                    for part in message.parts
                ],
            }
            for message in conversation.messages
        ]
        template = self.family.processor.apply_chat_template
        return str(template(messages, add_generation_prompt=True, tokenize=False))


def generate_answers(prompts: PlainPrompts, inputs: Sequence[Input], batch_size: int) -> list[str]:
    """Greedy answers by ``model.generate``, one for each input."""
    model: Any = prompts.family.model
    answers: list[str] = []
    with torch.inference_mode():
        for batch in _batches(inputs, batch_size, prompts.to_generate):
            on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
            ids = model.generate(**on_device, max_new_tokens=_NEW_TOKENS, do_sample=False)
            new = ids[:, batch["input_ids"].shape[1] :]
            answers += prompts.family.tokenizer.batch_decode(new, skip_special_tokens=True)
    return answers


def score_full_sequences(prompts: PlainPrompts, inputs: Sequence[Input], batch_size: int) -> npt.NDArray[np.float64]:
    """Label log-probabilities (N, K), by a forward pass over prompt and answer for each label."""
    model: Any = prompts.family.model
    rows = []
    with torch.inference_mode():
        for of_labels in _batches(inputs, batch_size, prompts.with_labels):
            scores = []
            for batch in of_labels:
                on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
                labels = on_device.pop("labels")[:, 1:]
                log_probs = model(**on_device).logits[:, :-1].float().log_softmax(dim=-1)
                chosen = log_probs.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
                scores.append(chosen.masked_fill(labels == _IGNORED, 0.0).sum(dim=1))
            rows.append(torch.stack(scores, dim=1).log_softmax(dim=1).cpu())
    return np.asarray(torch.cat(rows).double())


def _batches(inputs: Sequence[Input], batch_size: int, collate: Callable[[Sequence[Input]], Any]) -> DataLoader[Any]:
    return DataLoader(inputs, batch_size=batch_size, collate_fn=collate)  # type: ignore[arg-type]  # map-style


def plain_trainer(ours: RecognizerTrainer, prompts: PlainPrompts, examples: Sequence[Example]) -> Trainer:
    """transformers' Trainer of the same model with its adapter, with the arguments of our trainer."""
    trainer = Trainer(
        model=ours.recognizer.model, args=ours.args, train_dataset=examples, data_collator=prompts.to_train
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
