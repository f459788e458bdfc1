"""Dual encoders as recognizers: scores, adapters, loading and errors."""

from dataclasses import replace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from closeness import assert_close
from dual_inputs import LABELS, RANK, SETUP, TOWERS, noise, score, shake
from peft import PeftModel
from tokenizers import normalizers
from torch.nn.functional import normalize

from lalm_mer.core.audio import decode
from lalm_mer.core.errors import AdapterError, AudioError, ConfigError, ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Input
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter, load_adapter
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.recognizers.clap import ClapCollator, ClapRecognizer, ClapSetup

# Scores


def test_another_rate_is_refused(clap):
    with pytest.raises(AudioError, match=f"{clap.name} takes audio at {clap.sampling_rate} Hz, found 8000 Hz"):
        clap.audio_inputs([noise(1.0, rate=8000)])


def test_an_input_without_audio_is_refused(clap):
    with pytest.raises(ConfigError, match=f"utterance u: {clap.name} uses audio, but none was loaded"):
        ClapCollator(clap)([Input("u", "words", None)])


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
    recognizer = ClapRecognizer(clap, SETUP).eval()
    batch = recognizer.scoring_collators[0](inputs)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs = recognizer(**batch)["log_probs"]
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(len(inputs)))


def test_a_label_embedding_is_the_mean_of_its_descriptions(clap, inputs):
    recognizer = ClapRecognizer(clap, SETUP).eval()
    batch = recognizer.scoring_collators[0](inputs[:2])
    with torch.no_grad():
        audio = normalize(clap.model.get_audio_features(**batch).pooler_output, dim=-1)
        rows = []
        for label in LABELS.labels:
            of_label = []
            for form in LABELS.forms_of(label):
                for sentence in (f"The speaker sounds {form}.", f"{form} speech"):
                    ids = torch.tensor([clap.tokenizer(sentence)["input_ids"]])
                    text = clap.model.get_text_features(ids, torch.ones_like(ids)).pooler_output[0]
                    of_label.append(normalize(text, dim=-1))
            mean = torch.stack(of_label).mean(dim=0)
            rows.append(mean / mean.norm())
        expected = (clap.scales()[0] * audio @ torch.stack(rows).T).log_softmax(dim=1)
    assert_close(score(recognizer, inputs[:2]), expected)


def test_two_labels_with_the_same_description_are_refused(clap):
    same = Ensemble("same", ("{{ label }}",), {}, "digest")
    clap.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ConfigError, match="tokens of another label"):
        ClapRecognizer(clap, ClapSetup(same, LabelSet(("sad", "SAD"))))


def test_a_description_beyond_the_text_encoder_is_refused(clap):
    words = " ß" * 200
    with pytest.raises(ConfigError, match=f"tokens; {clap.name} reads {clap.longest_description} at most"):
        ClapRecognizer(clap, ClapSetup(Ensemble("long", ("{{ label }}" + words,), {}, "digest"), LABELS))
    longest = next(
        text for count in range(len(words), 0, -1)
        if len(clap.tokenizer(text := words[:count])["input_ids"]) <= clap.longest_description
    )  # fmt: skip
    with torch.no_grad():
        ids = torch.tensor([clap.tokenizer(longest)["input_ids"]])
        assert clap.model.get_text_features(ids, torch.ones_like(ids)).pooler_output.isfinite().all()
    assert clap.longest_description - ids.shape[1] <= 1


# Adapters


def test_default_targets_are_in_the_named_towers(clap):
    _, report = add_adapter(clap, clap.adapter_targets, RANK)
    assert {row.tower for row in report if row.modules} == set(clap.adapter_targets)
    assert set(clap.adapter_targets) == {"audio_tower", "audio_projector"}


def test_fsdp_shards_the_layers_that_it_names(clap):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    chosen_by_accelerate = fsdp2_prepare_auto_wrap_policy(plugin, ClapRecognizer(clap, SETUP))
    layers = {name for name, module in clap.model.named_modules() if chosen_by_accelerate(module)}
    if clap.name == "clap":
        stages = clap.model.audio_model.audio_encoder.layers
        of_audio = [f"audio_encoder.layers.{s}.blocks.{b}" for s in range(2) for b in range(len(stages[s].blocks))]
    else:
        of_audio = [f"layers.{number}" for number in range(2)]
    expected = {f"audio_model.{name}" for name in of_audio}
    assert layers == expected | {f"text_model.encoder.layer.{number}" for number in range(2)}


@pytest.mark.parametrize("tower", TOWERS)
def test_lora_is_added_to_the_chosen_tower_only_and_changes_the_scores(clap, opened, inputs, tower, tmp_path):
    before = score(ClapRecognizer(clap, SETUP), inputs)
    model, report = add_adapter(clap, {tower: [ALL_LINEAR]}, RANK)
    trained = [name for name, parameter in clap.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith(clap.towers[tower] + ".") and ".lora_" in name for name in trained)
    assert {row.tower: bool(row.modules) for row in report} == {name: name == tower for name in TOWERS}
    recognizer = ClapRecognizer(clap, SETUP, model)
    assert_close(score(recognizer, inputs), before)
    shake(model)
    after = score(recognizer, inputs)
    assert (after - before).abs().max() > 1e-3
    recognizer.save_trained(tmp_path / "adapter")
    again = opened()
    loaded = load_adapter(again, tmp_path / "adapter")
    assert_close(score(ClapRecognizer(again, SETUP, loaded), inputs), after)
    other = opened()
    PeftModel.from_pretrained(other.model, tmp_path / "adapter")  # without this library
    assert_close(score(ClapRecognizer(other, SETUP), inputs), after)


def test_an_unknown_tower_is_refused(clap):
    with pytest.raises(AdapterError, match="unknown tower 'language_model'; expected audio_tower"):
        add_adapter(clap, {"language_model": [ALL_LINEAR]}, RANK)


# Loading


def test_a_folder_of_another_model_is_refused(kind, tiny_folder):
    with pytest.raises(ModelError, match=f"cannot be loaded as {kind.model.name}"):
        kind.model.load(tiny_folder("qwen2_audio"))


def test_missing_weights_are_an_error_and_not_initialised_at_random(clap, tmp_path):
    clap.processor.save_pretrained(tmp_path)
    state = {name: value for name, value in clap.model.state_dict().items() if name != "audio_projection.linear2.bias"}
    clap.model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelError, match=r"no weights for 1 of its tensors, such as audio_projection\.linear2\.bias"):
        type(clap).load(tmp_path)


def test_pickled_weights_are_refused(clap, tmp_path):
    clap.processor.save_pretrained(tmp_path)
    clap.model.config.save_pretrained(tmp_path)
    torch.save(clap.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=f"cannot be loaded as {clap.name}"):
        type(clap).load(tmp_path)


def test_real_speech_is_scored(clap, shared_data):
    paths = sorted((shared_data / "ravdess").rglob("*.flac"))[:4]
    if not paths:
        pytest.skip(f"no RAVDESS clips in {shared_data}")
    clips = [decode(path.read_bytes(), path.name).resampled(clap.sampling_rate) for path in paths]
    if clap.refuses(clips[0].duration_s):
        clips = [replace(clip, samples=clip.samples[: 2 * clip.sampling_rate]) for clip in clips]
    rows = [Input(path.stem, None, clip) for path, clip in zip(paths, clips, strict=True)]
    log_probs = score(ClapRecognizer(clap, SETUP), rows)
    assert log_probs.shape == (4, 3)
    assert torch.isfinite(log_probs).all()
    assert len({tuple(row) for row in log_probs.tolist()}) == 4
