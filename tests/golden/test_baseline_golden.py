"""Weights and loss curve of a small baseline on synthetic tones and words."""

from __future__ import annotations

import pytest
import torch
from tones import LABELS, tone_examples

from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.settings import (
    AudioBranchSettings,
    NetworkSettings,
    SequenceSettings,
    TranscriptBranchSettings,
)
from lalm_mer.recognizers.losses import Loss

LOSSES = [0.698338, 0.656656, 0.630764, 0.587060, 0.578140, 0.505575]
SHAPES = {
    "branches.audio.mean": (40,), "branches.audio.sequence.convolutions.0.weight": (16, 40, 5),
    "branches.audio.sequence.norms.1.running_var": (16,), "branches.transcript.std": (64,),
    "branches.transcript.sequence.convolutions.1.weight": (16, 16, 5),
    "branches.transcript.embedder.bert.embeddings.word_embeddings.weight": (10, 64),
    "head.0.weight": (64, 48), "head.3.weight": (2, 64),
}  # fmt: skip


def test_shapes_and_losses_of_the_first_steps(tmp_path):
    given = tone_examples()
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
