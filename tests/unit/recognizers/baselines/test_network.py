from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from closeness import assert_close

from lalm_mer.core.errors import AudioError, ConfigError, CorpusError, LalmMerError, ModelError
from lalm_mer.core.names import MODALITIES
from lalm_mer.models.encoders.pretrained_text import PretrainedText
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.network import BaselineNetwork
from lalm_mer.recognizers.baselines.settings import (
    AudioBranchSettings,
    HeadSettings,
    NetworkSettings,
    SequenceSettings,
    TranscriptBranchSettings,
)

LABELS = ("happy", "sad")


def settings_of(bert="scratch", sequence=None, normalisation="train", **parts):
    """A network of log-mel bands and of ``bert``, which is scratch or the folder of a frozen one."""
    text = TextEncoderSettings(kind="scratch") if bert == "scratch" else TextEncoderSettings(model=bert)
    audio = AudioBranchSettings(
        sequence=sequence or SequenceSettings(), encoder=AudioEncoderSettings(kind="log_mel"),
        normalisation=normalisation,
    )  # fmt: skip
    return NetworkSettings(audio=audio, transcript=TranscriptBranchSettings(encoder=text), **parts)


def build(inputs, tmp_path, others=(), **parts):
    """A network and its collator of batches to be scored."""
    torch.manual_seed(0)
    network = build_network(settings_of(**parts), LABELS, inputs, others=others, cache_dir=tmp_path / "cache")
    return network, network.joint_collator


def log_probs(network, collator, inputs):
    with torch.no_grad():
        return network.eval()(**collator(inputs))["log_probs"]


def training_batch(network, examples):
    """What reaches the network of a batch: the Trainer keeps ``labels``."""
    return {name: tensor for name, tensor in network.training_collator(examples).items() if name != "labels"}


@pytest.mark.parametrize("bert", ["scratch", "frozen"])
@pytest.mark.parametrize("modalities", MODALITIES)
def test_batch_of_one_equals_batch_of_eight(modalities, bert, inputs, tmp_path, request):
    bert = request.getfixturevalue("bert_folder") if bert == "frozen" else bert
    network, collator = build(inputs, tmp_path, modalities=modalities, bert=bert)
    assert network.modalities == modalities
    together = log_probs(network, collator, inputs[:8])
    alone = torch.cat([log_probs(network, collator, [given]) for given in inputs[:8]])
    assert_close(alone, together)
    torch.testing.assert_close(together.exp().sum(1), torch.ones(8))


