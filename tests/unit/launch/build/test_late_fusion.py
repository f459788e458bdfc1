"""Late fusion of fabricated runs by its recipe: the result, and what is refused."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from fabricated import LABELS, fabricated_predictions, fabricated_record

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import UNPARSED
from lalm_mer.core.notes import NoteCode
from lalm_mer.core.run_record import Parameters, read_record
from lalm_mer.evaluation.comparison import compare
from lalm_mer.evaluation.predictions import EvaluatedSplit, Predictions
from lalm_mer.evaluation.runs import read_run
from lalm_mer.evaluation.scores import score
from lalm_mer.launch.build.open_recognizer import open_recognizer

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def member(tmp_path, monkeypatch):
    """A maker of a finished run; its test set is that of every other, its scores depend on its stream."""
    monkeypatch.chdir(tmp_path)

    def make(name, stream, *, skill=0.5, unscored=0, dev=True, predictions=None, **changed):
        folder = tmp_path / name
        folder.mkdir()
        record = fabricated_record(**{"method": "baseline", "recognizer": name, "base_model": None} | changed)
        test = predictions or fabricated_predictions(
            skill=skill, stream=stream, unscored=unscored, labels=record.labels
        )
        test.write(folder / "predictions.parquet")
        if dev:
            of_dev(skill=skill, stream=stream, labels=record.labels).write(folder / "dev_predictions.parquet")
        (folder / "run.json").write_text(json.dumps(record.to_json()))
        (folder / "metrics.json").write_text(json.dumps(score(test)))
        return name

    return make


def of_dev(**options):
    """Predictions of utterances that are in no test set."""
    table = fabricated_predictions(per_speaker=20, **options)
    return Predictions(table.frame.assign(utterance_id="dev_" + table.frame["utterance_id"]), table.labels)


@pytest.fixture
def fuse(tmp_path, monkeypatch, capsys):
    """Runs the recipe; the run folder, or the error that it printed."""
    (tmp_path / "late_fusion.yaml").write_text("output: {dir: '{method}'}\n")

    def run(*members, rule="mean", out="fused", **options):
        arguments = [f"fusion.members=[{','.join(members)}]", f"fusion.rule={rule}", f"output.dir={out}"]
        arguments += [f"{key}={value}" for key, value in options.items()]
        monkeypatch.setattr(sys, "argv", ["late_fusion.py", "--config", "late_fusion.yaml", *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "recipes/late_fusion.py"), run_name="__main__")
        return capsys.readouterr().err.strip() if end.value.code else Path(out)

    return run


def log_probs(folder, name="predictions.parquet"):
    frame = Predictions.read(Path(folder) / name).frame.set_index("utterance_id")
    return frame[[f"log_prob_{label}" for label in LABELS]]


def test_the_mean_is_a_run_like_any_other(member, fuse):
    members = member("one", 1), member("two", 2, modalities="transcript")
    folder = fuse(*members)
    expected = np.log((np.exp(log_probs("one")) + np.exp(log_probs("two"))) / 2)
    assert log_probs(folder).to_numpy() == pytest.approx(expected.to_numpy())
    assert len(log_probs(folder, "dev_predictions.parquet")) == 80
    record = read_record(folder / "run.json")
    assert (record.method, record.modalities, record.transcript_source) == ("late_fusion", "audio+transcript", "corpus")
    assert record.recognizer == "mean of one baseline audio and two baseline transcript"
    assert [(each.folder, each.recognizer, each.method) for each in record.members] == [
        ("one", "one", "baseline"), ("two", "two", "baseline"),
    ]  # fmt: skip
    runs = [read_run(Path(name)) for name in (*members, str(folder))]
    pairs = [(pair.a.record.method, pair.b.record.recognizer) for pair in compare(runs).pairs]
    assert pairs == [("late_fusion", "one"), ("late_fusion", "two")]


def test_a_finished_fusion_is_left_as_it_is_and_another_is_refused(member, fuse):
    members = member("one", 1), member("two", 2)
    before = (fuse(*members) / "metrics.json").stat().st_mtime_ns
    assert (fuse(*members) / "metrics.json").stat().st_mtime_ns == before
    assert "fusion.rule = 'mean', now it is 'logits'" in fuse(*members, rule="logits")


def test_labels_of_another_order_are_aligned(member, fuse):
    turned = Predictions(fabricated_predictions(stream=2).frame, LABELS[::-1])
    plain, turned = member("one", 1), member("two", 2, labels=LABELS[::-1], predictions=turned, dev=False)
    folder = fuse(plain, turned)
    expected = np.exp(log_probs("one")) + np.exp(log_probs("two"))
    assert np.exp(log_probs(folder)).to_numpy() == pytest.approx(expected.to_numpy() / 2)


@pytest.mark.parametrize(("rule", "of_rule"), [("mean", 0), ("weighted", 2), ("stacking", 2 * 4 * 4 + 4)])
def test_parameters_are_those_of_the_members_and_of_the_rule(rule, of_rule, member, fuse):
    members = [member(name, place, parameters=Parameters(trained, 50)) for place, (name, trained) in
               enumerate([("one", 7), ("two", 30)], 1)]  # fmt: skip
    record = read_record(fuse(*members, rule=rule) / "run.json")
    assert record.parameters == Parameters(37 + of_rule, 100 + of_rule)
    assert record.peak_memory.bytes > 2**20
    of_earlier_version = member("three", 3)
    assert read_record(fuse("one", of_earlier_version, out="other") / "run.json").parameters is None


@pytest.mark.parametrize("rule", ["weighted", "stacking"])
def test_a_fitted_rule_uses_dev_alone_and_says_so(rule, member, fuse):
    members = member("one", 1, skill=0.9), member("two", 2, skill=0.1)
    folder = fuse(*members, rule=rule)
    assert [note.code for note in read_record(folder / "run.json").notes] == [NoteCode.FITTED_ON_DEV]
    assert read_run(folder).metrics["uar"]["value"] > read_run(Path("two")).metrics["uar"]["value"]
    without = member("three", 3, dev=False)
    assert fuse("one", without, rule=rule, out="other") == (
        f"error: key 'fusion.rule': {rule} is fitted on dev, but three has no dev_predictions.parquet; score it in a "
        "new folder with scoring.dev=true, or choose another rule"
    )


@pytest.mark.parametrize(("rule", "unscored"), [("mean", 0), ("logits", 0), ("vote", 0), ("stacking", 5)])
def test_an_utterance_that_one_member_has_not_scored_is_fused_where_the_rule_can(rule, unscored, member, fuse):
    folder = fuse(member("one", 1), member("two", 2, unscored=5), rule=rule)
    assert score(Predictions.read(folder / "predictions.parquet"))["n_unscored"] == unscored
    notes = [(note.code, note.n) for note in read_record(folder / "run.json").notes]
    assert ((NoteCode.UNSCORED, 5) in notes) == bool(unscored)


def test_generated_answers_have_a_vote_alone(member, fuse):
    scored = fabricated_predictions(stream=1)
    of = scored.frame
    split = EvaluatedSplit(of["utterance_id"], of["speaker"], of["truth"], LABELS, "fabricated", 1, 0)
    parsed = [UNPARSED, *of["truth"][1:]]
    answers = Predictions.from_answers(split, ["hm"] * len(of), parsed)
    members = member("one", 1), member("two", 2), member("generated", 0, predictions=answers, dev=False)
    assert "generated answers without log-probabilities; only vote takes them" in fuse(*members)
    first = Predictions.read(fuse(members[2], *members[:2], rule="vote", out="vote") / "predictions.parquet").frame
    assert first["prediction"][1:].tolist() == [
        votes[1] if votes[1] == votes[2] else votes[0]
        for votes in zip(parsed[1:], *(_predicted(name)[1:] for name in members[:2]), strict=True)
    ]
    assert first["prediction"][0] == _predicted("one")[0]


def _predicted(name):
    return Predictions.read(Path(name) / "predictions.parquet").frame["prediction"].tolist()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"protocol": "other"}, "one and two differ in protocol (speaker_folds and other)"),
        ({"fold": 2}, "one and two differ in fold (1 and 2)"),
        ({"labels": ("angry", "happy")}, "one and two differ in labels"),
        ({"condition": "audio_swapped"}, "one and two differ in condition (none and audio_swapped)"),
        ({"predictions": fabricated_predictions(speakers=3)}, "is in one only (24 such); fuse runs on"),
    ],
)
def test_members_of_other_utterances_are_refused(changed, expected, member, fuse):
    if "predictions" not in changed:
        of = fabricated_record(**changed)
        table = fabricated_predictions(fold=of.fold, labels=of.labels, condition=of.condition)
        changed = changed | {"predictions": table, "dev": False}
    assert expected in fuse(member("one", 1), member("two", 2, **changed))


@pytest.mark.parametrize("rule", ["mean", "stacking"])
def test_dev_of_other_utterances_or_of_the_test_set_is_refused(rule, member, fuse):
    member("one", 1)
    part = of_dev(stream=2)
    Predictions(part.frame[4:].reset_index(drop=True), part.labels).write(
        Path(member("two", 2)) / "dev_predictions.parquet"
    )
    assert "'dev_f1u000' is in one only (4 such); fuse runs on the same utterances" in fuse("one", "two", rule=rule)
    shutil.copy(Path(member("three", 3)) / "predictions.parquet", "three/dev_predictions.parquet")
    assert "three/dev_predictions.parquet: utterance 'f1u000' is also in the test set (96 such)" in fuse(
        "one", "three", rule=rule
    )


def test_a_run_counts_once_and_speakers_agree(member, fuse, tmp_path):
    shutil.copytree(member("one", 1), "copy")
    assert "copy and one have the same predictions; give each run once" in fuse("one", "copy")
    other = Predictions.read(Path(member("two", 2)) / "predictions.parquet")
    Predictions(other.frame.assign(speaker="s1"), other.labels).write(Path("two/predictions.parquet"))
    assert "utterance 'f1u000' has speaker 's1' in two and 'f1s0' in one; fuse runs of one task" in fuse("one", "two")


def test_what_is_no_finished_run_or_only_one_is_refused(member, fuse, tmp_path):
    (tmp_path / "empty").mkdir()
    assert fuse(member("one", 1), "empty").endswith("empty is no finished run; finish it first")
    assert "key 'fusion.members': 1 different folders; name two or more" in fuse("one", "one")
    assert "key 'fusion.members'" in fuse("one", "missing")


def test_prediction_names_members_that_are_missing_or_changed(member, fuse, tmp_path):
    folder = fuse(member("one", 1), member("two", 2))
    (tmp_path / "two").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="1 of its 2 members are missing: two; put the run folders there"):
        open_recognizer(folder)
    member("two", 3)
    with pytest.raises(ConfigError, match="its member two has other predictions than those that were fused"):
        open_recognizer(folder)
