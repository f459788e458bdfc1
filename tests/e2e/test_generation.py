"""Answers in words from the command line to the report, and what cannot be asked in words."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import UNPARSED
from lalm_mer.launch.answering import asks_for_words
from lalm_mer.launch.engine import Engine

GENERATION = ["answering.mode=generation", "answering.max_new_tokens=12"]


@pytest.fixture(scope="module")
def answered(workplace, uninterrupted):
    """Run folder of generated answers, under the adapter that the fine-tuning made."""
    workplace.run("zero_shot", workplace.folder / "answered", f"model.adapter={uninterrupted}", *GENERATION)
    return workplace.folder / "answered"


def test_a_run_of_answers_holds_what_it_should(answered, uninterrupted):
    run = json.loads((answered / "run.json").read_text())
    assert (run["method"], run["recognizer"]) == ("lora", "qwen2_audio (model, generated)")
    assert run["config"]["answering"]["mode"] == "generation"
    assert len(run["hashes"]["synonyms"]) == 64
    assert any("generated greedily, 12 tokens at most" in note for note in run["notes"])
    table = pd.read_parquet(answered / "predictions.parquet").set_index("utterance_id")
    assert len(table) == 21
    assert table.filter(like="log_prob_").isna().all(axis=None)
    assert table["answer"].isna().sum() == 1
    assert table.loc["s1_too_long", "status"] == "unscored"
    scored = table[table["status"] == "scored"]
    assert len(scored) > 5
    assert (scored["answer"].str.lower().str.contains("angry|content|happy|sad")).all()
    likely = pd.read_parquet(uninterrupted / "predictions.parquet").set_index("utterance_id")["prediction"]
    assert (likely[scored.index] == scored["prediction"]).mean() > 0.8  # what it says is what it thinks likely
    assert set(table.loc[table["status"] == "unparsed", "prediction"]) <= {UNPARSED}


def test_the_metrics_count_every_utterance(answered):
    table = pd.read_parquet(answered / "predictions.parquet")
    metrics = json.loads((answered / "metrics.json").read_text())
    unparsed = int((table["status"] == "unparsed").sum())
    assert (metrics["n"], metrics["n_unscored"], metrics["n_unparsed"]) == (21, 1, unparsed)
    right = (table["truth"] == table["prediction"]).sum()
    assert metrics["weighted_accuracy"]["value"] == pytest.approx(right / 21)


def test_the_bare_model_says_nothing_that_parses(workplace, prompted, answered, tmp_path, capsys):
    """In this process, and then beside the run that scored likelihoods."""
    folder = tmp_path / "bare"
    workplace.run("zero_shot", folder, *GENERATION[:1], "answering.max_new_tokens=3")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["n_unparsed"], metrics["n_unscored"], metrics["uar"]["value"]) == (20, 1, 0.0)
    runs = [str(prompted), str(folder), str(answered)]
    assert workplace.script("eval/compare.py", *runs, "--out", str(tmp_path / "out")) == 0
    table = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("run")
    assert list(table["n"]) == [21] * 3
    assert list(table["n_unparsed"])[:2] == [0, 20]
    assert "unparsed" in capsys.readouterr().out


def test_the_same_command_again_changes_nothing(answered, uninterrupted, workplace, capsys):
    before = (answered / "predictions.parquet").read_bytes()
    again = [f"output.dir={answered}", f"model.adapter={uninterrupted}", *GENERATION]
    assert workplace.again("zero_shot", *again) == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert (answered / "predictions.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("answering", "family", "engine", "message"),
    [
        ({"mode": "chat"}, "qwen2_audio", "NO", "key 'answering.mode': 'chat'; expected likelihood or generation"),
        ({}, "clap", "NO", "clap has no language model"),
        ({"max_new_tokens": 0}, "qwen2_audio", "NO", "key 'answering.max_new_tokens': 0; expected 1 or more"),
        ({}, "qwen2_audio", "DEEPSPEED", "engine.yaml shards the model by DEEPSPEED"),
    ],
)
def test_what_cannot_be_asked_in_words(answering, family, engine, message):
    asked = SimpleNamespace(**{"mode": "generation", "max_new_tokens": 16, "synonyms": None} | answering)
    settings = SimpleNamespace(answering=asked, model=SimpleNamespace(family=family))
    with pytest.raises(ConfigError, match=message):
        asks_for_words(settings, Engine("engine.yaml", engine, 1, None))
