"""Weights and loss curve of a small baseline on synthetic tones and words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.settings import (
    AudioBranchSettings,
    NetworkSettings,
    SequenceSettings,
    TranscriptBranchSettings,
)
from lalm_mer.recognizers.losses import Loss

LABELS = ("happy", "sad")
LOSSES = [0.698338, 0.656656, 0.630764, 0.587060, 0.578140, 0.505575]
SHAPES = {
    "branches.audio.mean": (40,), "branches.audio.sequence.convolutions.0.weight": (16, 40, 5),
    "branches.audio.sequence.norms.1.running_var": (16,), "branches.transcript.std": (64,),
    "branches.transcript.sequence.convolutions.1.weight": (16, 16, 5),
    "branches.transcript.embedder.bert.embeddings.word_embeddings.weight": (10, 64),
    "head.0.weight": (64, 48), "head.3.weight": (2, 64),
}  # fmt: skip


def examples() -> list[Example]:
    """Pitch and the last word depend on the label; durations differ."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(16):
        label = LABELS[number % 2]
        time = np.arange(3200 + 800 * number) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * (300 if label == "happy" else 150) * time)
        samples = (tone + 0.01 * generator.standard_normal(len(time))).astype(np.float32)
        words = "it was " + "very " * (number % 5) + ("lovely" if label == "happy" else "dreadful")
        made.append(Example(Input(f"u{number:02d}", words, Waveform(samples, 16_000)), label))
    return made


def test_shapes_and_losses_of_the_first_steps(tmp_path):
    given = examples()
    sequence = SequenceSettings(channels=16, stride=2, batch_norm=True, pooling="mean_std")
    settings = NetworkSettings(
        audio=AudioBranchSettings(sequence=sequence, encoder=AudioEncoderSettings(kind="log_mel")),
        transcript=TranscriptBranchSettings(
            sequence=SequenceSettings(channels=16), encoder=TextEncoderSettings(kind="scratch")
        ),
    )
    torch.manual_seed(0)
    network = build_network(settings, LABELS, [each.input for each in given], cache_dir=tmp_path)
    weights = network.state_dict()
    assert {name: tuple(weights[name].shape) for name in SHAPES} == SHAPES
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    smoothed = Loss("single", "cross_entropy", label_smoothing=0.1)
    losses = []
    for _ in LOSSES:
        batch = network.training_collator(given)
        target = torch.nn.functional.one_hot(batch.pop("truth"), 2).float()
        del batch["labels"]
        loss = smoothed(network.train()(**batch), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(LOSSES, abs=2e-3)
