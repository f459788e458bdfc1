"""Run folders: what may change between two processes of one run, and what may not."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass

import pytest

from lalm_mer.core.config import to_dict
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting
from lalm_mer.launch.run.run_folder import open_run


@dataclass(frozen=True)
class Engine:
    """What the run is launched with."""

    num_processes: int = 1


@dataclass(frozen=True)
class Train:
    """How it learns."""

    learning_rate: float = 1e-3
    use_cpu: bool = setting(True, may_change=True)


@dataclass(frozen=True)
class Settings:
    """A run."""

    train: Train = setting(Train())
    engine: Engine = setting(Engine(), may_change=True)
    seed: int = 0


IDENTITY = {"config": to_dict(Settings()), "hashes": {"data": "d", "folds": "f"}}


def test_the_whole_config_is_written_first(tmp_path):
    run = open_run(tmp_path / "run", IDENTITY, Settings, writes=True)
    written = json.loads((run.path / "run.json").read_text())
    assert written["config"] == IDENTITY["config"]
    assert written["seconds"] is None
    assert not run.finished


@pytest.mark.parametrize(("section", "key", "value"), [("train", "use_cpu", False), ("engine", "num_processes", 2)])
def test_how_it_runs_may_change(tmp_path, section, key, value):
    _begun(tmp_path)
    changed = deepcopy(IDENTITY)
    changed["config"][section][key] = value
    assert not open_run(tmp_path, changed, Settings, writes=True).finished


@pytest.mark.parametrize(
    ("path", "named"),
    [(("config", "seed"), "config.seed"), (("config", "train", "learning_rate"), "config.train.learning_rate"),
     (("hashes", "folds"), "hashes.folds")],
)  # fmt: skip
def test_what_decides_the_outcome_may_not(tmp_path, path, named):
    _begun(tmp_path)
    changed = deepcopy(IDENTITY)
    section = changed
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = "other"
    with pytest.raises(ConfigError, match=named):
        open_run(tmp_path, changed, Settings, writes=True)


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        open_run(tmp_path, IDENTITY, Settings, writes=True)


def test_only_the_first_process_writes(tmp_path):
    open_run(tmp_path / "run", IDENTITY, Settings, writes=False)
    assert not (tmp_path / "run").exists()


def _begun(folder):
    """A run that was begun: run.json, and a checkpoint folder that shows it is more than a failed start."""
    run = open_run(folder, IDENTITY, Settings, writes=True)
    (run.checkpoints / "checkpoint-1").mkdir(parents=True)
