"""Every sequence network, pooling, fusion and learnt encoder: padding, gradients, saving, and a warm start."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from closeness import assert_close

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.models.encoders.settings import (
    AudioEncoderSettings,
    EmbeddingsSettings,
    ScratchSettings,
    TextEncoderSettings,
)
from lalm_mer.recognizers.baselines.branches import Branch
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.fusions import Encoded, fusion_of
from lalm_mer.recognizers.baselines.network import BaselineNetwork
from lalm_mer.recognizers.baselines.sequences import frame_mask
from lalm_mer.recognizers.baselines.settings import (
    AudioBranchSettings,
    Conv2dSettings,
    FusionSettings,
    NetworkSettings,
    SequenceSettings,
    TranscriptBranchSettings,
)

LABELS = ("happy", "sad")
LENGTHS = torch.tensor([1, 2, 9, 20])
SEQUENCES = {
    "conv1d": SequenceSettings(channels=8, batch_norm=True, stride=2),
    "conv2d": SequenceSettings(
        kind="none", batch_norm=True, pooling="mean_std", conv2d=Conv2dSettings(layers=2, channels=4)
    ),
    "conv2d_conv1d": SequenceSettings(
        channels=4, pooling="max", conv2d=Conv2dSettings(layers=1, channels=4, kernel_size=5)
    ),
    "lstm": SequenceSettings(kind="lstm", channels=8),
    "gru": SequenceSettings(kind="gru", channels=8, pooling="attentive"),
    "transformer": SequenceSettings(kind="transformer", channels=8, pooling="attentive"),
    "none": SequenceSettings(kind="none", pooling="mean_std"),
}
FUSIONS = ("concatenation", "gated", "attention", "cross_modal", "bilinear")
TEXTS = {
    "scratch": TextEncoderSettings(kind="scratch", scratch=ScratchSettings(size=8, layers=1)),
    "words": TextEncoderSettings(kind="embeddings", embeddings=EmbeddingsSettings(size=8)),
    "characters": TextEncoderSettings(kind="embeddings", embeddings=EmbeddingsSettings(unit="character", size=8)),
    "tfidf": TextEncoderSettings(kind="tfidf"),
}


def network_of(inputs, cache_dir, starts=None, text="words", **parts):
    """A small network of log-mel bands and transcripts."""
    sequence = SequenceSettings(channels=8, layers=1)
    kind = SequenceSettings(kind="none") if text == "tfidf" else sequence
    settings = NetworkSettings(
        audio=AudioBranchSettings(sequence=sequence, encoder=AudioEncoderSettings(kind="log_mel", bands=8)),
        transcript=TranscriptBranchSettings(sequence=kind, encoder=TEXTS[text]),
    )
    settings = dataclasses.replace(settings, **parts)
    torch.manual_seed(0)
    return build_network(settings, LABELS, inputs, starts=starts, cache_dir=cache_dir)


def log_probs(network, inputs):
    with torch.no_grad():
        return network.eval()(**network.joint_collator(inputs))["log_probs"]


@pytest.mark.parametrize("kind", SEQUENCES)
def test_padding_does_not_change_a_sequence(kind):
    torch.manual_seed(0)
    branch = Branch(12, SEQUENCES[kind], layers=2)  # two layers of six features, side by side
    frames = torch.randn(4, 20, 12) * frame_mask(LENGTHS, 20)[..., None]
    branch.pool(*branch(frames, LENGTHS))  # moves the running statistics
    branch.eval()
    together = branch.pool(*branch(frames, LENGTHS))
    assert together.shape == (4, branch.output_size)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = branch.pool(*branch(frames[row : row + 1, :length], LENGTHS[row : row + 1]))
        assert_close(alone[0], together[row], 1e-5)
    longer = torch.nn.functional.pad(frames, (0, 0, 0, 7), value=5.0)
    assert_close(branch.pool(*branch(longer, LENGTHS)), together, 1e-5)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_gradients_reach_every_parameter_of_a_sequence(kind):
    torch.manual_seed(0)
    branch = Branch(12, dataclasses.replace(SEQUENCES[kind], dropout=0.0), layers=2)
    vectors = branch.pool(*branch(torch.randn(4, 20, 12), LENGTHS))
    vectors.square().mul(torch.rand_like(vectors)).sum().backward()
    without = [name for name, each in branch.named_parameters() if each.grad is None or not each.grad.any()]
    assert not [name for name in without if name != "attention.2.bias"]  # a softmax does not depend on it


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_fusion(kind, examples, inputs, tmp_path):
    network = network_of(inputs, tmp_path, fusion=FusionSettings(kind=kind, size=8, heads=2))
    batch = {name: tensor for name, tensor in network.training_collator(examples).items() if name != "labels"}
    network(**batch)["losses"].sum().backward()
    assert not [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    together = log_probs(network, inputs)
    assert_close(torch.cat([log_probs(network, [given]) for given in inputs]), together)
    for modality in ("transcript", "audio"):  # it uses both
        batch[modality] = batch[modality].flip(0)
        batch[f"{modality}_lengths"] = batch[f"{modality}_lengths"].flip(0)
        with torch.no_grad():
            assert (network(**batch)["log_probs"] - together).abs().max() > 1e-4
        batch = dict(network.joint_collator(inputs))
    network.save_trained(tmp_path / "saved")
    assert_close(log_probs(BaselineNetwork.load_trained(tmp_path / "saved"), inputs), together, 1e-6)


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_fusion_learns_an_exclusive_or_of_both_modalities(kind):
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (2, 256), generator=generator)
    states = signs[..., None, None] * 2.0 - 1 + 0.1 * torch.randn(2, 256, 3, 4, generator=generator)
    truth = signs[0] ^ signs[1]
    lengths = torch.full((256,), 3)
    given = {name: Encoded(each, lengths, each.mean(dim=1)) for name, each in zip(("a", "b"), states, strict=True)}
    torch.manual_seed(0)
    widths = {"a": 4, "b": 4}
    fusion = fusion_of(FusionSettings(kind=kind, size=8, heads=2, dropout=0.0), widths, widths)
    head = torch.nn.Sequential(torch.nn.Linear(fusion.output_size, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.Adam([*fusion.parameters(), *head.parameters()], lr=0.01)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(head(fusion(given)), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (head(fusion(given)).argmax(1) == truth).float().mean() >= 0.9


@pytest.mark.parametrize("text", TEXTS)
def test_an_encoder_of_transcripts_is_saved_with_the_network(text, inputs, tmp_path):
    network = network_of(inputs, tmp_path, text=text, modalities="transcript")
    network.save_trained(tmp_path / "saved")
    again = BaselineNetwork.load_trained(tmp_path / "saved")
    new = [dataclasses.replace(inputs[0], transcript=words) for words in ("It was new!", "lovely\n[SEP]", "")]
    assert_close(log_probs(again, [*inputs, *new]), log_probs(network, [*inputs, *new]), 1e-6)
    if text == "characters":
        assert len(again.sources["transcript"].ids(new[0])) == len("It was new!") + 2


def test_a_branch_starts_from_another_run_and_stays_as_it_is_if_frozen(examples, inputs, tmp_path):
    alone = network_of(inputs, tmp_path, modalities="transcript")
    with torch.no_grad():
        for weight in alone.parameters():
            weight.add_(0.1)
    alone.save_trained(tmp_path / "alone")
    before = network_of(inputs, tmp_path).settings.transcript
    branch = dataclasses.replace(before, start_from="alone", frozen=True)
    network = network_of(inputs, tmp_path, {"transcript": tmp_path / "alone"}, transcript=branch)
    start = {name: value.clone() for name, value in alone.branch("transcript").state_dict().items()}
    optimizer = torch.optim.AdamW([each for each in network.parameters() if each.requires_grad], lr=0.01)
    batch = {name: tensor for name, tensor in network.training_collator(examples).items() if name != "labels"}
    network.train()(**batch)["losses"].sum().backward()
    optimizer.step()
    for name, value in network.branch("transcript").state_dict().items():
        assert torch.equal(value, start[name]), name
    assert not network.branch("transcript").training
    assert network.branch("audio").training
    other = dataclasses.replace(branch, sequence=SequenceSettings(channels=16, layers=1))
    with pytest.raises(ModelError, match=r"argument 'start_from': the branch of transcript .* has another shape"):
        network_of(inputs, tmp_path, {"transcript": tmp_path / "alone"}, transcript=other)
    other = dataclasses.replace(branch, encoder=TEXTS["characters"])
    with pytest.raises(ModelError, match=r"argument 'start_from': .* has another encoder of transcripts"):
        network_of(inputs, tmp_path, {"transcript": tmp_path / "alone"}, transcript=other)
    with pytest.raises(ModelError, match="has another encoder or normalisation of audio"):
        network_of(inputs, tmp_path, {"audio": tmp_path / "alone"})


def test_names_of_recognizers_name_the_parts():
    settings = NetworkSettings(
        audio=AudioBranchSettings(
            encoder=AudioEncoderSettings(kind="pretrained", model="openai/whisper-tiny", layers="all"),
            sequence=SequenceSettings(pooling="attentive"), normalisation="speaker",
        ),
        transcript=TranscriptBranchSettings(start_from="run", frozen=True),
        fusion=FusionSettings(kind="cross_modal"),
    )  # fmt: skip
    expected = "fusion (whisper-tiny all layers attentive by speaker, bert-base-uncased frozen, cross-modal)"
    assert settings.name == expected
    assert NetworkSettings().name == "fusion (opensmile, bert-base-uncased)"


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: SequenceSettings(kind="transformer", channels=10), "'channels': 10; expected an even multiple of heads"),
     (lambda: FusionSettings(kind="attention", size=10), "'size': 10; expected an even multiple of heads, 4"),
     (lambda: TranscriptBranchSettings(frozen=True), "'frozen': true, but there is no start_from"),
     (lambda: TextEncoderSettings(kind="tfidf", pooled=True), "'pooled': true; tfidf has no stored features")],
)  # fmt: skip
def test_settings_that_do_not_fit(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
