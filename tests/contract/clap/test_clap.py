"""CLAP as a recognizer: audio features, scores, adapters, loading and errors."""

import numpy as np
import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from clap_inputs import LABELS, RANK, RATE, SETUP, TOWERS, noise, score, shake, training_batch
from closeness import assert_close
from peft import PeftModel
from tokenizers import normalizers
from transformers import ClapModel, ClapProcessor

from lalm_mer.core.audio import decode
from lalm_mer.core.errors import AdapterError, AudioError, ConfigError, ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Input
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter, load_adapter
from lalm_mer.models.clap import Clap
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.recognizers.clap import ClapCollator, ClapRecognizer, ClapSetup

# Audio


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.9999, 2.0])
def test_audio_within_the_window_equals_that_of_the_extractor(clap, seconds):
    waveform = noise(seconds)
    ours = clap.audio_inputs([waveform])
    theirs = clap.extractor([waveform.samples], sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(ours["input_features"], theirs["input_features"].float(), rtol=0, atol=0)
    assert ours["is_longer"].tolist() == [[False]]


@pytest.mark.parametrize("seconds", [2.001, 2.5, 2.04, 7.0])
def test_longer_audio_equals_that_of_the_extractor_when_it_draws_the_middle(clap, seconds, monkeypatch):
    waveform = noise(seconds)
    monkeypatch.setattr(np.random, "choice", lambda starts: starts[len(starts) // 2])
    monkeypatch.setattr(np.random, "randint", lambda low, high: (high - 1) // 2 if high > 1 else 0)
    ours = clap.audio_inputs([waveform])
    theirs = clap.extractor([waveform.samples], sampling_rate=RATE, return_tensors="pt")
    assert_close(ours["input_features"], theirs["input_features"].float())
    if clap.fuses and seconds > 2.01:  # alone in a batch, the extractor marks a shorter one as longer
        assert ours["is_longer"].tolist() == theirs["is_longer"].tolist() == [[True]]


def test_nothing_is_random(clap, inputs):
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
    assert_close(together, alone)
    assert_close(score(recognizer, inputs[::-1]).flip(0), together)


def test_scores_are_distributions_that_depend_on_the_audio(clap, inputs):
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
    assert_close(output["log_probs"], logits.log_softmax(dim=1))
    torch.testing.assert_close(output["losses"], -output["log_probs"].gather(1, batch["truth"][:, None])[:, 0])
    assert output["items"].tolist() == [1] * len(inputs)
    assert torch.equal(score(recognizer, inputs), output["log_probs"])  # whether or not there is a truth


def test_a_label_embedding_is_the_mean_of_its_descriptions(clap, inputs):
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
    assert_close(score(recognizer, inputs[:2]), expected)


def test_two_labels_with_the_same_description_are_refused(clap):
    same = Ensemble("same", ("{{ label }}",), {}, "digest")
    clap.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ConfigError, match="tokens of another label"):
        ClapRecognizer(clap, ClapSetup(same, LabelSet(("sad", "SAD"))))


def test_a_description_beyond_the_text_encoder_is_refused(clap):
    with pytest.raises(ConfigError, match="tokens; clap reads 128 at most"):
        ClapRecognizer(clap, ClapSetup(Ensemble("long", ("{{ label }}" + " ß" * 200,), {}, "digest"), LABELS))


# Adapters


def test_default_targets_are_in_the_named_towers(clap):
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
def test_lora_is_added_to_the_chosen_tower_only_and_changes_the_scores(clap, folder, inputs, tower, tmp_path):
    before = score(ClapRecognizer(clap, SETUP), inputs)
    model, report = add_adapter(clap, {tower: [ALL_LINEAR]}, RANK)
    trained = [name for name, parameter in clap.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith(Clap.towers[tower] + ".") and ".lora_" in name for name in trained)
    assert {row.tower: bool(row.modules) for row in report} == {name: name == tower for name in TOWERS}
    recognizer = ClapRecognizer(clap, SETUP, model)
    assert_close(score(recognizer, inputs), before)
    shake(model)
    after = score(recognizer, inputs)
    assert (after - before).abs().max() > 1e-3
    recognizer.save_trained(tmp_path / "adapter")
    again = Clap.load(folder)
    loaded = load_adapter(again, tmp_path / "adapter")
    assert_close(score(ClapRecognizer(again, SETUP, loaded), inputs), after)
    other = Clap.load(folder)
    PeftModel.from_pretrained(other.model, tmp_path / "adapter")  # without this library
    assert_close(score(ClapRecognizer(other, SETUP), inputs), after)


def test_an_unknown_tower_is_refused(clap):
    with pytest.raises(AdapterError, match="unknown tower 'language_model'; expected audio_tower"):
        add_adapter(clap, {"language_model": [ALL_LINEAR]}, RANK)


# Loading


def test_a_folder_of_another_model_is_refused(tiny_folder):
    with pytest.raises(ModelError, match="cannot be loaded as clap"):
        Clap.load(tiny_folder("qwen2_audio"))


def test_missing_weights_are_an_error_and_not_initialised_at_random(folder, tmp_path):
    clap = Clap.load(folder)
    clap.processor.save_pretrained(tmp_path)
    state = {name: value for name, value in clap.model.state_dict().items() if name != "audio_projection.linear2.bias"}
    clap.model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelError, match=r"no weights for 1 of its tensors, such as audio_projection\.linear2\.bias"):
        Clap.load(tmp_path)


def test_pickled_weights_are_refused(folder, tmp_path):
    clap = Clap.load(folder)
    clap.processor.save_pretrained(tmp_path)
    clap.model.config.save_pretrained(tmp_path)
    torch.save(clap.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded as clap"):
        Clap.load(tmp_path)


def test_a_feature_extractor_of_another_model_is_refused(clap):
    clap.extractor.truncation = "rand_trunc" if clap.fuses else "fusion"
    with pytest.raises(ModelError, match="enable_fusion"):
        Clap(clap.model, clap.processor)


def test_a_tiny_clap_is_marked_as_random_and_takes_ten_seconds_at_most(clap, tmp_path):
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
