import re
from dataclasses import replace

import pytest
from fabricated import LABELS, fabricated_predictions, fabricated_record
from huggingface_hub import ModelCard

from lalm_mer.core.notes import Note, NoteCode, sentence
from lalm_mer.core.provenance import Commit
from lalm_mer.evaluation.scores import score
from lalm_mer.protocols.protocol import FoldRule, Protocol
from lalm_mer.sharing.model_card import CardFacts, card_metadata, dev_rule, plain, render_model_card
from lalm_mer.sharing.public_record import PublicRecord

CONFIG = {
    "model": {"family": "qwen2_audio", "id": "Qwen/Qwen2-Audio-7B-Instruct", "quantization": "nf4"},
    "adapter": {"r": 16, "towers": {"language_model": ["q_proj", "v_proj"], "projector": []}},
    "train": {"learning_rate": 2e-5, "eval_steps": None},
}


def facts(**changed):
    record = PublicRecord(fabricated_record(**{"config": CONFIG} | changed.pop("record", {})))
    return CardFacts(
        **{
            "repo_id": "jane/adapter",
            "record": record,
            "metrics": score(fabricated_predictions(unscored=3)),
            "forms": {label: (label, f"very {label}") for label in LABELS},
            "dev_rule": "the test set of the next fold",
            "base_licence": "Apache-2.0",
            "base_model": "Qwen/Qwen2-Audio-7B-Instruct",
        }
        | changed
    )


def paragraph(card, heading):
    return " ".join(card.split(f"## {heading}\n")[1].split("\n## ")[0].split())


def test_the_hub_can_read_its_metadata():
    data = ModelCard(render_model_card(facts(licence="cc-by-nc-4.0"))).data
    expected = {
        "base_model": "Qwen/Qwen2-Audio-7B-Instruct", "library_name": "peft", "license": "cc-by-nc-4.0",
        "pipeline_tag": "audio-classification",
    }  # fmt: skip
    written = data.to_dict()
    assert {key: written[key] for key in expected} == expected
    assert "speech-emotion-recognition" in data.tags
    metrics = score(fabricated_predictions(unscored=3))
    found = {(row.metric_type, row.metric_name): row.metric_value for row in data.eval_results}
    assert found["accuracy", "weighted accuracy (WA, plain accuracy)"] == metrics["weighted_accuracy"]["value"]
    assert found["recall", "unweighted average recall (UAR)"] == metrics["uar"]["value"]


@pytest.mark.parametrize(
    "changed",
    [
        {"record": {"synthetic": True}},
        {"base_model": None},
        {"record": {"notes": (Note(NoteCode.RANDOMLY_INITIALISED),)}},
    ],
)
def test_results_without_meaning_are_not_in_the_metadata(changed):
    assert "model-index" not in card_metadata(facts(**changed))
    assert "Results" in render_model_card(facts(**changed))


def test_the_licence_is_the_given_one():
    assert card_metadata(facts())["license"] == "unknown"
    named = card_metadata(facts(licence="my-clinic-1.0"))
    assert (named["license"], named["license_name"]) == ("other", "my-clinic-1.0")
    assert "not stated" in paragraph(render_model_card(facts()), "Licences")


def test_results_have_interval_and_denominator():
    metrics = score(fabricated_predictions(unscored=3))
    results = paragraph(render_model_card(facts()), "Results")
    uar = metrics["uar"]
    assert (
        f"| unweighted average recall (UAR) | {100 * uar['value']:.1f}% | "
        f"{100 * uar['low']:.1f}% to {100 * uar['high']:.1f}% |" in results
    )
    assert f"n = {metrics['n']} utterances" in results
    assert "93 scored, 3 unscored and 0 unparsed" in results
    assert "Student's t" in results


def test_a_result_without_interval_says_so():
    metrics = score(fabricated_predictions(speakers=1, per_speaker=24))
    assert metrics["uar"]["low"] is None
    assert "| none |" in render_model_card(facts(metrics=metrics))


