"""CONTRIBUTING's table and its path from a recipe to the forward pass agree with the code."""

import ast
import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
ROWS = re.findall(
    r"^\| ([^|]+) \| ([^|]+) \|([^|]*)\|$", TEXT.partition("## Where to change what")[2].partition("\n## ")[0], re.M
)
REQUESTS = [row for row in ROWS if row[0] not in ("request",) and not row[0].startswith("---")]
HOPS = 4


def test_there_are_at_least_twenty_requests():
    assert len(REQUESTS) >= 20
    assert len({request for request, _, _ in REQUESTS}) == len(REQUESTS)


@pytest.mark.parametrize(("request_", "first", "second"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_a_request_names_existing_files(request_, first, second):
    for cell in (first, second):
        for path in re.findall(r"`([^`]+\.(?:py|yaml))`", cell):
            if cell.strip().startswith("new:"):
                folder = (ROOT / path).parent if "/" in path else ROOT
                assert folder.is_dir() or "tasks/" in path
                assert not (ROOT / path).exists()
            else:
                assert (ROOT / path).is_file()


def test_the_forward_pass_is_four_files_from_the_recipe():
    section = TEXT.partition("### From a recipe to the forward pass")[2].partition("\n## ")[0]
    paths = re.findall(r"`((?:recipes|lalm_mer)/[^`]+\.py)`", section)
    assert len(paths) <= HOPS
    for importer, imported in itertools.pairwise(paths):
        module = imported.removesuffix(".py").replace("/", ".")
        nodes = ast.walk(ast.parse((ROOT / importer).read_text("utf-8")))
        assert module in {node.module for node in nodes if isinstance(node, ast.ImportFrom)}, (importer, module)
    names = {
        node.name
        for node in ast.walk(ast.parse((ROOT / paths[-1]).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert "forward" in names


def test_every_room_is_in_the_picture():
    picture = TEXT.partition("lalm_mer/         rooms")[2].partition("```")[0]
    rooms = {path.name for path in (ROOT / "lalm_mer").iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert rooms == set(re.findall(r"^  (\w+)/ ", picture, re.M))
    for room in rooms:
        entry = re.search(rf"^  {room}/ +(.*?)(?=^  \w+[/.]|\Z)", picture, re.M | re.S)[1]
        modules = {path.stem for path in (ROOT / "lalm_mer" / room).glob("*.py")} - {"__init__"}
        if room != "corpora":  # a file per corpus
            assert {name for name in modules if not re.search(rf"\b{name}\b", entry)} == set()
