"""``--help`` lists each key of a recipe's YAML, without waiting for heavy libraries; a run imports no needless ones."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lalm_mer.core.settings import settings_of
from lalm_mer.corpora.settings import PrepareSettings
from lalm_mer.launch.config import (
    alignment,
    benchmark,
    cross_validation,
    late_fusion,
    learning_curve,
    linear,
    probe_layers,
    search,
)
from lalm_mer.launch.config import settings as launch

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(f"recipes/{path.name}" for path in (ROOT / "recipes").glob("*.py"))
SCRIPTS = [*RECIPES, *sorted(f"eval/{path.name}" for path in (ROOT / "eval").glob("*.py"))]
SUBCOMMANDS = ["", "cache", "doctor", "predict"]  # the help of launch is accelerate's
HEAVY = {
    "torch", "transformers", "peft", "accelerate", "datasets", "pandas", "sklearn", "huggingface_hub", "matplotlib",
    "jiwer", "scipy.stats", "scipy.optimize", "scipy.signal",
}  # fmt: skip
NEEDLESS = {"sklearn", "scipy.stats", "scipy.signal", "jiwer", "matplotlib", "tensorboard", "evaluate"}
"""Modules that a run needs at most after its first batch; transformers and peft import others of all kinds."""
PROGRAM = """
import json, pathlib, runpy, sys
script = sys.argv[1]
sys.argv = [script, *sys.argv[2:]]
sys.path.insert(0, str(pathlib.Path(script).parent))  # as python itself does
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    print(json.dumps({"status": end.code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""
STOPPED = """
from lalm_mer.core.imports import quick_imports
with quick_imports():
    from lalm_mer.launch.run import trainers

def score_and_stop(*arguments, score=trainers.score_test):
    assert len(score(*arguments).values)
    sys.exit(0)

trainers.score_test = score_and_stop
"""


def ended(command, **environment):
    """What a command printed, and its exit status and modules."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | environment)
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


def schema_of(recipe):
    """Schema of the recipe's YAML; None if it has none."""
    found = re.search(r"run_recipe\(__doc__, (\w+)", (ROOT / recipe).read_text(encoding="utf-8"))
    modules = alignment, benchmark, cross_validation, late_fusion, learning_curve, linear, probe_layers, search
    for module in (launch, *modules):
        if found is not None and hasattr(module, found[1]):
            return getattr(module, found[1])
    return None if found is None else PrepareSettings


def lines_of(schema, section=""):
    """Beginning of the line of each key."""
    for name, declared in settings_of(schema).items():
        if declared.section is None:
            yield f"\n  {section}{name}  "
        else:
            yield from lines_of(declared.section, f"{section}{name}.")


def test_recipes_have_different_schemas():
    schemas = [schema for recipe in RECIPES if (schema := schema_of(recipe)) is not None]
    assert len(schemas) == len(set(schemas)) == 14


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_lists_every_key_without_heavy_libraries(script):
    printed, end = ended([sys.executable, "-c", PROGRAM, script, "--help"])
    assert end["status"] == 0
    assert sorted(HEAVY & set(end["modules"])) == []
    docstring = (ROOT / script).read_text(encoding="utf-8").split('"""')[1]
    assert docstring.splitlines()[0] in printed
    if schema := schema_of(script):
        assert [line for line in lines_of(schema) if line not in printed] == []


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_help_of_the_command_needs_no_heavy_library(subcommand):
    words = [*subcommand.split(), "--help"]
    printed, end = ended([sys.executable, "-c", PROGRAM, "lalm_mer/cli.py", *words])
    assert end["status"] == 0
    assert sorted(HEAVY & set(end["modules"])) == []
    assert "usage: lalm-mer" in printed


@pytest.mark.slow
def test_a_zero_shot_run_scores_without_needless_modules(workplace, tmp_path):
    command = [sys.executable, "-c", PROGRAM.replace("script = ", f"{STOPPED}\nscript = ", 1), "recipes/zero_shot.py"]
    command += ["--config", str(workplace.config("zero_shot")), f"output.dir={tmp_path / 'run'}"]
    printed, end = ended(command, ACCELERATE_USE_CPU="true")
    assert end["status"] == 0
    assert "scoring 20 test utterances" in printed
    assert {"torch", "peft", "transformers.trainer"} <= set(end["modules"])
    assert sorted(NEEDLESS & set(end["modules"])) == []
