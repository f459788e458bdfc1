import os
import time
from pathlib import Path

import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Input
from lalm_mer.prompting.conversation import Part
from lalm_mer.prompting.ensembles import load_ensemble
from lalm_mer.prompting.parsing import load_synonyms
from lalm_mer.prompting.prompts import load_prompt

LABELS = LabelSet(("hap", "sad"), {"hap": ("happy", "excited"), "sad": ("sad",)})


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "prompt.yaml"
        path.write_text(content, "utf-8")
        return path

    return write


def given(transcript="I am fine."):
    return Input("u1", transcript, None, "s1")


def test_slots_become_parts_in_their_order(written):
    prompt = load_prompt(
        written("name: p\nsystem: Be kind.\nuser: '{{ audio }}Said: {{ transcript }}. One of {{ labels }}?'")
    )
    system, user = prompt.conversation(given(), LABELS).messages
    assert (system.role, system.parts) == ("system", (Part("words", "Be kind."),))
    assert user.role == "user"
    assert user.parts == (
        Part("audio"), Part("words", "Said: "), Part("words", "I am fine."), Part("words", ". One of "),
        Part("words", "happy, sad"), Part("words", "?"),
    )  # fmt: skip
    assert prompt.modalities == "audio+transcript"


def test_without_a_system_message_there_is_only_the_user(written):
    prompt = load_prompt(written("name: p\nuser: '{{ transcript }}'"))
    assert [message.role for message in prompt.conversation(given(), LABELS).messages] == ["user"]


@pytest.mark.parametrize(
    ("user", "modalities", "uses_audio", "uses_transcript"),
    [
        ("{{ audio }} {{ transcript }}", "audio+transcript", True, True),
        ("{{ transcript }} {{ audio }}", "audio+transcript", True, True),
        ("{{ audio }}?", "audio", True, False),
        ("{{ transcript }}?", "transcript", False, True),
    ],
)
def test_modalities(written, user, modalities, uses_audio, uses_transcript):
    prompt = load_prompt(written(f"name: p\nuser: '{user}'"))
    assert (prompt.modalities, prompt.uses_audio, prompt.uses_transcript) == (modalities, uses_audio, uses_transcript)


@pytest.mark.parametrize(
    "transcript", ["{{ 7*7 }}", "{% raw %}", "\ue000audio\ue001", "\ue000labels\ue001", "", " \n "]
)
def test_a_transcript_is_not_processed_as_a_template(written, transcript):
    prompt = load_prompt(written("name: p\nuser: 'Said {{ transcript }}!'"))
    conversation = prompt.conversation(given(transcript), LABELS)
    assert conversation.messages[0].parts[1] == Part("words", transcript)
    assert conversation.audio_slots == 0


def test_a_missing_transcript_is_an_error_if_the_prompt_uses_it(written):
    with pytest.raises(ConfigError, match=r"utterance u1 has no transcript.*prompt p"):
        load_prompt(written("name: p\nuser: '{{ transcript }}'")).conversation(given(None), LABELS)
    assert load_prompt(written("name: p\nuser: '{{ audio }}'")).conversation(given(None), LABELS).audio_slots == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: p\nuser: What?", "has no slot of an utterance"),
        (
            "name: p\nuser: '{{ audio }} {{ gender }}'",
            "'{{ gender }}' is no slot; expected one of audio, transcript, labels, context, speaker, descriptors, ",
        ),
        ("name: p\nuser: '{{ audio '", "'{{ audio ' is no slot"),
        ("name: p\nuser: '{{ audio }} {{ transcript | upper }}'", "'{{ transcript | upper }}' is no slot"),
        ("name: p\nuser: '{{ audio }} {{ transcript[:3] }}'", "'{{ transcript[:3] }}' is no slot"),
        ('name: p\nuser: "{{ audio }} \\uE000"', r"key 'user': contains the character '\ue000'"),
        ("name: p\nuser: '{{ audio }}{# why #}'", "a template may only have text and slots"),
        ("name: p\nuser: '{% if audio %}{{ audio }}{% endif %}'", "a template may only have text and slots"),
        ("name: p\nuser: '{{ audio.__class__.__mro__ }}'", "is no slot"),
        ("name: p\nuser: '{{- audio -}}'", "'{{- audio -}}' is no slot"),
        ("name: p\nuser: '{{{ audio }}}'", "'{{{ audio }}}' is no slot"),
        ("name: p\nuser: '" + "{{ audio }}" * 17 + "'", "has 17 slots; expected 16 at most"),
        ("name: p\nuser: '{{ audio }}'\nsystem: '{{ labels }}'", "key 'system': has {{, {% or {#"),
        ("name: p\nuser: '{{ audio }}'\nsystem: \"\\0\"", r"key 'system': contains the character '\x00'"),
        ("name: p\nuser: '{{ audio }}'\nstyle: x", "unknown key 'style'"),
        ("user: '{{ audio }}'", "key 'name' is missing"),
        ("name: p\nuser: '{{ audio }}'\nanswers: {hap: happy}", "key 'answers.hap': expected a list"),
    ],
)
def test_a_wrong_prompt_file_is_named(written, content, message):
    path = written(content)
    with pytest.raises(ConfigError) as caught:
        load_prompt(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


EXPRESSIONS = (
    "{{ ('x' * 10**9) * 9 }}", "{{ 'x' * 10**9 }}", "{{ 9**9**9 }}", "{{ 7*7 }}", "{{ 'x' | center(10**9) }}",
    "{{ range(99999) | join * 99999 }}", "{{ lipsum(n=10**6) }}", "{{ audio if audio else '' }}", "{{ audio ~ audio }}",
    "{% for a in range(10**5) %}{% for b in range(10**5) %}{% for c in range(10**5) %}x{% endfor %}{% endfor %}"
    "{% endfor %}",
    "{% include '/etc/passwd' %}", "{% set x = 1 %}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
)  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_template_is_never_run(written, expression):
    path = written(f'name: p\nuser: "{{{{ audio }}}} {expression}"')
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=r"is no slot|may only have text and slots") as caught:
        load_prompt(path)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - started < 1


