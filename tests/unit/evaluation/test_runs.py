import json

import pyarrow.parquet as pq
import pytest
from fabricated import fabricated_run_json

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.run_record import Parameters, PeakMemory
from lalm_mer.evaluation.runs import read_run

LATER = {"members", "task_kind", "ranges", "parameters", "peak_memory"}
"""Keys that run.json of earlier versions may lack"""


def edit(file, **changed):
    content = json.loads(file.read_text())
    for key, value in changed.items():
        if value is KeyError:
            del content[key]
        else:
            content[key] = value
    file.write_text(json.dumps(content))


def test_all_files_of_a_run_are_read(fabricate):
    note = Note(NoteCode.UNSCORED, "test", 1, ids=("u1",), reasons=("too long",))
    run = read_run(fabricate("one", notes=[note], fold=3, seed=5, protocol_version=2))
    record = run.record
    assert (record.fold, record.seed, record.notes, record.protocol_version) == (3, 5, (note,), 2)
    assert run.seconds == 12.5
    assert len(run.predictions.frame) == 96
    assert set(run.history["split"]) == {"train", "dev"}
    assert run.metrics["n"] == 96


def test_a_run_that_is_not_trained_in_steps_needs_no_history(fabricate):
    folder = fabricate("zero", method="zero_shot")
    assert not (folder / "history.jsonl").exists()
    assert read_run(folder).history.empty
    trained = fabricate("lora")
    (trained / "history.jsonl").unlink()
    with pytest.raises(PredictionError, match=r"lora/history\.jsonl: cannot be read"):
        read_run(trained)


@pytest.mark.parametrize("key", sorted(fabricated_run_json().keys() - {"format", *LATER}))
def test_every_missing_key_is_named_with_its_file(fabricate, key):
    folder = fabricate("bad")
    edit(folder / "run.json", **{key: KeyError})
    with pytest.raises(PredictionError, match=rf"bad/run\.json: key '{key}' is missing"):
        read_run(folder)


def test_a_record_of_an_earlier_version_is_of_one_label_and_has_no_members_and_no_measurements(fabricate):
    folder = fabricate("older", parameters=Parameters(1, 2), peak_memory=PeakMemory(3, "gpu"))
    assert read_run(folder).record.peak_memory == PeakMemory(3, "gpu")
    edit(folder / "run.json", **dict.fromkeys(LATER, KeyError))
    record = read_run(folder).record
    assert (record.task_kind, record.ranges, record.members) == ("single", (), ())
    assert (record.parameters, record.peak_memory) == (None, None)


@pytest.mark.parametrize(("value", "found"), [(1, 1), (KeyError, None), (3, 3)])
def test_a_run_of_another_format_is_refused(fabricate, value, found):
    folder = fabricate("old")
    edit(folder / "run.json", format=value)
    with pytest.raises(
        PredictionError, match=rf"old/run\.json: format {found}, but this version reads format 2; run it"
    ):
        read_run(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fold": "1"}, r"run\.json: key 'fold': Input should be a valid integer, found str '1'"),
        ({"seed": True}, r"run\.json: key 'seed': Input should be a valid integer, found bool"),
        ({"synthetic": 0}, r"run\.json: key 'synthetic': Input should be a valid boolean"),
        ({"corpora": []}, r"run\.json: unknown key 'corpora'"),
        ({"git": {"commit": None, "modified": None, "host": "x"}}, r"run\.json: unknown key 'git\.host'"),
        ({"modalities": "text"}, r"run\.json: key 'modalities': expected one of .* found 'text'"),
        ({"method": "prompt"}, r"run\.json: key 'method': expected one of"),
        ({"condition": "noise"}, r"run\.json: key 'condition': expected one of"),
        ({"primary_metric": "acc"}, r"run\.json: key 'primary_metric': expected one of .* found 'acc'"),
        ({"transcript_source": "corpus"}, r"run\.json: key 'transcript_source': expected null with modalities audio"),
        ({"parameters": {"trained": 1}}, r"run\.json: key 'parameters\.all' is missing"),
        ({"peak_memory": {"bytes": 1, "of": "host"}}, r"run\.json: key 'peak_memory\.of': .* found str 'host'"),
        ({"seconds": None}, r"run\.json: key 'seconds' is null: the run has not finished"),
        ({"notes": ["in words"]}, r"run\.json: key 'notes\.0': .* found str 'in words'"),
        ({"notes": [{"code": "news"}]}, r"run\.json: key 'notes\.0\.code': .* found str 'news'"),
        ({"notes": [{"code": "unscored", "split": "s1"}]}, r"run\.json: key 'notes\.0\.split': .* found str 's1'"),
        (
            {"notes": [{"code": "left_out", "facts": {"x": [1]}}]},
            r"run\.json: key 'notes\.0\.facts\.x': .* found list \[1\]",
        ),
        ({"notes": [{"code": "contamination", "facts": {"model": "m"}}]}, r"key 'notes\.0\.facts\.known' is missing"),
        ({"notes": [{"code": "unscored", "ids": ["a", "b"], "reasons": ["x"]}]}, r"1 reasons, but 2 ids"),
        ({"hashes": {"data": "d"}}, r"run\.json: key 'hashes\.folds' is missing"),
        ({"fold": 2}, r"predictions\.parquet: column 'fold' contains \[1\], but run\.json has 2"),
        ({"corpus": "other"}, r"predictions\.parquet: column 'corpus' contains"),
        ({"labels": ["x", "y"]}, r"predictions\.parquet: labels .* but run\.json has \['x', 'y'\]"),
    ],
)
def test_wrong_values_are_named(fabricate, changed, message):
    folder = fabricate("bad")
    edit(folder / "run.json", **changed)
    with pytest.raises(PredictionError, match=message):
        read_run(folder)


