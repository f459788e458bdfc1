from pathlib import Path

import pandas as pd
import pytest
from fabricated import LABELS, fabricated_predictions

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNSCORED
from lalm_mer.evaluation.scores import score_table
from lalm_mer.evaluation.tables import read_table


def written(tmp_path: Path, content: str) -> Path:
    (tmp_path / "table.csv").write_text(content, encoding="utf-8")
    return tmp_path / "table.csv"


def test_labels_that_look_like_missing_values_are_labels(tmp_path):
    file = written(tmp_path, "utterance_id,truth,prediction\n01,NA,null\n02,null,NA\n03,nan,nan\n")
    table = read_table(file)
    assert table.labels == ("NA", "nan", "null")
    assert table.frame["utterance_id"].tolist() == ["01", "02", "03"]
    assert score_table(table.frame, table.labels)["weighted_accuracy"]["value"] == pytest.approx(1 / 3)


def test_an_empty_prediction_is_unscored_and_an_unknown_one_is_remarked(tmp_path):
    table = read_table(written(tmp_path, "utterance_id,truth,prediction\nu1,a,\nu2,b,zebra\nu3,b,b\n"))
    assert table.frame["prediction"].tolist() == [UNSCORED, "zebra", "b"]
    assert any("1 predictions outside the label set, such as ['zebra']" in remark for remark in table.remarks)
    scores = score_table(table.frame, table.labels)
    assert (scores["n_unparsed"], scores["n_unscored"], scores["uar"]["value"]) == (1, 1, 0.25)


@pytest.mark.parametrize("prefix", ["prob_", "log_prob_", ""])
def test_probabilities_are_read_under_each_name(tmp_path, prefix):
    values = [["-0.105", "-2.303"], ["-1.609", "-0.223"]] if prefix == "log_prob_" else [["0.9", "0.1"], ["0.2", "0.8"]]
    lines = [f"utterance_id,truth,{prefix}b,{prefix}a"]
    lines += [f"u{number},a,{','.join(row)}" for number, row in enumerate(values)]
    table = read_table(written(tmp_path, "\n".join([*lines, "u9,b,,"])), labels=["a", "b"])
    assert table.frame["prediction"].tolist() == ["b", "a", UNSCORED]


def test_probability_columns_give_the_label_set(tmp_path):
    table = read_table(written(tmp_path, "utterance_id,truth,prob_c,prob_a\nu1,a,0,1\n"))
    assert table.labels == ("c", "a")
    assert "prob_ columns" in table.remarks[0]


def test_predictions_of_a_run_are_a_valid_table(tmp_path):
    made = fabricated_predictions(unscored=2)
    made.write(tmp_path / "predictions.parquet")
    table = read_table(tmp_path / "predictions.parquet", labels=LABELS)
    assert table.frame["prediction"].tolist() == made.frame["prediction"].tolist()
    assert table.frame["speaker"].tolist() == made.frame["speaker"].tolist()
    without = tmp_path / "scores.parquet"
    made.frame.drop(columns=["prediction"]).to_parquet(without)
    assert read_table(without).frame["prediction"].tolist() == made.frame["prediction"].tolist()


@pytest.mark.parametrize(
    ("content", "labels", "message"),
    [
        ("utterance_id,prediction\nu1,a\n", None, "column 'truth' is missing"),
        ("utterance_id,truth,prediction\n", None, "no rows"),
        ("", None, "cannot be read"),
        ("utterance_id,truth,prediction\nu1,,a\n", None, "row 1: column 'truth' is empty"),
        ("utterance_id,truth,prediction\nu1,a,a\n", ["b", "c"], "utterance 'u1' has truth 'a', expected one of"),
        ("utterance_id,truth,prediction\nu1,a,a\n", ["a", "a"], "--labels: expected distinct labels"),
        ("utterance_id,truth,prediction\nu1,a,a\nu1,a,b\n", None, r"'u1' \(fold not given, .*\) is duplicated"),
        ("utterance_id,truth,score\nu1,a,1\n", None, "no column 'prediction', and no probabilities such as"),
        ("utterance_id,truth,prob_a\nu1,a,1\n", ["a", "b"], r"missing \['prob_b'\]"),
        ("utterance_id,truth,prob_a,prob_b,prob_c\nu1,a,1,0,0\n", ["a", "b"], r"unknown \['prob_c'\]"),
        ("utterance_id,truth,prob_a,prob_b\nu1,a,x,0\n", None, "'u1': column 'prob_a': expected a number, found 'x'"),
        ("utterance_id,truth,prob_a,prob_b\nu1,a,3,0\n", None, "expected numbers of at least 0 that sum to 1"),
        ("utterance_id,truth,prob_a,prob_b\nu1,a,1,\n", None, "expected numbers of at least 0 that sum to 1"),
        ("utterance_id,truth,prediction,condition\nu1,a,a,x\nu1,a,a,y\n", None, "contains conditions"),
    ],
)  # fmt: skip
def test_faults_are_named_with_the_file(tmp_path, content, labels, message):
    with pytest.raises(PredictionError, match=message):
        read_table(written(tmp_path, content), labels)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(PredictionError, match=r"expected a \.csv or \.parquet file"):
        read_table(tmp_path / "table.xlsx")
    with pytest.raises(PredictionError, match=r"gone\.csv: cannot be read"):
        read_table(tmp_path / "gone.csv")


def test_seeds_distinguish_repetitions(tmp_path):
    frame = pd.concat([fabricated_predictions(seed=seed).frame for seed in (0, 1)])
    frame[["utterance_id", "truth", "prediction", "seed", "speaker"]].to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv")
    assert score_table(table.frame, table.labels)["n_seeds"] == 2
