"""The page of results is what its script makes of the files in eval/results, and says what a reader has to know."""

import doctest
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fabricated import fabricated_results

from lalm_mer.core.output import write_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    """The module that writes docs/results.md."""
    spec = importlib.util.spec_from_file_location("write_results", ROOT / "docs/write_results.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # its dataclasses look it up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def rendered(script, tmp_path):
    """The part of a page about fabricated results, given by name of their file."""

    def render(**results):
        for name, content in results.items():
            write_json(tmp_path / f"{name}.json", content.to_json())
        text = script.page(sorted(tmp_path.glob("*.json")))
        return text.partition("## Corpus ")[2].partition("\n## Earlier figures")[0], text

    return render


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def table(text):
    """Column -> cell, of each row."""
    header, _, *rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_page_is_what_the_script_makes(script):
    files = sorted(script.RESULTS.glob("*.json"))
    assert files
    assert script.PAGE.read_text("utf-8") == script.page(files), "run: python docs/write_results.py"


def test_each_image_shows_the_figures_of_its_file(script):
    """Its bytes depend on the version of matplotlib, so what it shows is compared by the key in it."""
    sections = [each for each in script.sections_of(script.RESULTS.glob("*.json")) if each.points]
    assert sorted(path.name for path in script.IMAGES.glob("results_*.svg")) == [each.image for each in sections]
    for section in sections:
        assert section.image_key in (script.IMAGES / section.image).read_text("utf-8"), "run: docs/write_results.py"


def test_an_image_has_the_same_bytes_each_time_and_another_key_for_other_figures(script, tmp_path):
    results, file = fabricated_results(), tmp_path / "made.json"
    write_json(file, results.to_json())
    first, again = (dict(script.images([file])) for _ in range(2))
    assert list(first) == ["results_made.svg"]
    assert first == again
    key = script.sections_of([file])[0].image_key
    assert key.encode() in first["results_made.svg"]
    first_row = results.rows[0]
    figure = replace(first_row.metrics["uar"], high=0.57)
    changed = replace(first_row, metrics={**first_row.metrics, "uar": figure})
    write_json(file, replace(results, rows=(changed, results.rows[1])).to_json())
    assert script.sections_of([file])[0].image_key != key


def test_a_table_has_figures_tests_minutes_parameters_and_memory(rendered):
    text, _ = rendered(made=fabricated_results())
    first, second = table(text)
    assert first == {
        "system": "the first", "method": "baseline", "input": "audio", "seeds": "2", "UAR": "50.0 [44.0, 56.0]",
        "sd over seeds": "1.0", "mean ± sd over folds": "49.0 ± 2.0", "UAR minus *the first*": "", "p (Holm)": "",
        "minutes": "76", "parameters trained": "50,992", "peak memory": "1.5 GiB",
    }  # fmt: skip
    assert second == {
        "system": "the second (random weights)", "method": "zero-shot", "input": "audio+transcript (asr)", "seeds": "1",
        "UAR": "20.0", "sd over seeds": "", "mean ± sd over folds": "19.0 ± 2.0",
        "UAR minus *the first*": "-30.0 [-40.0, -20.0]", "p (Holm)": "< 0.001", "minutes": "0.2",
        "parameters trained": "not recorded", "peak memory": "20.0 GiB (GPU)",
    }  # fmt: skip
    assert (
        "1,440 synthetic utterances of 24 speakers, 4 classes, chance UAR 25.0; protocol `speaker_folds`, folds 1 to"
        in text
    )
    assert "\nRemarks:\n\n- the second: random weights, so the figure says nothing about a published model\n" in text
    assert "- the second: 3 utterances unscored, counted as errors\n" in text
    assert "minus the first:" not in text  # the table has it
    assert f"```bash\n{fabricated_results().command}\n```" in text
    assert (
        "Runs of 1 January 2026 to 3 February 2026, code `c0ffeec` with files changed since; python 3.11.2 and 3.12.1."
        in (text.replace("\n", " "))
    )


def test_columns_that_say_nothing_are_left_out_and_other_tests_are_sentences(rendered):
    results = fabricated_results()
    first, second = (replace(row, seeds=(0,)) for row in results.rows)
    gain = replace(results.gains[0], a="first", b="second", value=0.3, low=None, high=None, p_value=0.03, p_holm=0.06)
    small = replace(results, folds=(1,), seeds=(0,), rows=(first, second), gains=(gain,), machine="2 CPU cores")
    text, _ = rendered(small=small)
    assert not {"seeds", "sd over seeds", "mean ± sd over folds"} & set(table(text)[0])
    assert "over all such pairs:\n\n- the first minus the second: +30.0, p = 0.030, by Holm's rule p = 0.060\n" in text
    assert " Minutes on 2 CPU cores. " in text
    alone = replace(small, rows=(first,), reference="first", differences=(), gains=(), primary_metric="weighted_f1")
    text, _ = rendered(small=alone)
    (row,) = table(text)
    assert (row["weighted F1"], row["UAR"]) == ("50.0", "50.0 [44.0, 56.0]")
    assert "p (Holm)" not in row
    assert "images/results_small.svg" not in text


def test_a_system_with_fewer_seeds_is_named(rendered):
    results = fabricated_results(seeds=(0, 1, 2))
    text, _ = rendered(made=results)
    assert "- the first: seeds 0, 1 only\n" in text


def test_it_says_that_no_published_model_was_measured_until_one_was(rendered):
    says = "No published audio-language model has been measured yet"
    results = fabricated_results()
    assert says in rendered(made=results)[1]
    published = replace(results.rows[1], base_model="user/model", random_weights=False)
    assert says not in rendered(made=replace(results, rows=(results.rows[0], published)))[1]


def test_figures_of_numbers_are_no_percent(rendered):
    results = fabricated_results()
    rows = tuple(replace(row, metrics={"ccc": row.metrics["macro_f1"]}) for row in results.rows)
    numbers = replace(results, task_kind="scalar", n_classes=None, primary_metric="ccc", tested_metric="ccc", rows=rows)
    text, _ = rendered(made=numbers)
    assert [row["CCC"] for row in table(text)] == ["0.500", "0.500"]
    assert table(text)[1]["CCC minus *the first*"] == "-0.300"
    assert "chance" not in text


def test_examples_in_its_docstrings_are_right(script):
    assert doctest.testmod(script).failed == 0
    assert doctest.testmod(script).attempted >= 2
