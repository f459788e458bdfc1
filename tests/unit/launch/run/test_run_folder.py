"""Run folders: what may change between two processes of one run, and what may not."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
from fabricated import fabricated_record

from lalm_mer.core.config import to_dict
from lalm_mer.core.errors import ConfigError, PredictionError
from lalm_mer.core.run_record import read_record
from lalm_mer.core.settings import setting
from lalm_mer.launch.run.run_folder import is_finished, open_run


@dataclass(frozen=True)
class Engine:
    """The launcher."""

    num_processes: int = 1


@dataclass(frozen=True)
class Train:
    """Training."""

    learning_rate: float = 1e-3
    use_cpu: bool = setting(True, may_change=True)


@dataclass(frozen=True)
class Settings:
    """A run."""

    train: Train = setting(Train())
    engine: Engine = setting(Engine(), may_change=True)
    seed: int = 0


IDENTITY = fabricated_record(config=to_dict(Settings()), seconds=None)


def test_the_record_is_written_first(tmp_path):
    run = open_run(tmp_path / "run", IDENTITY, Settings, writes=True)
    assert read_record(run.path / "run.json") == run.record == IDENTITY
    assert not is_finished(run.path, Settings(), IDENTITY.hashes)


def test_a_resumed_run_keeps_its_start(tmp_path):
    _begun(tmp_path)
    later = replace(IDENTITY, started_at="2027-01-01T00:00:00+00:00")
    assert open_run(tmp_path, later, Settings, writes=True).record == IDENTITY


@pytest.mark.parametrize("changed", [{"format": 1}, {"config": None}])
def test_a_record_that_cannot_be_read_is_refused(tmp_path, changed):
    _begun(tmp_path)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    (tmp_path / "metrics.json").write_text("{}")
    for use in (
        lambda: open_run(tmp_path, IDENTITY, Settings, writes=True),
        lambda: is_finished(tmp_path, Settings(), {}),
    ):
        with pytest.raises(PredictionError, match=r"run\.json: (format 1, but|key 'config')"):
            use()


def test_a_finished_run_is_known_by_its_config_and_hashes(tmp_path):
    _begun(tmp_path)
    assert not is_finished(tmp_path, Settings(), IDENTITY.hashes)
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "scores").mkdir()  # of a process that was killed before it removed them
    (tmp_path / "scores" / "test.jsonl").touch()
    assert is_finished(tmp_path, Settings(), {"data": IDENTITY.hashes["data"]})
    assert not (tmp_path / "scores").exists()
    with pytest.raises(ConfigError, match=r"hashes\.folds"):
        is_finished(tmp_path, Settings(), {"folds": "other"})


@pytest.mark.parametrize(("section", "key", "value"), [("train", "use_cpu", False), ("engine", "num_processes", 2)])
def test_settings_without_effect_on_results_may_change(tmp_path, section, key, value):
    _begun(tmp_path)
    changed = deepcopy(IDENTITY)
    changed.config[section][key] = value
    assert open_run(tmp_path, changed, Settings, writes=True).record.config == changed.config


def test_a_batch_may_change_with_the_number_of_processes_alone(tmp_path, monkeypatch):
    config = to_dict(Settings())
    config["train"] |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    config["engine"]["num_processes"] = None  # as the file of the engine says

    def resumed(processes, batch, accumulated):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        now = deepcopy(replace(IDENTITY, config=config))
        now.config["train"] |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        return open_run(tmp_path, now, Settings, writes=True).record.config

    assert resumed(2, 4, 1)["engine"]["num_processes"] == 2
    (tmp_path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    for processes, batch, accumulated in ((1, 4, 2), (2, 2, 2), (1, 8, 1), (4, 2, 1)):
        assert resumed(processes, batch, accumulated)["train"]["per_device_train_batch_size"] == batch
    with pytest.raises(ConfigError, match=r"8 examples per step \(2 per device x 1 accumulated x 4 processes\), .* 4"):
        resumed(1, 4, 1)
    with pytest.raises(ConfigError, match=r"config\.train\.gradient_accumulation_steps = 1, now it is 2"):
        resumed(4, 1, 2)  # batches of other sizes in as many processes


def test_tokens_of_a_batch_stay_and_accumulated_batches_may_change_with_the_number_of_processes(tmp_path, monkeypatch):
    config = to_dict(Settings())
    config["engine"]["num_processes"] = None

    def resumed(processes, tokens, accumulated):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        now = deepcopy(replace(IDENTITY, config=config))
        now.config["train"] |= {"tokens_per_batch": tokens, "gradient_accumulation_steps": accumulated}
        return open_run(tmp_path, now, Settings, writes=True).record.config["train"]["gradient_accumulation_steps"]

    assert resumed(2, 4096, 1) == 1
    (tmp_path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    assert resumed(1, 4096, 2) == 2
    with pytest.raises(
        ConfigError, match=r"8192 tokens per step \(4096 per device x 2 .*now .* 16384.*; change this key to"
    ):
        resumed(4, 4096, 1)
    with pytest.raises(ConfigError, match=r"config\.train\.tokens_per_batch = 4096, now it is 2048"):
        resumed(4, 2048, 1)


@pytest.mark.parametrize(
    ("path", "named"),
    [(("config", "seed"), "config.seed"), (("config", "train", "learning_rate"), "config.train.learning_rate"),
     (("hashes", "folds"), "hashes.folds")],
)  # fmt: skip
def test_settings_and_hashes_with_effect_on_results_may_not_change(tmp_path, path, named):
    _begun(tmp_path)
    changed = deepcopy(IDENTITY)
    section = {"config": changed.config, "hashes": changed.hashes}
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = "other"
    with pytest.raises(ConfigError, match=named):
        open_run(tmp_path, changed, Settings, writes=True)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="has other files"):
        open_run(tmp_path, IDENTITY, Settings, writes=True)


def test_only_the_first_process_writes(tmp_path):
    open_run(tmp_path / "run", IDENTITY, Settings, writes=False)
    assert not (tmp_path / "run").exists()


def _begun(folder):
    """A run that has begun: run.json and a checkpoint, which shows that it is not a failed start."""
    run = open_run(folder, IDENTITY, Settings, writes=True)
    (run.checkpoints / "checkpoint-1").mkdir(parents=True)
