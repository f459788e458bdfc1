"""MELD, the Multimodal EmotionLines Dataset: utterances of the television series Friends, from MELD.Raw.

References:
    Poria et al. 2019, MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations, ACL.
    Terms: see the MELD repository (declare-lab/MELD).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lalm_mer.core.audio import VIDEO_SUFFIXES
from lalm_mer.core.errors import CorpusError
from lalm_mer.core.names import HUMAN
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.core.suggestions import contents
from lalm_mer.corpora.base import AUDIO_SUFFIXES, integer_of, list_files, read_table, relative

__all__ = ["KNOWN_DEFECTS", "LOADER_VERSION", "RANGES", "facts", "read"]

LOADER_VERSION = "1"
RANGES: Mapping[str, Sequence[float]] = {"sentiment": (-1.0, 1.0)}

_NOISY = "noise in the audio (declare-lab/MELD issue 9)"
_NOT_ALIGNED = "clip and transcript are not aligned (declare-lab/MELD issue 9)"
KNOWN_DEFECTS: Mapping[str, str] = {
    "train_dia125_utt3": "the clip is corrupt (declare-lab/MELD issues 39 and 52)",
    "dev_dia110_utt7": "the clip is missing (declare-lab/MELD issues 22 and 27)",
    "test_dia38_utt4": "label 304.9 s long, clip of five minutes (the CSV; declare-lab/MELD issue 20)",
    "test_dia220_utt0": "label 235.1 s long, clip of four minutes (the CSV; declare-lab/MELD issue 20)",
    "test_dia155_utt3": "label 0 s long (the CSV)",
    "train_dia338_utt3": "label 0.006 s long (the CSV)",
    "train_dia309_utt0": "wrongly cut, and the transcript describes the scene (declare-lab/MELD issue 20)",
    "train_dia164_utt5": _NOISY, "train_dia529_utt2": _NOISY, "train_dia682_utt1": _NOISY,
    "train_dia793_utt0": _NOISY, "train_dia1008_utt1": _NOISY, "train_dia1029_utt1": _NOISY,
    "train_dia241_utt2": _NOT_ALIGNED, "train_dia485_utt0": _NOT_ALIGNED, "train_dia757_utt7": _NOT_ALIGNED,
}  # fmt: skip
"""Utterance id -> published defect in the release, with its source. These utterances are read like all others."""

_SPLITS = ("train", "dev", "test")
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
            "StartTime", "EndTime")  # fmt: skip
_CLIP = re.compile(r"dia(?P<dialogue>0|[1-9][0-9]{0,8})_utt(?P<turn>0|[1-9][0-9]{0,8})")
_ID = re.compile(rf"(?:{'|'.join(_SPLITS)})_{_CLIP.pattern}")
_FOLDER = re.compile(r"(?P<split>train|dev|test)(?:_splits\w*)?|output_repeated_splits_(?P<repeated>test)\w*")
_TIME = re.compile(r"(\d{1,4}):([0-5]?\d):([0-5]?\d)[,.](\d{1,3})")
_SUFFIXES = (".wav", ".flac", ".mp4")  # by preference as audio source; only .mp4 is released
_SENTIMENTS = {"negative": -1.0, "neutral": 0.0, "positive": 1.0}


@dataclass
class _Split:
    """The clips of one split on disk, by dialogue and turn."""

    name: str
    clips: dict[tuple[int, int], dict[str, str]] = field(default_factory=dict)  # -> suffix -> path below the root
    used: set[tuple[int, int]] = field(default_factory=set)  # those that a row of the table names

    def expected(self, clip: str) -> str:
        """Expected path of a missing clip: in the folder of the split's videos, or else of its other clips."""
        found = [(suffix != ".mp4", path) for by_suffix in self.clips.values() for suffix, path in by_suffix.items()]
        if not found:
            return f"{self.name}/{clip}.mp4"
        neighbour = Path(min(found)[1])
        return neighbour.with_name(f"{clip}{neighbour.suffix}").as_posix()


