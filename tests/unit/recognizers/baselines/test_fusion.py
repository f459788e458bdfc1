from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from lalm_mer.core.errors import ConfigError, CorpusError, ModelError
from lalm_mer.core.names import MODALITIES
from lalm_mer.recognizers.baselines.build import build_fusion
from lalm_mer.recognizers.baselines.fusion import FusionCollator, FusionNetwork
from lalm_mer.recognizers.baselines.settings import BranchSettings
from lalm_mer.recognizers.baselines.word_embeddings import FrozenBert

LABELS = ("happy", "sad")


def build(examples, tmp_path, **settings):
    torch.manual_seed(0)
    values = {"corpus_hash": "synthetic", "features": "log_mel", "cache_dir": tmp_path / "cache", **settings}
    return build_fusion(examples, LABELS, **values)


def log_probs(network, collator, examples):
    with torch.no_grad():
        return network.eval()(**collator(examples))["log_probs"]


@pytest.mark.parametrize("bert", ["scratch", "frozen"])
@pytest.mark.parametrize("modalities", MODALITIES)
def test_batch_of_one_equals_batch_of_eight(modalities, bert, examples, tmp_path, request):
    bert = request.getfixturevalue("bert_folder") if bert == "frozen" else bert
    network, collator = build(examples, tmp_path, modalities=modalities, bert=bert)
    assert network.modalities == modalities
    together = log_probs(network, collator, examples[:8])
    alone = torch.cat([log_probs(network, collator, [example]) for example in examples[:8]])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.exp().sum(1), torch.ones(8))


@pytest.mark.parametrize("modalities", MODALITIES)
def test_learns_what_its_modalities_say(modalities, examples, tmp_path):
    network, collator = build(examples, tmp_path, modalities=modalities)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(40):
        loss = network.train()(**collator(examples))["losses"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = collator(examples)
    assert (log_probs(network, collator, examples).argmax(1) == batch["truth"]).all()


def test_absent_modality_is_not_read(examples, tmp_path):
    silent = [dataclasses.replace(example, waveform=None) for example in examples]
    network, collator = build(silent, tmp_path, modalities="transcript")
    assert set(collator(silent)) == {"truth", "labels", "transcript", "transcript_lengths"}
    mute = [dataclasses.replace(example, transcript=None) for example in examples]
    network, collator = build(mute, tmp_path, modalities="audio")
    assert set(collator(mute)) == {"truth", "labels", "audio", "audio_lengths"}
    assert not any("transcript" in name or "embedder" in name for name, _ in network.named_parameters())


def test_losses_are_cross_entropy(examples, tmp_path):
    network, collator = build(examples, tmp_path, modalities="audio")
    batch = collator(examples[:8])
    output = network.eval()(**batch)
    expected = -output["log_probs"].gather(1, batch["truth"][:, None])[:, 0]
    torch.testing.assert_close(output["losses"], expected)
    assert output["items"].tolist() == [1.0] * 8
    del batch["truth"]
    assert set(network(**batch)) == {"log_probs"}


def test_normalisation_is_of_the_train_split_alone(examples, tmp_path):
    network, _ = build(examples[:8], tmp_path, others=[examples[8:]], modalities="audio")
    frames = np.concatenate([network.acoustic.extract(example) for example in examples[:8]])
    np.testing.assert_allclose(network.branch("audio").mean, frames.mean(0), rtol=1e-4)
    np.testing.assert_allclose(network.branch("audio").std, frames.std(0), rtol=1e-4)


def test_stored_features_serve_examples_without_audio(examples, tmp_path):
    network, collator = build(examples[:8], tmp_path, others=[examples[8:]], modalities="audio")
    silent = [dataclasses.replace(example, waveform=None) for example in examples]
    assert torch.equal(log_probs(network, collator, silent), log_probs(network, collator, examples))
    with pytest.raises(CorpusError, match="utterance new"):
        collator([dataclasses.replace(silent[0], utterance_id="new")])


def test_swapped_audio_changes_the_scores(examples, tmp_path):
    network, collator = build(examples, tmp_path, modalities="audio")
    swapped = [dataclasses.replace(e, waveform=o.waveform) for e, o in zip(examples, examples[::-1], strict=True)]
    torch.testing.assert_close(
        log_probs(network, collator, swapped), log_probs(network, collator, examples[::-1]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("bert", ["scratch", "frozen"])
def test_saved_network_predicts_the_same(bert, examples, tmp_path, request):
    bert = request.getfixturevalue("bert_folder") if bert == "frozen" else bert
    branch = BranchSettings(batch_norm=True, pooling="mean_std", layers=1)
    network, collator = build(examples, tmp_path, bert=bert, audio_branch=branch, hidden=0)
    network(**collator(examples))  # moves the running statistics
    before = log_probs(network, collator, examples)
    network.save_trained(tmp_path / "saved")
    again = FusionNetwork.load_trained(tmp_path / "saved")
    assert not again.training
    assert again.labels == LABELS
    torch.testing.assert_close(log_probs(again, FusionCollator(again), examples), before, atol=1e-6, rtol=0)


def test_frozen_bert_is_neither_trained_nor_copied(examples, tmp_path, bert_folder):
    network, _ = build(examples, tmp_path, bert=bert_folder)
    assert isinstance(network.transcripts, FrozenBert)
    assert not any("bert" in name for name in network.state_dict())


def test_changed_frozen_bert_is_an_error(examples, tmp_path, bert_folder):
    network, _ = build(examples, tmp_path, modalities="transcript", bert=bert_folder)
    network.save_trained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "fusion.json").read_text())
    config["transcripts"]["weights"] = "another"
    (tmp_path / "saved" / "fusion.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="weights have changed"):
        FusionNetwork.load_trained(tmp_path / "saved")


def test_another_extractor_version_warns(examples, tmp_path):
    network, _ = build(examples, tmp_path, modalities="audio")
    network.save_trained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "fusion.json").read_text())
    config["acoustic"]["version"] = 0
    (tmp_path / "saved" / "fusion.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="trained on acoustic features"):
        FusionNetwork.load_trained(tmp_path / "saved")


def test_incomplete_folder_is_one_line(tmp_path, examples):
    with pytest.raises(ModelError, match="not a saved fusion network"):
        FusionNetwork.load_trained(tmp_path)
    network, _ = build(examples, tmp_path, modalities="audio")
    network.save_trained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="not a saved fusion network"):
        FusionNetwork.load_trained(tmp_path / "saved")


def test_wrong_settings(examples, tmp_path):
    with pytest.raises(ConfigError, match="argument 'modalities': 'video'; expected one of audio, transcript"):
        build(examples, tmp_path, modalities="video")
    with pytest.raises(ConfigError, match="dropout=2"):
        build(examples, tmp_path, modalities="audio", dropout=2.0)
    with pytest.raises(ConfigError, match="found neither"):
        FusionNetwork(LABELS, acoustic=None, transcripts=None)


def test_unknown_label_names_the_utterance(examples, tmp_path):
    _, collator = build(examples, tmp_path, modalities="audio")
    with pytest.raises(CorpusError, match="utterance u00: label 'bored' is not one of happy, sad"):
        collator([dataclasses.replace(examples[0], label="bored")])
