"""Stored frames, their damage, and room for more."""

import os
import signal
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lalm_mer import cli
from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.examples import feature_shards
from lalm_mer.examples.feature_caches import make_room, stored_features
from lalm_mer.examples.feature_shards import FeatureShards, part_of

KEY = {"name": "made_up", "format": 1}
DTYPES = (np.float32, np.float16, np.uint16)


def frames(number, dtype=np.float32):
    return (100 * np.random.default_rng(number).random((number % 5, 3))).astype(dtype)


def row(number):
    return f"u{number}", None, frames(number, DTYPES[number % 3])


def batches(numbers):
    return ([row(number)] for number in numbers)


def read(shards, number):
    return shards.read(shards.places[f"u{number}"][None])


def check(shards, numbers):
    for number in numbers:
        found = read(shards, number)
        assert found.dtype == DTYPES[number % 3]
        np.testing.assert_array_equal(found, frames(number, found.dtype))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_shards, "_SHARD_BYTES", 100)


def test_rows_of_every_dtype_are_read_back_by_another_process(tmp_path, small_shards):
    shards = FeatureShards(tmp_path / "s", KEY)
    assert shards.write(batches(range(30))) == 30
    check(shards, range(30))
    assert len(list((tmp_path / "s").glob("*.arrow"))) > 3
    check(FeatureShards(tmp_path / "s", KEY), range(30))
    assert shards.write([]) == 0


def test_shards_of_another_process_are_seen_after_reopening(tmp_path):
    first, second = FeatureShards(tmp_path / "s", KEY), FeatureShards(tmp_path / "s", KEY)
    first.write(batches(range(4)))
    second.write(batches(range(4, 8)))
    first.reopen()
    check(first, range(8))


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_writer_leaves_complete_shards_and_nothing_else(tmp_path, small_shards, seed):
    child = os.fork()
    if child == 0:
        writer = FeatureShards(tmp_path / "s", KEY)
        with writer.only_writer():
            writer.write(batches(count(1)))
    time.sleep(0.02 + 0.15 * np.random.default_rng(seed).random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    shards = FeatureShards(tmp_path / "s", KEY)
    assert {path.suffix for path in (tmp_path / "s").glob("*")} <= {".arrow", ".json"}
    stored = sorted(int(name[1:]) for name in shards.places)
    assert stored == list(range(1, len(stored) + 1))
    check(shards, stored)
    shards.write(batches(range(len(stored) + 1, len(stored) + 9)))
    check(FeatureShards(tmp_path / "s", KEY), range(1, len(stored) + 9))


def wait_until(happened):
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def child():
    """A runner of a function in a child, which ends with status 0 if it returns; all are killed at the end."""
    children = []

    def run(function):
        number = os.fork()
        if number == 0:
            try:
                function()
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        children.append(number)
        return number

    yield run
    for number in children:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)


def shares(numbers, part, parts):
    return [number for number in numbers if part_of(f"u{number}", parts) == part]


def fill(folder, numbers, part=0, parts=1, pause_s=0.0):
    """What a process does that stores what is missing."""
    shards = FeatureShards(folder, KEY)
    with shards.only_writer(part, parts):
        missing = [number for number in shares(numbers, part, parts) if f"u{number}" not in shards.places]
        shards.write(([row(number)] for number in missing if not time.sleep(pause_s)), part)


def written(folder):
    """Names of all rows in all shards."""
    return sorted(
        name
        for path in folder.glob("*.arrow")
        for name in pa.ipc.open_stream(path.read_bytes()).read_all()["name"].to_pylist()
    )


@pytest.mark.parametrize("divisions", [(1, 1), (2, 1), (2, 3)])
def test_processes_that_divide_the_names_differently_write_each_once(tmp_path, child, small_shards, divisions):
    folder = tmp_path / "s"
    writers = [
        child(lambda part=part, parts=parts: fill(folder, range(40), part, parts, pause_s=0.002))
        for parts in divisions
        for part in range(parts)
    ]
    for writer in writers:
        assert os.waitpid(writer, 0)[1] == 0
    assert written(folder) == sorted(f"u{number}" for number in range(40))
    assert {path.suffix for path in folder.iterdir()} == {".arrow", ".json"}
    check(FeatureShards(folder, KEY), range(40))


def test_what_a_killed_part_has_left_is_removed_by_the_next_writer_of_these_names(tmp_path, child):
    folder = tmp_path / "s"
    killed, writes = (child(lambda part=part: fill(folder, range(100), part, 2, pause_s=0.01)) for part in range(2))
    wait_until(lambda: len(list(folder.glob(".*.partial"))) == 2)
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    (living,) = folder.glob(".part-*-1-*.partial")
    FeatureShards(folder, KEY)  # opening it leaves what is being written
    assert len(list(folder.glob(".*.partial"))) == 2
    fill(folder, range(40), 0, 2)
    assert list(folder.glob(".*.partial")) == [living]
    assert os.waitpid(writes, 0)[1] == 0
    assert not list(folder.glob(".*"))