def read(root: Path) -> Iterator[Utterance | Rejection]:
    """Read ``<split>_sent_emo.csv`` and the clips ``diaD_uttU.mp4`` of each split.

    Dialogue numbers repeat between splits, so ids begin with the split: ``train_dia0_utt0``. A clip belongs to the
    split of its innermost folder that is named after a split (``train_splits``, ``dev_splits_complete``,
    ``output_repeated_splits_test``, ``train`` ...). The audio source is the first available of ``.wav``, ``.flac`` and
    ``.mp4``. Start and end are times in the episode, not in the clip; if one is malformed, both are None. A speaker may
    be several people ("All", "Joey and Chandler") and stays as written. A row without a clip is an utterance with
    missing audio; a clip without a row is rejected as ``orphan``.

    Raises:
        CorpusError: if there is no such folder, it has none of the three tables, or one lacks a column
    """
    splits = {name: _Split(name) for name in _SPLITS}
    tables: dict[str, list[Path]] = {f"{name}_sent_emo.csv": [] for name in _SPLITS}
    for item in list_files(root):
        if isinstance(item, Rejection):
            yield item
        elif item.name in tables:
            tables[item.name].append(item)
        elif item.suffix.lower() in AUDIO_SUFFIXES | VIDEO_SUFFIXES:
            rejection = _take_clip(relative(root, item), splits)
            if rejection is not None:
                yield rejection
    if not any(tables.values()):
        raise CorpusError(f"{root}: none of {', '.join(tables)}; expected MELD.Raw, found {contents(root)}")
    for name, copies in tables.items():
        split = splits[name.removesuffix("_sent_emo.csv")]
        if not copies:
            yield Rejection(name, "missing_table", "no such file in the corpus folder; its split cannot be read")
            continue
        table, *others = sorted(copies, key=lambda path: (len(path.parts), path))
        for other in others:
            yield Rejection(relative(root, other), "duplicate_table", f"rows were read from {relative(root, table)}")
        for number, row in enumerate(read_table(root, table, _COLUMNS), start=2):
            yield row if isinstance(row, Rejection) else _read_row(row, split, f"{relative(root, table)}: row {number}")
    for split in splits.values():
        unused = (path for key, files in split.clips.items() if key not in split.used for path in files.values())
        for path in sorted(unused):
            yield Rejection(path, "orphan", f"no row of {split.name}_sent_emo.csv names this clip")


def facts(utterance_id: str) -> Facts | None:
    """Facts without values: an id of MELD encodes only split, dialogue and turn. None if it is not an id of MELD.

    Example:
        >>> facts("dev_dia110_utt7")
        Facts(speaker=None, session=None, script=None)
        >>> facts("dia110_utt7") is None
        True
    """
    return Facts() if _ID.fullmatch(utterance_id) else None


def _take_clip(where: str, splits: Mapping[str, _Split]) -> Rejection | None:
    """Record a clip in its split, or reject the file."""
    path = Path(where)
    name, suffix = _CLIP.fullmatch(path.stem), path.suffix.lower()
    if name is None or suffix not in _SUFFIXES:
        return Rejection(where, "unexpected_name", "not named as MELD names its clips: diaD_uttU.mp4 (.wav, .flac)")
    folders = [found for folder in reversed(path.parts[:-1]) if (found := _FOLDER.fullmatch(folder))]
    if not folders:
        detail = "not in a folder of a split: train_splits, dev_splits_complete, output_repeated_splits_test"
        return Rejection(where, "unexpected_folder", detail)
    split = splits[folders[0]["split"] or folders[0]["repeated"]]
    by_suffix = split.clips.setdefault((int(name["dialogue"]), int(name["turn"])), {})
    if by_suffix.setdefault(suffix, where) != where:
        return Rejection(where, "duplicate_clip", f"the split's {path.name} was already read from {by_suffix[suffix]}")
    return None


def _read_row(row: Mapping[str, str], split: _Split, where: str) -> Utterance | Rejection:
    dialogue, turn = row["Dialogue_ID"], row["Utterance_ID"]
    clip = f"dia{dialogue}_utt{turn}"
    fault = None
    if _CLIP.fullmatch(clip) is None:
        fault = f"Dialogue_ID {dialogue[:20]!r}, Utterance_ID {turn[:20]!r}; expected two numbers"
    elif row["Sentiment"] and row["Sentiment"] not in _SENTIMENTS:
        fault = f"{clip}: sentiment {row['Sentiment'][:20]!r}; expected one of {', '.join(_SENTIMENTS)}"
    if fault is not None:
        return Rejection(where.partition(": row ")[0], "bad_row", " ".join(f"{where}: {fault}".split()))
    key = (int(dialogue), int(turn))
    split.used.add(key)
    files = split.clips.get(key, {})
    audio_path = next((files[suffix] for suffix in _SUFFIXES if suffix in files), None) or split.expected(clip)
    start_s, end_s = _seconds(row["StartTime"]), _seconds(row["EndTime"])
    are_times = start_s is not None and end_s is not None
    season, episode = integer_of(row["Season"]), integer_of(row["Episode"])
    return Utterance(
        utterance_id=f"{split.name}_{clip}",
        corpus="meld",
        audio_path=audio_path,
        start_s=start_s if are_times else None,
        end_s=end_s if are_times else None,
        transcript=row["Utterance"] or None,
        transcript_source=HUMAN if row["Utterance"] else None,
        speaker=row["Speaker"] or None,
        language="en",
        session=None if season is None or episode is None else f"S{season:02d}E{episode:02d}",
        dialogue=f"{split.name}_dia{dialogue}",
        turn=int(turn),
        split=split.name,
        label=row["Emotion"] or None,
        sentiment=_SENTIMENTS.get(row["Sentiment"]),
        video_path=files.get(".mp4"),
    )


def _seconds(written: str) -> float | None:
    """Parse ``00:16:16,059`` (hours also without a leading zero) to seconds; None for any other form."""
    found = _TIME.fullmatch(written)
    if found is None:
        return None
    hours, minutes, seconds, fraction = found.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(f"{seconds}.{fraction}")
