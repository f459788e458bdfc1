"""CLAP as a recognizer: scores, what they may not depend on, adapters, learning, and what is refused."""

import numpy as np
import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from peft import PeftModel
from tokenizers import normalizers
from transformers import ClapModel, ClapProcessor, TrainingArguments

from lalm_mer.core.audio import Waveform, decode
from lalm_mer.core.errors import AdapterError, AudioError, ConfigError, ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter, load_adapter
from lalm_mer.models.clap import Clap
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.recognizers.clap import ClapCollator, ClapRecognizer, ClapSetup
from lalm_mer.recognizers.training import RecognizerTrainer

RATE = 48_000
LABELS = LabelSet(("happy", "angry", "sad"), {"happy": ("happy", "full of joy")})
ENSEMBLE = Ensemble("two", ("The speaker sounds {{ label }}.", "{{ label }} speech"), {}, "digest")
SETUP = ClapSetup(ENSEMBLE, LABELS)
EXACT = {"rtol": 0.0, "atol": 1e-5}
SECONDS = (1.0, 2.0, 0.3, 2.001, 2.5, 5.0, 0.01, 9.3)
RANK = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
TOWERS = tuple(Clap.towers)


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    words = tuple(sentence for _, sentence in ENSEMBLE.descriptions(LABELS))
    Clap.build_tiny(path, TinyShape(words, 2, 32, 2, 320, 0.1), fuses=request.param)
    return path


@pytest.fixture
def clap(folder):
    return Clap.load(folder)


@pytest.fixture(scope="module")
def examples():
    return [
        Example(Input(f"u{number}", None, noise(seconds, number), "s"), LABELS.labels[number % 3])
        for number, seconds in enumerate(SECONDS)
    ]


@pytest.fixture(scope="module")
def inputs(examples):
    return [example.input for example in examples]


def noise(seconds, seed=0, rate=RATE):
    values = np.random.default_rng(seed).normal(scale=0.1, size=round(seconds * rate))
    return Waveform(values.astype(np.float32), rate)


def score(recognizer, inputs):
    recognizer.eval()
    with torch.no_grad():
        return recognizer(**recognizer.scoring_collators[0](inputs))["log_probs"]


def training_batch(recognizer, examples):
    """What reaches the recognizer of a batch to learn from: the Trainer keeps ``labels``."""
    return {name: tensor for name, tensor in recognizer.training_collator(examples).items() if name != "labels"}


def shake(model):
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(0))


