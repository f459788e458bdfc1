"""Parallel work in processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lalm_mer.core.processes import in_processes

SCRIPT = """
import time
from lalm_mer.core.processes import in_processes

def nap(item):
    time.sleep(0.2)

if __name__ == "__main__":
    print("begins", flush=True)
    try:
        for _ in in_processes(nap, range(200), 4):
            pass
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_an_interruption_prints_no_trace_of_a_worker_at_any_moment(tmp_path):
    (tmp_path / "naps.py").write_text(SCRIPT)
    for moment_s in (0.3, 0.9):  # the workers are started, or at work
        running = subprocess.Popen(
            [sys.executable, str(tmp_path / "naps.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert running.stdout.readline() == "begins\n"
        time.sleep(moment_s)
        os.killpg(running.pid, signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
        assert (stdout, stderr) == ("interrupted\n", "")


class Doubled:
    """A function that is slow to unpickle, such as one with a model, and leaves a file for each time."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return unpickled, (self.folder,)

    def __call__(self, item):
        return 2 * item


def unpickled(folder):
    (Path(folder) / f"{os.getpid()}_{time.monotonic_ns()}").touch()
    return Doubled(folder)


def test_a_worker_unpickles_its_function_once(tmp_path):
    assert list(in_processes(Doubled(str(tmp_path)), range(20), 2)) == [*range(0, 40, 2)]
    assert 1 <= len(list(tmp_path.iterdir())) <= 2


ENDS = """
import atexit, sys, time
from datetime import timedelta
from threading import Thread
from torch.distributed import TCPStore
from lalm_mer.core.processes import leave

def waits():
    store.wait(["never set"], timedelta(seconds=0.5))

class Slow:  # its end keeps the interpreter in its teardown until the thread needs it
    def __del__(self, sleep=time.sleep):
        sleep(1.5)

store, slow = TCPStore("127.0.0.1", 0, is_master=True), Slow()
Thread(target=waits, daemon=True).start()
time.sleep(0.2)
atexit.register(print, "registered")
print("done")
leave(3)
"""


def test_a_process_of_several_is_not_aborted_by_a_thread_of_torch_at_its_end():
    """With ``sys.exit``, Python 3.11 aborts this script."""
    environment = os.environ | {"WORLD_SIZE": "2"}
    command = [sys.executable, "-c", ENDS]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (3, "done\nregistered\n"), ended.stderr
