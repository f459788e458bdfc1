"""Ensemble files and their descriptions of labels."""

import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.prompting.ensembles import load_ensemble

LABELS = LabelSet(("hap", "sad"), {"hap": ("happy", "excited")})
GOOD = """
name: two
templates:
  - The speaker sounds {{ label }}.
  - "{{label}} speech"
"""


def write(tmp_path, content):
    path = tmp_path / "ensemble.yaml"
    path.write_text(content, "utf-8")
    return path


def test_every_form_is_in_every_template(tmp_path):
    ensemble = load_ensemble(write(tmp_path, GOOD))
    assert ensemble.modalities == "audio"
    assert ensemble.descriptions(ensemble.label_set(LABELS)) == [
        (0, "The speaker sounds happy."),
        (0, "happy speech"),
        (0, "The speaker sounds excited."),
        (0, "excited speech"),
        (1, "The speaker sounds sad."),
        (1, "sad speech"),
    ]


def test_answers_replace_the_forms_of_the_task(tmp_path):
    ensemble = load_ensemble(write(tmp_path, GOOD + "answers: {hap: ['gl{ad', '\\1'], sad: [gloomy], other: [odd]}\n"))
    described = [sentence for _, sentence in ensemble.descriptions(ensemble.label_set(LABELS))]
    assert described[1::2] == ["gl{ad speech", "\\1 speech", "gloomy speech"]


def test_answers_for_some_labels_of_a_task_are_refused(tmp_path):
    ensemble = load_ensemble(write(tmp_path, GOOD + "answers: {hap: [glad]}\n"))
    with pytest.raises(ConfigError, match=r"ensemble two: answers are given for \['hap'\] but not for \['sad'\]"):
        ensemble.label_set(LABELS)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("[]", "0 sentences; expected one or more"),
        ("['{{ label }}', '{{ label }}']", "2 sentences; expected one or more, all different"),
        ("[a voice]", "'a voice' needs exactly one slot"),
        ("['{{ label }} {{ label }}']", "exactly one slot"),
        ("['{{ label }} {{ transcript }}']", "exactly one slot"),
        ("['{label}']", "exactly one slot"),
    ],
)
def test_invalid_templates_are_refused(tmp_path, templates, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_ensemble(write(tmp_path, f"name: x\ntemplates: {templates}\n"))
    assert "ensemble.yaml" in str(caught.value)


def test_a_prompt_file_is_not_an_ensemble(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'user'; expected one of name, templates, answers"):
        load_ensemble(write(tmp_path, "name: x\nuser: '{{ audio }}'\n"))


def test_the_digest_depends_on_templates_and_answers(tmp_path):
    first = load_ensemble(write(tmp_path, GOOD)).digest
    assert load_ensemble(write(tmp_path, "# a comment\n" + GOOD)).digest == first
    assert load_ensemble(write(tmp_path, GOOD + "answers: {hap: [glad], sad: [sad]}\n")).digest != first
    assert load_ensemble(write(tmp_path, GOOD.replace("speech", "voice"))).digest != first