# Audio


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.9999, 2.0])
def test_audio_within_the_window_is_what_the_extractor_makes_of_it(clap, seconds):
    waveform = noise(seconds)
    ours = clap.audio_inputs([waveform])
    theirs = clap.extractor([waveform.samples], sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(ours["input_features"], theirs["input_features"].float(), rtol=0, atol=0)
    assert ours["is_longer"].tolist() == [[False]]


@pytest.mark.parametrize("seconds", [2.001, 2.5, 2.04, 7.0])
def test_longer_audio_is_what_the_extractor_makes_of_it_when_its_dice_fall_in_the_middle(clap, seconds, monkeypatch):
    waveform = noise(seconds)
    monkeypatch.setattr(np.random, "choice", lambda starts: starts[len(starts) // 2])
    monkeypatch.setattr(np.random, "randint", lambda low, high: (high - 1) // 2 if high > 1 else 0)
    ours = clap.audio_inputs([waveform])
    theirs = clap.extractor([waveform.samples], sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(ours["input_features"], theirs["input_features"].float(), **EXACT)
    if clap.fuses and seconds > 2.01:  # alone in a batch, a shorter one is called longer by the extractor
        assert ours["is_longer"].tolist() == theirs["is_longer"].tolist() == [[True]]


def test_no_dice_are_thrown(clap, inputs):
    waveforms = [given.waveform for given in inputs]
    np.random.seed(1)
    first = clap.audio_inputs(waveforms)
    np.random.seed(2)
    second = clap.audio_inputs(waveforms)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_rate_is_refused(clap):
    with pytest.raises(AudioError, match="clap takes audio at 48000 Hz, found 16000 Hz"):
        clap.audio_inputs([noise(1.0, rate=16_000)])


def test_an_input_without_audio_is_refused(clap):
    with pytest.raises(ConfigError, match="utterance u: clap uses audio, but none was loaded"):
        ClapCollator(clap)([Input("u", "words", None)])


# Scores


def test_a_batch_of_one_scores_as_a_batch_of_eight(clap, inputs):
    recognizer = ClapRecognizer(clap, SETUP)
    together = score(recognizer, inputs)
    alone = torch.cat([score(recognizer, [given]) for given in inputs])
    torch.testing.assert_close(together, alone, **EXACT)
    torch.testing.assert_close(score(recognizer, inputs[::-1]).flip(0), together, **EXACT)


def test_scores_are_distributions_that_hear(clap, inputs):
    log_probs = score(ClapRecognizer(clap, SETUP), inputs)
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(len(inputs)))
    assert (log_probs.std(dim=0) > 1e-4).all()


def test_scores_are_distributions_under_the_autocast_of_a_cpu(clap, inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs = score(ClapRecognizer(clap, SETUP), inputs)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(len(inputs)))


def test_one_description_a_label_gives_the_models_own_logits(clap, folder, examples, inputs):
    plain = LabelSet(LABELS.labels)
    ensemble = Ensemble("one", ("a voice, {{ label }}",), {}, "digest")
    recognizer = ClapRecognizer(clap, ClapSetup(ensemble, plain)).eval()
    batch = training_batch(recognizer, examples)
    words = ClapProcessor.from_pretrained(folder).tokenizer(
        [f"a voice, {label}" for label in plain.labels], padding=True, return_tensors="pt"
    )
    own = ClapModel.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = own(**words, input_features=batch["input_features"], is_longer=batch["is_longer"]).logits_per_audio
        output = recognizer(**batch)
    torch.testing.assert_close(output["log_probs"], logits.log_softmax(dim=1), **EXACT)
    torch.testing.assert_close(output["losses"], -output["log_probs"].gather(1, batch["truth"][:, None])[:, 0])
    assert output["items"].tolist() == [1] * len(inputs)
    assert torch.equal(score(recognizer, inputs), output["log_probs"])  # whether or not there is a truth


def test_a_label_lies_in_the_middle_of_its_descriptions(clap, inputs):
    recognizer = ClapRecognizer(clap, SETUP).eval()
    batch = recognizer.scoring_collators[0](inputs[:2])
    with torch.no_grad():
        audio = clap.model.get_audio_features(batch["input_features"], batch["is_longer"]).pooler_output
        rows = []
        for label in LABELS.labels:
            of_label = []
            for form in LABELS.forms_of(label):
                for sentence in (f"The speaker sounds {form}.", f"{form} speech"):
                    ids = torch.tensor([clap.tokenizer(sentence)["input_ids"]])
                    of_label.append(clap.model.get_text_features(ids).pooler_output[0])
            mean = torch.stack(of_label).mean(dim=0)
            rows.append(mean / mean.norm())
        expected = (clap.model.logit_scale_a.exp() * audio @ torch.stack(rows).T).log_softmax(dim=1)
    torch.testing.assert_close(score(recognizer, inputs[:2]), expected, **EXACT)


def test_two_labels_described_alike_are_refused(clap):
    same = Ensemble("same", ("{{ label }}",), {}, "digest")
    clap.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ConfigError, match="tokens of another label"):
        ClapRecognizer(clap, ClapSetup(same, LabelSet(("sad", "SAD"))))


def test_a_description_beyond_the_text_encoder_is_refused(clap):
    with pytest.raises(ConfigError, match="tokens; clap reads 128 at most"):
        ClapRecognizer(clap, ClapSetup(Ensemble("long", ("{{ label }}" + " ß" * 200,), {}, "digest"), LABELS))


# Adapters


def test_the_models_own_targets_are_where_it_names_them(clap):
    _, report = add_adapter(clap, Clap.adapter_targets, RANK)
    assert (
        {row.tower for row in report if row.modules} == set(Clap.adapter_targets) == {"audio_tower", "audio_projector"}
    )


def test_fsdp_shards_the_layers_that_it_names(clap):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    chosen_by_accelerate = fsdp2_prepare_auto_wrap_policy(plugin, ClapRecognizer(clap, SETUP))
    layers = {name for name, module in clap.model.named_modules() if chosen_by_accelerate(module)}
    stages = clap.model.audio_model.audio_encoder.layers
    expected = {
        f"audio_model.audio_encoder.layers.{s}.blocks.{b}" for s in range(2) for b in range(len(stages[s].blocks))
    }
    assert layers == expected | {f"text_model.encoder.layer.{number}" for number in range(2)}


@pytest.mark.parametrize("tower", TOWERS)
def test_lora_lands_in_the_chosen_tower_alone_and_moves_the_scores(clap, folder, inputs, tower, tmp_path):
    before = score(ClapRecognizer(clap, SETUP), inputs)
    model, report = add_adapter(clap, {tower: [ALL_LINEAR]}, RANK)
    trained = [name for name, parameter in clap.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith(Clap.towers[tower] + ".") and ".lora_" in name for name in trained)
    assert {row.tower: bool(row.modules) for row in report} == {name: name == tower for name in TOWERS}
    recognizer = ClapRecognizer(clap, SETUP, model)
    torch.testing.assert_close(score(recognizer, inputs), before, **EXACT)
    shake(model)
    after = score(recognizer, inputs)
    assert (after - before).abs().max() > 1e-3
    recognizer.save_trained(tmp_path / "adapter")
    again = Clap.load(folder)
    loaded = load_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(score(ClapRecognizer(again, SETUP, loaded), inputs), after, **EXACT)
    other = Clap.load(folder)
    PeftModel.from_pretrained(other.model, tmp_path / "adapter")  # without this library
    torch.testing.assert_close(score(ClapRecognizer(other, SETUP), inputs), after, **EXACT)


def test_an_unknown_tower_is_refused(clap):
    with pytest.raises(AdapterError, match="unknown tower 'language_model'; expected audio_tower"):
        add_adapter(clap, {"language_model": [ALL_LINEAR]}, RANK)


# Training


@pytest.mark.parametrize("objective", ["cross_entropy", "contrastive"])
@pytest.mark.parametrize("towers", [TOWERS, TOWERS[:2], TOWERS[2:]], ids=["both", "audio", "text"])
def test_gradients_reach_what_is_trained(clap, examples, towers, objective):
    model, _ = add_adapter(clap, {tower: [ALL_LINEAR] for tower in towers}, RANK)
    shake(model)
    recognizer = ClapRecognizer(clap, SETUP, model, objective=objective).train()
    recognizer(**training_batch(recognizer, examples))["losses"].sum().backward()
    for name, parameter in recognizer.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad and ".key." not in name:  # a constant in all keys leaves attention as it is
            assert parameter.grad.abs().sum() > 0, name


def test_training_mode_leaves_statistics_and_frozen_text_alone(clap, examples):
    model, _ = add_adapter(clap, {"audio_tower": [ALL_LINEAR]}, RANK)
    recognizer = ClapRecognizer(clap, SETUP, model).train()
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    recognizer(**training_batch(recognizer, examples))
    after = recognizer.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not any(module.training for module in clap.submodule("text_tower").modules())
    assert clap.submodule("audio_tower").training


def test_cross_entropy_of_eight_is_that_of_eight_times_one(clap, examples):
    model, _ = add_adapter(clap, {"audio_projector": [ALL_LINEAR]}, RANK)
    recognizer = ClapRecognizer(clap, SETUP, model).train()
    clap.model.eval()  # no dropout
    counted = recognizer.training_collator(examples)
    assert counted["labels"].tolist() == counted["truth"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    together, *alone = [training_batch(recognizer, rows) for rows in (examples, *([each] for each in examples))]
    losses = torch.cat([recognizer(**batch)["losses"] for batch in alone])
    torch.testing.assert_close(recognizer(**together)["losses"], losses, **EXACT)


def test_the_contrastive_loss_by_hand(clap, examples):
    one_each = Ensemble("one", ("{{ label }} speech",), {}, "digest")
    plain = LabelSet(LABELS.labels)
    recognizer = ClapRecognizer(clap, ClapSetup(one_each, plain), objective="contrastive").train()
    clap.model.eval()  # no dropout
    rows = [examples[i] for i in (0, 1, 2)]  # three labels: the plain loss of CLAP
    batch = training_batch(recognizer, rows)
    words = clap.tokenizer([f"{label} speech" for label in plain.labels], padding=True, return_tensors="pt")
    own = {"input_features": batch["input_features"], "is_longer": batch["is_longer"]}
    with torch.no_grad():
        mean = recognizer(**batch)["losses"].mean()
        audio, text = (getattr(clap.model(**words, **own), f"logits_per_{side}") for side in ("audio", "text"))
    eye = torch.arange(3)
    expected = (torch.nn.functional.cross_entropy(audio, eye) + torch.nn.functional.cross_entropy(text, eye)) / 2
    torch.testing.assert_close(mean, expected, **EXACT)
    alike = [examples[i] for i in (0, 3, 6)]  # one label: nothing to tell apart, and no pair pushed away
    losses = recognizer(**training_batch(recognizer, alike))["losses"]
    assert losses.mean() >= np.log(3) - 1e-4


class Tones:
    """Three labels, three pitches; each example of its own phase and loudness."""

    hertz = (220.0, 900.0, 3000.0)

    def __init__(self, count, seed):
        generator = np.random.default_rng(seed)
        self.examples = []
        for number in range(count):
            time = np.arange(2 * RATE) / RATE
            samples = generator.uniform(0.1, 0.4) * np.sin(
                2 * np.pi * self.hertz[number % 3] * time + generator.uniform(0, 6)
            )
            samples = (samples + generator.normal(scale=0.01, size=len(time))).astype(np.float32)
            given = Input(f"t{number}", None, Waveform(samples, RATE), "s")
            self.examples.append(Example(given, LABELS.labels[number % 3]))

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


@pytest.mark.parametrize("folder", [False], indirect=True, ids=["unfused"])
@pytest.mark.parametrize(("objective", "rate", "warmup"), [("cross_entropy", 5e-3, 10), ("contrastive", 5e-3, 10)])
def test_lora_learns_tones(clap, tmp_path, objective, rate, warmup):
    model, _ = add_adapter(
        clap, {tower: [ALL_LINEAR] for tower in TOWERS[:2]}, {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    )
    torch.manual_seed(0)
    recognizer = ClapRecognizer(clap, SETUP, model, objective=objective)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=100, per_device_train_batch_size=12, per_device_eval_batch_size=12,
        learning_rate=rate, warmup_steps=warmup, eval_strategy="steps", eval_steps=50, save_strategy="steps",
        save_steps=50,
        load_best_model_at_end=True, metric_for_best_model="uar", greater_is_better=True, use_cpu=True,
        remove_unused_columns=False, report_to="none", disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = RecognizerTrainer(recognizer, arguments, train_examples=Tones(48, 1), dev_examples=Tones(12, 2))
    test = Tones(24, 3).examples
    inputs, truth = [example.input for example in test], [LABELS.index(example.label) for example in test]
    (collator,) = recognizer.scoring_collators
    before = trainer.score(inputs, collator).argmax(axis=1)
    trainer.train()
    after = trainer.score(inputs, collator)
    assert (before == truth).mean() < 0.7
    assert (after.argmax(axis=1) == truth).mean() > 0.9
    recognizer.save_trained(tmp_path / "adapter")
    again = Clap.load(clap.model.config.name_or_path)
    loaded = ClapRecognizer(again, SETUP, load_adapter(again, tmp_path / "adapter"))
    np.testing.assert_allclose(score(loaded, inputs).numpy(), after, atol=1e-5)


def test_gradient_checkpointing_is_refused_in_words(clap):
    with pytest.raises(ConfigError, match=r"argument 'gradient_checkpointing'"):
        ClapRecognizer(clap, SETUP).gradient_checkpointing_enable()


def test_an_unknown_objective_is_refused(clap):
    with pytest.raises(ConfigError, match="argument 'objective': 'triplet'; expected cross_entropy or contrastive"):
        ClapRecognizer(clap, SETUP, objective="triplet")


# Loading


def test_a_folder_of_another_model_is_refused(tiny_folder):
    with pytest.raises(ModelError, match="cannot be loaded as clap"):
        Clap.load(tiny_folder("qwen2_audio"))


def test_missing_weights_are_an_error_and_not_drawn(folder, tmp_path):
    clap = Clap.load(folder)
    clap.processor.save_pretrained(tmp_path)
    state = {name: value for name, value in clap.model.state_dict().items() if name != "audio_projection.linear2.bias"}
    clap.model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelError, match=r"1 weights missing, for example audio_projection\.linear2\.bias"):
        Clap.load(tmp_path)


def test_pickled_weights_are_refused(folder, tmp_path):
    clap = Clap.load(folder)
    clap.processor.save_pretrained(tmp_path)
    clap.model.config.save_pretrained(tmp_path)
    torch.save(clap.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded as clap"):
        Clap.load(tmp_path)


def test_a_front_end_that_does_not_fit_the_model_is_refused(clap):
    clap.extractor.truncation = "rand_trunc" if clap.fuses else "fusion"
    with pytest.raises(ModelError, match="enable_fusion"):
        Clap(clap.model, clap.processor)


def test_a_tiny_clap_says_that_it_is_random_and_takes_ten_seconds_at_most(clap, tmp_path):
    assert clap.randomly_initialised
    with pytest.raises(ConfigError, match="10 s at most"):
        Clap.build_tiny(tmp_path, TinyShape(("a",), 11))


def test_real_speech_is_scored(clap, shared_data):
    paths = sorted((shared_data / "ravdess").rglob("*.flac"))[:4]
    if not paths:
        pytest.skip(f"no RAVDESS clips in {shared_data}")
    rows = [Input(path.stem, None, decode(path.read_bytes(), path.name).resampled(RATE)) for path in paths]
    log_probs = score(ClapRecognizer(clap, SETUP), rows)
    assert log_probs.shape == (4, 3)
    assert torch.isfinite(log_probs).all()
    assert len({tuple(row) for row in log_probs.tolist()}) == 4
