"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset: clips and votes of the raters.

References:
    Cao et al. 2014, IEEE Transactions on Affective Computing 5(4): 377-390. Open Database Licence 1.0.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lalm_mer.core.audio import VIDEO_SUFFIXES
from lalm_mer.core.names import HUMAN
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora.base import AUDIO_SUFFIXES, integer_of, list_files, read_table

__all__ = ["KNOWN_DEFECTS", "LOADER_VERSION", "RANGES", "facts", "read"]

LOADER_VERSION = "1"
RANGES: Mapping[str, Sequence[float]] = {}

_README = "the release's README.md"
_TWINS = "Git LFS objects of the release's repository, equal in SHA-256"
KNOWN_DEFECTS: Mapping[str, str] = {
    "1076_MTI_SAD_XX": f"the WAV is silent ({_README})",
    "1076_MTI_NEU_XX": f"MP3 and video are truncated and silent; the WAV is complete ({_README})",
    "1064_TIE_SAD_XX": f"MP3 and video have no duration ({_README}); the WAV is complete, 3.34 s (EmoBox's list)",
    "1064_IEO_DIS_MD": f"MP3 and video last a minute and contain all emotions ({_README}); "
    "the WAV is one clip of 4.10 s (EmoBox's list)",
    "1006_TIE_HAP_XX": f"the same WAV as 1006_TIE_NEU_XX, another emotion ({_TWINS})",
    "1006_TIE_NEU_XX": f"the same WAV as 1006_TIE_HAP_XX, another emotion ({_TWINS})",
    "1013_WSI_DIS_XX": f"the same WAV as 1013_WSI_SAD_XX, another emotion ({_TWINS})",
    "1013_WSI_SAD_XX": f"the same WAV as 1013_WSI_DIS_XX, another emotion ({_TWINS})",
    "1017_IWW_ANG_XX": f"the same WAV as 1017_IWW_FEA_XX, another emotion ({_TWINS})",
    "1017_IWW_FEA_XX": f"the same WAV as 1017_IWW_ANG_XX, another emotion ({_TWINS})",
}
"""Utterance id -> published defect of the clip, with its source. These clips are read like all others."""

_SENTENCES = {
    "DFA": "Don't forget a jacket.",
    "IEO": "It's eleven o'clock.",
    "IOM": "I'm on my way to the meeting.",
    "ITH": "I think I have a doctor's appointment.",
    "ITS": "I think I've seen this before.",
    "IWL": "I would like a new alarm clock.",
    "IWW": "I wonder what this is about.",
    "MTI": "Maybe tomorrow it will be cold.",
    "TAI": "The airplane is almost full.",
    "TIE": "That is exactly what happened.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
_NAME = re.compile(
    rf"(?P<actor>10(?!00)[0-8]\d|109[01])_(?P<sentence>{'|'.join(_SENTENCES)})_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_"
    r"(?:XX|LO|MD|HI)"
)
# The name of this file in copies made before October 2022 (issue 6 of the release's repository).
_MISNAMED = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}

_NAMES_TABLE = "SentenceFilenames.csv"
_ACTORS_TABLE = "VideoDemographics.csv"
_VOTES_TABLE = "processedResults/tabulatedVotes.csv"
_TABLES = (_NAMES_TABLE, _ACTORS_TABLE, _VOTES_TABLE)
_AUDIO_FOLDER, _VIDEO_FOLDER = "AudioWAV", "VideoFlash"
_SUFFIXES = (".wav", ".flac")  # as released, and losslessly compressed
_VOTES = ("A", "D", "F", "H", "N", "S")
_CHANNELS = {"1": "voice", "2": "face", "3": "both"}  # first digit of a row's number: queryType in the README
_VOTES_ROW = re.compile(r"(?P<channel>[123])\d{5}")


class _Actor(NamedTuple):
    gender: str
    age: int | None
    ethnicity: str | None


@dataclass
class _Tables:
    """Content of the tables of the release, and their rejected rows."""

    names: set[str] = field(default_factory=set)
    actors: dict[str, _Actor] = field(default_factory=dict)
    ratings: dict[str, dict[str, int]] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)


@dataclass
class _Files:
    """Paths of the clips, and rejected files."""

    audio: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    video: dict[str, str] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)


def read(root: Path) -> Iterator[Utterance | Rejection]:
    """Read ``AudioWAV/AAAA_SSS_EEE_LL.wav`` (or ``.flac``), the votes and the description of the actors.

    Clips that ``SentenceFilenames.csv`` or the votes name are yielded even if their audio is missing, and so are clips
    that no table names. If a table is missing, its columns are None. ``label`` is the acted emotion; ``ratings`` are
    the perceived emotions, as ``voice:A``, ``face:A`` and ``both:A``. MP3 files are the same clips in the encoding that
    was played to the raters; they are rejected as ``other_encoding``.

    Raises:
        CorpusError: if there is no such folder, or a table lacks a column or points outside the folder
    """
    files = _read_files(root)
    tables = _read_tables(root)
    yield from tables.rejected
    for name in sorted(tables.names | set(tables.ratings) | set(files.audio) | set(files.video)):
        for path in files.audio.get(name, [f"{_AUDIO_FOLDER}/{name}.wav"]):
            yield _utterance(name, path, tables, files)
    yield from files.rejected


def facts(utterance_id: str) -> Facts | None:
    """Speaker and script encoded in an utterance id; None if it is not an id of this corpus.

    Example:
        >>> facts("1087_IWL_ANG_XX")
        Facts(speaker='1087', session=None, script='IWL')
    """
    name = _NAME.fullmatch(utterance_id)
    return Facts(speaker=name["actor"], script=name["sentence"]) if name else None


