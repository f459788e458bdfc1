"""A pretrained encoder of transcripts that is trained together with the network."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import TrainingArguments

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.names import MODALITIES
from lalm_mer.core.schema import Turn
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.network import BaselineNetwork
from lalm_mer.recognizers.baselines.settings import (
    AudioBranchSettings,
    FusionSettings,
    NetworkSettings,
    SequenceSettings,
    TranscriptBranchSettings,
)
from lalm_mer.recognizers.training import RecognizerTrainer

LABELS = ("happy", "sad")
SMALL = SequenceSettings(channels=8, layers=1)


def network_of(inputs, tmp_path, model, *, modalities="transcript", starts=None, branch=None, fusion=None, **encoder):
    """A network whose encoder of transcripts is trained."""
    text = TextEncoderSettings(kind="finetuned", model=str(model), **encoder)
    settings = NetworkSettings(
        modalities=modalities,
        audio=AudioBranchSettings(sequence=SMALL, encoder=AudioEncoderSettings(kind="log_mel", bands=8)),
        transcript=TranscriptBranchSettings(sequence=SMALL, encoder=text, **(branch or {})),
        fusion=fusion or FusionSettings(),
    )
    torch.manual_seed(0)
    return build_network(settings, LABELS, inputs, starts=starts, cache_dir=tmp_path / "cache")


def log_probs(network, inputs):
    with torch.no_grad():
        return network.eval()(**network.joint_collator(inputs))["log_probs"]


def in_dialogue(inputs):
    """The same inputs, of which every second has a turn before."""
    turn = (Turn("A", "very dreadful"),)
    return [dataclasses.replace(each, context=turn if n % 2 else ()) for n, each in enumerate(inputs)]


@pytest.mark.parametrize("modalities", ["transcript", "audio+transcript"])
def test_gradient_reaches_every_layer_of_the_encoder(modalities, examples, inputs, tmp_path, bert_folder):
    network = network_of(inputs, tmp_path, bert_folder, modalities=modalities, layers="all").train()
    batch = network.training_collator(examples)
    del batch["labels"]
    network(**batch)["losses"].mean().backward()
    encoder = network.branch("transcript").embedder
    assert not [name for name, each in encoder.named_parameters() if each.grad is None]
    assert all(each.grad.abs().sum() > 0 for name, each in encoder.named_parameters() if "key.bias" not in name)
    assert not any("pooler" in name for name in encoder.state_dict())
    assert [(part is encoder, rate) for part, rate in network.own_learning_rates] == [(True, 5e-5)]


@pytest.mark.parametrize("modalities", MODALITIES)
def test_batch_of_one_equals_batch_of_eight(modalities, inputs, tmp_path, bert_folder):
    given = in_dialogue(inputs)[:8]
    network = network_of(given, tmp_path, bert_folder, modalities=modalities, branch={"context_turns": 1})
    assert network.own_learning_rates == [] or modalities != "audio"
    alone = torch.cat([log_probs(network, [each]) for each in given])
    assert_close(alone, log_probs(network, given))


@pytest.mark.parametrize("fusion", ["concatenation", "cross_modal"])
def test_a_saved_network_predicts_the_same_without_the_pretrained_model(fusion, inputs, tmp_path, bert_folder):
    folder, given = shutil.copytree(bert_folder, tmp_path / "bert"), in_dialogue(inputs)
    network = network_of(
        given, tmp_path, folder, modalities="audio+transcript", layers=[1, 2], branch={"context_turns": 1},
        fusion=FusionSettings(kind=fusion, size=8),
    )  # fmt: skip
    with torch.no_grad():
        for each in network.branch("transcript").embedder.parameters():
            each.add_(0.01 * torch.randn_like(each))  # trained
    expected = log_probs(network, given)
    network.save_trained(tmp_path / "saved")
    shutil.rmtree(folder)
    again = BaselineNetwork.load_trained(tmp_path / "saved")
    assert_close(log_probs(again, given), expected, 1e-6)
    again.save_trained(tmp_path / "again")
    for name in ("network.json", "model.safetensors", "tokenizer/tokenizer.json", "tokenizer/config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes(), name


def test_a_saved_network_needs_the_files_of_its_encoder(inputs, tmp_path, bert_folder):
    network_of(inputs, tmp_path, bert_folder).save_trained(tmp_path / "saved")
    for name in ("config.json", "tokenizer.json"):
        broken = shutil.copytree(tmp_path / "saved", tmp_path / name)
        (broken / "tokenizer" / name).unlink()
        with pytest.raises(ModelError, match=r"no config of a text encoder|cannot read a tokenizer"):
            BaselineNetwork.load_trained(broken)


def trainer_of(network, folder, examples, **changes):
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-2,
        weight_decay=0.1, lr_scheduler_type="linear", eval_strategy="epoch", save_strategy="epoch", use_cpu=True,
        report_to=[], remove_unused_columns=False, disable_tqdm=True, dataloader_pin_memory=False, **changes,
    )  # fmt: skip
    return RecognizerTrainer(network, arguments, train_examples=examples, dev_examples=examples)


def split_weights(network):
    """Copies of the weights of the encoder, and of the other parts."""
    weights = {name: each.detach().clone() for name, each in network.named_parameters()}
    encoder = {name: each for name, each in weights.items() if ".embedder." in name}
    return encoder, {name: each for name, each in weights.items() if name not in encoder}


@pytest.mark.parametrize("rate", [0.0, 1e-4])
def test_the_encoder_has_a_learning_rate_of_its_own(rate, examples, inputs, tmp_path, bert_folder):
    network = network_of(inputs, tmp_path, bert_folder, learning_rate=rate)
    trainer = trainer_of(network, tmp_path / "run", examples)
    encoder, others = split_weights(network)
    trainer.train()
    groups = trainer.optimizer.param_groups
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups] == [
        (1e-2, 0.1), (1e-2, 0.0), (rate, 0.1), (rate, 0.0),
    ]  # fmt: skip
    names = {id(each): name for name, each in network.named_parameters()}
    found = [{names[id(each)] for each in group["params"]} for group in groups]
    assert found[2] | found[3] == encoder.keys()
    assert found[0] | found[1] == others.keys()
    assert sum(map(len, found)) == len(names)
    assert next(row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row) > 1e-3
    now, others_now = split_weights(network)
    assert any(not torch.equal(others_now[name], each) for name, each in others.items())
    moved = max(float((now[name] - each).abs().max()) for name, each in encoder.items())
    assert moved == 0 if rate == 0 else 0 < moved < 4 * rate  # four steps of AdamW


def test_a_resumed_training_ends_with_the_same_weights(examples, inputs, tmp_path, bert_folder):
    def trained(resumes):
        network = network_of(inputs, tmp_path, bert_folder, modalities="audio+transcript", learning_rate=1e-3)
        trainer = trainer_of(network, tmp_path / "run", examples)
        trainer.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-2" if resumes else None)
        return network

    whole = trained(resumes=False)
    expected = {name: each.clone() for name, each in whole.state_dict().items()}
    again = trained(resumes=True)
    assert all(torch.equal(each, expected[name]) for name, each in again.state_dict().items())
    scores = log_probs(again, inputs).numpy()
    np.testing.assert_array_equal(scores, log_probs(whole, inputs).numpy())


def test_a_branch_can_start_from_a_saved_one_with_another_rate(inputs, tmp_path, bert_folder):
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    first = network_of(inputs, tmp_path, folder)
    with torch.no_grad():
        next(first.branch("transcript").embedder.parameters()).mul_(2)
    first.save_trained(tmp_path / "saved")
    other = shutil.copytree(folder, tmp_path / "other")
    shutil.rmtree(folder)
    starts, branch = {"transcript": tmp_path / "saved"}, {"start_from": "run"}
    warm = network_of(inputs, tmp_path, folder, starts=starts, branch=branch, learning_rate=1e-6)
    own, saved = (each.branch("transcript").state_dict() for each in (warm, first))
    assert all(torch.equal(own[name], each) for name, each in saved.items())
    assert warm.own_learning_rates[0][1] == 1e-6
    frozen = network_of(inputs, tmp_path, folder, starts=starts, branch={**branch, "frozen": True})
    assert not any(each.requires_grad for each in frozen.branch("transcript").parameters())
    with pytest.raises(ModelError, match=r"'start_from': .* has another encoder of transcripts; expected the same"):
        network_of(inputs, tmp_path, other, starts=starts, branch=branch)


def test_what_does_not_fit_an_encoder_that_is_trained(tmp_path, inputs):
    text = TextEncoderSettings(kind="finetuned")
    assert text.name == "bert-base-uncased fine-tuned"
    with pytest.raises(ConfigError, match="'normalisation': speaker, but encoder finetuned is learnt"):
        TranscriptBranchSettings(normalisation="speaker", encoder=text)
    with pytest.raises(ModelError, match="cannot be loaded"):
        network_of(inputs, tmp_path, tmp_path)
