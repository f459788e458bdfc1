"""CMU-MOSEI, Multimodal Opinion Sentiment and Emotion Intensity: labelled sentences of monologue videos.

References:
    Zadeh et al. 2018, Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion
    Graph, ACL. Order of the labels: CMU-MultimodalSDK, standard_datasets/CMU_MOSEI.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lalm_mer.core.audio import VIDEO_SUFFIXES
from lalm_mer.core.errors import ConfigError, CorpusError, one_line
from lalm_mer.core.extras import install_extra
from lalm_mer.core.names import HUMAN
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.core.suggestions import contents
from lalm_mer.corpora.base import (
    AUDIO_SUFFIXES,
    accepted,
    decoded_text,
    list_files,
    number_of,
    reject_outside,
    relative,
    require_inside,
)

__all__ = ["DISTINCTIVE_IDS", "EMOTIONS", "LOADER_VERSION", "RANGES", "facts", "read"]

LOADER_VERSION = "1"
DISTINCTIVE_IDS = False  # any eleven letters and a number are an id
RANGES: Mapping[str, Sequence[float]] = {"sentiment": (-3.0, 3.0)}
EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
"""Emotions in the order of the label file, where their intensities from 0 to 3 follow the sentiment."""

_LABEL_FILE = "CMU_MOSEI_Labels.csd"
_VIDEO = re.compile(r"[A-Za-z0-9_-]{11}|\d{3,8}")  # an id of YouTube or of an earlier site
_ID = re.compile(rf"(?P<video>{_VIDEO.pattern})_(?:0|[1-9]\d*)")
_AUDIO, _TRANSCRIPTS, _VIDEOS = "Audio/Full/WAV_16000", "Transcript/Segmented/Combined", "Videos/Full/Combined"
_FOLDERS = {_AUDIO: ".wav", _TRANSCRIPTS: ".txt", _VIDEOS: ".mp4"}
_PADDING_S = 1.0  # segments were padded, so the first of a video often begins about 0.5 s before the video
_SAME = 0.5  # smallest intersection over union; neighbouring segments share only the padding


@dataclass
class _Files:
    """Files of the release: folder of the release -> video -> path."""

    labels: list[Path] = field(default_factory=list)
    of: dict[str, dict[str, Path]] = field(default_factory=lambda: {folder: {} for folder in _FOLDERS})


@dataclass(frozen=True)
class _Line:
    """A line of a transcript file, with times in seconds."""

    start_s: float
    end_s: float
    transcript: str


def read(root: Path) -> Iterator[Utterance | Rejection]:
    """Read ``CMU_MOSEI_Labels.csd`` and the files in ``Raw``: one utterance per labelled interval.

    The id is ``<video>_<n>``, where n numbers the intervals of the video in the label file from 0; the clip numbers of
    transcripts and cut videos may differ. The writer cuts ``start_s`` to ``end_s`` out of the WAV of the video, or of
    its MP4 if there is no WAV. An interval that begins up to 1 s before its recording is clipped to 0. The transcript
    is the line whose times have an intersection over union of at least 0.5 with the interval; None if there is none.
    Sentences without a label are ignored; a recording without labels is rejected as ``orphan``.

    Raises:
        CorpusError: if there is no such folder, or it has no valid label file
        ConfigError: if the extra ``mosei`` is not installed
    """
    files = _Files()
    for item in list_files(root):
        if isinstance(item, Path) and item.name == _LABEL_FILE:
            files.labels.append(item)
        elif (rejection := item if isinstance(item, Rejection) else _take_file(root, item, files)) is not None:
            yield rejection
    if not files.labels:
        raise CorpusError(f"{root}: no {_LABEL_FILE}; expected the folder with it and Raw, found {contents(root)}")
    labels, *others = sorted(files.labels, key=lambda path: (len(path.parts), path))
    for other in others:
        yield Rejection(relative(root, other), "duplicate_table", f"labels were read from {relative(root, labels)}")
    labelled: set[str] = set()
    for video, intervals, values in _label_arrays(root, labels):
        labelled.add(video)
        yield from _read_video(root, video, intervals, values, files)
    for folder in (_AUDIO, _VIDEOS):
        for video, path in sorted(files.of[folder].items()):
            if video not in labelled:
                yield Rejection(relative(root, path), "orphan", f"{_LABEL_FILE} has no label for this video")


def facts(utterance_id: str) -> Facts | None:
    """The video encoded in an utterance id, as session; None if it is not an id of this corpus.

    Example:
        >>> facts("-lzEya4AM_4_12")
        Facts(speaker=None, session='-lzEya4AM_4', script=None)
    """
    name = _ID.fullmatch(utterance_id)
    return Facts(session=name["video"]) if name else None


def _take_file(root: Path, path: Path, files: _Files) -> Rejection | None:
    """Record a file of one of the three folders; reject other audio or video files there, and duplicates."""
    folder, suffix = "/".join(path.relative_to(root).parts[:-1][-3:]), path.suffix.lower()
    if _FOLDERS.get(folder) != suffix:
        if folder not in _FOLDERS or suffix not in AUDIO_SUFFIXES | VIDEO_SUFFIXES:
            return None
        return Rejection(relative(root, path), "unexpected_name", f"files here are named <video>{_FOLDERS[folder]}")
    first = files.of[folder].setdefault(path.stem, path)
    if first is path:
        return None
    return Rejection(relative(root, path), "duplicate_file", f"{relative(root, first)} is used")


def _label_arrays(root: Path, path: Path) -> Iterator[tuple[str, Any, Any]]:
    """Each video of the label file, sorted, with its intervals and features (None if missing).

    Links of an HDF5 file to other files are not followed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(f"{path}: reading an HDF5 file needs h5py; {install_extra('mosei')}") from error
    require_inside(root, path)

    def member(group: Any, name: str) -> Any:  # noqa: ANN401 a group or an array of HDF5
        is_here = isinstance(group, h5py.Group) and isinstance(group.get(name, getlink=True), h5py.HardLink)
        return group[name] if is_here else None

    def array(group: Any, name: str) -> Any:  # noqa: ANN401
        found = member(group, name)
        is_here = isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual
        return found[()] if is_here else None

    try:
        with h5py.File(path, "r") as file:
            data = member(member(file, "All Labels"), "data")
            if not isinstance(data, h5py.Group):
                raise CorpusError(f"{path}: no group 'All Labels/data', found {', '.join(sorted(file)) or 'nothing'}")
            for video in sorted(data):
                group = member(data, video)
                yield video, array(group, "intervals"), array(group, "features")
    except (OSError, RuntimeError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path}: damaged ({one_line(error)}); download it again") from error


