import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricated import LABELS, fabricated_predictions

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNSCORED
from lalm_mer.core.plain_text import plain_cells
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


def test_a_generated_answer_of_several_lines_is_one_cell(tmp_path):
    answer = '"It may be:\nhappy, sad, angry"'
    table = read_table(
        written(tmp_path, f"utterance_id,truth,answer,prediction\nu1,happy,{answer},sad\nu2,sad,x,sad\n")
    )
    assert table.frame["prediction"].tolist() == ["sad", "sad"]
    three = read_table(written(tmp_path, f"utterance_id,truth,prediction\nu1,happy,{answer}\nu2,sad,sad\n"))
    assert len(three.frame) == 2


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
        ("utterance_id,truth,prediction\nu1,<unparsed>,a\n", None, "<unparsed> and <unscored> mark predictions"),
        ("utterance_id,truth,prediction\nu1,a,a,\nu2,b,b,\n", None, "row 2 has 4 cells, .* 3; remove the comma"),
        ("utterance_id,truth,prediction,text\nu1,a,a,well, no\n", None, "row 2 has 5 cells, .* 4; quote a cell"),
        ("utterance_id,truth,prediction\nu1,a\n", None, "row 2 has 2 cells, the header 3; complete the row"),
        ("utterance_id,truth,prediction,prediction\nu1,a,a,b\n", None, "two columns are called 'prediction'"),
        ("utterance_id,truth,prediction, prediction \nu1,a,a,b\n", None, "two columns are called 'prediction'"),
        ('utterance_id,truth,prediction\nu1,a,"a\nu2,b,b\n', None, "row 2: .*unexpected end of data"),
        ('utterance_id,truth,prediction\nu1,a,"a\nu2,b,b\nu3,b,b"\n', None, "row 2: .* opens a quotation mark"),
        ("utterance_id,truth,prediction\nu1,a,a\nu1 ,a,a\n", None, r"'u1' \(fold not given, .*\) is duplicated"),
        ("utterance_id,truth,prediction\nu1,a,a\nu1\u200b,a,a\n", None, r"'u1' \(fold not given, .*\) is duplicated"),
        ("utterance_id,truth,prediction,fold\nu1,a,a,1\nu1,a,a,2\n", None, "'u1' is in folds 1 and 2"),
        ("utterance_id,truth,prediction,seed\nu1,a,a,1\nu1,b,b,2\n", None, "'u1' has the truths 'a' and 'b'"),
        ("utterance_id,truth,prediction,seed,speaker\nu1,a,a,1,x\nu1,a,a,2,y\n", None, "has the speakers 'x' and 'y'"),
        ("utterance_id,truth,prediction,seed,speaker\nu1,a,a,1,x\nu1,a,a,2,\n", None, "has the speakers 'x' and None"),
        ("utterance_id,truth,prediction,seed\nu1,a,a,1\nu1,a,a,2\nu2,b,b,2\n", None, "seed 1 has no row of .* 'u2'"),
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


def test_labels_by_the_thousand_are_refused_at_once(tmp_path):
    rows = "".join(f"u{number},label{number},label{number}\n" for number in range(6000))
    file = written(tmp_path, "utterance_id,truth,prediction\n" + rows)
    start = time.perf_counter()
    with pytest.raises(PredictionError, match=r"6000 labels \(label0, .* and 5990 more\), expected at most 100"):
        read_table(file)
    assert time.perf_counter() - start < 5


def test_spellings_of_a_speaker_are_one_speaker(tmp_path):
    """Two spellings of each speaker would double the speakers, and so narrow the interval."""
    names = ["Bob", "bob ", "ZOE\u0301", "Zo\u00e9", "s_1", "s-1"]
    rows = "".join(f"u{number},{name},a,a\n" for number, name in enumerate(names))
    table = read_table(written(tmp_path, "utterance_id,speaker,truth,prediction\n" + rows))
    assert table.frame["speaker"].tolist() == ["Bob", "Bob", "ZO\u00c9", "ZO\u00c9", "s_1", "s_1"]
    assert any("3 speakers are spelled in several ways" in remark for remark in table.remarks)


def test_white_space_in_labels_and_the_index_of_pandas_do_not_matter(tmp_path):
    file = written(tmp_path, ",utterance_id,truth, prediction\n0,u1,ang ,ang\n1,u2,sad,\u200bsad\n")
    table = read_table(file, labels=["ang", " sad"])
    assert table.labels == ("ang", "sad")
    assert (table.frame["truth"] == table.frame["prediction"]).all()


def test_cells_with_an_apostrophe_before_a_formula_are_read_back(tmp_path):
    frame = plain_cells(
        pd.DataFrame({"utterance_id": ["-u1", "u2"], "truth": ["-1", "+1"], "prediction": ["-1", "-1"]})
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert "'-u1,'-1,'-1" in (tmp_path / "t.csv").read_text()
    table = read_table(tmp_path / "t.csv")
    assert table.labels == ("+1", "-1")
    assert table.frame["utterance_id"].tolist() == ["-u1", "u2"]


def test_a_parquet_file_with_a_doubled_column_is_refused(tmp_path):
    table = pa.table({"utterance_id": ["u1"], "truth": ["a"], "prediction": ["a"]})
    pq.write_table(table.append_column("prediction", pa.array(["b"])), tmp_path / "t.parquet")
    with pytest.raises(PredictionError, match="two columns are called 'prediction'"):
        read_table(tmp_path / "t.parquet")
