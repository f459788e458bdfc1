"""A corpus is added with the files that CONTRIBUTING names, and prepared by the real recipe with its folds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[2]
READER = '''"""Parrots, an example: ``<speaker>_<label>_<number>.wav``."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora.base import list_files, relative

__all__ = ["LOADER_VERSION", "RANGES", "facts", "read"]

LOADER_VERSION = "1"
RANGES: Mapping[str, Sequence[float]] = {}


def read(root: Path) -> Iterator[Utterance | Rejection]:
    """Every utterance of the release."""
    for item in list_files(root):
        if isinstance(item, Rejection):
            yield item
        elif item.suffix == ".wav":
            speaker, label, _ = item.stem.split("_")
            yield Utterance(
                utterance_id=item.stem, corpus="parrots", audio_path=relative(root, item), speaker=speaker, label=label
            )
        else:
            yield Rejection(relative(root, item), "unexpected", "no recording of the corpus")


def facts(utterance_id: str) -> Facts | None:
    """Speaker derived from an id."""
    parts = utterance_id.split("_")
    return Facts(speaker=parts[0]) if len(parts) == 3 else None
'''
TASKS = {
    "parrots_2": {
        "source": "tests",
        "labels": {"happy": ["happy"], "sad": ["sad"]},
        "map": {"glad": "happy", "sad": "sad"},
    }
}
PROTOCOL = {
    "name": "parrots_2fold", "version": 1, "source": "tests", "corpus": "parrots", "task": "parrots_2",
    "disjoint_in": ["speaker"], "folds": {"rule": "grouped", "column": "speaker", "k": 3},
}  # fmt: skip


def test_a_corpus_is_a_reader_its_tasks_and_one_name(tmp_path, tone):
    for part in ("lalm_mer", "recipes", "eval"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    corpora = tmp_path / "lalm_mer/corpora"
    (corpora / "parrots.py").write_text(READER)
    (corpora / "tasks/parrots.yaml").write_text(yaml.safe_dump(TASKS))
    registry = corpora / "settings.py"
    before, opening, after = registry.read_text("utf-8").partition("RELEASES = (")
    assert opening
    registry.write_text(f'{before}{opening}"parrots", {after}', "utf-8")
    (tmp_path / "recipes/corpora/parrots.yaml").write_text(
        yaml.safe_dump({"corpus": {"name": "parrots", "root": "release"}, "output": {"dir": "data"}})
    )
    (tmp_path / "eval/protocols/parrots_2fold.yaml").write_text(yaml.safe_dump(PROTOCOL))
    (tmp_path / "release").mkdir()
    for speaker in range(3):
        for label in ("glad", "sad", "bored"):
            (tmp_path / f"release/p{speaker}_{label}_1.wav").write_bytes(tone(hertz=200 + 50 * speaker + len(label)))
    (tmp_path / "release/readme.txt").write_text("about")
    command = [sys.executable, "recipes/prepare_corpus.py", "--config", "recipes/corpora/parrots.yaml"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "data/summary.json").read_text())
    assert (summary["n_found"], summary["n_utterances"], summary["rejected"]) == (10, 9, {"unexpected": 1})
    assert summary["tasks"]["parrots_2"] == {"happy": 3, "sad": 3, "unmapped": 3}
    folds = pq.read_table(tmp_path / "data/folds/parrots_2fold.parquet").to_pandas()
    assert set(folds["fold"]) == {1, 2, 3}
    assert "train, dev and test are disjoint in: speaker" in done.stdout