def test_data_and_protocol_are_stated():
    text = paragraph(render_model_card(facts()), "Data and protocol")
    assert "share no: speaker." in text
    assert "the test set of the next fold" in text
    assert "test set selected nothing" in text
    assert "7 utterances of the corpus have a label outside the task" in text


def test_contamination_is_stated_whether_known_or_not():
    assert "not known whether the training data of the base model contain fabricated" in render_model_card(facts())
    assert "reported on it" in render_model_card(facts(contamination="Its authors reported on it."))


def test_notes_are_listed():
    notes = (Note(NoteCode.UNSCORED, "test", 3), Note(NoteCode.OTHER_PROMPT))
    card = render_model_card(facts(record={"notes": notes}))
    assert [line for line in card.splitlines() if "Note: " in line] == [f"- Note: {sentence(note)}" for note in notes]


def test_the_law_is_cited():
    text = paragraph(render_model_card(facts()), "Out-of-scope use")
    for words in ("Regulation (EU) 2024/1689", "Article 5(1)(f)", "medical or safety", "Annex III, point 1(c)",
                  "Article 50(3)"):  # fmt: skip
        assert words in text


def test_training_settings_are_listed():
    text = paragraph(render_model_card(facts()), "Training")
    assert r"| adapter.towers.language\_model | q\_proj, v\_proj |" in text
    assert "| model.quantization | nf4 |" in text
    assert r"| train.learning\_rate | 2e-05 |" in text
    assert r"| train.eval\_steps | none |" in text


def test_results_by_group_are_not_claimed():
    assert "Results by group (gender, age, language ...) are not given." in render_model_card(facts())


EVIL = "[click](http://evil.example) <script>alert(1)</script> | x | `code` **bold** ![i](http://e/i)\n\n# Head\n---"


def test_markdown_and_html_of_a_user_have_no_effect():
    note = Note(NoteCode.OTHER_CORPUS, facts={"corpus": EVIL, "protocol": EVIL, "fold": 1})
    record = {
        "corpus": EVIL, "task": EVIL, "protocol": EVIL, "notes": (note,), "disjoint_in": (EVIL,),
        "git": Commit(EVIL, modified=True), "versions": {EVIL: EVIL},
        "config": {"adapter": {EVIL: EVIL}, "train": {"x": [EVIL]}, "model": CONFIG["model"]},
    }  # fmt: skip
    clean = facts(record=record, base_model=None)
    metrics = clean.metrics | {"recalls": {EVIL: 0.5}}
    card = render_model_card(replace(clean, forms={EVIL: [EVIL]}, contamination=EVIL, metrics=metrics))
    body = card.split("---\n", 2)[2]
    assert "<script" not in body
    assert not re.search(r"(?<!\\)\]\(", body)
    assert "http://" not in body
    assert "\n# Head" not in body
    assert "**bold" not in body
    assert "`code" not in body.replace("\\`", "")
    for line in body.splitlines():
        if line.startswith("|") and "evil" in line:
            assert line.replace("\\|", "").count("|") <= 4


def test_a_corpus_name_cannot_break_the_metadata():
    name = 'x"\n---\nlicense: mit\nlicense: mit # {{ 7 * 7 }}'
    card = render_model_card(facts(record={"corpus": name}))
    assert ModelCard(card).data.to_dict()["license"] == "unknown"
    assert "{{ 7 * 7 }}" in ModelCard(card).data.to_dict()["model-index"][0]["results"][0]["dataset"]["type"]


def test_invisible_characters_are_dropped():
    assert plain("sad\u202e\u0000\nhappy") == "sad happy"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (FoldRule("listed", "speaker", test={1: ["a"]}, dev={1: ["b"]}), "lists for each fold"),
        (FoldRule("grouped", "speaker"), "test set of the next fold"),
        (FoldRule("column", "split"), "published split"),
    ],
)
def test_the_dev_rule_is_described(rule, text):
    assert text in dev_rule(Protocol("p", 1, "tests", rule, ["speaker"]))
