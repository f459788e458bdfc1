"""Files of results: round trip and refusals."""

import json
from dataclasses import replace

import pytest
from fabricated import fabricated_results

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.output import write_json
from lalm_mer.evaluation.results import read_results


def test_results_are_unchanged_by_json(tmp_path):
    results = fabricated_results()
    write_json(tmp_path / "r.json", results.to_json())
    assert read_results(tmp_path / "r.json") == results
    assert results.row("second").system == "second"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, r"r\.json: format 2, but this version reads format 1; collect the runs again"),
        ({"reference": "third"}, r"r\.json: 'third' is no system of its rows; expected one of \['first', 'second'\]"),
        ({"primary_metric": "acc"}, r"r\.json: metrics of first lack 'acc'; found \['macro_f1', 'uar'"),
        ({"host": "x"}, r"r\.json: unknown key 'host'"),
        ({"folds": ["1"]}, r"r\.json: key 'folds\.0': "),
    ],
)
def test_a_malformed_file_is_one_line(changed, message, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(fabricated_results().to_json() | changed))
    with pytest.raises(PredictionError, match=message):
        read_results(tmp_path / "r.json")


def test_two_rows_of_one_system_are_refused(tmp_path):
    results = fabricated_results()
    write_json(tmp_path / "r.json", replace(results, rows=(results.rows[0], results.rows[0])).to_json())
    with pytest.raises(PredictionError, match=r"key 'rows': two rows have the same system; found \['first', 'first'\]"):
        read_results(tmp_path / "r.json")
