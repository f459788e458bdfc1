"""Runs that are killed at random moments, again and again, and then resumed: nothing is lost, doubled or different.

The moments follow from ``SEED``; the log of a failing test has them.
"""

import json
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from killing import changes_of, full_disk_at_change, killed_at_change, killed_when, start
from safetensors.numpy import load_file

from lalm_mer.examples import feature_shards

SEED = 11
LOG = logging.getLogger(__name__)
MANY = pytest.param(20, id="many", marks=pytest.mark.slow)
CACHED = ("zero_shot", "model.tower_cache=require", "preflight=false", "scoring.per_device_eval_batch_size=3")
TRAINED = ("finetune", "preflight=false", "train.max_steps=6", "train.eval_strategy=steps", "train.eval_steps=2")
FULL = "cannot be written: File too large; free some space, or write to another folder, and run the same command again"


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(feature_shards, "_SHARD_BYTES", 1)  # every batch is a shard


@pytest.fixture
def again(workplace):
    """A maker of a function that runs a command in a folder and returns its status."""

    def make(command, run, *overrides):
        return partial(workplace.again, command[0], f"output.dir={run}", *command[1:], *overrides)

    return make


@pytest.fixture
def cached(again):
    """A maker of a function that runs ``CACHED`` in a folder, with a cache of its own beside the run."""

    def make(folder, name="run"):
        return again(CACHED, folder / name, f"model.cache_dir={folder / 'cache'}")

    return make


@pytest.fixture(scope="module")
def without_a_kill(workplace, made_once):
    """A maker of a run that is not killed, in a child, with the names of its changes."""

    def make(command, name):
        def build(folder):
            overrides = [f"output.dir={folder / 'run'}", *command[1:]]
            if command == CACHED:
                overrides.append(f"model.cache_dir={folder / 'cache'}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ACCELERATE_USE_CPU", "true")
                patch.setattr(feature_shards, "_SHARD_BYTES", 1)
                found = changes_of(partial(workplace.again, command[0], *overrides), folder)
            (folder / "changes.json").write_text(json.dumps(found))

        return made_once(name, build)

    return make


@pytest.fixture(scope="module")
def stored(without_a_kill):
    """A zero-shot run that was not killed, and its cache."""
    return without_a_kill(CACHED, "stored_without_a_kill")


@pytest.fixture(scope="module")
def trained(without_a_kill):
    """A short training that was not killed."""
    return without_a_kill(TRAINED, "trained_without_a_kill") / "run"


def assert_equal_files(run, other, *names):
    for name in names:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rows(cache):
    """Name and bytes of every row of the only store of a cache, in all its shards."""
    (folder,) = {path.parent for path in cache.rglob("*.arrow")}
    assert {path.suffix for path in folder.iterdir()} == {".arrow", ".json"}  # no lock and no incomplete shard
    found = []
    for shard in folder.glob("*.arrow"):
        with pa.memory_map(str(shard)) as file:
            table = pa.ipc.open_stream(file).read_all()
        found += zip(table["name"].to_pylist(), table["values"].to_pylist(), strict=True)
    return found


def assert_equal_scoring(folder, other, *names):
    """Every output is stored once, with the same bytes, and the results are the same."""
    found = rows(folder / "cache")
    assert set(Counter(name for name, _ in found).values()) == {1}
    assert dict(found) == dict(rows(other / "cache"))
    for name in names or ("run",):
        assert_equal_files(folder / name, other / "run", "predictions.parquet", "metrics.json")
        assert files_below(folder / name) == files_below(other / "run")
    assert not list(folder.glob(".*"))


def assert_equal_training(run, other):
    """Losses, weights, predictions, metrics and the names of all files are the same."""
    assert_equal_files(run, other, "history.jsonl", "predictions.parquet", "metrics.json")
    for name in [file for file in files_below(other) if file.endswith(".safetensors")]:
        tensors, expected = load_file(run / name), load_file(other / name)
        assert tensors.keys() == expected.keys()
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, expected[key], err_msg=f"{name}: {key}")
    assert files_below(run) == files_below(other)
    assert not list(run.parent.glob(".*"))


class Moments:
    """Random changes at which a run is killed, or the disk becomes full."""

    def __init__(self, folder, chosen):
        self._random = np.random.default_rng(SEED)
        self._changes = json.loads((folder / "changes.json").read_text())
        self._numbers = [number for number, change in enumerate(self._changes) if chosen(change)]

    def number(self, state=""):
        number = int(self._random.choice(self._numbers))
        LOG.warning("seed %d: %s, change %d, %s", SEED, state, number, self._changes[number])
        return number

    def kill(self, run, folder, state):
        """Whether it was killed, and not at its end before."""
        in_file = bool(self._random.random() < 0.5)
        killed = killed_at_change(run, folder, self.number(state), in_file=in_file)
        LOG.warning("killed: %s, %s; files: %s", killed, "in a file" if in_file else "before", files_below(folder))
        return killed


