import re
from dataclasses import replace

import pytest
from fabricated import LABELS, fabricated_predictions, fabricated_run_json
from huggingface_hub import ModelCard

from lalm_mer.core.errors import ConfigError
from lalm_mer.evaluation.scores import score
from lalm_mer.protocols.protocol import FoldRule, Protocol
from lalm_mer.sharing.model_card import CardFacts, card_metadata, dev_rule, plain, read_fairness, render_model_card

CONFIG = {
    "model": {"family": "qwen2_audio", "id": "Qwen/Qwen2-Audio-7B-Instruct", "quantization": "nf4"},
    "adapter": {"r": 16, "towers": {"language_model": ["q_proj", "v_proj"], "projector": []}},
    "train": {"learning_rate": 2e-5, "eval_steps": None},
}


def facts(**changed):
    description = fabricated_run_json(config=CONFIG, primary_metric="uar", unmapped=7) | changed.pop("description", {})
    return CardFacts(
        **{
            "repo_id": "jane/adapter",
            "description": description,
            "metrics": score(fabricated_predictions(unscored=3)),
            "forms": {label: (label, f"very {label}") for label in LABELS},
            "dev_rule": "of each fold, what the next fold tests",
            "base_licence": "Apache-2.0",
            "base_model": "Qwen/Qwen2-Audio-7B-Instruct",
        }
        | changed
    )


def paragraph(card, heading):
    return " ".join(card.split(f"## {heading}\n")[1].split("\n## ")[0].split())


def test_the_hub_reads_its_metadata():
    data = ModelCard(render_model_card(facts(licence="cc-by-nc-4.0"))).data
    expected = {
        "base_model": "Qwen/Qwen2-Audio-7B-Instruct", "library_name": "peft", "license": "cc-by-nc-4.0",
        "pipeline_tag": "audio-classification",
    }  # fmt: skip
    told = data.to_dict()
    assert {key: told[key] for key in expected} == expected
    assert "speech-emotion-recognition" in data.tags
    metrics = score(fabricated_predictions(unscored=3))
    found = {(row.metric_type, row.metric_name): row.metric_value for row in data.eval_results}
    assert found["accuracy", "weighted accuracy (WA, plain accuracy)"] == metrics["weighted_accuracy"]["value"]
    assert found["recall", "unweighted average recall (UAR)"] == metrics["uar"]["value"]


@pytest.mark.parametrize(
    "changed",
    [
        {"description": {"synthetic": True}},
        {"base_model": None},
        {"description": {"notes": ["The base model is randomly initialised: its figures say nothing."]}},
    ],
)
def test_figures_that_say_nothing_are_not_told_to_the_hub(changed):
    assert "model-index" not in card_metadata(facts(**changed))
    assert "Figures" in render_model_card(facts(**changed))


def test_a_licence_is_what_somebody_gave():
    assert card_metadata(facts())["license"] == "unknown"
    named = card_metadata(facts(licence="my-clinic-1.0"))
    assert (named["license"], named["license_name"]) == ("other", "my-clinic-1.0")
    assert "not stated" in paragraph(render_model_card(facts()), "Licences")


def test_figures_stand_with_interval_and_denominator():
    metrics = score(fabricated_predictions(unscored=3))
    figures = paragraph(render_model_card(facts()), "Figures")
    uar = metrics["uar"]
    assert (
        f"| unweighted average recall (UAR) | {100 * uar['value']:.1f}% | "
        f"{100 * uar['low']:.1f}% to {100 * uar['high']:.1f}% |" in figures
    )
    assert f"n = {metrics['n']} utterances" in figures
    assert "93 scored, 3 unscored and 0 unparsed" in figures
    assert "Student's t" in figures


def test_a_figure_without_interval_says_so():
    metrics = score(fabricated_predictions(speakers=1, per_speaker=24))
    assert metrics["uar"]["low"] is None
    assert "| none |" in render_model_card(facts(metrics=metrics))


