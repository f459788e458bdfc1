"""Scoring that is killed and resumed gives the same files, and scores only what was left."""

import contextlib
import json
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from killing import killed_when

from lalm_mer.recognizers import score_journal

ZERO_SHOT = ["zero_shot", "scoring.per_device_eval_batch_size=2", "preflight=false"]
GENERATED = [*ZERO_SHOT, "answering.mode=generation", "answering.max_new_tokens=4"]
TEST = 20


@pytest.fixture(autouse=True)
def _every_batch_is_a_part(monkeypatch):
    monkeypatch.setattr(score_journal, "PART_S", 0.0)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture(scope="module")
def calm(workplace, made_once):
    """Run folders without a kill, by command."""

    def run(name, command):
        return made_once(name, lambda folder: workplace.run(command[0], folder, *command[1:]))

    return {"likelihood": run("calm_scores", ZERO_SHOT), "generation": run("calm_answers", GENERATED)}


@pytest.fixture
def killed(workplace):
    """Runs a recipe in a child of this process and kills it at a moment; False if it ended before."""

    def kill(command, moment, run):
        return killed_when(lambda: workplace.again(command[0], f"output.dir={run}", *command[1:]), moment)

    return kill


def positions(run, split="test"):
    """Of the utterances in the complete lines of a journal."""
    file = run / "scores" / f"{split}.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    return [position for line in lines for position in json.loads(line)["positions"]]


def kept(run, split="test"):
    """Number of these utterances."""
    return len(positions(run, split))


def assert_resumes(workplace, capsys, command, run, expected):
    """The same command scores what is left, and its predictions are those of a run that was not killed."""
    already = kept(run)
    capsys.readouterr()
    assert workplace.again(command[0], f"output.dir={run}", *command[1:]) == 0
    said = f"resuming: {already} of {TEST} test utterances are scored\n"
    assert (said in capsys.readouterr().out) == bool(already)
    assert (run / "predictions.parquet").read_bytes() == (expected / "predictions.parquet").read_bytes()
    assert (run / "metrics.json").read_bytes() == (expected / "metrics.json").read_bytes()
    assert not (run / "scores").exists()


@pytest.mark.parametrize(("command", "name"), [(ZERO_SHOT, "likelihood"), (GENERATED, "generation")])
def test_a_killed_run_scores_what_is_left(command, name, workplace, calm, killed, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    assert killed(command, lambda: kept(run) >= 4, run)
    assert 0 < kept(run) < TEST
    assert not (run / "metrics.json").exists()
    with (run / "scores" / "test.jsonl").open("ab") as file:
        file.write(b'{"run": "')  # as if killed in the middle of a line
    scored = positions(run)
    add = score_journal.ScoreJournal.add
    monkeypatch.setattr(
        score_journal.ScoreJournal, "add", lambda self, rows, results: (scored.extend(rows), add(self, rows, results))
    )
    assert_resumes(workplace, capsys, command, run, calm[name])
    assert sorted(scored) == list(range(TEST))  # each once


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), [(ZERO_SHOT, "likelihood"), (GENERATED, "generation")])
def test_it_is_killed_at_any_moment_again_and_again(
    command, name, workplace, calm, killed, tmp_path, capsys, monkeypatch
):
    add = score_journal.ScoreJournal.add
    monkeypatch.setattr(
        score_journal.ScoreJournal, "add", lambda self, rows, results: (time.sleep(0.03), add(self, rows, results))
    )
    random, found = np.random.default_rng(0), []  # utterances that were kept at each kill
    while len(found) < 20:
        run, times = tmp_path / str(len(found)), 0
        while times < 2:
            seconds, record = random.uniform(0, 0.6), run / "run.json"
            begun = time.time()

            def moment(record=record, begun=begun, seconds=seconds):
                written = record.stat().st_mtime if record.exists() else 0
                return written > begun and time.time() - written > seconds

            if not killed(command, moment, run):
                break  # it has finished
            times += 1
            found.append(kept(run))
        if not (run / "metrics.json").exists():
            assert_resumes(workplace, capsys, command, run, calm[name])
        assert (run / "predictions.parquet").read_bytes() == (calm[name] / "predictions.parquet").read_bytes()
        shutil.rmtree(run)
    assert len(set(found)) > 3


