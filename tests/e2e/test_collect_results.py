"""From runs of recipes to a file of results and its table: figures, parameters, memory, and what is refused."""

import json
import shutil

import pytest
import yaml
from safetensors.numpy import load_file
from small_runs import small_baseline

from lalm_mer.core.config import read_yaml
from lalm_mer.evaluation.results import read_results
from lalm_mer.evaluation.runs import run_folders

RECIPE = "cross_validate"
SCRIPT = "eval/collect_results.py"
COMMAND = "python recipes/cross_validate.py --config recipes/manifest/cross_validate.yaml"


@pytest.fixture(scope="module")
def finished(workplace, tmp_path_factory):
    """Output of a cross-validation of a linear model, a small baseline with two seeds, and their late fusion."""
    own = tmp_path_factory.mktemp("configs")
    shared = read_yaml(workplace.config("zero_shot"))
    linear = {key: shared[key] for key in ("data", "split", "output")} | {
        "linear": {"modalities": "transcript", "transcript": {"kind": "tfidf"}, "c": [1.0], "processes": 1,
                   "cache_dir": str(own / "features")},
    }  # fmt: skip
    files = {
        "train_linear": linear,
        "train_baseline": small_baseline(workplace),
        "late_fusion": {"fusion": {"members": ["a", "b"], "rule": "mean"}, "output": {"dir": "unused"}},
    }
    for name, content in files.items():
        (own / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    systems = {"linear": "train_linear", "small": "train_baseline", "together": "late_fusion"}
    content = {
        "systems": {
            name: {"recipe": recipe, "config": str(own / f"{recipe}.yaml")} for name, recipe in systems.items()
        },
        "folds": [1, 3], "seeds": [0, 1], "output": {"dir": str(own / "out")},
    }  # fmt: skip
    content["systems"]["together"]["members"] = ["linear", "small"]
    place = workplace.with_config(RECIPE, content, own)
    for system in systems:
        assert place.again(RECIPE, f"only=[{system}]", "--worker") == 0
    return own / "out"


@pytest.fixture
def collect(workplace, tmp_path):
    """Runs the script; the exit status and the file."""

    def run(*arguments):
        out = tmp_path / "results.json"
        options = ["--out", str(out), "--title", "Small runs", "--command", COMMAND]
        return workplace.script(SCRIPT, *map(str, arguments), *options), out

    return run


def test_runs_of_a_cross_validation_become_a_file_of_results(finished, collect, workplace, tmp_path):
    status, file = collect(finished, "--reference", "linear", "--label", "small=the small network")
    assert status == 0
    results = read_results(file)
    assert [(row.system, row.method, row.seeds) for row in results.rows] == [
        ("linear", "linear", (0,)), ("small", "baseline", (0, 1)), ("together", "late_fusion", (0, 1)),
    ]  # fmt: skip
    assert (results.corpus, results.folds, results.reference) == ("synthetic_beeps", (1, 3), "linear")
    assert {(each.a, each.b) for each in results.differences} == {("together", "linear"), ("small", "linear")}
    assert {(each.a, each.b) for each in results.gains} >= {("together", "linear"), ("together", "small")}
    assert results.row("small").label == "the small network"
    weights = [load_file(finished / f"runs/linear/fold{fold}_seed0/model/model.safetensors") for fold in (1, 3)]
    coefficients = max(each["coefficients"].size + each["intercepts"].size for each in weights)
    small, fused = results.row("small").parameters, results.row("together").parameters
    assert results.row("linear").parameters.trained == coefficients
    assert 0 < small.trained <= small.all
    assert small.trained < fused.trained <= coefficients + small.trained
    assert all(row.peak_process_bytes > 2**20 and row.peak_gpu_bytes is None for row in results.rows)
    for row in results.rows:
        runs = [run for _, run in run_folders(finished / "runs" / row.system)]
        assert workplace.script("eval/compare.py", *map(str, runs), "--out", str(tmp_path / row.system)) == 0
        (compared,) = json.loads((tmp_path / row.system / "comparison.json").read_text())["rows"]
        figure = row.metrics["uar"]
        keys = ("n", "uar", "uar_low", "uar_high", "uar_sd", "n_unscored")
        found = (row.n, figure.value, figure.low, figure.high, figure.sd_over_seeds, row.n_unscored)
        assert found == tuple(compared[key] for key in keys)
        assert row.minutes_per_seed * 60 * len(row.seeds) == pytest.approx(compared["seconds"])
    written = file.read_text()
    assert str(finished) not in written
    assert not [name for name in ("s1_0", "s1_too_long", str(workplace.folder)) if name in written]


def test_runs_that_are_not_finished_and_missing_seeds_are_said(finished, collect, capsys, tmp_path):
    runs = tmp_path / "runs"
    for system in ("linear", "small"):
        shutil.copytree(finished / "runs" / system, runs / system)
    stopped = runs / "small/fold3_seed1/run.json"
    content = stopped.read_text()
    stopped.write_text(json.dumps(json.loads(content) | {"seconds": None}))
    assert collect(tmp_path)[0] == 1
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith("small/fold3_seed1/run.json: key 'seconds' is null: the run has not finished; resume it")
    )
    for _, run in run_folders(runs / "small"):
        if run.name.endswith("seed1"):
            shutil.rmtree(run)
    shutil.copytree(finished / "runs/together", runs / "together")
    status, file = collect(tmp_path)
    assert status == 1
    assert capsys.readouterr().err == (
        "error: small has seeds 0, but no run with 1, which other systems have; run these, or give "
        "--allow-missing-seeds\n"
    )
    assert not file.exists()
    assert collect(tmp_path, "--allow-missing-seeds")[0] == 0
    assert read_results(file).row("small").seeds == (0,)


def test_a_mistake_in_an_option_is_one_line(finished, collect, capsys):
    assert collect(finished, "--label", "small")[0] == 1
    assert capsys.readouterr().err == "error: --label 'small': expected SYSTEM=TEXT\n"
    assert collect(finished / "logs")[0] == 1
    assert "logs: no runs; expected a run folder" in capsys.readouterr().err
