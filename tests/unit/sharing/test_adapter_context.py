"""The context of an adapter's training is compared with that of its use."""

import json
import shutil
from dataclasses import replace

import pytest

from lalm_mer.core.errors import AdapterError, PredictionError, SplitLeakError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.run_record import read_record
from lalm_mer.sharing.adapter_context import (
    MergedFrom,
    context_of,
    origin_of,
    read_merged_from,
    read_trained_run,
    require_fit,
    training_notes,
)
from lalm_mer.sharing.hub_folder import assemble


def fit(folder, finished, *, base_model="same", **changed):
    """Notes of a run that uses an adapter as in training, with some changes."""
    then = read_record(finished / "run.json")
    now = replace(context_of(then, "run.json"), **changed)
    return require_fit(folder, now, then.base_model if base_model == "same" else base_model)


def test_the_run_it_was_trained_for_needs_no_note(finished):
    assert fit(finished / "adapter", finished) == []


def test_another_fold_of_the_same_folds_is_refused(finished):
    with pytest.raises(SplitLeakError, match="set it to 1"):
        fit(finished / "adapter", finished, fold=2)


def test_another_base_model_is_refused_and_another_copy_noted(finished):
    with pytest.raises(AdapterError, match="another base model"):
        fit(finished / "adapter", finished, base_digest="c" * 64)
    notes = fit(finished / "adapter", finished, base_digest="Qwen/Qwen2-Audio-7B@0")
    assert notes == [Note(NoteCode.OTHER_BASE_MODEL)]
    assert fit(finished / "adapter", finished, base_digest=None) == []


@pytest.mark.parametrize("with_record", [True, False], ids=["run.json", "alone"])
def test_an_adapter_of_another_published_model_is_refused(finished, tmp_path, with_record):
    out = assemble(
        finished,
        tmp_path / "out",
        repo_id="jane/adapter",
        push_vocabulary=True,
        base_model="Qwen/Qwen2-Audio-7B-Instruct",
    )
    if not with_record:
        (out / "run.json").unlink()
    digest = "Qwen/Qwen2-Audio-7B@0"
    with pytest.raises(AdapterError, match=r"trained on Qwen/Qwen2-Audio-7B-Instruct.*set model\.id=Qwen/Qwen2"):
        fit(out, finished, base_model="Qwen/Qwen2-Audio-7B", base_digest=digest)
    fit(out, finished, base_model="qwen/qwen2-audio-7b-instruct")
    fit(out, finished, base_model=str(tmp_path))  # a copy may be in any folder


TRAINED = {"corpus": "fabricated", "protocol": "speaker_folds", "fold": 1}


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"folds_digest": "e" * 64}, Note(NoteCode.OTHER_FOLDS, facts=TRAINED)),
        ({"folds_digest": "e" * 64, "corpus": "other"}, Note(NoteCode.OTHER_CORPUS, facts=TRAINED)),
        ({"prompt_digest": "e" * 64}, Note(NoteCode.OTHER_PROMPT)),
        ({"labels": ("a", "b")}, Note(NoteCode.OTHER_LABELS)),
        ({"quantization": "nf4"}, Note(NoteCode.OTHER_QUANTIZATION, facts={"trained": "none", "used": "nf4"})),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_other_differences_are_noted(finished, tmp_path, changed, note, shared):
    folder = (
        assemble(finished, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
        if shared
        else finished / "adapter"
    )
    assert fit(folder, finished, **changed) == [note]


def test_a_merged_model_is_compared_by_the_context_of_its_adapter(finished, tmp_path):
    trained_with = context_of(read_record(finished / "run.json"), "run.json")
    MergedFrom("base", "a" * 64, trained_with).write(tmp_path)
    assert fit(tmp_path, finished, base_model=None, base_digest=None) == []
    with pytest.raises(SplitLeakError, match="trained on fold 1"):
        fit(tmp_path, finished, base_model=None, base_digest=None, fold=2)
    content = json.loads((tmp_path / "merged_from.json").read_text())
    for changed, message in (
        ({"trained_with": {}}, r"merged_from\.json: key 'trained_with\.corpus' is missing"),
        ({"adapter": 1}, r"merged_from\.json: key 'adapter': .* found int 1"),
        ({"host": "x"}, r"merged_from\.json: unknown key 'host'"),
    ):
        (tmp_path / "merged_from.json").write_text(json.dumps(content | changed))
        with pytest.raises(PredictionError, match=message):
            fit(tmp_path, finished, base_model=None)


def test_a_model_trained_in_full_is_compared_by_its_context(finished, tmp_path):
    record = read_record(finished / "run.json")
    origin = origin_of(record)
    assert (origin.base_model, origin.adapter, origin.earlier) == (record.base_model, None, ())
    origin.write(tmp_path)
    assert read_merged_from(tmp_path) == origin
    assert fit(tmp_path, finished, base_model=None, base_digest=None) == []
    with pytest.raises(SplitLeakError, match="the model was trained on fold 1 of the same folds"):
        fit(tmp_path, finished, base_model=None, base_digest=None, fold=2)


def test_an_earlier_training_of_the_base_model_is_not_forgotten(finished, tmp_path):
    first = context_of(read_record(finished / "run.json"), "run.json")
    second = replace(first, corpus="other", folds_digest="e" * 64, prompt_digest="f" * 64)
    third = replace(second, corpus="third", folds_digest="d" * 64)
    for number, context in enumerate((first, second, third)):
        made = MergedFrom.of(str(tmp_path / str(number - 1)), None if number else "a" * 64, context)
        (tmp_path / str(number)).mkdir()
        made.write(tmp_path / str(number))
    assert read_merged_from(tmp_path / "2").trainings == (third, second, first)
    with pytest.raises(SplitLeakError, match="trained on fold 1 of the same folds"):
        fit(tmp_path / "2", finished, base_model=None, base_digest=None, fold=2)
    notes = fit(tmp_path / "2", finished, base_model=None, base_digest=None)
    others = [Note(NoteCode.OTHER_CORPUS, facts=TRAINED | {"corpus": name}) for name in ("third", "other")]
    assert notes == [*others, Note(NoteCode.OTHER_PROMPT)]  # of the last training alone


def test_the_data_of_an_encoder_are_compared(finished, tmp_path):
    record = read_record(finished / "run.json")
    here = {"corpus": record.corpus, "folds_digest": record.hashes["folds"], "fold": record.fold}
    assert training_notes(tmp_path, **here) == []
    origin_of(record).write(tmp_path)
    assert training_notes(tmp_path, **here) == [Note(NoteCode.TRAINED_BASE_MODEL)]
    elsewhere = training_notes(tmp_path, **here | {"folds_digest": "e" * 64, "fold": 2})
    assert elsewhere == [Note(NoteCode.TRAINED_BASE_MODEL), Note(NoteCode.OTHER_FOLDS, facts=TRAINED)]
    with pytest.raises(SplitLeakError, match="argument 'fold': 2, but the model was trained on fold 1"):
        training_notes(tmp_path, **here | {"fold": 2})


def test_a_record_of_another_format_is_refused(run):
    (run / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | {"format": 1}))
    with pytest.raises(PredictionError, match=r"run\.json: format 1, but this version reads format 2"):
        read_trained_run(run / "adapter")


def test_an_adapter_of_unknown_origin_is_noted(finished, tmp_path):
    shutil.copytree(finished / "adapter", tmp_path / "place" / "adapter")
    assert fit(tmp_path / "place" / "adapter", finished) == [Note(NoteCode.UNKNOWN_TRAINING_DATA)]