def test_what_is_being_written_is_not_removed(tmp_path, child, capsys):
    old = stored(tmp_path, "old", 40_000, 100)
    older = stored(tmp_path, "older", 40_000, 200)
    writer = child(lambda: fill(older, range(1000), pause_s=0.01))
    wait_until(lambda: list(older.glob(".*.partial")))
    os.utime(older / "key.json", (1, 1))
    assert cli.main(["cache", "--dir", str(tmp_path), "--clear", "older"]) == 1
    assert "another process is writing it" in capsys.readouterr().err
    assert [each.folder for each in make_room(tmp_path, 30_000, 100_000)] == [old]
    with pytest.raises(ConfigError, match="other processes are writing into"):
        make_room(tmp_path, 90_000, 100_000)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    assert cli.main(["cache", "--dir", str(tmp_path), "--clear", "older"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_shard_is_listed_and_cleared(tmp_path, child, capsys):
    """As a process leaves it that was killed before its first shard, or while it removed the folder."""
    writer = child(lambda: fill(tmp_path / "s", range(9), pause_s=60))
    wait_until(lambda: (tmp_path / "s" / ".part-f.lock").exists())
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    assert not (tmp_path / "s" / "key.json").exists()
    assert cli.main(["cache", "--dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("s: 0.0 MiB in 0 shards")
    assert cli.main(["cache", "--dir", str(tmp_path), "--clear", "s"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_shard_ends_with_a_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_shards, "_SHARD_BYTES", 1)
    shards = FeatureShards(tmp_path / "s", KEY)
    shards.write([row(number) for number in range(start, start + 7)] for start in range(0, 21, 7))
    sizes = [pa.ipc.open_stream(path.read_bytes()).read_all().num_rows for path in (tmp_path / "s").glob("*.arrow")]
    assert sizes == [7, 7, 7]


def test_a_shard_ends_after_a_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_shards, "_SHARD_S", 0.0)
    FeatureShards(tmp_path / "s", KEY).write(batches(range(4)))
    assert len(list((tmp_path / "s").glob("*.arrow"))) == 4


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_shard_that_cannot_be_opened_is_removed_and_its_rows_are_missing(tmp_path, damage, caplog):
    shards = FeatureShards(tmp_path / "s", KEY)
    shards.write(batches(range(1, 5)))
    shards.write(batches(range(5, 9)))
    first = sorted((tmp_path / "s").glob("*.arrow"))[0]
    content = first.read_bytes()
    first.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": b"\x13" * len(content)}[damage])
    again = FeatureShards(tmp_path / "s", KEY)
    assert set(again.places) == {f"u{number}" for number in range(5, 9)}
    check(again, range(5, 9))
    assert f"{first}: removed, because it is damaged" in caplog.text
    assert not first.exists()


def test_changed_values_are_never_returned(tmp_path):
    """Every byte of a shard in turn: the values are right, the row is missing, or there is an error."""
    original = FeatureShards(tmp_path / "s", KEY)
    original.write(batches(range(1, 4)))
    (shard,) = (tmp_path / "s").glob("*.arrow")
    content, wrong = shard.read_bytes(), 0
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 0x55
        shard.write_bytes(changed)
        again = FeatureShards(tmp_path / "s", KEY)
        for number in range(1, 4):
            if f"u{number}" in again.places:
                try:
                    read(again, number)
                except CorpusError:
                    wrong += 1
                    with pytest.raises(
                        CorpusError, match="are damaged; remove the folder by `lalm-mer cache --clear s`"
                    ):
                        read(again, number)
                else:
                    check(again, [number])
        if not shard.exists():
            shard.write_bytes(content)
    assert wrong > 10


def stored(tmp_path: Path, name: str, size: int, age_s: float) -> Path:
    shards = FeatureShards(tmp_path / name, KEY)
    shards.write([[("u", None, np.zeros((size // 4, 1), np.float32))]])
    os.utime(tmp_path / name / "key.json", (time.time() - age_s,) * 2)
    return tmp_path / name


def test_room_is_made_by_removing_what_was_not_used_for_longest(tmp_path):
    old, older, used = (
        stored(tmp_path, *each) for each in (("a", 40_000, 100), ("b", 40_000, 200), ("c", 40_000, 300))
    )
    assert [each.folder for each in stored_features(tmp_path)] == [old, older, used]
    assert make_room(tmp_path, 1000, 200_000) == []
    assert [each.folder for each in make_room(tmp_path, 30_000, 130_000, kept=[used])] == [older]
    assert [each.folder for each in stored_features(tmp_path)] == [old, used]
    with pytest.raises(ConfigError, match=r"the cache needs 0\.\d MiB and may have 0\.1 MiB"):
        make_room(tmp_path, 100_000, 130_000, kept=[used])
    with pytest.raises(ConfigError, match=r"needs 1048576\.0 GiB, and the disk of .* has"):
        make_room(tmp_path, 2**50, 2**60)
    assert len(stored_features(tmp_path)) == 2


def test_opening_counts_as_use(tmp_path):
    old, new = stored(tmp_path, "a", 400, 200), stored(tmp_path, "b", 400, 100)
    FeatureShards(old, KEY)
    assert [each.folder for each in stored_features(tmp_path)] == [old, new]


def test_the_command_lists_and_clears(tmp_path, capsys):
    stored(tmp_path, "a", 40_000, 7200)
    stored(tmp_path, "below/b", 4000, 0)
    assert cli.main(["cache", "--dir", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].startswith("b: 0.0 MiB in 1 shards, used less than an hour ago")
    assert listed[1].startswith("a: 0.0 MiB in 1 shards, used 2 hours ago")
    assert listed[2] == f"2 in {tmp_path}, 0.0 MiB"
    assert cli.main(["cache", "--dir", str(tmp_path), "--clear", "x"]) == 1
    assert f"--clear x: not in {tmp_path}, which has a, b" in capsys.readouterr().err
    assert cli.main(["cache", "--dir", str(tmp_path), "--clear", "a"]) == 0
    assert [each.folder.name for each in stored_features(tmp_path)] == ["b"]
    assert cli.main(["cache", "--dir", str(tmp_path), "--clear"]) == 0
    assert stored_features(tmp_path) == []
    assert cli.main(["cache", "--dir", str(tmp_path / "none")]) == 0