def of_a_cache(change):
    """Shards, key and some of the many locks."""
    return "audio_tower" in change and (".part-" not in change or "arrow" in change or ".part-7" in change)


@pytest.mark.parametrize("kills", [pytest.param(2, id="few"), MANY])
def test_cache_writing(kills, cached, stored, tmp_path):
    moments, killed = Moments(stored, of_a_cache), 0
    while killed < kills:
        folder = tmp_path / f"after {killed}"
        for _ in range(2):
            killed += moments.kill(cached(folder), folder, f"after {killed} kills")
        assert cached(folder)() == 0
        assert_equal_scoring(folder, stored)
        shutil.rmtree(folder)


@pytest.mark.parametrize("kills", [MANY])
def test_one_of_two_that_write_the_same_cache(kills, cached, stored, tmp_path):
    moments, killed = Moments(stored, of_a_cache), 0
    while killed < kills:
        folder = tmp_path / f"after {killed}"
        other = start(cached(folder, "other"))
        time.sleep(0.3 * (killed % 4))
        killed += moments.kill(cached(folder), folder, f"after {killed} kills")
        assert os.waitpid(other, 0)[1] == 0
        assert cached(folder)() == 0
        assert_equal_scoring(folder, stored, "run", "other")
        shutil.rmtree(folder)


def after_training_began(change):
    """Checkpoints, their rotation, scores, adapter and results."""
    return "history" not in change and "mkdir" not in change


@pytest.mark.parametrize("kills", [MANY])
def test_writing_of_checkpoints_adapter_and_results(kills, again, trained, tmp_path):
    moments, killed = Moments(trained.parent, after_training_began), 0
    while killed < kills:
        run = tmp_path / f"after {killed}" / "run"
        for _ in range(2):
            killed += moments.kill(again(TRAINED, run), run.parent, f"after {killed} kills")
        assert again(TRAINED, run)() == 0
        assert_equal_training(run, trained)
        shutil.rmtree(run)


@pytest.mark.slow
def test_training(again, trained, tmp_path):
    random, killed, steps = np.random.default_rng(SEED), 0, Counter()
    begun = time.monotonic()
    assert again(TRAINED, tmp_path / "timed")() == 0
    taken_s = time.monotonic() - begun
    while killed < 20:
        run = tmp_path / f"after {killed}" / "run"
        for _ in range(2):
            end = time.monotonic() + random.uniform(0.2, 1) * taken_s
            ended = not killed_when(again(TRAINED, run), lambda end=end: time.monotonic() > end)
            history = run / "history.jsonl"
            lines = len(history.read_text().splitlines()) if history.exists() else 0
            LOG.warning("seed %d: after %d kills, with %d lines of history; ended: %s", SEED, killed, lines, ended)
            steps[lines] += not ended
            killed += not ended
        assert again(TRAINED, run)() == 0
        assert_equal_training(run, trained)
        shutil.rmtree(run)
    assert len(steps) > 3


@pytest.mark.parametrize("times", [MANY])
def test_the_disk_is_full_while_the_cache_is_written(times, cached, stored, tmp_path):
    moments = Moments(stored, of_a_cache)
    for number in range(times):
        folder = tmp_path / f"full {number}"
        assert_one_line(folder, *full_disk_at_change(cached(folder), folder, moments.number()))
        assert cached(folder)() == 0
        assert_equal_scoring(folder, stored)


@pytest.mark.parametrize("times", [pytest.param(1, id="few", marks=pytest.mark.slow), MANY])
def test_the_disk_is_full_while_checkpoints_adapter_and_results_are_written(times, again, trained, tmp_path):
    moments = Moments(trained.parent, after_training_began)
    for number in range(times):
        folder = tmp_path / f"full {number}"
        run = again(TRAINED, folder / "run")
        assert_one_line(folder, *full_disk_at_change(run, folder, moments.number()))
        assert run() == 0
        assert_equal_training(folder / "run", trained)


def assert_one_line(folder, status, errors):
    """What a run says that could not write; one that had nothing left to write has ended well."""
    LOG.warning("status %d: %s", status, errors)
    lines = [line for line in errors if line.startswith(("error: ", "Traceback"))]
    assert (status, len(lines)) in ((0, 0), (1, 1))
    for line in lines:
        assert line.startswith((f"error: {folder}/", f"error: {tempfile.gettempdir()}/tmp"))
        assert line.endswith(FULL)
