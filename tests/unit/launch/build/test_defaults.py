"""Defaults of model and prompt, adapter targets, and the name of the run folder."""

from dataclasses import replace

import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO, AUDIO_TRANSCRIPT, MODALITIES, TRANSCRIPT
from lalm_mer.launch.build.defaults import with_folder, with_model, with_targets
from lalm_mer.launch.config.sections import (
    AdapterSettings,
    DataSettings,
    FinetuneOutputSettings,
    ModelSettings,
    OutputSettings,
    PromptSettings,
    SplitSettings,
)
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings
from lalm_mer.models.families import DUAL_ENCODERS, FAMILIES, is_supported
from lalm_mer.models.registry import model_class

PLACE = (DataSettings("data"), SplitSettings("protocol.yaml"))
FACTS = {
    "corpus": "ravdess", "recognizer": "voxtral (Voxtral-Mini-3B-2507, nf4)", "method": "lora",
    "modalities": "audio+transcript",
}  # fmt: skip
PLACEHOLDERS = [*FACTS, "fold", "seed"]


def test_a_family_without_a_full_window_refuses_it():
    assert with_model(prompted("qwen2_audio", full_window=True)).model.full_window
    with pytest.raises(ConfigError, match=r"key 'model\.full_window': true, but glmasr has no such choice"):
        with_model(prompted("glmasr", full_window=True))


def prompted(family, modalities=AUDIO_TRANSCRIPT, **model):
    return ZeroShotSettings(
        *PLACE, ModelSettings(family, **model), OutputSettings("out"), PromptSettings(modalities=modalities)
    )


def tuned(family, modalities=AUDIO_TRANSCRIPT, **adapter):
    settings = prompted(family, modalities)
    return FinetuneSettings(
        *PLACE, settings.model, FinetuneOutputSettings("out"), settings.prompt, AdapterSettings(**adapter)
    )


class Uses:
    """A setup whose prompts have these slots."""

    def __init__(self, *slots):
        self.slots = slots

    def uses(self, slot):
        return slot in self.slots


# The model and its prompt


def test_a_family_without_published_models_needs_a_name():
    with pytest.raises(ConfigError, match=r"key 'model\.id' is missing; family composed has no published model"):
        with_model(prompted("composed"))


@pytest.mark.parametrize("family", sorted(filter(is_supported, FAMILIES.keys() - {"composed"})))
@pytest.mark.parametrize("modalities", MODALITIES)
def test_a_family_has_a_default_model_and_a_prompt_for_all_modalities(family, modalities):
    settings = with_model(prompted(family, modalities))
    published = {"phi4_multimodal": ("microsoft/Phi-4-multimodal-instruct", "refs/pr/70")}
    assert (settings.model.id, settings.model.revision) == published.get(
        family, (model_class(family).published[0], None)
    )
    assert (
        settings.prompt.file
        == {
            AUDIO: "prompts/audio.yaml",
            TRANSCRIPT: "prompts/transcript.yaml",
            AUDIO_TRANSCRIPT: "prompts/audio_transcript.yaml",
        }[modalities]
    )
    assert replace(settings.model, id="", revision=None) == ModelSettings(family)


def test_a_named_model_is_unchanged_and_gets_no_default_revision():
    model = with_model(prompted("phi4_multimodal", id="folder/of/a/copy")).model
    assert (model.id, model.revision) == ("folder/of/a/copy", None)
    model = with_model(prompted("phi4_multimodal", revision="main")).model
    assert (model.id, model.revision) == ("microsoft/Phi-4-multimodal-instruct", "main")


def test_a_named_prompt_is_unchanged_for_any_modalities():
    settings = prompted("qwen2_audio", AUDIO)
    named = replace(settings, prompt=replace(settings.prompt, file="prompts/transcript.yaml"))
    assert with_model(named).prompt == named.prompt


def test_a_family_without_published_models_needs_a_model():
    with pytest.raises(ConfigError) as refused:
        with_model(prompted("generic"))
    assert str(refused.value) == "key 'model.id' is missing; family generic has no published model of its own"
    assert with_model(prompted("generic", id="some/model")).prompt.file == "prompts/audio_transcript.yaml"


@pytest.mark.parametrize(("family", "model"), [("clap", "laion/clap-htsat-unfused"), ("composed_clap", "folder")])
@pytest.mark.parametrize("modalities", [TRANSCRIPT, AUDIO_TRANSCRIPT])
def test_a_dual_encoder_has_a_prompt_only_for_audio(modalities, family, model):
    own = {} if family == "clap" else {"id": model}
    settings = with_model(prompted(family, AUDIO, **own))
    assert (settings.model.id, settings.model.revision) == (model, None)
    assert settings.prompt.file == "prompts/ensembles/emotion.yaml"
    with pytest.raises(ConfigError) as refused:
        with_model(prompted(family, modalities, **own))
    assert str(refused.value) == f"key 'prompt.modalities': '{modalities}'; {family} only uses audio; set it to audio"


# The targets of an adapter


@pytest.mark.parametrize("family", [*sorted(filter(is_supported, FAMILIES)), *DUAL_ENCODERS])
def test_a_family_has_default_targets(family):
    towers = with_targets(tuned(family), Uses("audio", "transcript")).adapter.towers
    assert towers == {tower: list(names) for tower, names in model_class(family).adapter_targets.items()}
    assert "audio_tower" not in towers or family in DUAL_ENCODERS


def test_a_prompt_without_audio_has_targets_only_in_the_language_model():
    towers = with_targets(tuned("qwen2_audio", TRANSCRIPT), Uses("transcript")).adapter.towers
    assert list(towers) == ["language_model"]


