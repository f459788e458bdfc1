"""A run that is killed and resumed ends with identical results."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from small_runs import IN_FULL


def checkpoints(run: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    return sorted(int(path.parent.name.partition("-")[2]) for path in run.glob("checkpoints/checkpoint-*/WHOLE"))


def last_step(run: Path) -> int:
    """Of the history so far."""
    file = run / "history.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def in_first_epoch(run: Path) -> bool:
    return last_step(run) >= 2


def checkpoint_is_there(run: Path) -> bool:
    return bool(checkpoints(run))


def in_later_epoch(run: Path) -> bool:
    return last_step(run) >= 13


def two_checkpoints_are_there(run: Path) -> bool:
    return checkpoints(run) == [10, 20]


def training_is_over(run: Path) -> bool:
    return 30 in checkpoints(run)


def leave_it(run: Path) -> None:
    """Change nothing."""


def cut_the_newest_short(run: Path) -> None:
    """Simulate a process that was killed while writing: missing files, and an incomplete one."""
    newest = run / "checkpoints" / "checkpoint-20"
    for name in ("WHOLE", "trainer_state.json", "rng_state.pth"):
        (newest / name).unlink()
    optimizer = (newest / "optimizer.pt").read_bytes()
    (newest / "optimizer.pt").write_bytes(optimizer[: len(optimizer) // 2])


def assert_equal_runs(run: Path, other: Path) -> None:
    """Adapter or model, history and predictions are identical."""
    (saved,) = {
        path.relative_to(other) for name in ("adapter", "model") for path in other.glob(f"{name}/*.safetensors")
    }
    tensors, others = (load_file(folder / saved) for folder in (run, other))
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, others[name], err_msg=name)
    assert (run / "history.jsonl").read_text() == (other / "history.jsonl").read_text()
    predictions, expected = (pd.read_parquet(folder / "predictions.parquet") for folder in (run, other))
    pd.testing.assert_frame_equal(predictions, expected, check_exact=True)


@pytest.fixture
def killed(workplace, wait_for) -> Callable[..., list[int]]:
    """Start and kill at a moment, with these complete checkpoints; twice more if the moment was missed."""

    def kill(run: Path, moment: Callable[[Path], bool], stays: list[int], *overrides: str, **options: object):
        for _ in range(3):
            launched = workplace.start("finetune", f"output.dir={run}", *overrides, **options)
            wait_for(launched, lambda: moment(run))
            launched.kill()
            assert not (run / "metrics.json").exists()
            if checkpoints(run) == stays:
                return
            shutil.rmtree(run)
        pytest.fail(f"never killed with complete checkpoints {stays}")

    return kill


MOMENTS = [  # of the kill, complete checkpoints then, further damage, complete checkpoints after it
    pytest.param(in_first_epoch, [], leave_it, [], id="in_first_epoch", marks=pytest.mark.slow),
    pytest.param(checkpoint_is_there, [10], leave_it, [10], id="after_a_checkpoint", marks=pytest.mark.slow),
    pytest.param(two_checkpoints_are_there, [10, 20], cut_the_newest_short, [10], id="writing_a_checkpoint"),
    pytest.param(in_later_epoch, [10], leave_it, [10], id="in_a_later_epoch", marks=pytest.mark.slow),
    pytest.param(training_is_over, None, leave_it, None, id="scoring_the_test_set", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("moment", "at_first", "damage", "complete"), MOMENTS)
def test_it_is_resumed(moment, at_first, damage, complete, workplace, killed, uninterrupted, tmp_path, capsys):
    run = tmp_path / "run"
    at_the_end = checkpoints(uninterrupted)
    killed(run, moment, at_the_end if at_first is None else at_first)
    damage(run)
    assert checkpoints(run) == (at_the_end if complete is None else complete)
    kept = {step: (run / f"checkpoints/checkpoint-{step}/WHOLE").stat().st_mtime_ns for step in checkpoints(run)}
    started_at = json.loads((run / "run.json").read_text())["started_at"]

    workplace.run("finetune", run)

    printed = capsys.readouterr().out
    assert ("resuming from step " in printed) == bool(kept)
    assert not kept or f"resuming from step {max(kept)}: " in printed
    assert "scoring 20 test utterances" in printed
    assert_equal_runs(run, uninterrupted)
    assert json.loads((run / "run.json").read_text())["started_at"] == started_at
    for step, written in kept.items():  # after a new start, these would be newer
        again = run / f"checkpoints/checkpoint-{step}/WHOLE"
        assert not again.exists() or again.stat().st_mtime_ns == written


# State besides weights: losses not yet logged, persistent loaders, a sampler in the middle of its epoch, the patience
# of early stopping, the end of a training that is not a multiple of an epoch.
CONDITIONS = {
    "workers_and_rare_logs": (
        ["train.dataloader_num_workers=1", "train.logging_steps=7"], lambda run: 20 in checkpoints(run)
    ),
    "in_the_middle_of_an_epoch": (
        ["train.eval_strategy=steps", "train.eval_steps=6", "train.gradient_accumulation_steps=2"],
        lambda run: 6 in checkpoints(run),
    ),
    "end_in_the_middle_of_an_epoch": (["train.max_steps=13"], lambda run: 13 in checkpoints(run)),
    "early_stopping": (
        ["train.early_stopping_patience=1", "train.num_train_epochs=8", "train.learning_rate=0.0"],
        lambda run: 20 in checkpoints(run),
    ),
    "in_full": (IN_FULL, lambda run: 10 in checkpoints(run)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
def test_it_is_resumed_under(condition, workplace, wait_for, tmp_path):
    overrides, moment = CONDITIONS[condition]
    workplace.run("finetune", tmp_path / "uninterrupted", *overrides)
    launched = workplace.start("finetune", f"output.dir={tmp_path / 'run'}", *overrides)
    wait_for(launched, lambda: moment(tmp_path / "run"))
    launched.kill()
    assert not (tmp_path / "run" / "metrics.json").exists()
    kept = checkpoints(tmp_path / "run")
    workplace.run("finetune", tmp_path / "run", *overrides)
    assert kept
    assert_equal_runs(tmp_path / "run", tmp_path / "uninterrupted")


def test_a_run_without_its_best_checkpoint_is_an_error(workplace, uninterrupted, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "metrics.json").unlink()
    state = json.loads((run / "checkpoints" / "checkpoint-30" / "trainer_state.json").read_text())
    state["best_model_checkpoint"] = str(run / "checkpoints" / "checkpoint-7")
    (run / "checkpoints" / "checkpoint-30" / "trainer_state.json").write_text(json.dumps(state))
    assert workplace.again("finetune", f"output.dir={run}") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "the best checkpoint on dev (step" in error


def remove(name):
    return lambda checkpoint: (checkpoint / name).unlink()


def write(name, content):
    return lambda checkpoint: (checkpoint / name).write_bytes(content)


def change(**values):
    def changed(checkpoint):
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        (checkpoint / "trainer_state.json").write_text(json.dumps(state | values))

    return changed


DAMAGES = {
    "no_optimizer": (remove("optimizer.pt"), "no optimizer.pt, without which the training would not be the same"),
    "no_scheduler": (remove("scheduler.pt"), "no scheduler.pt, without which"),
    "no_random_state": (remove("rng_state.pth"), "no rng_state.pth, without which"),
    "no_weights": (remove("trained.safetensors"), "no trained.safetensors, without which"),
    "cut_optimizer": (write("optimizer.pt", b"PK\x03\x04"), "cannot be read ("),
    "pickled_code": (write("optimizer.pt", b"cposix\nsystem\n(S'touch ran'\ntR."), "cannot be read ("),
    "cut_weights": (write("trained.safetensors", b"\x10"), "cannot be read ("),
    "cut_state": (write("trainer_state.json", b'{"epoch": 1.0,'), "not valid JSON"),
    "state_null": (write("trainer_state.json", b"null"), "expected a JSON object, found NoneType"),
    "state_list": (write("trainer_state.json", b"[]"), "expected a JSON object, found list"),
    "history_text": (change(log_history="x"), "key 'log_history': expected a list of objects with 'step'"),
    "other_step": (change(global_step=29), "key 'global_step': 29; expected that of the folder"),
    "step_text": (change(global_step="30"), "key 'global_step': '30'; expected a number"),
    "unknown_key": (change(surprise=1), "key 'surprise': unknown"),
    "best_elsewhere": (change(best_model_checkpoint="/etc"), "key 'best_model_checkpoint': '/etc' is not in"),
    "best_a_list": (change(best_model_checkpoint=["/etc"]), "key 'best_model_checkpoint': ['/etc'] is not in"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line_and_never_another_training(
    damage, workplace, uninterrupted, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    (run / "metrics.json").unlink()
    checkpoint = max(run.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    best = run / "checkpoints" / Path(state["best_model_checkpoint"]).name
    change(best_model_checkpoint=str(best))(checkpoint)
    spoil, expected = DAMAGES[damage]
    spoil(checkpoint)
    capsys.readouterr()
    assert workplace.again("finetune", f"output.dir={run}") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {checkpoint}")
    assert expected in lines[0]
    assert not Path("ran").exists()
    assert not (run / "metrics.json").exists()


def of_two_processes(run):
    """Change an uninterrupted run into one that two processes began, and that was killed after its second epoch."""
    (run / "metrics.json").unlink()
    for checkpoint in run.glob("checkpoints/checkpoint-*"):
        if checkpoint.name == "checkpoint-30":
            shutil.rmtree(checkpoint)
            continue
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        best = run / "checkpoints" / Path(state["best_model_checkpoint"]).name
        change(best_model_checkpoint=str(best))(checkpoint)
        shutil.copy(checkpoint / "rng_state.pth", checkpoint / "rng_state_1.pth")
        (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    record = json.loads((run / "run.json").read_text())
    record["config"]["engine"]["num_processes"] = 2
    record["config"]["train"]["per_device_train_batch_size"] = 1
    (run / "run.json").write_text(json.dumps(record))


def test_a_checkpoint_of_two_processes_is_resumed_by_one_with_steps_of_as_many_examples(
    workplace, uninterrupted, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    of_two_processes(run)
    steps = checkpoints(run)
    assert workplace.again("finetune", f"output.dir={run}", "train.per_device_train_batch_size=1") == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"error: key 'train.gradient_accumulation_steps': {run} has a run with 2 examples per step (1 per device x 1 "
        "accumulated x 2 processes), now there are 1 (1 per device x 1 accumulated x 1 process); change this key or "
        "train.per_device_train_batch_size to resume it"
    )
    assert workplace.again("finetune", f"output.dir={run}") == 0  # of two examples
    printed = capsys.readouterr().out
    assert f"resuming from step {max(steps)}: " in printed
    assert "(of 2 process(es); random draws, such as dropout, will be others)\n" in printed
    history, expected = ((folder / "history.jsonl").read_text().splitlines() for folder in (run, uninterrupted))
    until = next(number for number, line in enumerate(expected) if json.loads(line)["step"] > max(steps))
    assert history[:until] == expected[:until]
    assert json.loads(history[-1])["step"] == 30
    assert (run / "predictions.parquet").is_file()
