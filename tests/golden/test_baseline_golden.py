"""Weights and loss curve of a small baseline on synthetic tones and words."""

from __future__ import annotations

import pytest
import torch
from tones import LABELS, tone_examples
from transformers import BertConfig, BertModel

from lalm_mer.models.encoders.settings import AudioEncoderSettings, ScratchSettings, TextEncoderSettings
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.learnt_text import train_tokenizer
from lalm_mer.recognizers.baselines.settings import (
    AudioBranchSettings,
    NetworkSettings,
    SequenceSettings,
    TranscriptBranchSettings,
)
from lalm_mer.recognizers.losses import Loss
from lalm_mer.recognizers.optimizers import set_learning_rates

LOSSES = [0.698338, 0.656656, 0.630764, 0.587060, 0.578140, 0.505575]
FINETUNED_LOSSES = [0.705136, 0.699907, 0.699355, 0.692269, 0.702304, 0.681927]
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
    assert losses_of(network, given) == pytest.approx(LOSSES, abs=2e-3)


def test_losses_of_the_first_steps_with_an_encoder_that_is_trained(tmp_path):
    given = tone_examples()
    tokenizer = train_tokenizer([str(each.input.transcript) for each in given], ScratchSettings())
    tokenizer.save(tmp_path / "bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer.tokenizer), **sizes)).save_pretrained(tmp_path / "bert")
    encoder = TextEncoderSettings(kind="finetuned", model=str(tmp_path / "bert"), layers="all", learning_rate=3e-4)
    settings = NetworkSettings(
        modalities="transcript",
        transcript=TranscriptBranchSettings(sequence=SequenceSettings(channels=16), encoder=encoder),
    )
    network = build_network(settings, LABELS, [each.input for each in given])
    assert losses_of(network, given) == pytest.approx(FINETUNED_LOSSES, abs=2e-3)


def losses_of(network, given):
    """Losses of six steps with label smoothing."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    set_learning_rates(optimizer, network.own_learning_rates)
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
    return losses
