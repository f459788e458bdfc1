"""Start and end of each word of an utterance, read from files of forced aligners (TextGrid, CTM, JSON)."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lalm_mer.core.errors import ConfigError, CorpusError, one_line
from lalm_mer.core.spelling import normalised

__all__ = ["WORD_TIME_SUFFIXES", "WordTime", "find_word_times", "read_word_times"]

WORD_TIME_SUFFIXES = (".TextGrid", ".textgrid", ".ctm", ".json")
_SILENCE = frozenset(("", "sil", "sp", "<eps>", "<sil>", "<p:>"))  # how MFA, Kaldi and WebMAUS write a pause
_WORD_TIERS = ("words", "word", "ort-mau", "ort")


@dataclass(frozen=True)
class WordTime:
    """One word of an utterance.

    Args:
        word: as the aligner wrote it
        start_s: in seconds from the start of the utterance's audio; None if the aligner did not find the word
        end_s: its end, in seconds; None likewise
    """

    word: str
    start_s: float | None
    end_s: float | None


def find_word_times(folder: Path, utterance_id: str) -> Path | None:
    """Find the file in ``folder`` that is named after the utterance; None if there is none.

    Raises:
        CorpusError: if the id or a link points outside the folder, or two files are named after the utterance
    """
    forms = dict.fromkeys(unicodedata.normalize(form, utterance_id) for form in ("NFC", "NFD"))  # ids are NFC
    named = [folder / f"{form}{suffix}" for form in forms for suffix in WORD_TIME_SUFFIXES]
    found = [path for path in named if path.is_file()]
    outside = [path for path in found if not path.resolve().is_relative_to(folder.resolve())]
    if outside:
        raise CorpusError(f"{outside[0]}: points outside {folder}; copy the file into the folder")
    different = {path.resolve() for path in found}  # file names may not be case-sensitive
    if len(different) > 1 and not found[0].samefile(found[1]):
        raise CorpusError(f"{found[0]}: {found[1].name} is also named after utterance {utterance_id}; keep one of them")
    return found[0] if found else None


def read_word_times(path: Path, utterance_id: str) -> tuple[WordTime, ...]:
    """Read the words of one utterance in the order of the file, without pauses.

    ``.TextGrid``: the interval tier that is named words, or the only one. ``.ctm``: the lines
    ``utterance channel start duration word [confidence]`` of this utterance. ``.json``: a list of
    ``{word, start, end}``, or an object with such a list as ``words``; ``start_s`` and ``end_s`` are accepted too.

    Raises:
        CorpusError: naming file and line, or word, if it cannot be read or a time is invalid
        ConfigError: if it is a TextGrid and praatio is not installed
    """
    readers = {".textgrid": _textgrid, ".ctm": _ctm, ".json": _json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise CorpusError(f"{path}: expected word times in {', '.join(WORD_TIME_SUFFIXES)}, found {path.suffix!r}")
    try:
        return tuple(reader(path, utterance_id))
    except OSError as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: byte {error.start} is not UTF-8; convert the file") from error


def _word_time(where: str, word: object, start_s: object, end_s: object) -> WordTime:
    if not isinstance(word, str):
        raise CorpusError(f"{where}: the word is {word!r}; expected a string")
    if start_s is None and end_s is None:
        return WordTime(word, None, None)
    times = []
    for name, value in (("start", start_s), ("end", end_s)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CorpusError(f"{where}: word {word!r} has {name} {value!r}; expected seconds, or no times at all")
        times.append(float(value))
    if not 0 <= times[0] <= times[1]:
        raise CorpusError(f"{where}: word {word!r} from {start_s} to {end_s} s; expected 0 <= start <= end")
    return WordTime(word, *times)


def _json(path: Path, utterance_id: str) -> Iterator[WordTime]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise CorpusError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from error
    words = content.get("words") if isinstance(content, dict) else content
    if not isinstance(words, list):
        raise CorpusError(f"{path}: expected a list of words, or an object with the key 'words'")
    for number, entry in enumerate(words, start=1):
        where = f"{path}: word {number} of utterance {utterance_id}"
        if not isinstance(entry, dict) or "word" not in entry:
            raise CorpusError(f"{where}: {str(entry)[:60]!r}; expected an object with word, start and end")
        start_s, end_s = (entry.get(f"{name}_s", entry.get(name)) for name in ("start", "end"))
        yield _word_time(where, entry["word"], start_s, end_s)


def _ctm(path: Path, utterance_id: str) -> Iterator[WordTime]:
    other, found = "", False
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if not fields or fields[0].startswith(";;"):  # a comment of the NIST format
                continue
            where = f"{path}: line {number}"
            if len(fields) not in (5, 6):
                raise CorpusError(
                    f"{where}: {len(fields)} fields; expected utterance, channel, start, duration, word, [confidence]"
                )
            if normalised(fields[0]) != normalised(utterance_id):
                other = other or fields[0]
                continue
            found = True
            try:
                start_s, duration_s = float(fields[2]), float(fields[3])
            except ValueError as error:
                raise CorpusError(f"{where}: start {fields[2]!r} and duration {fields[3]!r} are not numbers") from error
            if fields[4].lower() not in _SILENCE:
                yield _word_time(where, fields[4], start_s, start_s + duration_s)
    if other and not found:
        raise CorpusError(f"{path}: no line of utterance {utterance_id}; found utterance {other}")


def _textgrid(path: Path, utterance_id: str) -> Iterator[WordTime]:
    try:
        from praatio import textgrid
        from praatio.utilities.errors import PraatioException
    except ImportError as error:
        raise ConfigError(f"{path}: reading a TextGrid needs praatio; pip install praatio") from error
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    except UnicodeDecodeError:
        raise
    except (PraatioException, ValueError, IndexError, KeyError) as error:
        raise CorpusError(f"{path}: not a valid TextGrid ({one_line(error)})") from error
    tiers = {tier.name: tier for tier in grid.tiers if isinstance(tier, textgrid.IntervalTier)}
    of_words = [name for name in tiers if name.lower().split(" - ")[-1].strip() in _WORD_TIERS]
    names = of_words or list(tiers)
    if len(names) != 1:
        raise CorpusError(
            f"{path}: the tier with the words of {utterance_id} is not clear; found {', '.join(tiers) or 'none'}; "
            "name exactly one of them 'words'"
        )
    for number, entry in enumerate(tiers[names[0]].entries, start=1):
        if entry.label.strip().lower() not in _SILENCE:
            where = f"{path}: interval {number} of tier {names[0]!r}"
            yield _word_time(where, entry.label.strip(), entry.start, entry.end)
