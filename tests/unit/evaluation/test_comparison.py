import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabricated import with_unparsed

from lalm_mer.core.errors import PredictionError
from lalm_mer.evaluation.comparison import compare, write_comparison
from lalm_mer.evaluation.metrics import unweighted_average_recall
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.report.text import comparison_text
from lalm_mer.evaluation.runs import read_run

INTERFACE = (
    "recognizer modalities method corpus protocol n n_unscored uar uar_low uar_high wa macro_f1 weighted_f1 seconds run"
)


def compared(*folders):
    return compare([read_run(folder) for folder in folders])


def test_rows_pool_folds_and_average_seeds(fabricated_comparison, tmp_path):
    comparison = compared(*fabricated_comparison)
    assert len(comparison.rows) == 5
    row = comparison.rows[1]
    frame = row.predictions.frame
    by_seed = [
        unweighted_average_recall(part["truth"].tolist(), part["prediction"].tolist(), row.record.labels)
        for _, part in frame.groupby("seed")
    ]
    values = row.as_dict()
    assert values["uar"] == pytest.approx(np.mean(by_seed))
    assert values["uar_sd"] == pytest.approx(np.std(by_seed, ddof=1))
    assert (values["n"], values["folds"], values["seeds"], values["seconds"]) == (192, 2, 2, 50.0)
    zero_shot = comparison.rows[0].as_dict()
    assert (zero_shot["n"], zero_shot["n_unscored"], zero_shot["uar_sd"]) == (192, 6, None)

    write_comparison(comparison, tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    further = ["folds", "seeds", "uar_sd", "synthetic", "transcript_source", "n_unparsed", "condition"]
    further.append("uar_without_unparsed")
    assert list(rows[0]) == [*INTERFACE.split(), *further]
    assert rows[0]["run"] == ";".join(map(str, fabricated_comparison[:2]))
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(content["rows"][0]) == [*INTERFACE.split(), *further]
    assert content["rows"][0]["uar_sd"] is None
    assert {"p_value", "p_holm", "difference"} <= set(content["paired_tests"][0])


def test_unparsed_and_unscored_utterances_are_counted_separately(fabricated_comparison):
    runs = [read_run(folder) for folder in fabricated_comparison]
    changed = [replace(run, predictions=with_unparsed(run.predictions, 4)) if run is runs[0] else run for run in runs]
    before, after = compare(runs), compare(changed)
    assert (before.rows[0].as_dict()["n_unparsed"], after.rows[0].as_dict()["n_unparsed"]) == (0, 4)
    assert after.rows[0].as_dict()["n"] == before.rows[0].as_dict()["n"]
    header, row = (line.split("  ") for line in comparison_text(after).splitlines()[1:3])
    cells = dict(zip(*([cell.strip() for cell in line if cell.strip()] for line in (header, row)), strict=True))
    assert cells["unparsed"] == "4"


def test_pairs_show_the_gain_of_a_modality_or_a_method(fabricated_comparison):
    comparison = compared(*fabricated_comparison)
    found = {(pair.a.label, pair.b.label) for pair in comparison.pairs}
    lalm, functionals = "fabricated_lalm", "fabricated_functionals"
    assert found == {
        (f"{lalm} lora audio+transcript", f"{lalm} lora audio"),
        (f"{lalm} lora audio+transcript", f"{lalm} lora transcript"),
        (f"{lalm} lora audio", f"{lalm} zero_shot audio"),
        (f"{lalm} lora audio", f"{functionals} baseline audio"),
        (f"{functionals} baseline audio", f"{lalm} zero_shot audio"),
    }
    assert all(pair.p_holm >= pair.test.p_value for pair in comparison.pairs)


def test_tests_on_another_corpus_do_not_change_holms_p(fabricated_comparison, fabricate):
    single = compared(*fabricated_comparison)
    more = [
        fabricate(f"elsewhere_{modalities}", corpus="elsewhere", modalities=modalities, stream=number)
        for number, modalities in enumerate(("audio", "audio+transcript"))
    ]
    both = compared(*fabricated_comparison, *more)
    assert [pair.p_holm for pair in both.pairs[:5]] == [pair.p_holm for pair in single.pairs]
    assert len(both.pairs) == 6
    assert len(both.blocks()) == 2


HASHES = {"data": "d" * 64, "folds": "f" * 64, "prompt": "a" * 64, "base_model": "b" * 64}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hashes": HASHES | {"data": "x"}}, "hashes of data differ"),
        ({"hashes": HASHES | {"folds": "x"}}, "hashes of folds differ"),
        ({"labels": ["angry", "happy", "neutral", "calm"]}, "label sets differ"),
        ({"task": "other"}, "values of 'task' differ"),
        ({"protocol_version": 2}, "values of 'protocol_version' differ"),
        ({"synthetic": True}, "values of 'synthetic' differ"),
        ({"fold": 2}, r"folds differ \(\[1\] and \[2\]\)"),
    ],
)
def test_incomparable_runs_are_refused_with_both_names(fabricate, changed, message):
    first, second = fabricate("first"), fabricate("second", modalities="transcript", **changed)
    with pytest.raises(PredictionError, match=f"first and .*second cannot be compared: {message}"):
        compared(first, second)


