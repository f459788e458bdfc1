"""CONTRIBUTING's worked example as it is written: with a file, its template and one line, the contract tests pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_family_is_a_file_its_template_and_one_line(tmp_path):
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## How to add a family")[2].partition("\n## ")[0]
    file, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (template,) = re.findall(r"```jinja\n(.*?)```", section, re.DOTALL)
    assert len(line.splitlines()) == 1
    for part in ("lalm_mer", "prompts", "tests/contract/families", "tests/unit/evaluation", "tests/shared"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("tests/conftest.py", "tests/unit/evaluation/fabricated.py", "pyproject.toml"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, tmp_path / part)
    families = tmp_path / "lalm_mer/models/families"
    (families / "parrot.py").write_text(file, "utf-8")
    (families / "templates" / "parrot.jinja").write_text(template, "utf-8")
    table = families / "__init__.py"
    before, opening, after = table.read_text("utf-8").partition("FAMILIES = {\n")
    table.write_text(before + opening + line + after, "utf-8")
    contract = ["tests/contract/families", "--ignore=tests/contract/families/test_table.py"]  # of docs/families.md
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *contract, "-k", "parrot"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    ran = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert ran >= 60
    assert "skipped" not in done.stdout
