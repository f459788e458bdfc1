"""Results of finished runs for a public page: their figures, what is refused, and that nothing private is in them."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from fabricated import LABELS, fabricate_run
from planting import KINDS, MARK

from lalm_mer.core.errors import ConfigError, PredictionError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.run_record import Member, Parameters, PeakMemory
from lalm_mer.evaluation.metrics import macro_f1, unweighted_average_recall
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.results import read_results
from lalm_mer.evaluation.runs import read_run, run_folders
from lalm_mer.evaluation.scores import score
from lalm_mer.evaluation.statistics import holm, paired_test
from lalm_mer.sharing.public_results import About, public_results

ABOUT = About("Fabricated runs", "python recipes/cross_validate.py --config recipes/x.yaml", "good")
SKILLS = {"good": 0.6, "bad": 0.2, "linear": 0.4}


@pytest.fixture
def output(tmp_path):
    """Like the output of a cross-validation: three systems, two folds, and two seeds of those with random draws."""
    fabricate = partial(fabricate_run, tmp_path / "runs")
    for number, (system, skill) in enumerate(SKILLS.items()):
        for fold in (1, 2):
            for seed in (0, 1) if system != "linear" else (0,):
                fabricate(
                    f"{system}/fold{fold}_seed{seed}", skill=skill, stream=number, fold=fold, seed=seed,
                    recognizer="same name", base_model=None, method="linear" if system == "linear" else "baseline",
                    seconds=60.0 * (fold + seed), parameters=Parameters(10 * fold, 20 * fold + seed),
                    peak_memory=PeakMemory(100 * fold + seed, "process"), started_at=f"2026-01-0{fold}T00:00:00+00:00",
                )  # fmt: skip
    return tmp_path


def collected(folder, about=ABOUT):
    return public_results([(system, read_run(run)) for system, run in run_folders(folder)], about)


def edit(run, **changed):
    file = run / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def pooled(folder, system, seed):
    tables = [Predictions.read(folder / f"runs/{system}/fold{fold}_seed{seed}/predictions.parquet") for fold in (1, 2)]
    return Predictions.concat(tables).frame


def uar(frame):
    return unweighted_average_recall(frame["truth"].tolist(), frame["prediction"].tolist(), LABELS)


def test_figures_are_those_of_the_predictions(output):
    results = collected(output)
    assert [row.system for row in results.rows] == ["bad", "good", "linear"]
    assert (results.folds, results.seeds, results.first_day, results.last_day) == (
        (1, 2), (0, 1), "2026-01-01", "2026-01-02",
    )  # fmt: skip
    row, figure = results.row("good"), results.row("good").metrics["uar"]
    frames = [pooled(output, "good", seed) for seed in (0, 1)]
    by_seed = [uar(frame) for frame in frames]
    of_folds = [np.mean([uar(frame[frame["fold"] == fold]) for frame in frames]) for fold in (1, 2)]
    assert list(figure.by_seed.values()) == pytest.approx(by_seed)
    assert (figure.value, figure.sd_over_seeds) == pytest.approx((np.mean(by_seed), np.std(by_seed, ddof=1)))
    assert (figure.mean_over_folds, figure.sd_over_folds) == pytest.approx(
        (np.mean(of_folds), np.std(of_folds, ddof=1))
    )
    interval = score(Predictions.concat([run.predictions for run in runs_of(output, "good")]))["uar"]
    assert (figure.low, figure.high, figure.n_speakers) == (interval["low"], interval["high"], 8)
    other = [macro_f1(frame["truth"].tolist(), frame["prediction"].tolist(), LABELS) for frame in frames]
    assert row.metrics["macro_f1"].value == pytest.approx(np.mean(other))
    assert (row.n, row.seeds, row.minutes_per_seed) == (192, (0, 1), (1 + 2 + 2 + 3) / 2)
    assert results.row("linear").metrics["uar"].sd_over_seeds is None


def runs_of(folder, system):
    return [read_run(run) for _, run in run_folders(folder / "runs" / system)]


def test_every_other_system_is_tested_against_the_reference(output):
    results = collected(output)
    expected = []
    for system in ("bad", "linear"):
        tables = [Predictions.concat([run.predictions for run in runs_of(output, name)]) for name in (system, "good")]
        expected.append(paired_test(*(table.frame for table in tables), LABELS))
    adjusted = holm([test.p_value for test in expected])
    found = results.differences
    assert [(each.a, each.b) for each in found] == [("bad", "good"), ("linear", "good")]
    assert [each.value for each in found] == pytest.approx([test.difference for test in expected])
    assert [(each.p_value, each.p_holm) for each in found] == list(
        zip([t.p_value for t in expected], adjusted, strict=True)
    )
    assert [(each.low, each.high) for each in found] == [(t.interval.low, t.interval.high) for t in expected]
    assert all(each.value < 0 for each in found)
    of_linear = collected(output, replace(ABOUT, reference="linear")).differences
    assert [(each.a, each.b) for each in of_linear] == [("bad", "linear"), ("good", "linear")]


def test_a_system_under_a_changed_condition_is_a_row_without_a_test_and_no_reference(output):
    for fold in (1, 2):
        fabricate_run(
            output / "runs", f"swapped/fold{fold}_seed0", fold=fold, method="zero_shot", condition="audio_swapped"
        )
    results = collected(output)
    assert results.row("swapped").condition == "audio_swapped"
    assert "swapped" not in {each.a for each in results.differences}
    with pytest.raises(ConfigError, match="--reference 'swapped': was tested on changed inputs"):
        collected(output, replace(ABOUT, reference="swapped"))


def test_parameters_and_memory_are_the_largest_and_none_if_not_all_are_known(output):
    row = collected(output).row("good")
    assert (row.parameters, row.peak_gpu_bytes, row.peak_process_bytes) == (Parameters(20, 41), None, 201)
    edit(output / "runs/good/fold2_seed1", parameters=None, peak_memory={"bytes": 7, "of": "gpu"})
    row = collected(output).row("good")
    assert (row.parameters, row.peak_gpu_bytes, row.peak_process_bytes) == (None, 7, 200)


def test_run_folders_by_themselves_are_named_by_what_they_are(tmp_path):
    folders = [
        fabricate_run(tmp_path, f"{number}", fold=number, recognizer="net", base_model=None) for number in (1, 2)
    ]
    about = replace(ABOUT, reference=None, labels={"net lora audio": "the net"})
    results = public_results([(None, read_run(folder)) for folder in folders], about)
    assert [(row.system, row.label) for row in results.rows] == [("net lora audio", "the net")]
    assert results.reference == "net lora audio"
    assert results.differences == ()


def not_finished(output):
    edit(output / "runs/good/fold1_seed0", seconds=None)


def not_begun(output):
    (output / "runs/good/fold1_seed0/run.json").unlink()


def other_protocol(output):
    edit(output / "runs/good/fold1_seed0", protocol="other")


def other_version(output):
    edit(output / "runs/good/fold1_seed0", protocol_version=2)


def missing_seed(output):
    for fold in (1, 2):
        (output / f"runs/good/fold{fold}_seed1").rename(output / f"fold{fold}")


def missing_fold(output):
    (output / "runs/linear/fold2_seed0").rename(output / "elsewhere")


def missing_fold_of_a_seed(output):
    (output / "runs/good/fold2_seed1").rename(output / "elsewhere")


def two_systems_in_one_folder(output):
    for fold in (1, 2):
        edit(output / f"runs/good/fold{fold}_seed1", modalities="transcript", transcript_source="corpus")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (not_finished, r"fold1_seed0/run\.json: key 'seconds' is null: the run has not finished; resume it"),
        (not_begun, r"fold1_seed0/run\.json: cannot be read \(No such file or directory\); has the run finished\?"),
        (other_protocol, r"different values of protocol \(speaker_folds and other\); collect the runs of one corpus"),
        (other_version, r"different values of protocol_version \(1 and 2\)"),
        (missing_seed, r"^good has seeds 0, but no run with 1, which other systems have; .* --allow-missing-seeds"),
        (missing_fold, r"cannot be compared: folds differ \(\[1, 2\] and \[1\]\)"),
        (missing_fold_of_a_seed, r"folds of seeds 0 and 1 differ .*; complete every seed"),
        (two_systems_in_one_folder, r"are of one system by their folders or by their recognizers, but not by both"),
    ],
)
def test_runs_that_are_not_one_table_are_one_line(change, says, output):
    change(output)
    with pytest.raises(PredictionError, match=says) as caught:
        collected(output)
    assert "\n" not in str(caught.value)


def test_fewer_seeds_are_taken_on_request_and_are_in_the_file(output):
    missing_seed(output)
    results = collected(output, replace(ABOUT, allow_missing_seeds=True))
    assert (results.seeds, results.row("good").seeds) == ((0, 1), (0,))


def test_a_folder_without_runs_is_one_line(tmp_path):
    with pytest.raises(PredictionError, match="no runs; expected a run folder, a folder of the runs of one system"):
        run_folders(tmp_path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"reference": "best"}, "--reference 'best': no such system; expected one of 'bad', 'good', 'linear'"),
        ({"labels": {"best": "x"}}, "--label 'best': no such system"),
        ({"base_models": {"good": "/home/jane/m"}}, "--base-model good=/home/jane/m: expected a Hub id, user/name"),
        (
            {"title": "of /home/jane"},
            "--title 'of /home/jane': could be private and is not written; expected at most 120",
        ),
        ({"title": "x" * 121}, "--title 'x"),
        ({"machine": "jane@gpu"}, "--machine 'jane@gpu': could be private"),
        ({"labels": {"good": "a | b"}}, "--label 'a | b': could be private"),
        ({"command": "python a.py data.dir=/home/jane"}, "--command .*: could be private .* with relative paths"),
        ({"command": "python a.py model.url=http://gpu:8000"}, "--command .*: could be private"),
        ({"command": ""}, "--command '': could be private"),
    ],
)
def test_an_option_that_does_not_fit_is_one_line(changed, says, output):
    with pytest.raises(ConfigError, match=says):
        collected(output, replace(ABOUT, **changed))


@pytest.mark.parametrize(("published", "shown"), [({}, "local model"), ({"lalm": "user/name"}, "user/name")])
def test_nothing_private_of_a_run_is_in_the_results(published, shown, tmp_path):
    """A secret in every text that a run has, except for names, whose form is checked."""
    folder = tmp_path / f"{MARK}_home" / "lalm"
    notes = (Note(NoteCode.UNSCORED, "test", 2, (f"{MARK}_Ses01F_007", "u2"), ("why", f"{MARK} wept")),
             Note(NoteCode.CONTAMINATION, facts={"model": MARK, "known": MARK}))  # fmt: skip
    for fold in (1, 2):
        run = fabricate_run(
            folder, f"{MARK}_fold{fold}", fold=fold, base_model=f"/scratch/{MARK}_jane/{MARK}_model", notes=notes,
            recognizer=f"qwen2_audio ({MARK}_model, nf4)", method="zero_shot", unscored=2,
            config={"data": {"dir": f"/home/{MARK}"}, "output": {"dir": KINDS[2].format(MARK)}},
            hashes={"data": f"{MARK}d", "folds": f"{MARK}f", "prompt": None, "base_model": f"{MARK}b"},
        )  # fmt: skip
        file = run / "predictions.parquet"
        predictions = Predictions.read(file)
        frame = predictions.frame.assign(**{key: MARK + predictions.frame[key] for key in ("utterance_id", "speaker")})
        Predictions(frame, predictions.labels).write(file)
    results = collected(folder, replace(ABOUT, reference="lalm", base_models=published))
    assert MARK not in json.dumps(results.to_json())
    assert (results.rows[0].base_model, results.rows[0].n_unscored) == (shown, 4)
    assert results.rows[0].recognizer == f"qwen2_audio ({shown.rpartition('/')[2]}, nf4)"
    assert results.rows[0].notes == ("contamination", "unscored")


@pytest.mark.parametrize("key", ["corpus", "protocol", "task"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if set(kind) & set("/\\:~@")])
def test_a_name_that_is_a_path_or_a_sentence_is_refused(key, kind, tmp_path):
    fabricate_run(tmp_path, "one/run", **{key: kind.format(MARK)})
    with pytest.raises(ConfigError, match=f"key '{key}' of run.json: .*: could be private and is not written"):
        collected(tmp_path / "one", replace(ABOUT, reference=None))


def test_a_model_of_the_hub_is_named_and_a_folder_of_that_form_is_not(tmp_path):
    of_hub = {"data": "d", "folds": "f", "prompt": None, "base_model": "user/name@" + "a" * 40}
    shared = {"base_model": "user/name", "recognizer": "qwen2_audio (name)"}
    fabricate_run(tmp_path, "hub/run", hashes=of_hub, **shared)
    fabricate_run(tmp_path, "folder/run", hashes=of_hub | {"base_model": "a" * 64}, **shared)
    names = [collected(tmp_path / name, replace(ABOUT, reference=None)).rows[0] for name in ("hub", "folder")]
    assert [(row.recognizer, row.base_model) for row in names] == [
        ("qwen2_audio (name)", "user/name"), ("qwen2_audio (local model)", "local model"),
    ]  # fmt: skip


def test_encoders_of_a_baseline_are_named_likewise(tmp_path):
    fabricate_run(
        tmp_path, "one/run", method="baseline", base_model="openai/whisper-base, /home/jane/secret_bert",
        recognizer="fusion (whisper-base, secret_bert attentive)",
        hashes={"data": "d", "folds": "f", "prompt": None, "base_model": None},
    )  # fmt: skip
    (row,) = collected(tmp_path / "one", replace(ABOUT, reference=None)).rows
    assert row.recognizer == "fusion (whisper-base, local model attentive)"
    assert row.base_model == "openai/whisper-base, local model"


def test_a_late_fusion_without_a_name_is_not_named_by_its_members(tmp_path):
    members = tuple(Member(f"/home/jane/{name}", f"qwen2_audio ({name})", "lora", "audio", "0" * 64) for name in "ab")
    shared = {"method": "late_fusion", "base_model": None, "members": members}
    fabricate_run(
        tmp_path, "one/run", recognizer="mean of qwen2_audio (a) and b", config={"fusion": {"name": None}}, **shared
    )
    fabricate_run(tmp_path, "two/run", recognizer="best two", config={"fusion": {"name": "best two"}}, **shared)
    found = [collected(tmp_path / name, replace(ABOUT, reference=None)).rows[0].recognizer for name in ("one", "two")]
    assert found == ["late fusion of 2 recognizers", "best two"]


def test_the_file_is_read_again(output, tmp_path):
    from lalm_mer.core.output import write_json

    results = collected(output)
    write_json(tmp_path / "r.json", results.to_json())
    assert read_results(tmp_path / "r.json") == results
