"""The list of wheels for a machine without a network covers every dependency that such a machine lacks."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "wheels.txt").read_text("utf-8").splitlines()
ON_THE_MACHINE = {
    name for line in LINES if line.startswith("# Already on that machine: ") for name in line.partition(":")[2].split()
}
WHEELS = [line for line in LINES if line and not line.startswith("#")]


def test_every_dependency_is_in_the_list_or_on_the_machine():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    names = {re.match(r"[\w.-]+", each)[0].lower() for each in dependencies}
    names = {name.replace("_", "-") for name in names}
    assert names - ON_THE_MACHINE - set(WHEELS) == set()
    assert set(WHEELS) & ON_THE_MACHINE == set()
    assert ON_THE_MACHINE - names <= {"pytest"}


def test_the_list_has_no_version_since_constraints_have_them():
    assert [line for line in WHEELS if not re.fullmatch(r"[a-z0-9-]+", line)] == []
    assert len(WHEELS) == len(set(WHEELS))


def test_bitsandbytes_has_a_folder_of_its_own():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "bitsandbytes" not in WHEELS
    assert '-d "$(WHEELS)/bitsandbytes" bitsandbytes' in makefile
