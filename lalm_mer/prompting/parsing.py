"""Parsing of a generated answer into a label, by strict rules and without guessing.

The rules, in order:

1. Unicode is normalised (NFKC) and case-folded; markdown, quotes, dots in numbers, emoji and underscores separate
   words.
2. Quoted words of the speaker are left out: a quotation directly after a verb of saying (``says "happy"``), and one
   that is more than the name of a label, with a word of saying within three words before or after it (``the sentence
   "I am so happy" is``). Any other quotation is read like the rest (``the answer is "sad"``).
3. A refusal anywhere ("I cannot tell", "as an AI", "I'm sorry") is ``UNPARSED``, regardless of the rest.
4. Repeated options are left out: all labels in a row, once each, if there are three or more, and two or more on one
   line after "options", "choices", "one of" and the like.
5. Labels are named by complete words: their surface forms and synonyms of these; of several that begin at one word the
   longest counts. ``unhappy`` does not name happy, and the code of a label (``ang``) names it only if it is a form.
6. A label after a negation in the same clause is not named ("not angry", "rather than sad", "isn't happy", "devoid of
   joy"), nor is one that is denied directly after it ("anger is unlikely", "anger-free"). ``other`` in "on the other
   hand" and the like names nothing. A clause ends at . ; ! ? | a bracket, a dash, the end of a line, ``but`` and
   similar words, and at a comma, unless a list continues to ``or`` or ``nor``. Negating words are English, with the
   most common ones of German, French and Chinese.
7. Exactly one label must be named, once or more. None or several: ``UNPARSED``.

Each Chinese or Japanese character is a word, so forms in these languages are found without spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from lalm_mer.core.errors import ConfigError, one_line
from lalm_mer.core.labels import UNPARSED, LabelSet
from lalm_mer.prompting.prompts import read_prompt_file

__all__ = ["AnswerParser", "load_synonyms"]


class _Role(Enum):
    NEGATES = 0
    ENDS_CLAUSE = 1
    HARMLESS = 2  # not a negation, though it contains a negating word


_Phrase = tuple[str, ...]
_OWN_WORDS = "\u3040-\u30ff\u3400-\u9fff"  # kana and Chinese characters
_TOKEN = re.compile(
    rf"[{_OWN_WORDS}]|(?:(?![{_OWN_WORDS}])[^\W_])+(?:'[^\W_]+)*|[.,;!?|()\[\]{{}}\n\u2013\u2014。]|\s--?\s"
)
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4`", "'"))
_ROLES = {
    _Role.NEGATES: (
        "absence, anything but, barely, bereft of, cannot, devoid of, except, far from, free from, free of, hardly, "
        "instead of, lack, lacking, lacks, less, neither, never, no, non, none, nor, not, nothing, opposite, "
        "other than, rule out, ruled out, ruling out, than, un, unlike, void of, without, nicht, kein, keine, keinen, "
        "keiner, pas, 不, 没, 沒, 未, 无, 無, 非"
    ),
    _Role.ENDS_CLAUSE: "although, but, however, sondern, though, yet, 但, 而",
    _Role.HARMLESS: (
        "no doubt, no question, not just, not merely, not only, not simply, without a doubt, without doubt, "
        "among other things, at other times, each other, every other, in other words, other hand, other people, "
        "other person, other side, other speaker, other way around"
    ),
}
_GRAMMAR: dict[_Phrase, str | _Role] = {
    tuple(phrase.split()): role for role, phrases in _ROLES.items() for phrase in phrases.split(", ")
}
_DENIED = re.compile(
    r"(?:\w+n't|cannot|(?:is|are|was|were|can|could|does|did|would|seems) "
    r"(?:not|never|unlikely|absent|(?:be )?ruled out))\b|free\b(?! of\b| from\b)"
)
_REFUSAL = re.compile(
    r"\bas an? (?:\w+ ){0,3}(?:ai|language model|assistant|llm)\b"
    r"|\b(?:cannot|can't|can not|could not|couldn't|unable to|not able to|impossible to|not possible to) (?:\S+ ){0,2}"
    r"(?:access|analy[sz]|answer|assess|assist|classif|detect|determin|discern|evaluat|hear|help|identif|infer|judg"
    r"|listen|perceiv|process|provid|recogni[sz]|say|tell|understand)"
    r"|\bi (?:don't|do not) (?:know|have (?:any |the |enough |direct )?(?:abilit|access|information|way))"
    r"|\bi(?:'m| am) sorry\b|\bi apologi[sz]e\b"
)
_QUOTATIONS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\\\"([^\"\n]*)\\\"", "[\u201c\u201e]([^\"\u201c\u201d\n]*)[\u201c\u201d]", "\u00ab([^\u00ab\u00bb\n]*)\u00bb",
        r'"([^"\n]*)"', r"(?<!\w)'([^\n]{1,300}?)'(?!\w)",
    )
)  # fmt: skip
_SAYING = {
    "says", "said", "saying", "utters", "uttered", "uttering", "states", "stated", "stating", "exclaims", "exclaimed",
    "exclaiming", "shouts", "shouted", "shouting", "whispers", "whispered", "whispering", "asks", "asked", "asking",
    "replies", "replied", "replying",
}  # fmt: skip
_SAID = _SAYING | {
    "line", "lyrics", "phrase", "quote", "reads", "sentence", "speech", "spoken", "statement", "text", "transcript",
    "transcription", "utterance", "words",
}  # fmt: skip
_NEAR = 3  # words
_WIDEST = 100  # characters in which these words are looked for
_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.;!?\n]")
_OPTIONS = re.compile(r"\b(?:options|choices|labels|categories|candidates|following|one of|out of|among)\b[^.!?]*$")
_BETWEEN_OPTIONS = {*",;|()[]{}\n\u2013\u2014-", "--", "or", "and"}
_FEWEST_OPTIONS = 3
_NO_REFUSAL = re.compile(r"\b(?:cannot|can't|could not|couldn't) help but\b")


@dataclass(frozen=True)
class _Name:
    """A label that is named by the tokens from ``start`` to ``end``."""

    label: str
    start: int
    end: int


@dataclass(frozen=True)
class _SynonymFile:
    synonyms: dict[str, list[str]]


def load_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a file of synonyms: surface form -> other words for it, for all tasks that have the form.

    Raises:
        ConfigError: naming the file, if it has an unknown key, or an entry without words
    """
    synonyms = {form: tuple(words) for form, words in read_prompt_file(_SynonymFile, path).synonyms.items()}
    for form, words in synonyms.items():
        if not words or not all(_words(each) for each in (form, *words)):
            found = one_line(repr(list(words)))
            raise ConfigError(f"{path}: key 'synonyms.{form}': {found}; expected a list of words")
    return synonyms


