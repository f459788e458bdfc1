"""Prompt settings of a CLAP run."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.launch.build.clap import ClapBuilder
from lalm_mer.launch.build.defaults import with_model
from lalm_mer.launch.build.loss import check_loss
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.models.families import DUAL_ENCODERS

LABELS = LabelSet(("angry", "happy"))
RECIPES = Path(__file__).resolve().parents[4] / "recipes"
SCHEMAS = {"zero_shot": ZeroShotSettings, "lora": FinetuneSettings, "qlora": FinetuneSettings}
FOLDERS = sorted(path.parent.name for path in RECIPES.glob("*/qlora.yaml"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(RECIPES.parent)


@pytest.mark.parametrize("corpus", FOLDERS)
@pytest.mark.parametrize("method", SCHEMAS)
def test_every_recipe_of_a_corpus_runs_clap_with_audio(corpus, method):
    overrides = ["model.family=clap", "prompt.modalities=audio"]
    settings = with_model(load_config(SCHEMAS[method], RECIPES / corpus / f"{method}.yaml", overrides))
    assert settings.model.id == "laion/clap-htsat-unfused"
    setup = ClapBuilder().prompts(settings, LABELS)
    assert (setup.modalities, setup.ensemble.name) == ("audio", "emotion")


@pytest.mark.parametrize("change", [{"shots": 1}, {"label_orders": 2}, {"also": ["prompts/audio.yaml"]}])
def test_other_keys_of_a_prompt_are_refused(change):
    overrides = ["model.family=clap"]
    settings = with_model(load_config(ZeroShotSettings, RECIPES / "ravdess/zero_shot.yaml", overrides))
    with pytest.raises(ConfigError, match="section 'prompt': clap compares"):
        ClapBuilder().prompts(replace(settings, prompt=replace(settings.prompt, **change)), LABELS)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["loss.kind=contrastive", "train.auto_find_batch_size=true"],
            "key 'train.auto_find_batch_size': true; a contrastive loss compares the utterances of a batch",
        ),
        (
            [
                "train.tokens_per_batch=4096",
                "train.per_device_train_batch_size=null",
                "train.per_device_eval_batch_size=null",
            ],
            "key 'train.tokens_per_batch': 4096, but clap has no rows of tokens; remove it, and set a batch size",
        ),
    ],
)
def test_batches_that_would_be_another_loss_or_have_no_tokens_are_refused(overrides, says):
    settings = load_config(FinetuneSettings, RECIPES / "ravdess/lora.yaml", ["model.family=clap", *overrides])
    with pytest.raises(ConfigError) as refused:
        ClapBuilder().check(SimpleNamespace(), settings)
    assert says in str(refused.value)


def test_it_has_no_language_model_to_compile():
    overrides = ["model.family=clap", "prompt.modalities=audio", "model.torch_compile=true"]
    settings = load_config(ZeroShotSettings, RECIPES / "ravdess/zero_shot.yaml", overrides)
    with pytest.raises(ConfigError, match=r"'model\.torch_compile': true, but clap has no language model"):
        ClapBuilder().check(None, settings)


@pytest.mark.parametrize("family", [*DUAL_ENCODERS, "composed"])
def test_only_dual_encoders_have_a_contrastive_loss(family):
    overrides = [f"model.family={family}", "model.id=folder", "loss.kind=contrastive"]
    settings = load_config(FinetuneSettings, RECIPES / "ravdess/lora.yaml", overrides)
    if family in DUAL_ENCODERS:
        check_loss(settings, "single")
        return
    with pytest.raises(ConfigError, match="contrastive; only the families clap and composed_clap compare audio"):
        check_loss(settings, "single")
