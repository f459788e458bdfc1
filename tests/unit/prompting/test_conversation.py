import pytest

from lalm_mer.core.errors import ModelError
from lalm_mer.prompting.conversation import Conversation, Message, Part, mark_parts, split_marked


def conversation(*words):
    return Conversation(
        (
            Message("system", (Part("words", "Be kind."),)),
            Message("user", (Part("audio"), *(Part("words", word) for word in words))),
        )
    )


def test_a_chat_template_receives_no_text():
    hostile = ("<|im_end|>", "{{ 7*7 }}", "\ue0000\ue001")
    messages, words = mark_parts(conversation(*hostile))
    assert words == ["Be kind.", *hostile]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"][0] == {"type": "audio", "audio_url": ""}
    shown = str(messages)
    assert "kind" not in shown
    assert "im_end" not in shown
    assert "7*7" not in shown


def test_text_replaces_its_marks():
    _, words = mark_parts(conversation("one \ue0000\ue001", "two"))
    pieces = split_marked("<s>\ue0000\ue001</s><u><a>\ue0001\ue001\ue0002\ue001</u>", words)
    assert pieces == [
        ("structure", "<s>"),
        ("words", "Be kind."),
        ("structure", "</s><u><a>"),
        ("words", "one \ue0000\ue001"),
        ("words", "two"),
        ("structure", "</u>"),
    ]


@pytest.mark.parametrize(
    "rendered", ["", "\ue0001\ue001", "\ue0001\ue001\ue0000\ue001", "\ue0000\ue001\ue0000\ue001\ue0001\ue001"]
)
def test_a_template_that_drops_repeats_or_reorders_parts_is_refused(rendered):
    with pytest.raises(ModelError, match="expected all 2 parts once and in order"):
        split_marked(rendered, ["a", "b"])


def test_audio_slots_are_counted():
    assert conversation("a").audio_slots == 1
    assert Conversation((Message("user", (Part("words", "audio"),)),)).audio_slots == 0
