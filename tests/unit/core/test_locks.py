"""One process at a time writes a folder or file."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from lalm_mer.core.errors import ConfigError, OutputError
from lalm_mer.core.locks import only_writer

HOLD = """
import sys, time
from pathlib import Path
from lalm_mer.core.locks import only_writer
with only_writer(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path):
    """A process that holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_writes_nothing(other_process, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="run: another process is writing it; wait"), only_writer(tmp_path / "run"):
        pytest.fail("the block was entered")
    assert sorted(tmp_path.iterdir()) == before


def test_the_lock_of_a_killed_process_is_free(other_process, tmp_path):
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    with only_writer(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


WAIT = """
import sys
from pathlib import Path
from lalm_mer.core.locks import only_writer
with only_writer(Path(sys.argv[1]), waiting=lambda: print("waiting", flush=True)):
    count = Path(sys.argv[2])
    found = int(count.read_text())
    count.write_text(str(found + 1))
"""


def test_processes_that_wait_enter_one_after_the_other_and_nothing_is_left(other_process, tmp_path):
    """The file of the lock is removed by each in turn, so that the others may have opened another one."""
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", WAIT, str(tmp_path / "run"), str(tmp_path / "count")]
    waiting = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    for process in waiting:
        assert process.stdout.readline() == b"waiting\n"
    other_process.kill()
    for process in waiting:
        assert process.communicate() == (b"", None)
        assert process.returncode == 0
    assert (tmp_path / "count").read_text() == "4"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


@pytest.mark.parametrize("removed", ["file", "folder"])
def test_a_lock_that_was_removed_while_it_was_acquired_is_acquired_again(tmp_path, monkeypatch, removed):
    folder, acquire, times = tmp_path / "folder", FileLock.acquire, []

    def acquire_late(lock, **options):
        acquire(lock, **options)
        times.append(options)
        if len(times) == 1:  # as another process does that held it when this one opened the file
            Path(lock.lock_file).unlink()
            if removed == "folder":
                folder.rmdir()
            else:
                Path(lock.lock_file).touch()

    monkeypatch.setattr(FileLock, "acquire", acquire_late)
    with only_writer(folder / "run"):
        assert [path.name for path in folder.iterdir()] == [".run.lock"]
    assert len(times) == 2
    assert list(folder.iterdir()) == []


def test_the_lock_is_free_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ConfigError), only_writer(tmp_path / "new" / "run"):
            raise ConfigError("no such key")
    assert list((tmp_path / "new").iterdir()) == []


def test_two_names_of_one_folder_have_one_lock(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with (
        only_writer(tmp_path / "link"),
        pytest.raises(OutputError, match="another process"),
        only_writer(tmp_path / "run"),
    ):
        pytest.fail("the block was entered")
