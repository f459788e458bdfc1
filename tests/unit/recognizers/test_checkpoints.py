"""Checkpoints of several processes, and of another number than now."""

import json

import pytest

from lalm_mer.core.errors import ModelError
from lalm_mer.recognizers.checkpoints import check_checkpoint, saved_processes


def saved_by(folder, processes):
    """A checkpoint with every file of a training in this number of processes."""
    checkpoint = folder / "checkpoint-3"
    checkpoint.mkdir()
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{number}.pth" for number in range(processes)]
    for name in ("trained.safetensors", "scheduler.pt", "optimizer.pt", *states):
        (checkpoint / name).touch()
    state = {"global_step": 3, "max_steps": 9, "num_train_epochs": 1, "log_history": []}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    return checkpoint


@pytest.mark.parametrize("processes", [1, 2, 12])
@pytest.mark.parametrize("now", [1, 2, 3])
def test_any_number_of_processes_resumes_it(processes, now, tmp_path):
    checkpoint = saved_by(tmp_path, processes)
    assert saved_processes(checkpoint) == processes
    for process in range(now):
        check_checkpoint(checkpoint, process, now)


def test_deepspeed_needs_the_number_that_saved_it(tmp_path):
    checkpoint = saved_by(tmp_path, 2)
    check_checkpoint(checkpoint, 1, 2, deepspeed=True)
    with pytest.raises(ModelError, match=r"between 2 processes, now there are 1; resume with 2$"):
        check_checkpoint(checkpoint, 0, 1, deepspeed=True)


@pytest.mark.parametrize(("processes", "lost", "now"), [(1, "rng_state.pth", 1), (2, "rng_state_1.pth", 2)])
def test_a_random_state_that_was_lost_is_refused(processes, lost, now, tmp_path):
    checkpoint = saved_by(tmp_path, processes)
    (checkpoint / lost).unlink()
    assert saved_processes(checkpoint) is None
    with pytest.raises(ModelError, match=f"no {lost}, without which the training would not be the same"):
        check_checkpoint(checkpoint, now - 1, now)
