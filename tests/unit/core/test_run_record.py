"""The record of a run: JSON round trip and refusals; the tests of evaluation/runs have further refusals."""

import json
from dataclasses import replace

import pytest
from fabricated import fabricated_record

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.run_record import Balance, Counts, ModelRecord, RunRecord, read_record

MODEL = {"family": "qwen2_audio", "id": "a/b", "revision": None, "dtype": "float32", "quantization": None}
NOTES = (
    Note(NoteCode.RANDOMLY_INITIALISED),
    Note(NoteCode.UNSCORED, "test", 2, ("u1", "u2"), ("too long", "no audio")),
    Note(NoteCode.OTHER_CORPUS, facts={"corpus": "c", "protocol": "p", "fold": 3}),
)


def test_a_record_is_unchanged_by_json():
    counts = Counts(3, {"angry": 2, "sad": 1}, {"angry": {"s1": 2}, "sad": {"s1": 1}}, 0)
    record = fabricated_record(
        notes=NOTES, balance=Balance(counts, counts), class_weights={"angry": 0.1, "sad": 1.7}, seconds=None,
        config={"model": MODEL, "train": {"learning_rate": 2e-5, "eval_steps": None, "names": ["a"]}},
    )  # fmt: skip
    assert RunRecord.from_json(json.loads(json.dumps(record.to_json())), "run.json") == record
    assert record.to_json()["format"] == 2


def test_a_note_marks_random_weights():
    assert fabricated_record(notes=NOTES).randomly_initialised
    assert not fabricated_record(notes=NOTES[1:]).randomly_initialised


def test_the_model_of_a_run_is_read_from_its_config():
    record = fabricated_record(config={"model": MODEL | {"adapter": "another/key"}})
    assert record.model("run.json") == ModelRecord(**MODEL)
    for config, message in (
        ({}, r"run\.json: section 'model': key 'family' is missing"),
        ({"model": MODEL | {"id": None}}, r"run\.json: section 'model': key 'id': .* found NoneType None"),
    ):
        with pytest.raises(PredictionError, match=message):
            replace(record, config=config).model("run.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"run\.json: key 'config\.prompt\.shots' is missing"),
        ({"prompt": None}, r"key 'config\.prompt\.shots' is missing"),
        ({"prompt": [1]}, r"key 'config\.prompt\.shots' is missing"),
        ({"prompt": {"shots": "x" * 900}}, r"key 'config\.prompt\.shots': expected int, found 'x{299}$"),
        ({"prompt": {"shots": True}}, r"key 'config\.prompt\.shots': expected int, found True"),
    ],
)
def test_a_setting_of_another_kind_is_named(config, message):
    with pytest.raises(PredictionError, match=message):
        fabricated_record(config=config).setting("prompt.shots", int, "run.json")
    assert fabricated_record(config={"prompt": {"shots": 2}}).setting("prompt.shots", int, "run.json") == 2


@pytest.mark.parametrize("config", [{"model": None}, {"model": []}, {"model": "x"}])
def test_a_model_that_is_no_section_is_named(config):
    with pytest.raises(PredictionError, match=r"run\.json: section 'model': expected a JSON object, found"):
        fabricated_record(config=config).model("run.json")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(PredictionError, match=r"run\.json: cannot be read"):
        read_record(tmp_path / "run.json")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(PredictionError, match=r"run\.json: not valid JSON") as caught:
        read_record(tmp_path / "run.json")
    assert "\n" not in str(caught.value)
