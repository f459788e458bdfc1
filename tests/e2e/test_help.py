"""``--help`` of every recipe lists each key of its YAML, without waiting for heavy libraries."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lalm_mer.core.settings import settings_of
from lalm_mer.corpora.settings import PrepareSettings
from lalm_mer.launch.config import settings as launch

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(f"recipes/{path.name}" for path in (ROOT / "recipes").glob("*.py"))
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "pandas", "sklearn", "scipy", "huggingface_hub"}
PROGRAM = """
import json, pathlib, runpy, sys
script = sys.argv[1]
sys.argv = [script, "--help"]
sys.path.insert(0, str(pathlib.Path(script).parent))  # as python itself does
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    print(json.dumps({"status": end.code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def schema_of(recipe):
    """Schema of the recipe's YAML; None if it has none."""
    found = re.search(r"run_recipe\(__doc__, (\w+)", (ROOT / recipe).read_text(encoding="utf-8"))
    return None if found is None else getattr(launch, found[1], PrepareSettings)


def lines_of(schema, section=""):
    """Beginning of the line of each key."""
    for name, declared in settings_of(schema).items():
        if declared.section is None:
            yield f"\n  {section}{name}  "
        else:
            yield from lines_of(declared.section, f"{section}{name}.")


def test_recipes_have_different_schemas():
    schemas = [schema for recipe in RECIPES if (schema := schema_of(recipe)) is not None]
    assert len(schemas) == len(set(schemas)) == 6


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_lists_every_key_without_heavy_libraries(recipe):
    command = [sys.executable, "-c", PROGRAM, recipe]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ended = json.loads(done.stderr)
    assert ended["status"] == 0
    assert sorted(HEAVY & set(ended["modules"])) == []
    docstring = (ROOT / recipe).read_text(encoding="utf-8").split('"""')[1]
    assert docstring.splitlines()[0] in done.stdout
    if schema := schema_of(recipe):
        assert [line for line in lines_of(schema) if line not in done.stdout] == []
