import pytest

from lalm_mer.core.spelling import folded, normalised
from lalm_mer.core.suggestions import nearest


@pytest.mark.parametrize(
    "written",
    [
        "Zo\u00e9",
        "Zoe\u0301",
        " Zo\u00e9\t",
        "Zo\u00e9\u200b",
        "\ufeffZo\u00e9",
        "Z\u2060o\u00e9",
        "Zo\u200d\u00e9\u00a0",
    ],
)
def test_spellings_that_look_the_same_are_stored_as_one(written):
    assert normalised(written) == "Zo\u00e9"


def test_joiners_of_letters_are_kept_in_transcripts_only():
    word = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # Persian: a non-joiner separates the prefix
    assert normalised(f"{word}\u200b", keep_joiners=True) == word
    assert normalised(word) == word.replace("\u200c", "")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Bob", "bob"),
        ("spk_1", "SPK-1"),
        ("Hello there!", "hello, there"),
        ("Ma\u00df", "MASS"),
        ("\uff11\uff12", "12"),
        ("don\u2019t", "Don't"),
        ("a\u00a0b", "a b"),
    ],
)
def test_case_and_punctuation_are_not_compared(first, second):
    assert folded(first) == folded(second)


@pytest.mark.parametrize(("first", "second"), [("1-12", "11-2"), ("s1", "s11"), ("?", "!"), ("don't", "don t")])
def test_other_values_stay_different(first, second):
    assert folded(first) != folded(second)


def test_the_nearest_name_ignores_case_and_may_be_none():
    assert nearest("angry", ["ang", "sad"]) == "ang"
    assert nearest("HAPPINESS", ["happiness ", "sad"]) == "happiness "
    assert nearest("bored", ["ang", "sad"]) is None