def test_data_and_protocol_are_told():
    told = paragraph(render_model_card(facts()), "Data and protocol")
    assert "share no: speaker." in told
    assert "what the next fold tests" in told
    assert "test set chose nothing" in told
    assert "7 utterances of the corpus have a label outside the task" in told


def test_contamination_is_told_whether_known_or_not():
    assert "Nothing is recorded of fabricated" in render_model_card(facts())
    assert "reported on it" in render_model_card(facts(contamination="Its authors reported on it."))


def test_contamination_is_told_once():
    notes = ["Contamination of qwen2_audio: its authors reported on it.", "Another."]
    card = render_model_card(facts(description={"notes": notes}, contamination="its authors reported on it."))
    assert card.count("its authors reported on it.") == 1
    assert "- Note: Another." in card


def test_the_law_is_told():
    told = paragraph(render_model_card(facts()), "Out-of-scope use")
    for words in ("Regulation (EU) 2024/1689", "Article 5(1)(f)", "medical or safety", "Annex III, point 1(c)",
                  "Article 50(3)"):  # fmt: skip
        assert words in told


def test_training_settings_are_told():
    told = paragraph(render_model_card(facts()), "Training")
    assert r"| adapter.towers.language\_model | q\_proj, v\_proj |" in told
    assert "| model.quantization | nf4 |" in told
    assert r"| train.learning\_rate | 2e-05 |" in told
    assert r"| train.eval\_steps | none |" in told


def test_a_fairness_table_has_the_columns_it_came_with():
    rows = [{"group": "female", "uar": 0.51234567}, {"group": "male", "uar": 0.4, "n": 12}]
    card = render_model_card(facts(fairness=rows))
    assert "| group | uar | n |" in card
    assert "|---|---|---|" in card
    assert "| female | 0.5123 |  |" in card
    assert "| male | 0.4 | 12 |" in card
    assert "no fairness audit" not in card
    assert "no fairness audit" in render_model_card(facts())


@pytest.mark.parametrize("content", [{}, [], {"rows": []}, [1], "x", [{}]])
def test_a_fairness_file_without_rows_is_an_error(content):
    with pytest.raises(ConfigError, match=r"fairness\.json"):
        read_fairness(content, "fairness.json")


def test_rows_may_stand_in_an_object():
    assert read_fairness({"rows": [{"a": 1}], "more": 2}, "fairness.json") == [{"a": 1}]


EVIL = "[click](http://evil.example) <script>alert(1)</script> | x | `code` **bold** ![i](http://e/i)\n\n# Head\n---"


def test_nothing_that_a_user_wrote_takes_effect():
    description = {
        "corpus": EVIL, "task": EVIL, "protocol": EVIL, "notes": [EVIL], "disjoint_in": [EVIL], "git": {"commit": EVIL},
        "versions": {EVIL: EVIL},
    }  # fmt: skip
    config = {"adapter": {EVIL: EVIL}, "train": {"x": [EVIL]}, "model": CONFIG["model"]}
    clean = facts(fairness=[{"a": "b"}], base_model=None)
    metrics = clean.metrics | {"recalls": {EVIL: 0.5}}
    dirty = replace(
        clean,
        description=clean.description | description | {"config": config},
        forms={EVIL: [EVIL]},
        fairness=[{EVIL: EVIL}],
        contamination=EVIL,
        metrics=metrics,
    )
    card = render_model_card(dirty)
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
    card = render_model_card(facts(description={"corpus": name}))
    assert ModelCard(card).data.to_dict()["license"] == "unknown"
    assert "{{ 7 * 7 }}" in ModelCard(card).data.to_dict()["model-index"][0]["results"][0]["dataset"]["type"]


def test_invisible_signs_are_dropped():
    assert plain("sad\u202e\u0000\nhappy") == "sad happy"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (FoldRule("listed", "speaker", test={1: ["a"]}, dev={1: ["b"]}), "lists for each fold"),
        (FoldRule("grouped", "speaker"), "next fold tests"),
        (FoldRule("column", "split"), "published split"),
    ],
)
def test_the_dev_rule_in_words(rule, said):
    assert said in dev_rule(Protocol("p", 1, "tests", rule, ["speaker"]))
