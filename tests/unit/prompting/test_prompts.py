import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Input
from lalm_mer.prompting.conversation import Part
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
            "the slots are audio, transcript, labels, context, speaker, descriptors",
        ),
        ("name: p\nuser: '{{ audio '", "the slots are"),
        ("name: p\nuser: '{{ audio }} {{ transcript | upper }}'", "a slot has a filter or is cut"),
        ("name: p\nuser: '{{ audio }} {{ transcript[:3] }}'", "a slot has a filter or is cut"),
        ('name: p\nuser: "{{ audio }} \\uE000"', "a slot has a filter or is cut"),
        ("name: p\nuser: '{{ audio }}{# why #}'", "a template may only have text and slots"),
        ("name: p\nuser: '{% if audio %}{{ audio }}{% endif %}'", "a template may only have text and slots"),
        ("name: p\nuser: '{{ audio.__class__.__mro__ }}'", "unsafe"),
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