def test_braces_outside_of_slots_are_text(written):
    prompt = load_prompt(written('name: p\nuser: \'{{audio}} as {"a": {"b": 1}} {  {{ transcript   }}%}\n\n\''))
    assert prompt.parts == (
        ("audio", ""), ("words", ' as {"a": {"b": 1}} {  '), ("transcript", ""), ("words", "%}")
    )  # fmt: skip
    kept = load_prompt(written('name: p\nuser: "{{ audio }}\\r\\n{{ labels }}\\n\\n"'))
    assert kept.parts == (("audio", ""), ("words", "\n"), ("labels", ""), ("words", "\n"))


def doubled(levels):
    """YAML whose aliases stand for 9 to the power of ``levels`` items."""
    lines = ["  l0: &l0 [" + ", ".join("x" * 9) + "]"]
    lines += [f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "answers:\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (doubled(12), r"line 5: an alias \(\*name\) is not supported"),
        ("answers:\n  a: &a [b]\n  c: *a", r"line 5: an alias"),
        ("answers: " + "[" * 20_000, "not valid YAML|more than 32 levels"),
        ("answers: " + "[" * 20_000 + "]" * 20_000, "line 3: more than 32 levels"),
        ("answers: " + "{a: " * 9_000 + "}" * 9_000, "line 3: more than 32 levels"),
        ("answers: {a: [" + "9" * 5000 + "]}", "not valid YAML"),
        ("system: !!int x", "not valid YAML"),
        ("system: !!timestamp 2001-99-99", "not valid YAML"),
        ('system: "\\ud800"', "line 3: half of a surrogate pair"),
        ("system: " + "x " * 40_000, "bytes; expected a prompt, of 65,536 bytes at most"),
    ],
)
def test_harmful_yaml_is_refused_at_once(written, content, message):
    path = written(f"name: p\nuser: '{{{{ audio }}}}'\n{content}")
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=message) as caught:
        load_prompt(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("load", [load_prompt, load_ensemble, load_synonyms])
def test_only_a_small_file_is_read(tmp_path, load):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none.yaml", tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match=r"(no such|is no) file"):
            load(path)


def test_answers_replace_the_surface_forms(written):
    content = "name: p\nuser: '{{ audio }} {{ labels }}'\nanswers: {hap: [joyful], sad: [low, blue], other: [odd]}"
    prompt = load_prompt(written(content))
    label_set = prompt.label_set(LABELS)
    assert (label_set.forms_of("hap"), label_set.forms_of("sad")) == (("joyful",), ("low", "blue"))
    assert prompt.conversation(given(), label_set).messages[0].parts[-1] == Part("words", "joyful, low")


def test_answers_for_some_labels_only_are_refused(written):
    prompt = load_prompt(written("name: p\nuser: '{{ audio }}'\nanswers: {hap: [joyful]}"))
    with pytest.raises(ConfigError, match=r"\['hap'\] but not for \['sad'\]"):
        prompt.label_set(LABELS)
    plain = load_prompt(written("name: p\nuser: '{{ audio }}'"))
    assert plain.label_set(LABELS) is LABELS


def test_the_digest_depends_on_content_and_not_on_comments(written):
    first = load_prompt(written("name: p\nuser: '{{ audio }}'")).digest
    assert load_prompt(written("# why\nname: p\nuser: '{{ audio }}'")).digest == first
    assert load_prompt(written("name: p\nuser: '{{ audio }}?'")).digest != first
    assert load_prompt(written("name: p\nuser: '{{ audio }}'\nsystem: x")).digest != first
    assert load_prompt(written("name: p\nuser: '{{ audio }}'\nanswers: {a: [b]}")).digest != first
