"""Tasks of several labels and of numbers, and training by votes, from the config to the comparison, on miniatures."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from lalm_mer.core.run_record import read_record

LORA, BASELINE = "recipes/mosei/emotions_lora.yaml", "recipes/mosei/emotions_baseline.yaml"
DIMENSIONS = "split.protocol=eval/protocols/iemocap_dimensions_5sessions.yaml"
VOTES, CIRCUMPLEX_LORA = "recipes/demo/circumplex_votes_baseline.yaml", "recipes/demo/circumplex_lora.yaml"


@pytest.fixture
def run(shipped_command, run_script, tmp_path):
    """Runs a shipped YAML with overrides in a folder of its own."""

    def start(file, name, *overrides):
        folder = tmp_path / name
        assert run_script(*shipped_command(file), *overrides, f"output.dir={folder}") == 0
        return folder

    return start


@pytest.fixture
def refused(shipped_command, run_script, capsys):
    """Runs a YAML that must be refused; returns the line of the error."""

    def start(file, *overrides):
        assert run_script(*shipped_command(file), *overrides) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    return start


def test_several_labels_by_a_language_model_and_a_baseline_are_compared(run, run_script, tmp_path, capsys):
    folders = [run(BASELINE, "baseline", "train.max_steps=2"), run(LORA, "lora", "train.max_steps=2")]
    for folder in folders:
        record, table = read_record(folder / "run.json"), pd.read_parquet(folder / "predictions.parquet")
        assert (record.task_kind, len(record.labels)) == ("multi", 6)
        assert set(table["task"]) == {"multi"}
        assert table[[f"score_{label}" for label in record.labels]].to_numpy().std() > 0
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
        assert set(metrics["label_f1"]["by_target"]) == set(record.labels)
    out = tmp_path / "comparison"
    assert run_script("eval/compare.py", *map(str, folders), "--out", str(out), "--values") == 0
    assert "several labels; percent" in capsys.readouterr().out
    rows = pd.read_csv(out / "comparison.csv")
    assert {"label_f1", "label_weighted_accuracy", "label_f1_happy"} <= set(rows.columns)
    report = (out / "report.html").read_text("utf-8")
    assert "Confusion" not in report
    assert "By target" in report


def test_numbers_by_a_language_model_are_expected_values_and_are_predicted(run, run_script, tmp_path, capsys):
    options = ["split.protocol=eval/protocols/mosei_sentiment_official.yaml", "train.max_steps=2"]
    options += ["prompt.file=prompts/dimensions/audio_transcript.yaml", "train.per_device_train_batch_size=8"]
    folder = run(LORA, "numbers", *options)
    record, table = read_record(folder / "run.json"), pd.read_parquet(folder / "predictions.parquet")
    assert (record.task_kind, record.labels, record.ranges) == ("scalar", ("sentiment",), ((-3.0, 3.0),))
    assert table["score_sentiment"].between(-3, 3).all()
    capsys.readouterr()
    audio = tmp_path / "a.wav"
    _tone(audio)
    from lalm_mer.cli import main

    assert main(["predict", str(audio), "--run", str(folder), "--transcript", "it is fine", "--device", "cpu"]) == 0
    assert "a.wav" in (printed := capsys.readouterr().out)
    assert ": sentiment " in printed


def _tone(path):
    import numpy as np
    import soundfile

    soundfile.write(path, 0.1 * np.sin(np.arange(16_000) / 10), 16_000)


def test_votes_train_with_utterances_without_consensus(run):
    soft = run(VOTES, "soft", "train.max_steps=2")
    record, metrics = read_record(soft / "run.json"), json.loads((soft / "metrics.json").read_text("utf-8"))
    assert metrics["votes"]["n"] == metrics["n"]
    assert metrics["votes"]["kl"] > 0
    assert {"vote_happy", "vote_sad"} <= set(pd.read_parquet(soft / "predictions.parquet").columns)
    hard = read_record(run(VOTES, "hard", "loss.soft_labels=false", "loss.kind=focal") / "run.json")
    assert record.balance.before.examples > hard.balance.before.examples
    assert record.hashes["folds"] == hard.hashes["folds"]
    assert "extra_train" in record.hashes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "focal"])
def test_a_language_model_trains_by_votes(run, shipped_command, kind):
    of_votes = [option for option in shipped_command(VOTES) if option.startswith(("data.dir=", "split.protocol="))]
    folder = run(CIRCUMPLEX_LORA, kind, *of_votes, "loss.soft_labels=true", f"loss.kind={kind}", "train.max_steps=2")
    record = read_record(folder / "run.json")
    assert "extra_train" in record.hashes
    losses = [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text("utf-8").splitlines()]
    assert all(0 < loss < 20 for loss in losses)
    assert {"vote_happy", "vote_sad"} <= set(pd.read_parquet(folder / "predictions.parquet").columns)


@pytest.mark.parametrize(
    ("file", "override", "what"),
    [
        (BASELINE, "loss.kind=ccc", "key 'loss.kind': ccc, but the task of the protocol is multi"),
        (BASELINE, "loss.label_smoothing=0.1", "key 'loss.label_smoothing': 0.1; only for a task of one label"),
        (BASELINE, "balance.sampling=class", "key 'balance.sampling': class"),
        (LORA, "prompt.label_score=pmi", "key 'prompt.label_score': pmi"),
        (LORA, "prompt.file=prompts/audio.yaml", "has no slot {{ target }}"),
        ("recipes/iemocap/linear.yaml", DIMENSIONS, "its task is scalar; a linear model"),
        ("recipes/iemocap/dimensions_baseline.yaml", "train.per_device_train_batch_size=4", "needs 8 utterances"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_in_one_line(refused, file, override, what):
    assert what in refused(file, override)
