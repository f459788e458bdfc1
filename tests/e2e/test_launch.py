"""The command ``lalm-mer launch``, and commands that are interrupted: one line, and no stack trace."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

CLI = [sys.executable, "-m", "lalm_mer.cli"]


@pytest.fixture
def launched(workplace):
    """Starts a command in a process group of its own, as a shell does."""

    def start(*command):
        return subprocess.Popen(
            command, env=workplace.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    return start


def errors(stderr):
    """What is no progress bar and no warning of a package."""
    return [line for line in stderr.splitlines() if "error" in line or "Traceback" in line or "Interrupt" in line]


@pytest.mark.slow
def test_an_error_in_two_processes_is_one_line(launched, workplace, tmp_path):
    two = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "num_machines": 1,
        "num_processes": 2,
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two))
    recipe = ["recipes/zero_shot.py", "--config", str(workplace.config("zero_shot")), "model.family=qwen2_audoi"]
    running = launched(*CLI, "launch", "--config_file", str(tmp_path / "two.yaml"), *recipe)
    _, stderr = running.communicate(timeout=120)
    (line,) = stderr.splitlines()
    assert line.endswith("voxtral, generic, clap, composed_clap, remote; did you mean qwen2_audio?")
    assert running.returncode == 1


def test_an_error_in_one_process_is_one_line_and_its_output_is_passed_on(launched, workplace):
    options = ["--config_file", "accelerate_configs/cpu.yaml", "recipes/zero_shot.py"]
    running = launched(*CLI, "launch", *options, "--config", str(workplace.config("zero_shot")), "seed=x")
    _, stderr = running.communicate(timeout=120)
    assert stderr == "error: override 'seed=x': key 'seed': expected int, found str 'x'\n"
    assert running.returncode == 1
    running = launched(*CLI, "launch", *options, "--help")
    assert "data.dir  str, required" in running.communicate(timeout=120)[0]
    assert running.returncode == 0


def workers_of(process):
    """Processes of a pool, which the process or its children have started."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [each for each in found if any("spawn_main" in word for word in each.cmdline())]


@pytest.fixture
def interrupted(launched):
    """Interrupts a whole process group as its two workers start; returns the exit status and the errors on stderr."""

    def run(*command):
        running = launched(*command)
        end = time.monotonic() + 120
        while len(workers_of(running)) < 2:
            assert running.poll() is None, running.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.5)  # before, Python would end them silently
        os.killpg(running.pid, signal.SIGINT)
        _, stderr = running.communicate(timeout=120)
        return running.returncode, errors(stderr)

    return run


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param([sys.executable], id="python"),
        pytest.param(
            [*CLI, "launch", "--config_file", "accelerate_configs/cpu.yaml"], id="launch", marks=pytest.mark.slow
        ),
    ],
)
def test_an_interruption_is_one_line_without_traces_of_launcher_and_workers(launcher, interrupted, workplace, tmp_path):
    rows = (workplace.folder / "clips/manifest.csv").read_text().splitlines()
    root = tmp_path / "clips"
    root.mkdir()
    for row in rows[1:]:
        for copy in range(40):  # more parts than workers
            os.link(workplace.folder / "clips" / row.split(",")[0], root / f"{copy}_{row.split(',')[0]}")
    copies = [f"{copy}_{row}" for copy in range(40) for row in rows[1:]]
    (root / "manifest.csv").write_text("\n".join([rows[0], *copies]))
    options = [f"corpus.root={root}", f"output.dir={tmp_path / 'data'}", "output.processes=2"]
    recipe = ["recipes/prepare_corpus.py", "--config", "recipes/corpora/manifest.yaml"]
    found = interrupted(*launcher, *recipe, *options)
    assert found == (130, ["error: interrupted; rerun the same command to resume"])
    assert not (tmp_path / "data").exists()
