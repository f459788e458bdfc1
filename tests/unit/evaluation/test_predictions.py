from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fabricated import LABELS, fabricated_predictions, with_unparsed

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.labels import UNPARSED, UNSCORED
from lalm_mer.evaluation.predictions import EvaluatedSplit, Predictions
from lalm_mer.evaluation.scores import score

NAN = float("nan")


def table(log_probs, truth=("a", "b"), ids=("u1", "u2"), speakers=("s", None), **changed):
    split = EvaluatedSplit(ids, speakers, truth, ("a", "b"), "fabricated", fold=2, seed=7)
    return Predictions.from_scores(replace(split, **changed), np.asarray(log_probs))


GOOD = np.log([[0.8, 0.2], [0.4, 0.6]])


def test_prediction_is_the_label_of_the_highest_log_probability_and_nan_rows_are_unscored():
    frame = table([GOOD[1], [NAN, NAN]]).frame
    assert frame["prediction"].tolist() == ["b", UNSCORED]
    assert frame["status"].tolist() == ["scored", "unscored"]
    assert frame["task"].tolist() == ["single", "single"]
    assert frame["fold"].tolist() == [2, 2]
    assert frame["seed"].tolist() == [7, 7]


def test_a_file_has_the_columns_in_order_and_reads_back_the_same(tmp_path: Path):
    labels = ("zwei", "eins", "ärger 3")
    made = fabricated_predictions(labels=labels, unscored=2)
    made.write(tmp_path / "predictions.parquet")
    expected = ["utterance_id", "speaker", "corpus", "fold", "seed", "task", "condition", "status", "truth"]
    expected += ["prediction", "answer", *(f"log_prob_{label}" for label in labels)]
    stored = pq.read_table(tmp_path / "predictions.parquet")
    assert stored.column_names == expected
    assert stored["answer"].null_count == len(made.frame)
    assert stored["log_prob_zwei"].null_count == 2
    back = Predictions.read(tmp_path / "predictions.parquet")
    assert back.labels == labels
    for name in expected:
        pd.testing.assert_series_equal(
            back.frame[name].astype(object).where(back.frame[name].notna(), None),
            made.frame[name].astype(object).where(made.frame[name].notna(), None),
        )
    assert list(tmp_path.iterdir()) == [tmp_path / "predictions.parquet"]


def test_unknown_speakers_stay_unknown(tmp_path: Path):
    table(GOOD).write(tmp_path / "p.parquet")
    assert Predictions.read(tmp_path / "p.parquet").frame["speaker"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_probs": GOOD, "ids": ("u1", "u1")}, "utterance 'u1' .* is duplicated"),
        ({"log_probs": GOOD, "truth": ("a", "c")}, r"utterance 'u2' .* truth 'c', expected one of \['a', 'b'\]"),
        ({"log_probs": [[NAN, -0.1], GOOD[1]]}, "utterance 'u1' .* not finite"),
        ({"log_probs": [[-np.inf, 0.0], GOOD[1]]}, "utterance 'u1' .* not finite"),
        ({"log_probs": [[-3.0, -0.5], GOOD[1]]}, "utterance 'u1' .* do not sum to 1"),
        ({"log_probs": GOOD[:1]}, "expected one of each per utterance"),
        ({"log_probs": GOOD, "truth": ("a",)}, "expected one of each per utterance"),
        ({"log_probs": GOOD, "labels": ("a", "a")}, "distinct labels"),
        ({"log_probs": np.empty((0, 2)), "ids": (), "truth": (), "speakers": ()}, "no rows"),
    ],
)
def test_inconsistent_arguments_are_named(arguments, message):
    with pytest.raises(PredictionError, match=message):
        table(**arguments)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("status", "unscored", "status 'unscored', but prediction 'angry' means 'scored'"),
        ("prediction", "furious", "prediction 'furious', expected one of"),
        ("prediction", UNSCORED, "status 'scored', but prediction '<unscored>' means 'unscored'"),
        ("prediction", "happy", "is not the label of its highest log-probability"),
        ("task", "multi", "task 'multi', expected 'single'"),
        ("truth", None, "column 'truth' has a null"),
        ("fold", 0.5, "column 'fold' is float64, expected integers"),
    ],
)
def test_an_edited_table_is_refused(column, value, message):
    made = fabricated_predictions(skill=3.0)
    frame = made.frame.copy()
    assert frame["prediction"].iloc[0] == "angry"
    frame[column] = frame[column].astype(object)
    frame.loc[0, column] = value
    if column == "fold":
        frame["fold"] = frame["fold"].astype(float)
    with pytest.raises(PredictionError, match=message):
        Predictions(frame, made.labels)