@pytest.mark.slow
def test_scores_after_a_training_are_kept_and_those_of_other_weights_are_not_used(
    workplace, uninterrupted, killed, tmp_path, capsys
):
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    for name in ("metrics.json", "predictions.parquet"):
        (run / name).unlink()
    for state in run.glob("checkpoints/*/trainer_state.json"):
        state.write_text(state.read_text().replace(str(uninterrupted), str(run)))
    command = ["finetune"]
    assert killed(command, lambda: kept(run, "dev") >= 4, run)
    assert (kept(run), 0 < kept(run, "dev") < TEST) == (TEST, True)
    shutil.copytree(run, tmp_path / "other")
    assert_resumes(workplace, capsys, command, run, uninterrupted)

    other = tmp_path / "other"  # as if it had been trained again, and another checkpoint were the best
    for file in other.glob("checkpoints/*/trainer_state.json"):
        state = json.loads(file.read_text().replace(str(run), str(other)))
        found = sorted(int(path.name.rpartition("-")[2]) for path in other.glob("checkpoints/checkpoint-*"))
        best = next(step for step in found if step != state["best_global_step"])
        state |= {"best_model_checkpoint": str(other / f"checkpoints/checkpoint-{best}"), "best_global_step": best}
        file.write_text(json.dumps(state))
    assert workplace.again("finetune", f"output.dir={other}") == 0
    printed = capsys.readouterr().out
    assert "test.jsonl: has scores of another run, which are not used" in printed
    assert "dev.jsonl: has scores of another run, which are not used" in printed
    assert "resuming: " not in printed
    table, trained = (pd.read_parquet(folder / "predictions.parquet") for folder in (other, uninterrupted))
    assert not table.filter(like="log_prob").equals(trained.filter(like="log_prob"))


def test_damaged_scores_are_computed_again(workplace, calm, killed, tmp_path, capsys):
    run = tmp_path / "run"
    assert killed(ZERO_SHOT, lambda: kept(run) >= 6, run)
    file = run / "scores" / "test.jsonl"
    lines, intact = file.read_bytes().split(b"\n"), kept(run) - 2
    before, number = lines[1].split(b'"results": [[-', 1)
    lines[1] = before + b'"results": [[-9' + number
    file.write_bytes(b"\n".join(lines))
    assert workplace.again(ZERO_SHOT[0], f"output.dir={run}", *ZERO_SHOT[1:]) == 0
    printed = capsys.readouterr().out
    assert "test.jsonl: damaged in line 2; these utterances are scored again\n" in printed
    assert f"resuming: {intact} of {TEST} test utterances are scored\n" in printed
    assert (run / "predictions.parquet").read_bytes() == (calm["likelihood"] / "predictions.parquet").read_bytes()


def test_scores_of_another_seed_are_refused(workplace, killed, tmp_path, capsys):
    run = tmp_path / "run"
    assert killed(ZERO_SHOT, lambda: kept(run) >= 2, run)
    assert workplace.again(ZERO_SHOT[0], f"output.dir={run}", *ZERO_SHOT[1:], "seed=1") == 1
    assert "has a run with config.seed = 0, now it is 1" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_what_was_scored_is_kept(workplace, calm, tmp_path, capsys, monkeypatch):
    from lalm_mer.launch.run import trainers

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_full_disk(*arguments, score=trainers.score_by_trainer):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
        with contextlib.ExitStack() as stack:
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
            return score(*arguments)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(trainers, "score_by_trainer", on_a_full_disk)
        assert workplace.again(ZERO_SHOT[0], f"output.dir={run}", *ZERO_SHOT[1:]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    assert line.startswith(
        f"error: {run / 'scores' / 'test.jsonl'}: cannot be written: File too large; free some space"
    )
    assert Path(run / "scores" / "test.jsonl").stat().st_size == 1_000
    assert kept(run) > 0
    assert_resumes(workplace, capsys, ZERO_SHOT, run, calm["likelihood"])
