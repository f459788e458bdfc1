"""Generated answers from the command line to the report, and runs that cannot generate."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import UNPARSED
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.run_record import read_record
from lalm_mer.launch.config.sections import PromptSettings
from lalm_mer.launch.run.answering import generates_answers
from lalm_mer.launch.run.engine import Engine

GENERATION = ["answering.mode=generation", "answering.max_new_tokens=3", "prompt.shots=1"]
# enough for a tiny model to say labels
TAUGHT = ["train.learning_rate=2e-2", "train.num_train_epochs=8", "adapter.lora_dropout=0.0", "adapter.r=16"]


@pytest.fixture(scope="module")
def answered(workplace):
    """Run folder of generated answers of random weights, which name no label."""
    workplace.run("zero_shot", workplace.folder / "answered", *GENERATION)
    return workplace.folder / "answered"


def test_a_run_of_generated_answers_is_complete(answered):
    run = json.loads((answered / "run.json").read_text())
    assert (run["method"], run["recognizer"]) == ("zero_shot", "qwen2_audio (model, generated)")
    assert run["config"]["answering"]["mode"] == "generation"
    assert len(run["hashes"]["synonyms"]) == 64
    notes = read_record(answered / "run.json").notes
    assert Note(NoteCode.GENERATED_ANSWERS, facts={"max_new_tokens": 3}) in notes
    table = pd.read_parquet(answered / "predictions.parquet").set_index("utterance_id")
    assert table.filter(like="log_prob_").isna().all(axis=None)
    assert table.loc["s1_too_long", "status"] == "unscored"
    assert pd.isna(table.loc["s1_too_long", "answer"])
    others = table.drop("s1_too_long")
    assert set(others["prediction"]) == {UNPARSED}
    assert others["answer"].notna().all()


def test_every_utterance_stays_in_the_denominator_and_is_counted(answered, prompted, workplace, tmp_path, capsys):
    metrics = json.loads((answered / "metrics.json").read_text())
    assert (metrics["n"], metrics["n_unparsed"], metrics["n_unscored"]) == (21, 20, 1)
    assert metrics["uar"]["value"] == 0.0
    assert workplace.script("eval/compare.py", str(prompted), str(answered), "--out", str(tmp_path / "out")) == 0
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert list(table["n"]) == [21, 21]
    assert list(table["n_unparsed"]) == [0, 20]
    assert "unparsed" in capsys.readouterr().out


def test_the_same_command_changes_nothing(answered, workplace, capsys):
    before = (answered / "predictions.parquet").read_bytes()
    assert workplace.again("zero_shot", f"output.dir={answered}", *GENERATION) == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert (answered / "predictions.parquet").read_bytes() == before
    assert workplace.again("zero_shot", f"output.dir={answered}") == 1  # another mode is another run


@pytest.mark.slow
def test_an_adapted_model_generates_its_most_likely_labels(workplace, tmp_path):
    workplace.run("finetune", tmp_path / "taught", *TAUGHT)
    adapted = [f"model.adapter={tmp_path / 'taught'}", "answering.mode=generation"]
    workplace.run("zero_shot", tmp_path / "said", *adapted)
    said, likely = (
        pd.read_parquet(tmp_path / name / "predictions.parquet").set_index("utterance_id")
        for name in ("said", "taught")
    )
    scored = said[said["status"] == "scored"]
    assert len(scored) > 15
    assert scored["answer"].str.contains("angry|content|happy|sad").all()
    assert (likely.loc[scored.index, "prediction"] == scored["prediction"]).mean() > 0.9
    assert json.loads((tmp_path / "said" / "run.json").read_text())["method"] == "lora"


@pytest.mark.parametrize(
    ("answering", "prompt", "family", "engine", "message"),
    [
        ({}, {}, "clap", "NO", "clap has no language model"),
        ({}, {}, "qwen2_audio", "DEEPSPEED", "engine.yaml shards the model by DEEPSPEED"),
        ({}, {"label_orders": 2}, "qwen2_audio", "NO", "ways of scoring labels"),
        ({}, {"label_score": "pmi"}, "qwen2_audio", "NO", "ways of scoring labels"),
    ],
)
def test_runs_that_cannot_generate_are_refused(answering, prompt, family, engine, message):
    section = SimpleNamespace(**{"mode": "generation", "max_new_tokens": 16, "synonyms": None} | answering)
    model = SimpleNamespace(family=family)
    settings = SimpleNamespace(answering=section, model=model, prompt=PromptSettings("prompts/audio.yaml", **prompt))
    with pytest.raises(ConfigError, match=message):
        generates_answers(settings, Engine("engine.yaml", engine, 1, None))
