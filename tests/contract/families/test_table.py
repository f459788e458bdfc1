"""The table of docs/families.md says whose attention a tower has."""

import inspect
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs/families.md"


def test_families_says_which_towers_have_their_own_attention(family):
    if family.single_pass_reason is not None:
        return
    section = PAGE.read_text("utf-8").partition("## How audio is encoded")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \|.*\| (\w[\w ]*), (\w[\w ]*) \|$", section, re.MULTILINE)
    said = [attention for names, *attention in rows if f"`{family.name}`" in names]
    found = []
    for tower in ("audio_tower", "language_model"):
        layers = {type(each) for each in family.submodule(tower).modules() if "Attention" in type(each).__name__}
        chosen = any("ALL_ATTENTION_FUNCTIONS" in inspect.getsource(layer) for layer in layers)
        found.append("sdpa" if chosen else "its own")
    assert said == [found]