class AnswerParser:
    """Finds the label that an answer names, by the rules in the docstring of this module.

    Args:
        label_set: the K labels and their surface forms
        synonyms: surface form -> other words for it; entries of forms that the label set does not have are ignored

    Raises:
        ConfigError: if the same words name two labels

    Example:
        >>> parse = AnswerParser(LabelSet(("hap", "sad"), {"hap": ("happy",)}), {"happy": ["joy"]})
        >>> parse("**Joy**, I'd say."), parse("not happy but sad"), parse("happy or sad")
        ('hap', 'sad', '<unparsed>')
    """

    def __init__(self, label_set: LabelSet, synonyms: Mapping[str, Sequence[str]] | None = None) -> None:
        self._phrases = _GRAMMAR | _label_phrases(label_set, synonyms or {})
        self._size = len(label_set)
        self._longest = max(len(phrase) for phrase in self._phrases)

    def __call__(self, answer: str) -> str:
        """The label, or ``UNPARSED``."""
        tokens = _tokens(self._without_speech(_normalised(answer)))
        if _REFUSAL.search(_NO_REFUSAL.sub("", " ".join(tokens))):
            return UNPARSED
        named = self._named(self._without_options(tokens))
        return named.pop() if len(named) == 1 else UNPARSED

    def _without_speech(self, text: str) -> str:
        """Replace the quoted words of the speaker by a gap."""

        def read(quotation: re.Match[str]) -> str:
            before = _WORD.findall(_SENTENCE_END.split(quotation.string[: quotation.start()][-_WIDEST:])[-1])
            after = _WORD.findall(_SENTENCE_END.split(quotation.string[quotation.end() :][:_WIDEST])[0])
            if isinstance(self._phrases.get(_words(quotation[1])), str):
                spoken = not _SAYING.isdisjoint(before[-1:])
            else:
                spoken = not _SAID.isdisjoint(before[-_NEAR:] + after[:_NEAR])
            return " ... " if spoken else f" {quotation[1]} "

        for pattern in _QUOTATIONS:
            text = pattern.sub(read, text)
        return text

    def _without_options(self, tokens: Sequence[str]) -> list[str]:
        """Replace repeated lists of options by the end of a clause."""
        row: list[_Name] = []  # labels with nothing but commas and the like between them
        kept: list[str] = []
        end = place = 0
        while place <= len(tokens):
            meaning, length = self._phrase_at(tokens, place) if place < len(tokens) else (_Role.ENDS_CLAUSE, 1)
            if isinstance(meaning, str):
                row.append(_Name(meaning, place, place + length))
            elif place == len(tokens) or not _is_between_options(tokens, place):
                for first, last in self._options(tokens, row):
                    kept += [*tokens[end : first.start], "."]
                    end = last.end
                row = []
            place += length
        return kept + list(tokens[end:])

    def _options(self, tokens: Sequence[str], row: Sequence[_Name]) -> list[tuple[_Name, _Name]]:
        """First and last name of each list of options in a row of names."""
        size = self._size
        lists: list[tuple[_Name, _Name]] = []
        first = 0
        while size >= _FEWEST_OPTIONS and first + size <= len(row):
            if len({name.label for name in row[first : first + size]}) == size:
                lists.append((row[first], row[first + size - 1]))
                first += size
            else:
                first += 1
        if not lists and row and _OPTIONS.search(" ".join(tokens[max(0, row[0].start - 4) : row[0].start])):
            length = 2
            while length < len(row) and "\n" not in tokens[row[length - 1].end : row[length].start]:
                length += 1
            if len({name.label for name in row[:length]}) > 1:
                lists.append((row[0], row[min(length, len(row)) - 1]))
        return lists

    def _named(self, tokens: Sequence[str]) -> set[str]:
        """Labels that are named and not negated."""
        named: set[str] = set()
        continues = self._lists_that_continue(tokens)
        negated, place = False, 0
        while place < len(tokens):
            meaning, length = self._phrase_at(tokens, place)
            after = place + length
            if isinstance(meaning, str):
                if not negated and not _DENIED.match(" ".join(tokens[after : after + 4])):
                    named.add(meaning)
            elif meaning is _Role.NEGATES:
                negated = True
            elif meaning is _Role.ENDS_CLAUSE and not continues[place]:
                negated = False
            place = after
        return named

    def _phrase_at(self, tokens: Sequence[str], place: int) -> tuple[str | _Role, int]:
        """Meaning and number of tokens of the longest phrase that begins at a token."""
        for length in range(min(self._longest, len(tokens) - place), 0, -1):
            meaning = self._phrases.get(tuple(tokens[place : place + length]))
            if meaning is not None:
                return meaning, length
        if tokens[place].endswith("n't"):
            return _Role.NEGATES, 1
        return (_Role.HARMLESS if tokens[place][:1].isalnum() else _Role.ENDS_CLAUSE), 1

    def _lists_that_continue(self, tokens: Sequence[str]) -> list[bool]:
        """Whether a comma at each token is in a list that ends with or, nor: "not happy, sad, or angry"."""
        continues = [False] * (len(tokens) + 1)
        for place in range(len(tokens) - 1, -1, -1):
            meaning, length = self._phrase_at(tokens, place)
            if tokens[place] in ("or", "nor"):
                continues[place] = True
            elif tokens[place] == "," or isinstance(meaning, str):
                continues[place] = continues[place + length]
        return continues


