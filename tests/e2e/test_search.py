"""A search trains on train, chooses on dev, opens no test set, and resumes."""

import csv
import shlex

import pytest
import yaml
from small_runs import small_baseline, test_stays_closed  # noqa: F401 a fixture

from lalm_mer.core.config import read_yaml
from lalm_mer.launch.search import study

pytest.importorskip("optuna", reason="the extra `search` is not installed")
RECIPE = "search"


@pytest.fixture(scope="module")
def config(workplace):
    """A YAML of a search over a small baseline, and that of the baseline."""
    content = small_baseline(workplace)
    (workplace.folder / "searched.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    searched = {
        "recipe": "train_baseline",
        "config": str(workplace.folder / "searched.yaml"),
        "space": {
            "train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
            "baseline.transcript.encoder.scratch.size": [8, 16],
        },
        "trials": 3,
        "output": {"dir": str(workplace.folder / "unused")},
    }
    workplace.config(RECIPE).write_text(yaml.safe_dump(searched), encoding="utf-8")


def table(out):
    """Rows of the table of trials, without durations."""
    with (out / "trials.csv").open(encoding="utf-8") as file:
        return [{key: cell for key, cell in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.usefixtures("config", "test_stays_closed")
def test_a_search_that_is_interrupted_ends_as_one_that_is_not(workplace, tmp_path, monkeypatch, capsys):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert workplace.again(RECIPE, f"output.dir={whole}") == 0
    printed = capsys.readouterr().out
    rows = table(whole)
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert len({row["train.learning_rate"] for row in rows}) == 3
    best = max(rows, key=lambda row: float(row["uar"]))
    chosen = read_yaml(whole / "best.yaml")
    assert chosen["train"]["learning_rate"] == pytest.approx(float(best["train.learning_rate"]))
    assert chosen["baseline"]["transcript"]["encoder"]["scratch"]["size"] == int(
        best["baseline.transcript.encoder.scratch.size"]
    )
    assert "in the test sets of other folds" in printed
    assert not list(whole.rglob("predictions.parquet"))
    assert not list(whole.rglob("*.safetensors"))
    assert "data:image/svg" in (whole / "report.html").read_text("utf-8")

    result, calls = study._result, []

    def killed_after_the_run(search, folder):
        calls.append(folder)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return result(search, folder)

    monkeypatch.setattr(study, "_result", killed_after_the_run)
    assert workplace.again(RECIPE, f"output.dir={resumed}") != 0
    monkeypatch.setattr(study, "_result", result)
    assert workplace.again(RECIPE, f"output.dir={resumed}") == 0
    assert "0001 is finished; nothing to do" in capsys.readouterr().out
    assert table(resumed) == rows

    assert workplace.again(RECIPE, f"output.dir={whole}", "space={train.learning_rate: {high: 1}}") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "has a search with space = " in error


@pytest.mark.slow
@pytest.mark.usefixtures("config")
def test_the_printed_command_scores_test_with_the_best_values(workplace, tmp_path, capsys):
    assert workplace.again(RECIPE, f"output.dir={tmp_path}", "trials=1") == 0
    command = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    assert command[:3] == ["accelerate", "launch", "--quiet"]
    script = command.index("recipes/train_baseline.py")
    assert workplace.script(*command[script:]) == 0
    assert (tmp_path / "best/metrics.json").is_file()
    (row,) = table(tmp_path)
    trained = read_yaml_value(tmp_path / "best/run.json", "train", "learning_rate")
    assert trained == pytest.approx(float(row["train.learning_rate"]))


def read_yaml_value(file, section, key):
    """A value of the config in run.json."""
    return yaml.safe_load(file.read_text("utf-8"))["config"][section][key]


@pytest.mark.usefixtures("config")
def test_a_trial_that_fails_is_in_the_table_and_all_that_fail_are_an_error(workplace, tmp_path, capsys):
    some = [f"output.dir={tmp_path / 'some'}", "space={split.train_utterances: [8, 500]}", "trials=4"]
    assert workplace.again(RECIPE, *some) == 0
    failed = [row for row in table(tmp_path / "some") if row["error"]]
    assert all(row["split.train_utterances"] == "500" and not row["uar"] for row in failed)
    assert len(failed) in (1, 2, 3)
    none = [f"output.dir={tmp_path / 'none'}", "space={split.train_utterances: [500, 600]}"]
    assert workplace.again(RECIPE, *none) == 1
    assert "the first 3 trials failed: key 'split.train_utterances'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["space={train.lerning_rate: [1, 2]}"], "key 'space.train.lerning_rate': override "),
        (["space={train.learning_rate: {low: -1}}"], "key 'space.train.learning_rate': low is -1"),
        (["space={output.dir: [a, b]}"], "key 'output.dir': each trial has its own"),
        (["overrides=[train.learning_rate=1]"], "key 'space.train.learning_rate': overrides has a value of it too"),
        (["recipe=zero_shot"], "key 'recipe': 'zero_shot'; expected "),
        (["metric=uhr"], "key 'metric': 'uhr'; expected one of uar, weighted_accuracy, macro_f1"),
        (
            ["space={baseline.transcript.encoder.scratch.size: {low: 8}}"],
            "an override has a list where the file has a mapping, or vice",
        ),
    ],
)
@pytest.mark.usefixtures("config")
def test_a_mistake_is_one_line_before_anything_runs(overrides, says, workplace, tmp_path, capsys):
    assert workplace.again(RECIPE, f"output.dir={tmp_path / 'out'}", *overrides) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("config")
def test_a_file_that_is_no_study_is_one_line(workplace, tmp_path, capsys):
    (tmp_path / "study.db").write_bytes(b"no database, and longer than the header of one" * 9)
    assert workplace.again(RECIPE, f"output.dir={tmp_path}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: key 'output.dir': {tmp_path / 'study.db'} cannot be read as a study of Optuna")


@pytest.mark.usefixtures("config")
def test_a_training_that_diverges_is_a_trial_that_failed(workplace, tmp_path, capsys):
    space = "space={train.learning_rate: {low: 1e30, high: 2e30}, baseline.transcript.encoder.scratch.size: [8, 16]}"
    assert workplace.again(RECIPE, f"output.dir={tmp_path}", space, "trials=1") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: all 1 trials failed: dev: the model gives NaN in place of a score for 20 of 20 ")
