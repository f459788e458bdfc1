"""The command lines of eval/, run as a user runs them."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricated_predictions

from lalm_mer.core.errors import PredictionError

ROOT = Path(__file__).parents[3]


def run(*arguments: object, code: str | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code] if code else [sys.executable]
    return subprocess.run([*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)


def test_compare_writes_table_and_report(fabricated_comparison, tmp_path):
    done = run("eval/compare.py", *fabricated_comparison, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path / 'out' / 'report.html'}" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison.csv", "comparison.json", "report.html",
    ]  # fmt: skip
    assert str(fabricated_comparison[0]) in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_score_predictions_of_five_seeds_is_quick_and_does_not_import_torch(tmp_path):
    generator = np.random.default_rng(0)
    labels = ["ang", "hap", "neu", "sad"]
    truth = generator.choice(labels, 5473)
    frame = pd.concat(
        [
            pd.DataFrame(
                {"utterance_id": [f"u{i}" for i in range(5473)], "speaker": [f"s{i % 10}" for i in range(5473)],
                 "fold": np.arange(5473) % 5, "seed": seed, "truth": truth,
                 "prediction": np.where(generator.random(5473) < 0.6, truth, generator.choice(labels, 5473))}
            )
            for seed in range(5)
        ]
    )  # fmt: skip
    frame.to_csv(tmp_path / "table.csv", index=False)
    assert len(frame) == 27_365
    code = "import sys; sys.path.insert(0, 'eval'); import score_predictions as s; r = s.main(sys.argv[1:]); "
    code += "heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules); assert not heavy, heavy; sys.exit(r)"
    start = time.perf_counter()
    done = run(tmp_path / "table.csv", "--out", tmp_path / "metrics.json", code=code)
    assert time.perf_counter() - start < 20
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["n"], metrics["n_seeds"], metrics["uar"]["n_clusters"]) == (27_365, 5, 10)
    assert "the truths found in the table" in done.stdout


def load(script: str):
    specification = importlib.util.spec_from_file_location(script, ROOT / "eval" / f"{script}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("score_predictions", ["gone.csv"], "gone.csv: cannot be read"),
        ("compare", ["gone", "--out", "unused"], "gone: no such run folder"),
    ],
)
def test_errors_are_one_line_without_debug(script, arguments, message, capsys):
    module = load(script)
    assert module.main(arguments) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    with pytest.raises(PredictionError, match=message):
        module.main([*arguments, "--debug"])


@pytest.mark.parametrize("script", ["compare", "score_predictions"])
def test_help_has_an_example(script, capsys):
    with pytest.raises(SystemExit) as stopped:
        load(script).main(["--help"])
    assert stopped.value.code == 0
    assert f"python eval/{script}.py " in capsys.readouterr().out


def test_a_label_set_that_does_not_fit_is_an_error(tmp_path, capsys):
    fabricated_predictions().write(tmp_path / "p.parquet")
    assert load("score_predictions").main([str(tmp_path / "p.parquet"), "--labels", "angry, happy"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected one of ['angry', 'happy']" in line