def _normalised(answer: str) -> str:
    return unicodedata.normalize("NFKC", answer).translate(_APOSTROPHES).casefold()


def _tokens(normalised: str) -> list[str]:
    """Words and punctuation that may end a clause, in order."""
    return [token.strip(" ").removesuffix("'s") for token in _TOKEN.findall(normalised)]


def _is_between_options(tokens: Sequence[str], place: int) -> bool:
    """Whether a token may be between two options of a list: a comma, "or", a number ..."""
    if tokens[place] == ".":
        return place > 0 and _is_number(tokens[place - 1])
    return tokens[place] in _BETWEEN_OPTIONS or _is_number(tokens[place])


def _is_number(token: str) -> bool:
    return token.isdecimal() or (len(token) == 1 and "a" <= token <= "z")


def _words(phrase: str) -> _Phrase:
    return tuple(token for token in _tokens(_normalised(phrase)) if token[:1].isalnum())


def _label_phrases(label_set: LabelSet, synonyms: Mapping[str, Sequence[str]]) -> dict[_Phrase, str | _Role]:
    """All phrases that name a label."""
    others = {_words(form): words for form, words in synonyms.items()}
    phrases: dict[_Phrase, str | _Role] = {}
    for label in label_set.labels:
        forms = label_set.forms_of(label)
        for phrase in (*forms, *(word for form in forms for word in others.get(_words(form), ()))):
            if phrases.setdefault(_words(phrase), label) != label:
                raise ConfigError(
                    f"{phrase!r} names both {phrases[_words(phrase)]!r} and {label!r} in an answer; change a "
                    "surface form, or remove the synonym from its file"
                )
    phrases.pop((), None)  # a form without a letter or digit cannot be found
    return phrases
