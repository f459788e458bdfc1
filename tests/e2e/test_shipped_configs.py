"""Every YAML under recipes/ loads, opens with what it needs, and its launch line and override hold."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from lalm_mer.core.config import load_config
from lalm_mer.corpora.settings import PrepareSettings
from lalm_mer.launch.config.settings import (
    BaselineSettings,
    FinetuneSettings,
    TinySettings,
    TranscribeSettings,
    ZeroShotSettings,
)
from lalm_mer.prompting.ensembles import load_ensemble
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.protocols.protocol import load_protocol

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.yaml"))
SCHEMAS = {
    "recipes/prepare_corpus.py": PrepareSettings,
    "recipes/build_tiny_model.py": TinySettings,
    "recipes/zero_shot.py": ZeroShotSettings,
    "recipes/finetune.py": FinetuneSettings,
    "recipes/train_baseline.py": BaselineSettings,
    "recipes/transcribe.py": TranscribeSettings,
}


def opening(file: str) -> dict[str, str]:
    """The comment that a YAML opens with, by what each line tells."""
    comment = re.match(r"(?:#.*\n)+", (ROOT / file).read_text(encoding="utf-8"))
    assert comment, "no comment at its head"
    named = re.findall(r"^# (Needs|Prerequisites|Launch|One override|Override): *(.+)$", comment[0], re.MULTILINE)
    return {{"Prerequisites": "Needs", "One override": "Override"}.get(name, name): words for name, words in named}


def launched(file: str) -> tuple[list[str], type]:
    """The words of the launch line, and the schema of the recipe it names."""
    words = shlex.split(opening(file)["Launch"])
    (script,) = [word for word in words if word.startswith("recipes/") and word.endswith(".py")]
    assert (ROOT / script).is_file()
    return words, SCHEMAS[script]


def test_there_are_some():
    folders = {Path(file).parent.name for file in SHIPPED}
    assert {"corpora", "demo", "qwen2_audio"} <= folders


@pytest.mark.parametrize("file", SHIPPED)
def test_it_opens_with_what_a_user_must_know(file):
    assert set(opening(file)) == {"Needs", "Launch", "Override"}
    words, _ = launched(file)
    assert words[words.index("--config") + 1] == file


@pytest.mark.parametrize("file", SHIPPED)
def test_it_loads_with_its_launch_line_and_its_override(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    words, schema = launched(file)
    settings = load_config(schema, ROOT / file, words[words.index("--config") + 2 :])
    changed = load_config(schema, ROOT / file, shlex.split(opening(file)["Override"]))
    assert changed != settings
    for config in (settings, changed):
        if hasattr(config, "prompt"):
            (load_ensemble if config.model.family == "clap" else load_prompt)(Path(config.prompt.file))
        if hasattr(config, "split"):
            load_protocol(Path(config.split.protocol))


@pytest.mark.parametrize("file", [file for file in SHIPPED if "accelerate launch" in (ROOT / file).read_text("utf-8")])
def test_it_expects_the_engine_that_it_is_launched_with(file):
    words, schema = launched(file)
    assert words[:3] == ["accelerate", "launch", "--quiet"]
    config_file = words[words.index("--config_file") + 1]
    assert load_config(schema, ROOT / file).engine.accelerate_config == config_file
    assert (ROOT / config_file).is_file()


@pytest.mark.parametrize("file", sorted((ROOT / "accelerate_configs").glob("*.yaml")), ids=lambda file: file.name)
def test_every_accelerate_config_names_files_that_are_there(file):
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert content["num_processes"] >= 1
    named = (content.get("deepspeed_config") or {}).get("deepspeed_config_file")
    assert named is None or (ROOT / named).is_file()
    assert file.read_text(encoding="utf-8").startswith("# ")