def _read_video(
    root: Path,
    video: str,
    intervals: Any,  # noqa: ANN401 content of the label file, checked here
    values: Any,  # noqa: ANN401
    files: _Files,
) -> Iterator[Utterance | Rejection]:
    if _VIDEO.fullmatch(video) is None:
        yield Rejection(video, "unexpected_name", "not named as CMU-MOSEI names its videos: 11 characters, or a number")
        return
    times, scores = _numbers(intervals, 2), _numbers(values, 1 + len(EMOTIONS))
    if times is None or scores is None or len(times) != len(scores):
        detail = f"intervals {_shape(intervals)}, features {_shape(values)}; expected (n, 2) and (n, 7) numbers"
        yield Rejection(video, "bad_row", f"{_LABEL_FILE}: {detail}")
        return
    transcript = files.of[_TRANSCRIPTS].get(video)
    lines = [] if transcript is None else (yield from accepted(_lines(root, transcript)))
    wav, mp4 = files.of[_AUDIO].get(video), files.of[_VIDEOS].get(video)
    expected = next(iter(files.of[_AUDIO].values()), root / "Raw" / _AUDIO / "x").with_name(f"{video}.wav")
    paths = (relative(root, wav or mp4 or expected), relative(root, mp4) if mp4 else None)
    for number, (interval, row) in enumerate(zip(times.tolist(), scores.tolist(), strict=True)):
        yield _read_interval(f"{video}_{number}", interval, row, lines, paths)


def _numbers(found: Any, width: int) -> npt.NDArray[np.float64] | None:  # noqa: ANN401
    """The array as floats if it is numeric with shape (n, ``width``), otherwise None."""
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu" or found.shape[1:] != (width,):
        return None
    return found.astype(np.float64)


def _shape(found: Any) -> str:  # noqa: ANN401
    return f"{found.shape} {found.dtype}" if isinstance(found, np.ndarray) else "missing"


def _read_interval(
    utterance_id: str,
    interval: Sequence[float],
    values: Sequence[float],
    lines: Sequence[_Line],
    paths: tuple[str, str | None],
) -> Utterance | Rejection:
    start_s, end_s = interval
    if not (np.isfinite(interval).all() and -_PADDING_S <= start_s < end_s and end_s > 0):
        detail = f"{_LABEL_FILE}: from {start_s} to {end_s} s; expected a start of 0 or more before its end"
        return Rejection(utterance_id, "bad_interval", detail)
    lowest, highest = RANGES["sentiment"]
    sentiment, *intensities = (value if np.isfinite(value) else None for value in values)
    if sentiment is not None and not lowest <= sentiment <= highest:
        detail = f"{_LABEL_FILE}: sentiment {sentiment}; expected {lowest:g} to {highest:g}"
        return Rejection(utterance_id, "bad_value", detail)
    rated = {name: value for name, value in zip(EMOTIONS, intensities, strict=True) if value is not None}
    video = utterance_id.rpartition("_")[0]
    transcript = _line_of(start_s, end_s, lines)
    return Utterance(
        utterance_id=utterance_id,
        corpus="mosei",
        audio_path=paths[0],
        cut=True,
        start_s=max(0.0, start_s),
        end_s=end_s,
        transcript=transcript,
        transcript_source=HUMAN if transcript else None,
        language="en",
        session=video,
        dialogue=video,
        sentiment=sentiment,
        intensities=rated or None,
        video_path=paths[1],
    )


def _lines(root: Path, path: Path) -> Iterator[_Line | Rejection]:
    """Lines ``video___clip___start___end___transcript``; video and transcript may contain underscores."""
    where, prefix = relative(root, path), f"{path.stem}___"
    if (outside := reject_outside(root, path)) is not None:
        yield outside
        return
    for number, line in enumerate(decoded_text(root, path).split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.removeprefix(prefix).split("___", 3) if line.startswith(prefix) else []
        start_s, end_s = (number_of(cell) for cell in cells[1:3]) if len(cells) == 4 else (None, None)
        if start_s is None or end_s is None:
            detail = f"line {number}: {line.strip()[:80]!r}; expected {prefix}clip___start___end___transcript"
            yield Rejection(where, "bad_row", detail)
        else:
            yield _Line(start_s, end_s, cells[3].strip())


def _line_of(start_s: float, end_s: float, lines: Sequence[_Line]) -> str | None:
    """The transcript of an interval: the line with the largest intersection over union, if it is ``_SAME`` or more."""

    def overlap(line: _Line) -> float:
        both = min(end_s, line.end_s) - max(start_s, line.start_s)
        return both / (max(end_s, line.end_s) - min(start_s, line.start_s))

    best = max(lines, key=overlap, default=None)
    return (best.transcript or None) if best is not None and overlap(best) >= _SAME else None
