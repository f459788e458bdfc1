import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.evaluation.comparison import compare
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.report.html import render_report, write_report
from lalm_mer.evaluation.report.text import comparison_text, metrics_text
from lalm_mer.evaluation.runs import read_run

SECTIONS = ["results", "forest", "pairs", "confusion", "curves", "notes", "splits", "denominators", "origin"]


class Outline(HTMLParser):
    """Collects tags and text, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def outline(document: str) -> Outline:
    parser = Outline()
    parser.feed(document)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def comparison(fabricated_comparison):
    return compare([read_run(folder) for folder in fabricated_comparison])


def test_the_report_needs_no_network_and_has_its_sections_in_order(comparison, tmp_path):
    write_report(comparison, tmp_path / "report.html", command="python eval/compare.py 'a b'")
    document = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = outline(document)
    assert [attributes["id"] for tag, attributes in page.tags if tag == "h2"] == SECTIONS
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", document)
    assert not re.search(r"url\(|@import|<script|<link", document)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1 + 3  # a forest plot, and curves of the three LoRA rows
    assert all(image["alt"] and image["src"].startswith("data:image/svg+xml;base64,") for image in images)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert "python eval/compare.py 'a b'" in page.text


def test_figures_in_the_report_are_those_of_the_comparison(comparison):
    page = outline(render_report(comparison))
    for row in comparison.rows:
        uar = row.scores["uar"]
        assert f"{100 * uar['value']:.1f}" in page.text
        assert f"{100 * uar['low']:.1f} to {100 * uar['high']:.1f}" in page.text
    for pair in comparison.pairs:
        assert f"{100 * pair.test.difference:+.1f}" in page.text
    matrices = [attributes for tag, attributes in page.tags if attributes.get("class") == "matrix"]
    assert len(matrices) == len(comparison.rows)
    assert "SYNTHETIC" not in page.text


def test_notes_and_labels_are_escaped(fabricate):
    labels = ["<i>angry</i>", "a&b", "$x_1$", "sad"]
    note = Note(NoteCode.UNSCORED, "test", 1, ids=("<script>alert(1)</script>",))
    folder = fabricate("one", labels=labels, notes=[note])
    document = render_report(compare([read_run(folder)]))
    assert "<script>" not in document
    assert "<i>" not in document
    assert "&lt;script&gt;" in document
    page = outline(document)
    assert "<i>angry</i>" in page.text
    assert "$x_1$" in page.text


def test_synthetic_data_is_stated_at_the_top(fabricate):
    real, made = fabricate("real"), fabricate("made", corpus="invented", synthetic=True)
    page = outline(render_report(compare([read_run(real), read_run(made)])))
    top = page.text[: page.text.index("Results")]
    assert "SYNTHETIC DATA" in top
    assert "The figures on invented come from synthetic speech" in " ".join(top.split())
    assert "SYNTHETIC DATA" in comparison_text(compare([read_run(made)]))


def test_folds_that_share_speakers_are_marked(fabricate):
    page = outline(render_report(compare([read_run(fabricate("one", disjoint_in=["script"], shared_in=["speaker"]))])))
    assert "not disjoint by speaker" in page.text
    assert "No pair of these rows" in page.text


def test_the_report_states_that_few_speakers_limit_p(fabricate):
    folders = [
        fabricate(name, modalities=name, skill=skill) for name, skill in (("audio", 0.3), ("audio+transcript", 0.9))
    ]
    page = outline(render_report(compare([read_run(folder) for folder in folders])))
    assert "with 4 speakers no p-value can be below 0.125" in page.text


def test_a_changed_condition_is_named_and_never_marked_as_the_best(fabricate):
    plain = [fabricate("plain"), fabricate("zero_shot", method="zero_shot", skill=0.3)]
    swapped = fabricate("swapped", condition="audio_swapped", skill=0.95)
    page = outline(render_report(compare([read_run(folder) for folder in [*plain, swapped]])))
    assert "LoRA, audio (audio_swapped)" in page.text
    assert "the highest UAR is that of fabricated_lalm, LoRA, audio:" in " ".join(page.text.split())
    assert "audio (audio_swapped)" in comparison_text(compare([read_run(swapped)]))


def test_the_same_comparison_gives_the_same_bytes(comparison):
    assert render_report(comparison) == render_report(comparison)


def test_the_terminal_shows_every_row_and_pair_aligned(comparison):
    text = comparison_text(comparison)
    table = text.split("\n\n")[0].splitlines()
    assert len(table) == 2 + len(comparison.rows)
    ends = {
        line.index(f"{100 * row.scores['uar']['value']:.1f}")
        for line, row in zip(table[2:], comparison.rows, strict=True)
    }
    assert len(ends) == 1
    assert text.count(" against ") == len(comparison.pairs)


def test_the_terminal_shows_all_figures_of_a_score(comparison):
    scores = comparison.rows[0].scores
    text = metrics_text(scores)
    for name in ("uar", "weighted_accuracy", "macro_f1", "weighted_f1"):
        assert f"{100 * scores[name]['value']:.1f}" in text
    assert "186 scored, 0 unparsed, 6 unscored" in text
    assert all(str(count) in text for line in scores["confusion"]["counts"] for count in line)


def test_chance_and_tables_follow_the_classes_that_are_there(fabricate):
    """A test set without one of the four classes: chance is one in three, and the lacking class is named."""
    runs = []
    for modalities in ("audio", "transcript"):
        folder = fabricate(f"run_{modalities}", modalities=modalities, notes=(Note(NoteCode.MISSING_CLASSES, "dev", 2,
                           facts={"classes": "sad, happy"}),))  # fmt: skip
        run = read_run(folder)
        frame = run.predictions.frame
        kept = Predictions(frame[frame["truth"] != "sad"].reset_index(drop=True), run.predictions.labels)
        runs.append(replace(run, predictions=kept))
    (first, *_) = rows = compare(runs).rows
    assert (first.classes, first.chance) == (("angry", "happy", "neutral"), 1 / 3)
    text = comparison_text(compare(runs))
    assert "(3 of 4 classes, no utterance of sad, chance UAR 33.3; percent)" in text
    document = re.sub(r"<[^>]+>", "", render_report(compare(runs)))
    assert "3 of 4 classes, no utterance of sad;" in document
    assert "where chance is 33.3%" in document
    assert "1 / 3 classes" in document
    assert "25.0" not in document.partition("Paired tests")[0]
    assert len(rows) == 2