def test_missing_and_unknown_columns_are_named():
    made = fabricated_predictions()
    with pytest.raises(PredictionError, match="column 'seed' is missing"):
        Predictions(made.frame.drop(columns="seed"), made.labels)
    with pytest.raises(PredictionError, match="unknown column 'text'; expected"):
        Predictions(made.frame.assign(text=""), made.labels)


def test_a_parsed_answer_may_lack_scores_but_a_scored_row_may_not():
    made = fabricated_predictions()
    frame = with_unparsed(made, 2).frame.copy()
    frame.loc[2, "answer"] = "I hear anger"
    frame.loc[2, [f"log_prob_{label}" for label in LABELS]] = NAN
    assert Predictions(frame, made.labels).frame["status"].tolist()[:3] == ["unparsed", "unparsed", "scored"]
    frame.loc[2, "answer"] = None
    with pytest.raises(PredictionError, match="not finite"):
        Predictions(frame, made.labels)


ANSWERED = EvaluatedSplit(("u1", "u2", "u3"), ("s", "s", None), ("a", "b", "b"), ("a", "b"), "fabricated", 2, seed=7)
ANSWERS = ("It is a.", "", None)


def test_generated_answers_have_no_scores_and_are_read_back(tmp_path):
    made = Predictions.from_answers(ANSWERED, ANSWERS, ("a", UNPARSED, "a"))
    assert made.frame["prediction"].tolist() == ["a", UNPARSED, UNSCORED]
    assert made.frame["status"].tolist() == ["scored", "unparsed", "unscored"]
    made.write(tmp_path / "predictions.parquet")
    read = Predictions.read(tmp_path / "predictions.parquet")
    assert read.labels == ("a", "b")
    assert read.frame["answer"].tolist()[:2] == ["It is a.", ""]
    assert pd.isna(read.frame["answer"][2])
    assert read.frame[["log_prob_a", "log_prob_b"]].isna().all(axis=None)
    assert list(read.frame) == list(table(GOOD).frame)
    scores = score(read)
    assert (scores["n"], scores["n_scored"], scores["n_unparsed"], scores["n_unscored"]) == (3, 1, 1, 1)
    assert (scores["uar"]["value"], scores["weighted_accuracy"]["value"]) == (0.5, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("parsed", "message"),
    [
        (("a", UNPARSED), "3 utterances, but 3 speakers, 3 truths, 3 answers and 2 parsed labels"),
        (("A", UNPARSED, "a"), "utterance 'u1' .* has prediction 'A', expected one of"),
    ],
)
def test_answers_that_do_not_fit_are_refused(parsed, message):
    with pytest.raises(PredictionError, match=message):
        Predictions.from_answers(ANSWERED, ANSWERS, parsed)


def test_joined_tables_keep_all_rows_and_refuse_duplicates():
    first, second = fabricated_predictions(fold=1), fabricated_predictions(fold=2)
    assert len(Predictions.concat([first, second]).frame) == len(first.frame) + len(second.frame)
    with pytest.raises(PredictionError, match="is duplicated"):
        Predictions.concat([first, first])
    with pytest.raises(PredictionError, match="labels"):
        Predictions.concat([first, fabricated_predictions(fold=2, labels=("a", "b"))])
    with pytest.raises(PredictionError, match="at least one"):
        Predictions.concat([])


def test_conditions_are_separate():
    both = Predictions.concat([fabricated_predictions(), fabricated_predictions(condition="audio_swapped", stream=9)])
    assert both.of_condition("audio_swapped").frame["condition"].unique().tolist() == ["audio_swapped"]
    with pytest.raises(PredictionError, match="no row has the condition 'snr_10'"):
        both.of_condition("snr_10")


def test_a_file_that_is_not_parquet_or_has_wrong_metadata_is_named(tmp_path: Path):
    with pytest.raises(PredictionError, match=r"missing\.parquet"):
        Predictions.read(tmp_path / "missing.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(PredictionError, match=r"broken\.parquet"):
        Predictions.read(tmp_path / "broken.parquet")
    fabricated_predictions().write(tmp_path / "p.parquet")
    stored = pq.read_table(tmp_path / "p.parquet")
    renamed = stored.rename_columns([name.replace("angry", "furious") for name in stored.column_names])
    pq.write_table(renamed.replace_schema_metadata(stored.schema.metadata), tmp_path / "p.parquet")
    with pytest.raises(PredictionError, match=r"p\.parquet: its metadata names the labels"):
        Predictions.read(tmp_path / "p.parquet")