def test_a_tower_that_is_trained_in_full_has_no_targets():
    towers = with_targets(tuned("qwen2_audio", full=["projector"]), Uses("audio")).adapter.towers
    assert list(towers) == ["language_model"]


@pytest.mark.parametrize("towers", [{}, {"audio_tower": ["fc1"]}])
def test_named_targets_are_unchanged(towers):
    settings = tuned("qwen2_audio", towers=towers)
    assert with_targets(settings, Uses("transcript")) == settings


def test_a_run_without_training_has_no_targets():
    settings = prompted("qwen2_audio")
    assert with_targets(settings, Uses("audio")) is settings


# Training in full


def full(modalities=AUDIO_TRANSCRIPT, dtype="float32", family="qwen2_audio", **adapter):
    settings = tuned(family, modalities, kind="full", **adapter)
    return replace(settings, model=replace(settings.model, dtype=dtype))


@pytest.mark.parametrize("family", [*sorted(filter(is_supported, FAMILIES)), *DUAL_ENCODERS])
def test_all_towers_that_a_prompt_uses_are_trained_in_full(family):
    towers = list(model_class(family).towers)
    adapter = with_targets(full(family=family), Uses("audio", "transcript")).adapter
    assert (adapter.towers, adapter.full) == ({}, towers)
    assert with_targets(full(family=family, full=towers[:1]), Uses("audio")).adapter.full == towers[:1]


def test_a_prompt_without_audio_trains_the_language_model_in_full():
    assert with_targets(full(TRANSCRIPT), Uses("transcript")).adapter.full == ["language_model"]


@pytest.mark.parametrize("unset", [{"towers": {}}, {"towers": {"projector": []}}, {"r": 16, "lora_alpha": 32}])
def test_what_chooses_no_adapter_is_allowed(unset):
    assert with_targets(full(**unset), Uses("audio")).adapter.towers == {}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"towers": {"projector": ["linear"]}}, "key 'adapter.towers.projector': linear; adapter.kind=full has no"),
        ({"r": 8}, "key 'adapter.r': 8; adapter.kind=full has no adapter; leave it out, or set it to 16"),
        ({"use_dora": True}, "key 'adapter.use_dora': True; adapter.kind=full has no adapter"),
        ({"options": {"alpha": 2}}, "key 'adapter.options': {'alpha': 2}; adapter.kind=full has no adapter"),
    ],
)
def test_keys_of_adapters_are_refused_by_name(changed, says):
    with pytest.raises(ConfigError) as refused:
        with_targets(full(**changed), Uses("audio"))
    assert str(refused.value).startswith(says)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_in_half_precision_are_refused(dtype):
    with pytest.raises(
        ConfigError, match=rf"key 'model\.dtype': {dtype}; .* set model\.dtype=float32, and train\.bf16"
    ):
        with_targets(full(dtype=dtype), Uses("audio"))


def test_quantised_weights_and_a_push_are_refused():
    settings = full()
    in_4_bits = replace(settings, model=replace(settings.model, quantization="nf4"))
    with pytest.raises(ConfigError, match=r"key 'model\.quantization': nf4; adapter\.kind=full .*; set it to null"):
        with_targets(in_4_bits, Uses("audio"))
    pushed = replace(settings, output=replace(settings.output, push_to="jane/model"))
    with pytest.raises(ConfigError, match=r"key 'output\.push_to': jane/model; .* upload the folder model/"):
        with_targets(pushed, Uses("audio"))


# The name of the run folder


def folder(written, **facts):
    settings = BaselineSettings(
        DataSettings("data"), SplitSettings("protocol.yaml", 3), OutputSettings(written), seed=11
    )
    changed = with_folder(settings, **(FACTS | facts))
    assert replace(changed, output=settings.output) == settings
    return changed.output.dir


def test_every_placeholder_is_replaced():
    pattern = "runs/" + "/".join(f"{{{name}}}" for name in PLACEHOLDERS)
    assert folder(pattern) == "runs/ravdess/voxtral-Voxtral-Mini-3B-2507-nf4/lora/audio+transcript/3/11"
    assert folder("{corpus}_fold{fold}_fold{fold}") == "ravdess_fold3_fold3"


@pytest.mark.parametrize("written", ["runs/one", "/somewhere/else", "runs/100%", "runs/$HOME", "ünï code"])
def test_a_name_without_placeholders_is_unchanged(written):
    assert folder(written) == written
    assert folder(f"{written}/{{{{corpus}}}}") == f"{written}/{{corpus}}"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("../x", "x"),
        ("a/b", "a-b"),
        ("/etc", "etc"),
        ("a\\b", "a-b"),
        ("..", "_"),
        (".hidden", "hidden"),
        ("a b\n", "a-b"),
        ("~", "_"),
        ("fusion (opensmile, BERT bert-base-uncased)", "fusion-opensmile-BERT-bert-base-uncased"),
        ("v1.0", "v1.0"),
        ("émotions_日本語", "émotions_日本語"),
    ],
)
def test_a_value_becomes_one_name_and_never_a_path(value, name):
    assert folder("runs/{corpus}_1", corpus=value) == f"runs/{name}_1"


@pytest.mark.parametrize(
    "written",
    [
        "{model}", "{corpus.__class__}", "{corpus[0]}", "{0}", "{}", "{corpus!r}", "{fold:02d}", "{corpus", "corpus}",
        "{corpus}/{Fold}",
    ],
)  # fmt: skip
def test_an_unknown_placeholder_is_refused(written):
    with pytest.raises(ConfigError) as refused:
        folder(written)
    assert str(refused.value) == (
        f"key 'output.dir': {written!r}; the placeholders are {{corpus}}, {{recognizer}}, {{method}}, {{modalities}}, "
        "{fold}, {seed}"
    )
