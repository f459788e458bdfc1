"""Parallel work in processes."""

import os
import signal
import subprocess
import sys
import time

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
