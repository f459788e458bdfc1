"""The choice of a layer in each fold, on fabricated predictions."""

from types import SimpleNamespace

import pytest
from fabricated import fabricated_predictions, fabricated_record

from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.scores import score
from lalm_mer.launch.probe_layers.report import FoldProbe, Probe, choices, report_probes


def probe_of(layer, skills, *, streams=(1, 0), row="system"):
    """A probe with a skill on dev and on test for each fold."""
    folds = []
    for fold, (on_dev, on_test) in enumerate(skills, 1):
        dev, test = (
            fabricated_predictions(skill=skill, fold=fold, stream=stream)
            for skill, stream in zip((on_dev, on_test), streams, strict=True)
        )
        run = SimpleNamespace(record=fabricated_record(fold=fold, method="linear"), predictions=test, seconds=1.0)
        results = {"dev": score(dev)["uar"], "test": score(test)["uar"]}
        folds.append(FoldProbe(layer, run, dev, c=0.1, results=results))
    return Probe.of(row, layer, folds)


def test_dev_chooses_in_each_fold_and_test_never():
    low, high = probe_of(3, [(0.2, 0.9), (0.9, 0.2)]), probe_of(5, [(0.9, 0.2), (0.2, 0.9)])
    (chosen,) = choices([low, high])
    assert (chosen.layer, chosen.layers) == (None, "5 3")
    pooled = Predictions.concat([high.folds[0].run.predictions, low.folds[1].run.predictions])
    assert chosen.results["test"] == score(pooled)["uar"]
    assert chosen.results["test"]["value"] < min(low.results["test"]["value"], high.results["test"]["value"])


def test_the_first_of_equal_layers_is_chosen_and_rows_choose_for_themselves():
    probes = [
        probe_of(layer, [(0.5, test)], row=row)
        for row, figures in (("a", (0.1, 0.9)), ("b", (0.2, 0.8)))
        for layer, test in enumerate(figures)
    ]
    assert [(chosen.row, chosen.layers) for chosen in choices(probes)] == [("a", "0"), ("b", "0")]


def test_the_report_ends_with_the_figures_of_the_choices(tmp_path):
    probes = [probe_of(0, [(0.2, 0.9), (0.3, 0.9)]), probe_of(1, [(0.9, 0.4), (0.1, 0.4)])]
    lines = report_probes(probes, tmp_path, "python recipes/probe_layers.py").splitlines()
    (chosen,) = choices(probes)
    value, mean = 100 * chosen.results["test"]["value"], 100 * chosen.mean_over_folds
    assert lines[-1].startswith(f"system, layer chosen on dev of each fold (1 0): test uar {value:.1f}% (95% interval ")
    assert lines[-1].endswith(f"mean over folds {mean:.1f}, n = 192")
    assert mean == pytest.approx(50 * sum(each.results["test"]["value"] for each in chosen.folds))
    html = (tmp_path / "report.html").read_text("utf-8")
    assert lines[-1] in html
    assert "system, chosen on dev" in html
