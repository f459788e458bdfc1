"""Runs that score dev alone, and runs on a part of train; neither opens or changes the test set of others."""

import json

import pandas as pd
import pytest
from small_runs import small_baseline, test_stays_closed  # noqa: F401 a fixture

DEV_ALONE = "split.score_test=false"


@pytest.fixture(scope="module")
def small(workplace, tmp_path_factory):
    """The workplace with a YAML of a small baseline."""
    return workplace.with_config("train_baseline", small_baseline(workplace), tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(("recipe", "more"), [("train_baseline", ()), ("finetune", ("train.max_steps=1",))])
@pytest.mark.usefixtures("test_stays_closed")
def test_a_run_that_scores_dev_alone_does_not_open_test(recipe, more, small, tmp_path, capsys):
    command = [recipe, f"output.dir={tmp_path}", DEV_ALONE, *more]
    assert small.again(*command) == 0
    found = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert found == {"run.json", "history.jsonl", "dev_predictions.parquet", "dev_metrics.json"}
    dev = pd.read_parquet(tmp_path / "dev_predictions.parquet")
    assert set(dev["speaker"]) == {"s3", "s4"}
    metrics = json.loads((tmp_path / "dev_metrics.json").read_text("utf-8"))
    assert metrics["n"] == len(dev) == 20
    assert "scoring 0 test" not in capsys.readouterr().out
    assert small.again(*command) == 0
    assert "is finished; nothing to do" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_on_a_part_of_train_scores_the_whole_test_set(small, tmp_path):
    options = ["train_baseline", f"output.dir={tmp_path}", "split.train_utterances=8"]
    assert small.again(*options) == 0
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert run["balance"]["before"]["examples"] == 8
    assert set(run["balance"]["before"]["classes"].values()) == {2}
    assert len(pd.read_parquet(tmp_path / "predictions.parquet")) == 21


def test_more_than_train_has_is_one_line(small, tmp_path, capsys):
    assert small.again("train_baseline", f"output.dir={tmp_path}", "split.train_utterances=21") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: key 'split.train_utterances': 21, but train has 20 utterances; lower it"