def test_missing_and_malformed_files_are_named(fabricate, tmp_path):
    with pytest.raises(PredictionError, match="nowhere: no such run folder"):
        read_run(tmp_path / "nowhere")
    folder = fabricate("bad")
    (folder / "run.json").write_text("{")
    with pytest.raises(PredictionError, match=r"run\.json: not valid JSON"):
        read_run(folder)
    (folder / "run.json").write_text("[]")
    with pytest.raises(PredictionError, match=r"run\.json: expected a JSON object, found list"):
        read_run(folder)
    (folder / "run.json").unlink()
    with pytest.raises(PredictionError, match=r"run\.json: cannot be read"):
        read_run(folder)
    other = fabricate("other")
    (other / "predictions.parquet").unlink()
    with pytest.raises(PredictionError, match=r"other/predictions\.parquet"):
        read_run(other)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ('{"step": 1, "epoch": 0, "split": "train"}', "line 1: key 'loss' is missing"),
        ('{"step": 1, "epoch": 0, "split": "test", "loss": 1}', "line 1: key 'split': expected 'train' or 'dev'"),
        ('{"step": 1, "epoch": 0, "split": "dev", "loss": 1}', "line 1: key 'uar' is missing"),
        ('{"step": "1", "epoch": 0, "split": "train", "loss": 1}', "line 1: key 'step': expected a number"),
    ],
)
def test_a_malformed_history_is_named_with_its_line(fabricate, line, message):
    folder = fabricate("bad")
    (folder / "history.jsonl").write_text(line + "\n")
    with pytest.raises(PredictionError, match=r"bad/history\.jsonl: " + message):
        read_run(folder)


def test_files_that_are_not_text_are_named(fabricate):
    folder = fabricate("bad")
    (folder / "history.jsonl").write_bytes(b'{"step": "\x95"}\n')
    with pytest.raises(PredictionError, match=r"bad/history\.jsonl: not UTF-8"):
        read_run(folder)
    (folder / "history.jsonl").write_bytes(b"[" * 100_000)
    with pytest.raises(PredictionError, match=r"bad/history\.jsonl: line 1: not valid JSON"):
        read_run(folder)


@pytest.mark.parametrize("value", [None, "0.5", True, [], {}, -1, 10**400, {"value": "0.5"}, {"value": 10**400}])
def test_a_figure_that_is_no_fraction_is_named(fabricate, value):
    folder = fabricate("bad")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"uar": value}))
    with pytest.raises(PredictionError, match=r"bad/metrics\.json: key 'uar\.value' is missing or no fraction"):
        read_run(folder)


@pytest.mark.parametrize("stored", [b"{", b"[]", b"{}", b'{"labels": 3}', b"\xff"])
def test_predictions_with_malformed_metadata_are_named(fabricate, stored):
    file = fabricate("bad") / "predictions.parquet"
    table = pq.read_table(file)
    (key,) = table.schema.metadata
    pq.write_table(table.replace_schema_metadata({key: stored}), file)
    with pytest.raises(PredictionError, match=r"bad/predictions\.parquet: cannot be read as Parquet"):
        read_run(file.parent)


def test_metrics_that_do_not_follow_from_the_predictions_are_refused(fabricate):
    folder = fabricate("stale")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["uar"]["value"] += 0.01
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(PredictionError, match=r"stale/metrics\.json: UAR .* gives .*; score the run again"):
        read_run(folder)
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(PredictionError, match=r"key 'uar\.value' is missing"):
        read_run(folder)


def test_the_condition_of_a_run_is_that_of_its_predictions(fabricate):
    assert read_run(fabricate("plain")).record.condition == "none"
    folder = fabricate("swapped", condition="audio_swapped")
    assert read_run(folder).record.condition == "audio_swapped"
    edit(folder / "run.json", condition="none")
    with pytest.raises(PredictionError, match=r"swapped/predictions\.parquet: no row has the condition 'none'"):
        read_run(folder)
    edit(folder / "run.json", condition=3)
    with pytest.raises(PredictionError, match=r"run\.json: key 'condition': .* found int 3"):
        read_run(folder)
