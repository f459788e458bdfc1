"""A learning curve: nested parts of train, dev alone, one row for each number, resumable."""

import pandas as pd
import pytest
import yaml
from small_runs import small_baseline

RECIPE = "learning_curve"


@pytest.fixture(scope="module")
def config(workplace):
    """A YAML of a curve of a small baseline."""
    (workplace.folder / "curved.yaml").write_text(yaml.safe_dump(small_baseline(workplace)), encoding="utf-8")
    content = {
        "systems": {"small": {"recipe": "train_baseline", "config": str(workplace.folder / "curved.yaml")}},
        "sizes": [8, 16],
        "seeds": [0, 1],
        "output": {"dir": str(workplace.folder / "unused")},
    }
    workplace.config(RECIPE).write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.mark.usefixtures("config")
def test_a_curve_has_a_row_for_each_number_of_utterances(workplace, tmp_path, capsys):
    command = [RECIPE, f"output.dir={tmp_path}"]
    assert workplace.again(*command, "--worker") == 0
    runs = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("dev_metrics.json"))
    assert runs == [f"train_{size}/runs/small/fold1_seed{seed}" for size in (16, 8) for seed in (0, 1)]
    assert not list(tmp_path.rglob("predictions.parquet"))
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    capsys.readouterr()

    assert workplace.again(*command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")} == changed
    printed = capsys.readouterr().out
    assert "from 8 to 16 utterances, it changed by " in printed

    table = pd.read_csv(tmp_path / "learning_curve.csv")
    assert list(table["train_utterances"]) == [8, 16]
    assert list(table["seeds"]) == [2, 2]
    assert list(table["n_dev"]) == [20, 20]
    for size, value in zip(table["train_utterances"], table["value"], strict=True):
        of_seeds = [
            pd.read_json(tmp_path / f"train_{size}/runs/small/fold1_seed{seed}/dev_metrics.json", typ="series")["uar"]
            for seed in (0, 1)
        ]
        assert value == pytest.approx(sum(each["value"] for each in of_seeds) / 2)
    assert "data:image/svg" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["sizes=[8,500]"], "key 'sizes': 500, but train of system small has 20 utterances in fold 1; lower it"),
        (["sizes=[8,8]"], "key 'sizes': [8, 8] has a value twice"),
        (["overrides=[split.train_utterances=5]"], "override 'split.train_utterances=5': each run has its own"),
        (
            ["systems={small: {overrides: ['split={score_test: true}']}}"],
            "system small: override 'split={score_test: true}': each run has its own",
        ),
        (["systems={small: {recipe: zero_shot}}"], "key 'systems.small.recipe': zero_shot trains nothing"),
        (["fold=7"], "key 'folds': 7; protocol synthetic_beeps_3fold"),
    ],
)
@pytest.mark.usefixtures("config")
def test_a_mistake_is_one_line_before_anything_runs(overrides, says, workplace, tmp_path, capsys):
    assert workplace.again(RECIPE, f"output.dir={tmp_path / 'out'}", *overrides) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (tmp_path / "out").exists()