def test_other_utterances_of_the_same_fold_are_refused_with_both_names(fabricate):
    first, second = fabricate("first"), fabricate("second", modalities="transcript")
    run = read_run(second)
    shorter = type(run.predictions)(run.predictions.frame.iloc[1:].reset_index(drop=True), run.record.labels)
    shorter.write(second / "predictions.parquet")
    (second / "metrics.json").unlink()
    with pytest.raises(PredictionError, match=r"first and .*second cannot be compared: both are fold 1, .*'f1u000'"):
        compared(first, second)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "both fold 1, seed 0"),
        ({"fold": 2, "hashes": HASHES | {"base_model": "x"}}, "hashes of base_model differ"),
        ({"fold": 2, "hashes": HASHES | {"prompt": None}}, "hashes of prompt differ"),
        ({"fold": 2, "seed": 1}, "folds of seeds 0 and 1 differ"),
    ],
)
def test_one_row_does_not_mix_kinds_of_runs(fabricate, changed, message):
    with pytest.raises(PredictionError, match=f"first and .*second .*{message}"):
        compared(fabricate("first"), fabricate("second", **changed))


def test_no_run_and_a_duplicate_run_are_errors(fabricate):
    with pytest.raises(PredictionError, match="no run to compare"):
        compare([])
    folder = fabricate("one")
    with pytest.raises(PredictionError, match="duplicate run folder"):
        compared(folder, folder)


def test_runs_whose_transcripts_name_the_label_are_included_only_when_allowed(fabricate):
    honest = read_run(fabricate("honest", modalities="audio+transcript"))
    leaking = read_run(fabricate("leaking", modalities="audio+transcript", transcript_source="simulated"))
    with pytest.raises(PredictionError, match=r"leaking uses simulated transcripts.*--allow-simulated"):
        compare([honest, leaking])
    rows = compare([honest, leaking], allow_simulated=True).rows
    assert [row.modalities for row in rows] == ["audio+transcript", "audio+transcript (simulated)"]


def test_recognised_and_human_transcripts_are_separate_rows_and_tested_within_a_source(fabricate):
    runs = [
        read_run(fabricate(f"{source}_{modalities}", modalities=modalities, transcript_source=source))
        for source, modalities in [
            (None, "audio"), ("corpus", "transcript"), ("corpus", "audio+transcript"),
            ("asr", "transcript"), ("asr", "audio+transcript"),
        ]
    ]  # fmt: skip
    comparison = compare(runs)
    assert list(comparison.frame()["transcript_source"].fillna("none")) == ["none", "corpus", "corpus", "asr", "asr"]
    pairs = {(pair.a.modalities, pair.b.modalities) for pair in comparison.pairs}
    assert pairs == {
        ("audio+transcript", "audio"),
        ("audio+transcript", "transcript"),
        ("audio+transcript (asr)", "audio"),
        ("audio+transcript (asr)", "transcript (asr)"),
    }


def test_a_run_under_a_changed_condition_is_a_separate_row_and_not_tested(fabricate):
    folders = [
        fabricate("zero_shot", method="zero_shot", skill=0.3), fabricate("plain", skill=0.6),
        fabricate("swapped", condition="audio_swapped", skill=0.9), fabricate("both", modalities="audio+transcript"),
        fabricate("both_swapped", modalities="audio+transcript", condition="audio_swapped"),
    ]  # fmt: skip
    comparison = compared(*folders)
    rows = comparison.frame().set_index("run")
    assert list(rows["condition"]) == ["none", "none", "audio_swapped", "none", "audio_swapped"]
    assert list(rows["modalities"]) == ["audio"] * 3 + ["audio+transcript"] * 2
    assert rows.loc[str(folders[2]), "uar"] > rows.loc[str(folders[1]), "uar"]
    assert comparison.rows[2].label == "fabricated_lalm lora audio (audio_swapped)"
    assert {(pair.a.runs[0].name, pair.b.runs[0].name) for pair in comparison.pairs} == {
        (str(folders[1]), str(folders[0])), (str(folders[3]), str(folders[1])),
    }  # fmt: skip


def test_seeds_are_pooled_within_a_condition_only(fabricate):
    folders = [
        fabricate(f"{condition}_{seed}", condition=condition, seed=seed)
        for condition in ("none", "audio_swapped") for seed in (0, 1)
    ]  # fmt: skip
    rows = compared(*folders).rows
    assert [(row.record.condition, len(row.by_seed)) for row in rows] == [("none", 2), ("audio_swapped", 2)]
    assert [set(row.predictions.frame["condition"]) for row in rows] == [{"none"}, {"audio_swapped"}]


def test_texts_of_run_json_are_no_formulas_and_do_not_control_the_terminal(fabricate, tmp_path, capsys):
    name = '=HYPERLINK("http://example.org")\x1b[2J'
    runs = [fabricate(f"r{number}", recognizer=name, modalities=modalities, method="zero_shot")
            for number, modalities in enumerate(["audio", "audio+transcript"])]  # fmt: skip
    specification = importlib.util.spec_from_file_location("compare", Path(__file__).parents[3] / "eval/compare.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.main([*map(str, runs), "--out", str(tmp_path / "out"), "--values"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\\x1b[2J" in printed
    for table in ("comparison.csv", "comparison_values.csv"):
        content = (tmp_path / "out" / table).read_text()
        assert "\x1b" not in content
        with (tmp_path / "out" / table).open(newline="") as file:
            assert {row["recognizer"] for row in csv.DictReader(file)} == {"'" + name.replace("\x1b", "\\x1b")}
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert rows[0]["recognizer"] == name


def test_an_utterance_in_two_folds_is_refused(fabricate):
    first, second = fabricate("first", fold=1), fabricate("second", fold=2)
    frame = Predictions.read(first / "predictions.parquet")
    copied = Predictions(frame.frame.assign(fold=2), frame.labels)
    copied.write(second / "predictions.parquet")
    (second / "metrics.json").unlink()
    with pytest.raises(PredictionError, match="is in folds 1 and 2 with seed 0"):
        compared(first, second)
