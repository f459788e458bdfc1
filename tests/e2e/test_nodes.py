"""Several machines, started by torchrun and by SLURM as documented: two on this machine, which share all folders."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from engines import (
    STEPS,
    assert_equal_predictions,
    assert_same_files,
    free_port,
    history,
    stored_outputs,
    write_engines,
)

ROOT = Path(__file__).resolve().parents[2]
SBATCH = ROOT / "accelerate_configs/slurm.sbatch"
FROZEN = "adapter.towers.audio_tower=[]"

SRUN = """#!/bin/bash
set -euo pipefail
[[ $1 == --kill-on-bad-exit=1 ]]
shift
for node in 0 1; do SLURM_NODEID=$node "$@" & pids[$node]=$!; done
wait "${pids[0]}"
wait "${pids[1]}"
"""
SCONTROL = """#!/bin/bash
[[ "$*" == "show hostnames node[1-2]" ]] && printf "127.0.0.1\\nnode2\\n"
"""


@pytest.fixture
def slurm(tmp_path, workplace):
    """A runner of slurm.sbatch in a job of two machines with a GPU each; further commands may be replaced."""

    def run(*arguments, **commands):
        (tmp_path / "bin").mkdir(exist_ok=True)
        for name, content in ({"srun": SRUN, "scontrol": SCONTROL} | commands).items():
            (tmp_path / "bin" / name).write_text(content)
            (tmp_path / "bin" / name).chmod(0o755)
        environment = workplace.environment()
        environment |= {
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{environment['PATH']}", "SLURM_JOB_ID": str(free_port()),
            "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "node[1-2]",
        }  # fmt: skip
        command = ["bash", str(SBATCH), *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="module")
def on_processors(workplace):
    """Overrides that replace the engine of GPUs."""
    return [f"engine.accelerate_config={write_engines(workplace.folder)['ddp']}", "engine.num_processes=2"]


@pytest.fixture(scope="module")
def one_process(workplace, made_once):
    """Two steps of eight examples in one process, with the tower frozen."""
    batch = "train.per_device_train_batch_size=8"
    return made_once("one_node", lambda folder: workplace.launch("finetune", folder, *STEPS, FROZEN, batch))


def assert_trained_alike(run, expected):
    np.testing.assert_allclose(history(run)["loss"], history(expected)["loss"], rtol=1e-5)
    assert_equal_predictions(run, expected)


def documented():
    """The command that docs/fine-tuning.md starts on the first of two machines."""
    page = (ROOT / "docs/fine-tuning.md").read_text("utf-8")
    (line,) = re.findall(r"^torchrun --nnodes=2 .*$", page, re.MULTILINE)
    words = shlex.split(line)
    return words[: words.index("recipes/finetune.py")]


def run_two_nodes(workplace, recipe, *overrides):
    """Run a recipe on two nodes by the documented command; the output of the first."""
    changed = {"--nproc_per_node": "1", "--master_addr": "127.0.0.1", "--master_port": str(free_port())}
    launched = []
    for node in "01":
        options = dict(word.split("=") for word in documented()[1:]) | changed | {"--node_rank": node}
        launcher = ["torchrun", *(f"{name}={value}" for name, value in options.items())]
        launched.append(workplace.start(recipe, *overrides, launcher=launcher))
    first, second = (each.result() for each in launched)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr[-2000:] + second.stderr[-2000:]
    assert "tower cache" not in second.stdout
    return first.stdout


@pytest.mark.slow
def test_two_nodes_by_torchrun_train_and_score_like_one_process(workplace, on_processors, one_process, tmp_path):
    shared = [f"model.cache_dir={tmp_path / 'cache'}", *on_processors]
    train = [*STEPS, FROZEN, "train.per_device_train_batch_size=4", "train.use_cpu=true"]
    printed = run_two_nodes(workplace, "finetune", f"output.dir={tmp_path / 'trained'}", *train, *shared)
    (encoded,) = re.findall(r"tower cache: (\d+) utterances encoded by this process, 60 stored in", printed)
    assert 0 < int(encoded) < 60  # whole batches of 8, the last of 4, by both together
    assert int(encoded) % 8 in (0, 4)
    assert stored_outputs(tmp_path / "cache") == 60  # each once
    assert_trained_alike(tmp_path / "trained", one_process)
    uneven = "scoring.per_device_eval_batch_size=3"
    scored = ["scoring.use_cpu=true", uneven, *shared]
    run_two_nodes(workplace, "zero_shot", f"output.dir={tmp_path / 'scored'}", *scored)
    workplace.launch("zero_shot", tmp_path / "one", uneven, f"model.cache_dir={tmp_path / 'cache'}")
    assert_same_files(tmp_path / "scored", tmp_path / "one")


@pytest.mark.slow
def test_two_nodes_by_slurm_train_like_one_process(workplace, on_processors, one_process, slurm, tmp_path):
    run, config = tmp_path / "run", workplace.config("finetune")
    train = [*STEPS, FROZEN, "train.per_device_train_batch_size=4", "train.use_cpu=true", *on_processors]
    done = slurm("recipes/finetune.py", "--config", str(config), f"output.dir={run}", *train)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_trained_alike(run, one_process)
    again = slurm("recipes/finetune.py", "--config", str(config), f"output.dir={run}", *train)
    assert "is finished; nothing to do" in again.stdout


def test_slurm_starts_the_same_run_on_every_machine(slurm):
    shown = '#!/bin/bash\nprintf "%s\\n" "$SLURM_NODEID $*"\n'
    done = slurm("recipes/finetune.py", "--config", "recipes/ravdess/lora.yaml", "seed=1", **{"lalm-mer": shown})
    assert done.returncode == 0, done.stderr
    first, second = sorted(done.stdout.splitlines())
    assert first.replace("0 launch --machine_rank 0 ", "1 launch --machine_rank 1 ") == second
    (port,) = re.findall(r"--main_process_port (\d+) ", first)
    assert 20_000 <= int(port) < 30_000
    assert first == (
        "0 launch --machine_rank 0 --config_file accelerate_configs/multi_node.yaml --num_machines 2 --num_processes 2 "
        f"--main_process_ip 127.0.0.1 --main_process_port {port} recipes/finetune.py "
        "engine.accelerate_config=accelerate_configs/multi_node.yaml engine.num_processes=2 "
        "--config recipes/ravdess/lora.yaml seed=1"
    )


def test_slurm_names_what_is_missing(slurm):
    done = slurm()
    assert done.returncode != 0
    assert done.stderr.strip().endswith("names no recipe, such as recipes/finetune.py")


def test_the_job_has_one_task_per_machine():
    text = SBATCH.read_text("utf-8")
    assert subprocess.run(["bash", "-n", str(SBATCH)], check=False).returncode == 0
    options = re.findall(r"^#SBATCH (--\S+)$", text, re.MULTILINE)
    assert text.index("#SBATCH") < text.index("set -euo pipefail")  # sbatch reads none after the first command
    assert {"--nodes=2", "--ntasks-per-node=1", "--requeue"} <= set(options)