def _utterance(utterance_id: str, path: str, tables: _Tables, files: _Files) -> Utterance:
    name = _NAME.fullmatch(utterance_id)
    assert name is not None  # checked when it was listed
    actor = tables.actors.get(name["actor"])
    return Utterance(
        utterance_id=utterance_id,
        corpus="crema_d",
        audio_path=path,
        transcript=_SENTENCES[name["sentence"]],
        transcript_source=HUMAN,
        speaker=name["actor"],
        gender=actor.gender if actor else None,
        age=actor.age if actor else None,
        ethnicity=actor.ethnicity if actor else None,
        language="en",
        script=name["sentence"],
        label=name["emotion"],
        ratings=tables.ratings.get(utterance_id),
        video_path=files.video.get(utterance_id),
    )


def _read_files(root: Path) -> _Files:
    files = _Files()
    for item in list_files(root):
        if isinstance(item, Rejection):
            files.rejected.append(item)
            continue
        where, suffix = item.relative_to(root).as_posix(), item.suffix.lower()
        table = next((name for name in _TABLES if name.lower() == where.lower() and name != where), None)
        if table is not None:
            files.rejected.append(Rejection(where, "unexpected_name", f"the release writes {table}; rename it"))
        elif suffix in AUDIO_SUFFIXES | VIDEO_SUFFIXES:
            _take_file(where, item.parent.relative_to(root).as_posix(), item.stem, suffix, files)
    return files


def _take_file(where: str, folder: str, stem: str, suffix: str, files: _Files) -> None:
    """Record an audio or video file, or reject it."""
    clip = _MISNAMED.get(stem, stem)
    expected = {".flv": _VIDEO_FOLDER} | dict.fromkeys(_SUFFIXES, _AUDIO_FOLDER)
    if _NAME.fullmatch(clip) is None or suffix not in (*expected, ".mp3"):
        detail = "not named as CREMA-D names its files: 10AA_SSS_EEE_LL.wav, in capitals"
        files.rejected.append(Rejection(where, "unexpected_name", detail))
    elif suffix == ".mp3":
        detail = f"the encoding played to raters; the audio of the clip is {_AUDIO_FOLDER}/{clip}.wav"
        files.rejected.append(Rejection(where, "other_encoding", detail))
    elif folder != expected[suffix]:
        detail = f"in {folder!r}, expected in {expected[suffix]!r} directly in corpus.root"
        files.rejected.append(Rejection(where, "folder_mismatch", detail))
    elif suffix == ".flv":
        files.video[clip] = where
    else:
        files.audio[clip].append(where)


def _read_tables(root: Path) -> _Tables:
    tables = _Tables()
    for name, columns, take in (
        (_NAMES_TABLE, ("Filename",), _take_name),
        (_ACTORS_TABLE, ("ActorID", "Age", "Sex", "Race", "Ethnicity"), _take_actor),
        (_VOTES_TABLE, ("", *_VOTES, "fileName", "numResponses"), _take_votes),
    ):
        path = root / name
        if not path.is_file() and not path.is_symlink():  # a broken link is an error, not a missing table
            continue
        for row in read_table(root, path, columns):
            if isinstance(row, Rejection):
                tables.rejected.append(row)
                continue
            fault = take(row, tables)
            if fault is not None:
                cells = ",".join(row[column] for column in columns)
                tables.rejected.append(Rejection(name, "bad_row", f"row {cells[:80]!r}: {fault}"))
    return tables


def _take_name(row: Mapping[str, str], tables: _Tables) -> str | None:
    """Record the clip that a row names; returns what is wrong with the row, if anything."""
    clip = row["Filename"]
    if _NAME.fullmatch(clip) is None:
        return f"{clip!r} is not a clip of CREMA-D"
    if clip in tables.names:
        return f"duplicate row of {clip}"
    tables.names.add(clip)
    return None


def _take_actor(row: Mapping[str, str], tables: _Tables) -> str | None:
    """Record the actor that a row describes; returns what is wrong with the row, if anything."""
    actor, age = row["ActorID"], row["Age"]
    if facts(f"{actor}_IEO_NEU_XX") is None:
        return f"{actor!r} is not an actor of CREMA-D, 1001 to 1091"
    if actor in tables.actors:
        return f"duplicate row of actor {actor}"
    if row["Sex"] not in ("Female", "Male") or not (integer_of(age) is not None or age in ("", "NA")):
        return f"sex {row['Sex']!r} and age {age!r}; expected Female or Male, and years"
    ethnicity = ", ".join(cell for cell in (row["Race"], row["Ethnicity"]) if cell not in ("", "NA"))
    tables.actors[actor] = _Actor(row["Sex"].lower(), integer_of(age), ethnicity or None)
    return None


def _take_votes(row: Mapping[str, str], tables: _Tables) -> str | None:
    """Record the votes on one channel of a clip; returns what is wrong with the row, if anything."""
    clip, number = row["fileName"], _VOTES_ROW.fullmatch(row[""])
    if _NAME.fullmatch(clip) is None or number is None:
        return f"clip {clip!r}, number {row['']!r}; expected a clip of CREMA-D, and 100001, 200001 or 300001 upwards"
    cells = [row[label] for label in (*_VOTES, "numResponses")]
    *votes, n_votes = map(integer_of, cells)
    numbers = [number for number in votes if number is not None]
    if len(numbers) < len(_VOTES) or sum(numbers) != n_votes:
        return "votes are not integers with the sum numResponses"
    channel = _CHANNELS[number["channel"]]
    ratings = tables.ratings.setdefault(clip, {})
    if f"{channel}:A" in ratings:
        return f"{clip} already has votes for {channel}; the first are kept"
    ratings |= {f"{channel}:{label}": number for label, number in zip(_VOTES, numbers, strict=True)}
    return None
