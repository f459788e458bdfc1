"""Every YAML under recipes/ loads, has a header with its requirements, and its launch line and override are valid."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from shipped import (
    COMPOSED,
    COMPOSED_CLAP,
    CORPORA,
    METHODS,
    OF_TASKS,
    PAPERS,
    QUICK,
    ROOT,
    SERVED,
    SHIPPED,
    header,
    load,
    of_recipe,
    opening,
    script,
)

from lalm_mer.launch.build.defaults import with_model
from lalm_mer.launch.config.sections import ModelSettings
from lalm_mer.launch.search.space import override_of, read_space
from lalm_mer.models.registry import model_class
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.protocols.protocol import load_protocol

MEASURED = {
    "recipes/ravdess/baseline.yaml",
    "recipes/ravdess/linear.yaml",
    "recipes/ravdess/cross_validate_real.yaml",
    "recipes/ravdess/probe_layers.yaml",
    "recipes/ravdess/whisper_baseline.yaml",
    "recipes/ravdess/whisper_linear.yaml",
    "recipes/ravdess_brief/cross_validate.yaml",
    "recipes/ravdess_brief/spectrogram_cnn.yaml",
    "recipes/meld/linear.yaml",
    "recipes/meld/minilm_finetuned.yaml",
    "recipes/whisper_minilm/ravdess_contrastive.yaml",
    *(file for file in SHIPPED if file.startswith("recipes/demo/")),
}
NOT_MEASURED = "# A starting point: no figure has been measured with it yet."
OF_SEVERAL_RUNS = of_recipe("cross_validate", "search", "learning_curve", "probe_layers")
COMBINED = [*OF_SEVERAL_RUNS, *of_recipe("late_fusion")]
OF_PAPERS = [file for file in SHIPPED if Path(file).parent.name in PAPERS]
RUNS = [file for file in SHIPPED if Path(file).parent.name in CORPORA and file not in [*COMBINED, *OF_TASKS]]
FOLDER = "outputs/runs/{corpus}/{recognizer}_{method}_{modalities}_fold{fold}_seed{seed}"


def test_every_corpus_has_a_file_for_its_preparation_and_one_for_each_method():
    of_corpora = [f"recipes/corpora/{corpus}.yaml" for corpus in sorted([*CORPORA, "circumplex", "readings"])]
    assert of_corpora == [file for file in SHIPPED if Path(file).parent.name == "corpora"]
    assert sorted(f"recipes/{corpus}/{method}.yaml" for corpus in CORPORA for method in METHODS) == RUNS


@pytest.mark.parametrize("file", SHIPPED)
def test_it_has_a_header(file):
    words = shlex.split(opening(file)["Launch"])
    assert words[words.index("--config") + 1] == file
    unmeasured = [*RUNS, *COMBINED, *OF_PAPERS, *OF_TASKS, *COMPOSED, *COMPOSED_CLAP, *of_recipe("align"), SERVED]
    assert (NOT_MEASURED in header(file)) == (file in unmeasured and file not in MEASURED)


@pytest.mark.parametrize("file", SHIPPED)
def test_it_loads_with_its_launch_line_and_its_override(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(opening(file)["Launch"])
    settings = load(file, *words[words.index("--config") + 2 :])
    changed = load(file, *shlex.split(opening(file)["One override"]))
    assert changed != settings
    for config in (settings, changed):
        if hasattr(config, "prompt") and script(file) != "recipes/benchmark.py":
            config = with_model(config)
            assert config.model.id
            prompt = model_class(config.model.family).load_prompt(Path(config.prompt.file))
            assert load(file).prompt.file or prompt.modalities == config.prompt.modalities
        if hasattr(config, "split"):
            load_protocol(Path(config.split.protocol))


@pytest.mark.parametrize("file", [file for file in SHIPPED if "accelerate launch" in (ROOT / file).read_text("utf-8")])
def test_it_expects_the_engine_of_its_launch_line(file):
    words = shlex.split(opening(file)["Launch"])
    assert words[:3] == ["accelerate", "launch", "--quiet"]
    config_file = words[words.index("--config_file") + 1]
    assert load(file).engine.accelerate_config == config_file
    assert (ROOT / config_file).is_file()


@pytest.mark.parametrize(
    "file", [file for file in RUNS if script(file) in ("recipes/finetune.py", "recipes/zero_shot.py")]
)
def test_a_run_names_neither_model_nor_prompt_nor_targets(file):
    """They follow from model.family and prompt.modalities."""
    settings = load(file)
    assert settings.model == replace(settings.model, id="", revision=None)
    assert settings.prompt.file == ""
    if script(file) == "recipes/finetune.py":
        assert settings.adapter.towers is None
        assert settings.model.quantization == ("nf4" if Path(file).stem == "qlora" else None)


@pytest.mark.parametrize("file", RUNS)
def test_a_run_has_its_corpus_and_a_folder_name_with_all_placeholders(file):
    settings = load(file)
    corpus = Path(file).parent.name
    assert settings.data.dir == load(f"recipes/corpora/{corpus}.yaml").output.dir
    assert load_protocol(ROOT / settings.split.protocol).corpus in (None, corpus)
    assert settings.output.dir == FOLDER


@pytest.mark.parametrize("file", COMPOSED)
def test_a_run_of_a_composed_model_has_the_corpus_of_its_name_and_what_its_prompt_uses(file):
    settings, corpus = load(file), Path(file).stem.partition("_")[0]
    assert settings.data.dir == load(f"recipes/corpora/{corpus}.yaml").output.dir
    assert load_protocol(ROOT / settings.split.protocol).corpus == corpus
    assert settings.model == ModelSettings("composed", "outputs/models/whisper_smollm2", dtype="float32")
    assert settings.output.dir == FOLDER
    if script(file) == "recipes/finetune.py":
        uses_audio = load_prompt(ROOT / settings.prompt.file).uses_audio
        assert settings.adapter.full == (["projector"] if uses_audio else [])


@pytest.mark.parametrize("file", OF_TASKS)
def test_a_run_of_another_task_names_it_in_its_folder(file):
    settings = load(file)
    pattern = "outputs/runs/{corpus}/{recognizer}_{method}_{modalities}_%s_fold{fold}_seed{seed}"
    assert settings.output.dir == pattern % Path(file).stem
    assert load_protocol(ROOT / settings.split.protocol).corpus == Path(file).parent.name


@pytest.mark.parametrize("file", OF_SEVERAL_RUNS)
def test_a_file_for_several_runs_names_those_of_its_folder(file):
    settings = load(file)
    for system in getattr(settings, "systems", {"baseline": settings}).values():
        if Path(file).parent.name in CORPORA:
            assert Path(system.config).parent == Path(file).parent
        assert script(system.config) == f"recipes/{system.recipe}.py"


@pytest.mark.parametrize("file", of_recipe("search"))
def test_a_search_has_a_valid_space(file):
    settings = load(file)
    for key, values in read_space(settings.space).items():
        for value in values.ends:
            load(settings.config, *settings.overrides, override_of(key, value))


@pytest.mark.parametrize("file", sorted((ROOT / "accelerate_configs").glob("*.yaml")), ids=lambda file: file.name)
def test_every_accelerate_config_names_existing_files(file):
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert content["num_processes"] >= 1
    named = (content.get("deepspeed_config") or {}).get("deepspeed_config_file")
    assert named is None or (ROOT / named).is_file()
    assert file.read_text(encoding="utf-8").startswith("# ")


def test_those_that_make_test_runs_are_shipped_and_of_every_corpus():
    assert set(QUICK) <= set(SHIPPED)
    assert {Path(file).parent.name for file in QUICK} >= set(CORPORA)
