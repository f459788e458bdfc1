"""A recognizer by the level of the audio, small enough to train in a moment, and its trainer."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments, set_seed

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.recognizers.training import RecognizerTrainer

LABELS = LabelSet(("happy", "sad"))


class Examples(list):
    """What the datasets of a fold offer, in memory."""

    def truths(self):
        return [example.label for example in self]

    def durations_s(self):
        return [example.input.waveform.duration_s for example in self]

    def lengths(self):
        return [len(example.input.waveform.samples) for example in self]

    def utterances(self):
        return {"utterance_id": [example.input.utterance_id for example in self]}


class Loudness(nn.Module):
    """A recognizer by level; keeps the numbers that it was given in training."""

    label_set = LABELS

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2)
        self.levels_seen = []

    @property
    def training_collator(self):
        return collate

    @property
    def scoring_collators(self):
        return (levels,)

    def forward(self, level, truth=None, labels=None, input_ids=None):
        if self.training:
            self.levels_seen += level.flatten().tolist()
        log_probs = self.linear(level).log_softmax(dim=1)
        if truth is None:
            return {"log_probs": log_probs}
        losses = -log_probs.gather(1, truth[:, None])[:, 0]
        return {"losses": losses, "items": torch.ones_like(losses), "log_probs": log_probs}

    def save_trained(self, folder):
        pass


def levels(inputs):
    """Levels, and a token for each sample, padded."""
    level = torch.tensor([[float(np.abs(given.waveform.samples).sum())] for given in inputs]) / 100
    return {"level": level, "input_ids": torch.zeros(len(inputs), max(len(given.waveform.samples) for given in inputs))}


def collate(examples):
    """A batch to train on."""
    truth = torch.tensor([LABELS.index(example.label) for example in examples])
    return levels([example.input for example in examples]) | {"truth": truth, "labels": truth}


class Killed(Exception):
    """A run that ends in the middle."""


class KillAt(TrainerCallback):
    """Ends a run after a step, once its checkpoint is complete."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Killed


def trainer(
    folder, train, dev, *, workers=0, batch=2, accumulated=1, order="random", optim="adamw_torch_fused", max_steps=-1,
    callbacks=(), **settings,
):  # fmt: skip
    """A trainer on the CPU for three epochs, with a checkpoint every two steps."""
    set_seed(0)
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=3, per_device_train_batch_size=batch, learning_rate=0.05,
        gradient_accumulation_steps=accumulated, eval_strategy="steps", eval_steps=2, save_strategy="steps",
        save_steps=2, load_best_model_at_end=True, metric_for_best_model="uar", use_cpu=True, report_to="none",
        remove_unused_columns=False, disable_tqdm=True, dataloader_pin_memory=False, dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0, seed=0, data_seed=0, logging_steps=1,
        train_sampling_strategy=order, optim=optim, max_steps=max_steps,
    )  # fmt: skip
    return RecognizerTrainer(
        Loudness(), arguments, train_examples=train, dev_examples=dev, callbacks=callbacks, **settings
    )


def uneven_examples():
    """Twelve examples of 100 to 1200 samples, in an order of no length."""
    lengths = 100 + 100 * np.random.default_rng(1).permutation(12)
    return Examples(
        Example(
            Input(f"u{n:02}", None, Waveform(np.full(length, 0.01, np.float32), 16_000), "s"), LABELS.labels[n % 4 == 0]
        )
        for n, length in enumerate(lengths)
    )
