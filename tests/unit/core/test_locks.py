"""One process at a time writes a folder or file."""

import signal
import subprocess
import sys

import pytest

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
