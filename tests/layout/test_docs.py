"""The documentation builds without a warning or a network, and names only files and keys that exist."""

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lalm_mer.core.config import load_config
from lalm_mer.launch.estimate_command import add_estimate
from lalm_mer.launch.predict_command import add_predict
from lalm_mer.models.families import DUAL_ENCODERS, FAMILIES, OTHER_FAMILIES, REMOTE
from lalm_mer.models.registry import model_class, model_names

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page, language):
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands(page):
    """The arguments of every command of a page."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line]


@pytest.fixture(scope="module")
def configuration():
    """The module that writes docs/configuration.md."""
    spec = importlib.util.spec_from_file_location("write_configuration", ROOT / "docs/write_configuration.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_site_builds_without_a_warning_and_loads_nothing_from_a_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # a notice of the theme about a later MkDocs
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) == len(PAGES)  # without README, but with a page for missing addresses
    loads = r"<(?:script|img|iframe)[^>]*\ssrc=\"?(?:https?:)?//|<link[^>]*\shref=\"?(?:https?:)?//|@import"
    assert [page for page in pages if re.search(loads, page.read_text("utf-8"))] == []


def test_every_key_of_every_recipe_is_in_the_configuration_page(configuration):
    assert configuration.PAGE.read_text("utf-8") == configuration.page(), "run: python docs/write_configuration.py"


def test_every_family_is_in_the_table_of_families():
    page = (ROOT / "docs/families.md").read_text().partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| .* \|$", page, re.MULTILINE)
    table = {name: (published, licence) for name, published, licence in rows}
    assert list(table) == list(model_names())
    for name in set(table) - {*OTHER_FAMILIES, REMOTE}:
        family, (published, licence) = model_class(name), table[name]
        revision = f", revision {family.published_revision}" if family.published_revision else ""
        assert published == ", ".join(family.published) + revision
        assert licence == family.licence


def test_families_says_how_audio_is_encoded():
    section = (ROOT / "docs/families.md").read_text().partition("## How audio is encoded")[2].partition("\n## ")[0]
    found = []
    row = r"^\| (`.+?`) \| (.+?) \| (yes|no)\b.*? \| (yes|no)\b.*? \| .+? \|$"
    for names, length, packing, stored in re.findall(row, section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            family = model_class(name)
            two_steps = getattr(family, "single_pass_reason", "no audio-language model") is None
            assert ("model.full_window" in length) == family.takes_full_window, name
            assert (packing == "yes") == two_steps, name
            assert (stored == "yes") == two_steps, name
            found.append(name)
    assert sorted(found) == sorted({*FAMILIES, *OTHER_FAMILIES, *DUAL_ENCODERS})


def test_families_says_what_is_computed_once():
    section = (ROOT / "docs/families.md").read_text().partition("## What is computed once")[2].partition("\n## ")[0]
    found = []
    for names, keys, examples in re.findall(r"^\| (`.+?`) \| (.+?) \| (.+?) \|$", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            family = model_class(name)
            assert (examples == "not taken") == (family.single_turn_reason is not None), name
            assert keys.startswith("cached") == (family.single_pass_reason is None), name
            found.append(name)
    assert sorted(found) == sorted({*FAMILIES, *OTHER_FAMILIES})


def test_readme_is_short_and_its_picture_small():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
    assert (ROOT / "docs/images/report.png").stat().st_size < 200_000


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_exist(page):
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("http"):
            continue
        assert (ROOT / path).is_file(), path
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text("utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings]


@pytest.mark.parametrize("page", NAMES)
def test_commands_name_existing_files_and_keys(page, configuration, monkeypatch):
    monkeypatch.chdir(ROOT)
    predict = add_predict(argparse.ArgumentParser().add_subparsers())
    estimate = add_estimate(argparse.ArgumentParser().add_subparsers())
    for words in commands(page):
        if words[:2] == ["lalm-mer", "predict"]:
            predict.parse_args(words[2:])
        if words[:2] == ["lalm-mer", "estimate"]:
            estimate.parse_args(words[2:])
        assert words[0] in ("accelerate", "hf", "lalm-mer", "make", "pip", "python", "sbatch", "torchrun"), words
        scripts = [word for word in words if word.startswith(("recipes/", "eval/")) and word.endswith(".py")]
        starts = words[0] in ("accelerate", "python", "sbatch", "torchrun") or words[:2] == ["lalm-mer", "launch"]
        assert bool(scripts) == (starts and "-c" not in words), words
        assert [script for script in scripts if not (ROOT / script).is_file()] == []
        if "--config" in words:
            file, *rest = words[words.index("--config") + 1 :]
            overrides = [word for word in rest if not word.startswith("--")]
            assert load_config(configuration.RECIPES[Path(scripts[0]).name], Path(file), overrides)


@pytest.mark.parametrize("page", NAMES)
def test_python_imports_exist(page):
    for block in blocks(page, "python"):
        compile(block, page, "exec")
        for line in re.findall(r"^(?:from|import) .*$", block, re.MULTILINE):
            exec(line, {})


@pytest.mark.parametrize("page", NAMES)
def test_paths_exist(page):
    """Files of the repository that are named as code."""
    folders = "recipes|prompts|eval|accelerate_configs|docs"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", (ROOT / page).read_text("utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []
