"""Notes: each code has a sentence, and nothing but the display depends on it."""

import pytest

from lalm_mer.core.notes import SENTENCES, Note, NoteCode, needed_facts, sentence


def test_every_code_has_a_sentence():
    assert set(SENTENCES) == set(NoteCode)
    assert all(words.endswith(".") or code is NoteCode.CONTAMINATION for code, words in SENTENCES.items())


@pytest.mark.parametrize("code", list(NoteCode))
def test_the_sentence_of_a_note_contains_its_facts(code):
    facts = {name: f"fact_{name}" for name in needed_facts(code)}
    words = sentence(Note(code, "dev", 17, facts=facts))
    assert all(fact in words for fact in facts.values())
    assert ("17" in words) == ("{n}" in SENTENCES[code])


def test_examples_are_named_with_their_reasons():
    plain = Note(NoteCode.UNSCORED, "test", 7)
    assert sentence(plain) == "7 utterances of test unscored, counted as errors."
    named = Note(NoteCode.UNSCORED, "test", 7, ("u1", "u2"), ("40 s long", "no audio"))
    assert sentence(named).endswith("counted as errors; for example u1: 40 s long; u2: no audio.")
    assert sentence(Note(NoteCode.LEFT_OUT, "dev", 1, ("u1",))).endswith("left out; for example u1.")
