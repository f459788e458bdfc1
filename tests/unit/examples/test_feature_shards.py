"""Stored frames, their damage, and room for more."""

import os
import signal
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from lalm_mer import cli
from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.examples import feature_shards
from lalm_mer.examples.feature_caches import make_room, stored_features
from lalm_mer.examples.feature_shards import FeatureShards

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
