"""Training of dual encoders: gradients, objectives, and a task that LoRA learns."""

from functools import partial

import numpy as np
import pytest
import torch
from closeness import assert_close
from dual_inputs import LABELS, RANK, SETUP, TOWERS, score, shake, training_batch
from transformers import TrainingArguments

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter, load_adapter
from lalm_mer.models.full_training import train_in_full
from lalm_mer.recognizers.clap import ClapRecognizer
from lalm_mer.recognizers.training import RecognizerTrainer


@pytest.mark.parametrize("objective", ["cross_entropy", "contrastive"])
@pytest.mark.parametrize("towers", [TOWERS, TOWERS[:2], TOWERS[2:]], ids=["both", "audio", "text"])
def test_trainable_parameters_get_gradients(clap, examples, towers, objective):
    model, _ = add_adapter(clap, {tower: [ALL_LINEAR] for tower in towers}, RANK)
    shake(model)
    recognizer = ClapRecognizer(clap, SETUP, model, objective=objective).train()
    recognizer(**training_batch(recognizer, examples))["losses"].sum().backward()
    for name, parameter in recognizer.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad and ".key." not in name:  # a constant added to all keys does not change attention
            assert parameter.grad.abs().sum() > 0, name


def test_training_mode_does_not_change_statistics_or_the_frozen_text_tower(clap, examples):
    model, _ = add_adapter(clap, {"audio_tower": [ALL_LINEAR]}, RANK)
    recognizer = ClapRecognizer(clap, SETUP, model).train()
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    recognizer(**training_batch(recognizer, examples))
    after = recognizer.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not any(module.training for module in clap.submodule("text_tower").modules())
    assert clap.submodule("audio_tower").training


def test_cross_entropy_does_not_depend_on_the_batch_size(clap, examples):
    model, _ = add_adapter(clap, {"audio_projector": [ALL_LINEAR]}, RANK)
    recognizer = ClapRecognizer(clap, SETUP, model).train()
    clap.model.eval()  # no dropout
    counted = recognizer.training_collator(examples)
    assert counted["labels"].tolist() == counted["truth"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    together, *alone = [training_batch(recognizer, rows) for rows in (examples, *([each] for each in examples))]
    losses = torch.cat([recognizer(**batch)["losses"] for batch in alone])
    assert_close(recognizer(**together)["losses"], losses)


@pytest.mark.parametrize("objective", ["cross_entropy", "contrastive"])
@pytest.mark.parametrize("towers", [TOWERS, TOWERS[:2], TOWERS[2:]], ids=["both", "audio", "text"])
def test_weights_in_full_get_gradients(clap, examples, towers, objective):
    report = train_in_full(clap, towers)
    recognizer = ClapRecognizer(clap, SETUP, objective=objective).train()
    before = {name: value.clone() for name, value in recognizer.named_buffers()}
    recognizer(**training_batch(recognizer, examples))["losses"].sum().backward()
    learning = {name for name, each in recognizer.named_parameters() if each.requires_grad}
    assert {name for name, each in recognizer.named_parameters() if each.grad is not None} == learning
    of_temperature = [name for name in learning if "logit_scale" in name]  # of CLAP it is in no tower
    assert len(of_temperature) == (clap.name == "composed_clap" and "audio_projector" in towers)
    assert {row.tower for row in report if row.full_parameters} == set(towers)
    frozen = {row.tower: row.base_parameters for row in report}
    assert all(frozen[tower] for tower in set(TOWERS) - set(towers))
    assert not any(frozen[tower] for tower in set(towers) - {"audio_tower"})  # Whisper's has constant positions
    after = dict(recognizer.named_buffers())
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_a_model_in_full_is_saved_complete(clap, inputs, tmp_path):
    before = score(ClapRecognizer(clap, SETUP), inputs)
    train_in_full(clap, TOWERS)
    with torch.no_grad():
        for name, parameter in sorted(clap.model.named_parameters()):
            if parameter.requires_grad and ".norm" not in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    recognizer = ClapRecognizer(clap, SETUP)
    scores = score(recognizer, inputs)
    assert (scores - before).abs().max() > 1e-2
    clap.require_savable()
    recognizer.save_trained(tmp_path)
    assert list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob("adapter*"))
    assert_close(score(ClapRecognizer(type(clap).load(tmp_path), SETUP), inputs), scores)
    plain = type(clap.model).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(plain[name], value) for name, value in clap.model.state_dict().items())


class Tones:
    """Three labels with a pitch each, at random phase and loudness."""

    hertz = (220.0, 900.0, 3000.0)

    def __init__(self, count, seed, rate):
        generator = np.random.default_rng(seed)
        self.examples = []
        for number in range(count):
            time = np.arange(2 * rate) / rate
            samples = generator.uniform(0.1, 0.4) * np.sin(
                2 * np.pi * self.hertz[number % 3] * time + generator.uniform(0, 6)
            )
            samples = (samples + generator.normal(scale=0.01, size=len(time))).astype(np.float32)
            given = Input(f"t{number}", None, Waveform(samples, rate), "s")
            self.examples.append(Example(given, LABELS.labels[number % 3]))

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unfused", "composed"], indirect=True)
@pytest.mark.parametrize("objective", ["cross_entropy", "contrastive"])
def test_lora_learns_tones(clap, opened, tmp_path, objective):
    model, _ = add_adapter(
        clap, {tower: [ALL_LINEAR] for tower in TOWERS[:2]}, {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    )
    torch.manual_seed(0)
    tones = partial(Tones, rate=clap.sampling_rate)
    recognizer = ClapRecognizer(clap, SETUP, model, objective=objective)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=50, per_device_train_batch_size=12, per_device_eval_batch_size=12,
        learning_rate=1e-2, warmup_steps=5, eval_strategy="steps", eval_steps=25, save_strategy="steps",
        save_steps=25,
        load_best_model_at_end=True, metric_for_best_model="uar", greater_is_better=True, use_cpu=True,
        remove_unused_columns=False, report_to="none", disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = RecognizerTrainer(recognizer, arguments, train_examples=tones(48, 1), dev_examples=tones(12, 2))
    test = tones(24, 3).examples
    inputs, truth = [example.input for example in test], [LABELS.index(example.label) for example in test]
    (collator,) = recognizer.scoring_collators
    before = trainer.score(inputs, collator).argmax(axis=1)
    trainer.train()
    after = trainer.score(inputs, collator)
    assert (before == truth).mean() < 0.7
    assert (after.argmax(axis=1) == truth).mean() > 0.9
    recognizer.save_trained(tmp_path / "adapter")
    again = opened()
    loaded = ClapRecognizer(again, SETUP, load_adapter(again, tmp_path / "adapter"))
    assert_close(score(loaded, inputs), after)


def test_gradient_checkpointing_is_refused(clap, tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path), gradient_checkpointing=True, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = RecognizerTrainer(ClapRecognizer(clap, SETUP), arguments, train_examples=Tones(4, 1, clap.sampling_rate))
    with pytest.raises(ConfigError, match=r"argument 'gradient_checkpointing'"):
        trainer.train()


def test_an_unknown_objective_is_refused(clap):
    with pytest.raises(ConfigError, match="argument 'objective': 'triplet'; expected cross_entropy or contrastive"):
        ClapRecognizer(clap, SETUP, objective="triplet")
