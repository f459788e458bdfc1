import errno
import json
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from lalm_mer.core.errors import OutputError
from lalm_mer.core.output import atomic_folder, atomic_path, output_error, write_json, write_text, writing


def test_atomic_path_replaces_only_after_success(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with atomic_path(target) as partial:
        partial.write_text("first")
        assert not target.exists()
    assert target.read_text() == "first"

    def fail():
        with atomic_path(target) as partial:
            partial.write_text("second")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_write_json_round_trips_and_refuses_nan(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"speaker": "Zoë", "loss": None})
    assert json.loads(path.read_text("utf-8")) == {"speaker": "Zoë", "loss": None}
    assert "Zoë" in path.read_text("utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text("utf-8"))["loss"] is None
    assert len(list(tmp_path.iterdir())) == 1


def test_a_device_is_written_through(tmp_path):
    for name in ("/dev/null", "/dev/zero"):
        before = Path(name).stat()
        write_json(Path(name), {"a": 1})
        assert (Path(name).stat().st_mode, Path(name).stat().st_rdev) == (before.st_mode, before.st_rdev)
    link = tmp_path / "link.json"
    link.symlink_to("/dev/null")
    write_json(link, {"a": 1})
    assert link.is_symlink()
    assert list(tmp_path.iterdir()) == [link]


def test_a_fifo_is_written_through(tmp_path):
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    write_text(fifo, "ä" * 100_000)
    reader.join(timeout=10)
    assert read == ["ä" * 100_000]
    assert fifo.is_fifo()


def test_an_open_file_is_written_through(tmp_path):
    with (tmp_path / "log").open("w") as file:
        file.write("before\n")
        file.flush()
        write_text(Path(f"/proc/self/fd/{file.fileno()}"), "between\n")
        file.seek(0, os.SEEK_END)
        file.write("after\n")
    assert (tmp_path / "log").read_text() == "before\nbetween\nafter\n"


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, exists):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder/target.json", tmp_path / "link.json"
    if exists:
        target.write_text("old")
    link.symlink_to("folder/target.json")
    write_json(link, {"a": 1})
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "folder", target, link]


def test_other_kinds_are_refused(tmp_path):
    with pytest.raises(OutputError, match=r"folder: is a folder; expected the name of a file"):
        write_json((tmp_path / "folder").mkdir() or tmp_path / "folder", {})
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        with pytest.raises(OutputError, match="is a socket"):
            write_json(tmp_path / "socket", {})


def test_atomic_folder_appears_only_after_success(tmp_path):
    def fill(content, error=None):
        with atomic_folder(tmp_path / "deep/model") as partial:
            (partial / content).write_text(content)
            if error:
                raise error

    with pytest.raises(RuntimeError, match="no"):
        fill("first", RuntimeError("no"))
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "deep/model").mkdir()
    fill("second")
    with pytest.raises(OutputError, match="model: cannot be written: Directory not empty; choose a new"):
        fill("third")
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["model", "second"]


def write_all(path):
    with path.open("w") as file:
        file.write("x" * 1_000_000)


def raise_safetensors(path):  # safetensors replaces the link to /dev/full
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("write", [
    write_all,
    lambda path: torch.save(torch.zeros(1_000_000), path),
    raise_safetensors,
    lambda path: np.save(path.open("wb"), np.zeros(1_000_000)),
], ids=["open", "torch", "safetensors", "numpy"])  # fmt: skip
def test_a_full_disk_names_the_written_file(tmp_path, write):
    (tmp_path / "full").symlink_to("/dev/full")
    with (
        pytest.raises(OutputError, match=r"adapter: cannot be written: No space left on device; free some space"),
        writing(tmp_path / "adapter"),
    ):
        write(tmp_path / "full")


def test_a_path_below_a_file_and_one_that_nobody_may_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/below: cannot be written: Not a directory; choose a path below"):
        write_json(tmp_path / "file/below/run.json", {})
    with pytest.raises(OutputError, match="file: cannot be written: File exists; choose a path below a folder"):
        write_json(tmp_path / "file/run.json", {})
    with pytest.raises(OutputError, match="cannot be written: File name too long; choose a shorter name"):
        write_json(tmp_path / ("x" * 300), {})


def test_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match="CUDA out of memory"), writing(tmp_path):
        raise RuntimeError("CUDA out of memory")
    assert output_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    unreadable = PermissionError(errno.EACCES, "Permission denied", "/data/in.wav")
    assert output_error(unreadable, tmp_path / "out.csv") is None
    with pytest.raises(PermissionError), atomic_path(tmp_path / "out.csv"):
        raise unreadable