@pytest.mark.parametrize("modalities", MODALITIES)
def test_learns_from_each_of_its_modalities(modalities, examples, inputs, tmp_path):
    network, collator = build(inputs, tmp_path, modalities=modalities)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(40):
        loss = network.train()(**training_batch(network, examples))["losses"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    truth = torch.tensor([LABELS.index(example.label) for example in examples])
    assert (log_probs(network, collator, inputs).argmax(1) == truth).all()


def test_absent_modality_is_not_read(inputs, tmp_path):
    silent = [dataclasses.replace(given, waveform=None) for given in inputs]
    network, collator = build(silent, tmp_path, modalities="transcript")
    assert set(collator(silent)) == {"transcript", "transcript_lengths"}
    mute = [dataclasses.replace(given, transcript=None) for given in inputs]
    network, collator = build(mute, tmp_path, modalities="audio")
    assert set(collator(mute)) == {"audio", "audio_lengths"}
    assert not any("transcript" in name or "embedder" in name for name, _ in network.named_parameters())


def test_a_training_batch_is_a_scoring_batch_with_the_truth(examples, inputs, tmp_path):
    network, collator = build(inputs, tmp_path)
    learnt, scored = network.training_collator(examples[:5]), collator(inputs[:5])
    assert set(learnt) == {*scored, "truth", "labels"}
    assert all(torch.equal(learnt[name], tensor) for name, tensor in scored.items())
    assert learnt["truth"].tolist() == learnt["labels"].tolist() == [0, 1, 0, 1, 0]


def test_losses_are_cross_entropy(examples, inputs, tmp_path):
    network, _ = build(inputs, tmp_path, modalities="audio")
    batch = training_batch(network, examples[:8])
    output = network.eval()(**batch)
    expected = -output["log_probs"].gather(1, batch["truth"][:, None])[:, 0]
    torch.testing.assert_close(output["losses"], expected)
    assert output["items"].tolist() == [1.0] * 8
    del batch["truth"]
    assert set(network(**batch)) == {"log_probs"}


def test_normalisation_uses_the_train_split_only(inputs, tmp_path):
    network, _ = build(inputs[:8], tmp_path, others=[inputs[8:]], modalities="audio")
    frames = np.concatenate([network.sources["audio"].extract(given) for given in inputs[:8]])
    np.testing.assert_allclose(network.branch("audio").mean, frames.mean(0), rtol=1e-4)
    np.testing.assert_allclose(network.branch("audio").std, frames.std(0), rtol=1e-4)


def test_stored_features_are_used_for_inputs_without_audio(inputs, tmp_path):
    network, collator = build(inputs[:8], tmp_path, others=[inputs[8:]], modalities="audio")
    silent = [dataclasses.replace(given, waveform=None) for given in inputs]
    assert torch.equal(log_probs(network, collator, silent), log_probs(network, collator, inputs))
    with pytest.raises(AudioError, match="utterance new"):
        collator([dataclasses.replace(silent[0], utterance_id="new", audio_sha256="new")])


def test_swapped_audio_changes_the_scores(inputs, tmp_path):
    network, collator = build(inputs, tmp_path, modalities="audio")
    audio = [(other.waveform, other.audio_sha256) for other in inputs[::-1]]
    swapped = [
        dataclasses.replace(given, waveform=waveform, audio_sha256=sha256)
        for given, (waveform, sha256) in zip(inputs, audio, strict=True)
    ]
    assert_close(log_probs(network, collator, swapped), log_probs(network, collator, inputs[::-1]), 1e-6)


@pytest.mark.parametrize("bert", ["scratch", "frozen"])
def test_saved_network_predicts_the_same(bert, inputs, tmp_path, request):
    bert = request.getfixturevalue("bert_folder") if bert == "frozen" else bert
    sequence = SequenceSettings(batch_norm=True, pooling="mean_std", layers=1)
    network, collator = build(inputs, tmp_path, bert=bert, sequence=sequence, head=HeadSettings(hidden=0))
    network(**collator(inputs))  # in training mode: moves the running statistics
    before = log_probs(network, collator, inputs)
    network.save_trained(tmp_path / "saved")
    again = BaselineNetwork.load_trained(tmp_path / "saved")
    assert not again.training
    assert again.labels == LABELS
    assert_close(log_probs(again, again.joint_collator, inputs), before, 1e-6)


def test_frozen_bert_is_neither_trained_nor_copied(inputs, tmp_path, bert_folder):
    network, _ = build(inputs, tmp_path, bert=bert_folder)
    assert isinstance(network.sources["transcript"], PretrainedText)
    assert not any("bert" in name for name in network.state_dict())


def test_changed_frozen_bert_is_an_error(inputs, tmp_path, bert_folder):
    network, _ = build(inputs, tmp_path, modalities="transcript", bert=bert_folder)
    network.save_trained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "network.json").read_text())
    config["encoders"]["transcript"]["weights"] = "another"
    (tmp_path / "saved" / "network.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="weights of the transcript encoder are not those of training"):
        BaselineNetwork.load_trained(tmp_path / "saved")


def test_another_extractor_version_warns(inputs, tmp_path):
    network, _ = build(inputs, tmp_path, modalities="audio")
    network.save_trained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "network.json").read_text())
    config["encoders"]["audio"]["version"] = 0
    (tmp_path / "saved" / "network.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="trained with the audio encoder"):
        BaselineNetwork.load_trained(tmp_path / "saved")


def test_incomplete_folder_is_one_line(tmp_path, inputs):
    with pytest.raises(ModelError, match="not a saved baseline network"):
        BaselineNetwork.load_trained(tmp_path)
    network, _ = build(inputs, tmp_path, modalities="audio")
    network.save_trained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        BaselineNetwork.load_trained(tmp_path / "saved")


WRONG = (
    {"labels": None}, {"labels": "hs"}, {"labels": ["happy"]}, {"settings": None}, {"settings": {"audio": None}},
    {"settings": {"modalities": "audio", "audio": {"sequence": {"channels": "64"}}}},
    {"settings": {"modalities": "audio", "audio": {"sequence": {"channels": 10**12}}}},
    {"settings": {"modalities": "x"}}, {"settings": {"modalities": "audio+transcript"}}, {"encoders": None},
    {"encoders": {}}, {"encoders": {"audio": {"weights": 5}}}, {"encoders": [1]}, {"more": 1},
    {"settings": {"modalities": "audio", "head": {"hidden": None}}},
    {"settings": {"modalities": "audio", "head": {"depth": 1}}},
    {"settings": {"modalities": "audio", "audio": {"encoder": {"kind": "mel"}}}},
)  # fmt: skip


def test_settings_of_a_wrong_shape_are_one_line(inputs, tmp_path):
    network, _ = build(inputs, tmp_path, modalities="audio")
    network.save_trained(tmp_path / "saved")
    file = tmp_path / "saved" / "network.json"
    good = json.loads(file.read_text())
    cases = [json.dumps(good | each) for each in WRONG] + ["null", "[]", '"x"', "", "{", "{}", "[" * 20_000]
    for content in cases:
        file.write_text(content)
        with pytest.raises(LalmMerError) as caught:
            BaselineNetwork.load_trained(tmp_path / "saved")
        assert "\n" not in str(caught.value), content


def test_wrong_settings(inputs):
    with pytest.raises(ConfigError, match="argument 'modalities': 'video'; expected one of audio, transcript"):
        settings_of(modalities="video")
    with pytest.raises(ConfigError, match=r"argument 'dropout': 2.0; expected 0 or more and less than 1"):
        HeadSettings(dropout=2.0)
    with pytest.raises(ConfigError, match="expected the same"):
        BaselineNetwork(LABELS, settings_of(), {})
    with pytest.raises(ConfigError, match="argument 'normalisation': speaker, but encoder scratch is learnt"):
        TranscriptBranchSettings(normalisation="speaker", encoder=TextEncoderSettings(kind="scratch"))


def test_normalisation_by_speaker_uses_the_utterances_of_the_speaker_in_the_split(inputs, tmp_path):
    parts = {"modalities": "audio", "normalisation": "speaker"}
    network, collator = build(inputs[:8], tmp_path, others=[inputs[8:]], **parts)
    batch = collator(inputs)
    for split in (range(8), range(8, 16)):
        for speaker in range(4):
            own = [n for n in split if inputs[n].speaker == f"s{speaker}"]
            frames = torch.cat([batch["audio"][n, : batch["audio_lengths"][n]] for n in own])
            assert_close(frames.mean(0), torch.zeros(40), 1e-3)
            assert_close(frames.std(0, unbiased=False), torch.ones(40), 1e-3)
    with pytest.raises(CorpusError, match="utterance new: the features are normalised by statistics of the speaker"):
        collator([dataclasses.replace(inputs[0], utterance_id="new")])
    network.save_trained(tmp_path / "saved")
    with pytest.raises(CorpusError, match="utterance u00: the features are normalised by statistics of the speaker"):
        BaselineNetwork.load_trained(tmp_path / "saved").joint_collator(inputs)
    with pytest.raises(CorpusError, match="utterance u00: no speaker, whose statistics"):
        build([dataclasses.replace(inputs[0], speaker=None)], tmp_path, modalities="audio", normalisation="speaker")


def test_unknown_label_names_the_utterance(examples, inputs, tmp_path):
    network, _ = build(inputs, tmp_path, modalities="audio")
    with pytest.raises(CorpusError, match="utterance u00: label 'bored' is not one of happy, sad"):
        network.training_collator([dataclasses.replace(examples[0], label="bored")])
