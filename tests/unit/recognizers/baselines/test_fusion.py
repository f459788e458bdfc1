from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from closeness import assert_close

from lalm_mer.core.errors import ConfigError, CorpusError, LalmMerError, ModelError
from lalm_mer.core.names import MODALITIES
from lalm_mer.recognizers.baselines.branches import BranchSettings
from lalm_mer.recognizers.baselines.build import build_fusion
from lalm_mer.recognizers.baselines.fusion import FusionCollator, FusionNetwork
from lalm_mer.recognizers.baselines.word_embeddings import FrozenBert

LABELS = ("happy", "sad")


def build(inputs, tmp_path, **settings):
    """A network and its collator of batches to be scored."""
    torch.manual_seed(0)
    values = {"corpus_hash": "synthetic", "features": "log_mel", "cache_dir": tmp_path / "cache", **settings}
    network = build_fusion(inputs, LABELS, **values)
    (collator,) = network.scoring_collators
    return network, collator


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
    frames = np.concatenate([network.acoustic.extract(given) for given in inputs[:8]])
    np.testing.assert_allclose(network.branch("audio").mean, frames.mean(0), rtol=1e-4)
    np.testing.assert_allclose(network.branch("audio").std, frames.std(0), rtol=1e-4)


def test_stored_features_are_used_for_inputs_without_audio(inputs, tmp_path):
    network, collator = build(inputs[:8], tmp_path, others=[inputs[8:]], modalities="audio")
    silent = [dataclasses.replace(given, waveform=None) for given in inputs]
    assert torch.equal(log_probs(network, collator, silent), log_probs(network, collator, inputs))
    with pytest.raises(CorpusError, match="utterance new"):
        collator([dataclasses.replace(silent[0], utterance_id="new")])


def test_swapped_audio_changes_the_scores(inputs, tmp_path):
    network, collator = build(inputs, tmp_path, modalities="audio")
    swapped = [dataclasses.replace(e, waveform=o.waveform) for e, o in zip(inputs, inputs[::-1], strict=True)]
    assert_close(log_probs(network, collator, swapped), log_probs(network, collator, inputs[::-1]), 1e-6)


@pytest.mark.parametrize("bert", ["scratch", "frozen"])
def test_saved_network_predicts_the_same(bert, inputs, tmp_path, request):
    bert = request.getfixturevalue("bert_folder") if bert == "frozen" else bert
    branch = BranchSettings(batch_norm=True, pooling="mean_std", layers=1)
    network, collator = build(inputs, tmp_path, bert=bert, audio_branch=branch, hidden=0)
    network(**collator(inputs))  # in training mode: moves the running statistics
    before = log_probs(network, collator, inputs)
    network.save_trained(tmp_path / "saved")
    again = FusionNetwork.load_trained(tmp_path / "saved")
    assert not again.training
    assert again.labels == LABELS
    assert_close(log_probs(again, FusionCollator(again), inputs), before, 1e-6)


def test_frozen_bert_is_neither_trained_nor_copied(inputs, tmp_path, bert_folder):
    network, _ = build(inputs, tmp_path, bert=bert_folder)
    assert isinstance(network.transcripts, FrozenBert)
    assert not any("bert" in name for name in network.state_dict())


def test_changed_frozen_bert_is_an_error(inputs, tmp_path, bert_folder):
    network, _ = build(inputs, tmp_path, modalities="transcript", bert=bert_folder)
    network.save_trained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "fusion.json").read_text())
    config["transcripts"]["weights"] = "another"
    (tmp_path / "saved" / "fusion.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"weights of bert .* are not those of training"):
        FusionNetwork.load_trained(tmp_path / "saved")


def test_another_extractor_version_warns(inputs, tmp_path):
    network, _ = build(inputs, tmp_path, modalities="audio")
    network.save_trained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "fusion.json").read_text())
    config["acoustic"]["version"] = 0
    (tmp_path / "saved" / "fusion.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="trained with acoustic features"):
        FusionNetwork.load_trained(tmp_path / "saved")


def test_incomplete_folder_is_one_line(tmp_path, inputs):
    with pytest.raises(ModelError, match="not a saved fusion network"):
        FusionNetwork.load_trained(tmp_path)
    network, _ = build(inputs, tmp_path, modalities="audio")
    network.save_trained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"model\.safetensors: does not fit fusion\.json"):
        FusionNetwork.load_trained(tmp_path / "saved")


WRONG = (
    {"labels": None}, {"labels": "hs"}, {"labels": ["happy"]}, {"branches": None}, {"branches": {"audio": None}},
    {"branches": {"audio": {"channels": "64"}}}, {"branches": {"audio": {"channels": 10**12}}}, {"branches": {"x": {}}},
    {"head": None}, {"head": {"hidden": None}}, {"head": {"depth": 1}}, {"acoustic": {}}, {"acoustic": {"name": 5}},
    {"acoustic": [1]}, {"scratch": 1}, {"transcripts": {}}, {"transcripts": {"name": "scratch"}},
    {"more": 1},
)  # fmt: skip


def test_settings_of_a_wrong_shape_are_one_line(inputs, tmp_path):
    network, _ = build(inputs, tmp_path, modalities="audio")
    network.save_trained(tmp_path / "saved")
    file = tmp_path / "saved" / "fusion.json"
    good = json.loads(file.read_text())
    cases = [json.dumps(good | each) for each in WRONG] + ["null", "[]", '"x"', "", "{", "{}", "[" * 20_000]
    for content in cases:
        file.write_text(content)
        with pytest.raises(LalmMerError) as caught:
            FusionNetwork.load_trained(tmp_path / "saved")
        assert "\n" not in str(caught.value), content


def test_wrong_settings(inputs, tmp_path):
    with pytest.raises(ConfigError, match="argument 'modalities': 'video'; expected one of audio, transcript"):
        build(inputs, tmp_path, modalities="video")
    with pytest.raises(ConfigError, match="dropout=2"):
        build(inputs, tmp_path, modalities="audio", dropout=2.0)
    with pytest.raises(ConfigError, match="found neither"):
        FusionNetwork(LABELS, acoustic=None, transcripts=None)


def test_unknown_label_names_the_utterance(examples, inputs, tmp_path):
    network, _ = build(inputs, tmp_path, modalities="audio")
    with pytest.raises(CorpusError, match="utterance u00: label 'bored' is not one of happy, sad"):
        network.training_collator([dataclasses.replace(examples[0], label="bored")])
