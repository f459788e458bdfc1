"""Figures per fold and per seed, means over folds, and figures without unparsed answers."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricated_predictions, with_unparsed

from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.evaluation.comparison import compare
from lalm_mer.evaluation.conventions import values_by_part
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.report.text import comparison_text, metrics_text
from lalm_mer.evaluation.runs import read_run
from lalm_mer.evaluation.scores import score, score_table

ROOT = Path(__file__).parents[3]


def table() -> pd.DataFrame:
    """Two folds of two utterances and two seeds: UAR by fold and seed is 1, 0.5 (seed 0) and 0.5, 0 (seed 1)."""
    rows = []
    for seed, right in ((0, {"u1", "u2", "u3"}), (1, {"u1"})):
        for number, truth in enumerate(["a", "b", "a", "b"], start=1):
            prediction = truth if f"u{number}" in right else "ab".replace(truth, "")
            rows.append((f"u{number}", f"s{number}", "c", (number + 1) // 2, seed, truth, prediction))
    return pd.DataFrame(rows, columns=["utterance_id", "speaker", "corpus", "fold", "seed", "truth", "prediction"])


def part(values, name, unparsed="error", **place):
    found = [row for row in values if row["part"] == name and row["unparsed"] == unparsed
             and all(row[key] == value for key, value in place.items())]  # fmt: skip
    assert len(found) == 1
    return found[0]


def test_values_by_hand():
    values = values_by_part(table(), ["a", "b"])
    by_part = {(fold, seed): part(values, "fold_and_seed", fold=fold, seed=seed)["uar"]
               for fold in (1, 2) for seed in (0, 1)}  # fmt: skip
    assert by_part == {(1, 0): 1.0, (2, 0): 0.5, (1, 1): 0.5, (2, 1): 0.0}
    assert [part(values, "seed", seed=seed)["uar"] for seed in (0, 1)] == [0.75, 0.25]
    assert [part(values, "fold", fold=fold)["uar"] for fold in (1, 2)] == [0.75, 0.25]
    for over in ("seeds", "folds"):
        assert part(values, f"mean_over_{over}")["uar"] == 0.5
        assert part(values, f"sd_over_{over}")["uar"] == pytest.approx(np.std([0.75, 0.25], ddof=1))
    assert part(values, "fold_and_seed", fold=1, seed=0)["n"] == 2


def test_the_mean_of_folds_differs_from_the_pooled_figure_if_folds_differ_in_size():
    frame = table().query("seed == 0 and utterance_id != 'u4'")
    values = values_by_part(frame, ["a", "b"])
    assert part(values, "mean_over_seeds")["uar"] == score_table(frame, ["a", "b"])["uar"]["value"]
    assert part(values, "mean_over_folds")["wa"] == pytest.approx((1 + 1) / 2)
    assert part(values, "sd_over_seeds")["uar"] is None


def test_unparsed_answers_are_errors_and_the_figure_without_them_is_beside():
    frame = table().query("seed == 0").copy()
    frame.loc[frame["utterance_id"] == "u4", "prediction"] = UNPARSED
    frame.loc[frame["utterance_id"] == "u2", "prediction"] = UNSCORED
    scores = score_table(frame, ["a", "b"])
    assert scores["uar"]["value"] == 0.5
    assert scores["without_unparsed"]["uar"] == 0.5  # of a 1, of b 0: what could not be scored stays an error
    assert scores["without_unparsed"]["weighted_accuracy"] == pytest.approx(2 / 3)
    printed = metrics_text(scores)
    assert "without unparsed" in printed
    values = values_by_part(frame, ["a", "b"])
    assert part(values, "seed", "left_out", seed=0)["n"] == 3
    assert part(values, "fold_and_seed", "left_out", fold=2, seed=0)["uar"] == 1.0
    assert "without unparsed" not in metrics_text(score_table(table(), ["a", "b"]))


def test_without_any_parsed_answer_there_is_no_figure_without_unparsed():
    scores = score_table(table().assign(prediction=UNPARSED), ["a", "b"])
    assert (scores["uar"]["value"], scores["without_unparsed"]["uar"]) == (0.0, None)


def test_scores_of_a_run_have_both_conventions():
    made = score(with_unparsed(fabricated_predictions(), 10))
    assert made["n_unparsed"] == 10
    assert made["without_unparsed"]["uar"] > made["uar"]["value"]


def load(script):
    specification = importlib.util.spec_from_file_location(script, ROOT / "eval" / f"{script}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_score_predictions_writes_values_as_csv_and_json(tmp_path, capsys):
    frame = pd.concat([fabricated_predictions(fold=fold, seed=seed).frame for fold in (1, 2) for seed in (0, 1)])
    frame[["utterance_id", "speaker", "fold", "seed", "truth", "prediction"]].to_csv(tmp_path / "t.csv", index=False)
    arguments = [tmp_path / "t.csv", "--out", tmp_path / "m.json", "--values", tmp_path / "v.csv"]
    assert load("score_predictions").main(list(map(str, arguments))) == 0
    values = json.loads((tmp_path / "m.json").read_text())["values"]
    written = pd.read_csv(tmp_path / "v.csv")
    assert len(values) == len(written) == 2 * (2 + 2 * 2 + 2 + 4)
    assert written["uar"].to_numpy() == pytest.approx([row["uar"] for row in values])
    printed = capsys.readouterr().out
    assert "over folds" in printed
    assert "±" in printed
    mean = part(values, "mean_over_folds")["uar"]
    assert f"{100 * mean:.1f} ± " in printed


@pytest.mark.slow
def test_compare_writes_values_on_request(fabricate, tmp_path, capsys):
    runs = [str(fabricate(f"r{fold}{seed}", fold=fold, seed=seed)) for fold in (1, 2) for seed in (0, 1)]
    out = tmp_path / "out"
    assert load("compare").main([*runs, "--out", str(out)]) == 0
    assert "values" not in json.loads((out / "comparison.json").read_text())
    assert load("compare").main([*runs, "--out", str(out), "--values"]) == 0
    values = json.loads((out / "comparison.json").read_text())["values"]
    table = pd.read_csv(out / "comparison_values.csv")
    assert list(table["part"]) == [row["part"] for row in values]
    assert set(table["recognizer"]) == {"fabricated_lalm"}
    (row,) = compare([read_run(Path(run)) for run in runs]).rows
    assert part(values, "sd_over_seeds")["uar"] == pytest.approx(row.sd)
    assert "fabricated_lalm lora audio none" in capsys.readouterr().out


def test_a_comparison_shows_both_conventions_if_a_row_has_unparsed_answers(fabricate):
    plain, changed = fabricate("plain"), fabricate("unparsed", modalities="audio+transcript")
    (changed / "metrics.json").unlink()
    with_unparsed(Predictions.read(changed / "predictions.parquet"), 9).write(changed / "predictions.parquet")
    comparison = compare([read_run(plain), read_run(changed)])
    assert "without unparsed" in comparison_text(comparison)
    table = comparison.frame().set_index("modalities")
    assert table.loc["audio", "uar_without_unparsed"] == table.loc["audio", "uar"]
    assert table.loc["audio+transcript", "uar_without_unparsed"] > table.loc["audio+transcript", "uar"]
    assert "without unparsed" not in comparison_text(compare([read_run(plain)]))
