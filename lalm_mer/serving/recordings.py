"""Recordings to predict: files, folders or a manifest, decoded one at a time and cut into windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lalm_mer.core.audio import VIDEO_SUFFIXES, Waveform, decode, decode_channels, decode_video
from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.schema import Rejection
from lalm_mer.corpora import manifest
from lalm_mer.corpora.base import AUDIO_SUFFIXES, list_files

__all__ = [
    "EACH_CHANNEL",
    "Recording",
    "Window",
    "cut_windows",
    "find_recordings",
    "load_channels",
]

_MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl")
EACH_CHANNEL = "each"


@dataclass(frozen=True)
class Recording:
    """An audio file to predict.

    Args:
        path: of the file
        transcript: what is said in it; None where not known
        speaker: None where not known
        start_s: start of the part to predict, in seconds; None from the beginning
        end_s: its end, in seconds; None to the end
        reason: why it cannot be predicted, known before it is opened; None where nothing is known
    """

    path: Path
    transcript: str | None = None
    speaker: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Window:
    """How a long recording is cut.

    Args:
        length_s: of each window, in seconds
        hop_s: from the start of one to the start of the next, in seconds

    Raises:
        ConfigError: if either is not above 0, or the hop is longer than the window
    """

    length_s: float
    hop_s: float

    def __post_init__(self) -> None:
        if not 0 < self.hop_s <= self.length_s:
            raise ConfigError(
                f"a window of {self.length_s:g} s with a hop of {self.hop_s:g} s: expected 0 < hop <= window, so that "
                "nothing is left out"
            )


def find_recordings(sources: Sequence[str | Path], transcript: str | None = None) -> Iterator[Recording]:
    """The recordings that files, folders and manifests name, in order.

    Of a folder, every file with the suffix of an audio or video file, in the order of their paths. A manifest
    (``.csv``, ``.tsv`` or ``.jsonl``) has a column ``path``, relative to it, and may have ``transcript``, ``speaker``,
    ``start_s`` and ``end_s``; a row that cannot be read is a recording with its reason.

    Args:
        sources: paths
        transcript: of the one recording there is

    Raises:
        ConfigError: if a path does not exist, a folder holds no audio, or a transcript is given for several recordings
        CorpusError: if a manifest cannot be read
    """
    recordings = [recording for source in sources for recording in _found_in(Path(source))]
    if transcript is not None:
        if len(recordings) != 1:
            raise ConfigError(
                f"one transcript for {len(recordings)} recordings; give a manifest with the columns path and transcript"
            )
        recordings = [replace(recordings[0], transcript=transcript)]
    yield from recordings


def _found_in(source: Path) -> list[Recording]:
    if source.is_dir():
        suffixes = AUDIO_SUFFIXES | VIDEO_SUFFIXES
        found = [
            Recording(source / item.path, reason=item.detail) if isinstance(item, Rejection) else Recording(item)
            for item in list_files(source)
            if isinstance(item, Rejection) or item.suffix.lower() in suffixes
        ]
        if not found:
            raise ConfigError(
                f"{source}: no audio in this folder; expected files such as {', '.join(sorted(suffixes))}"
            )
        return found
    if not source.is_file():
        raise ConfigError(f"{source}: no such file or folder")
    if source.suffix.lower() in _MANIFEST_SUFFIXES:
        return list(_in_manifest(source))
    return [Recording(source)]


def _in_manifest(file: Path) -> Iterator[Recording]:
    for row in manifest.read(file.parent, file.name):
        if isinstance(row, Rejection):
            if row.reason != "orphan":
                yield Recording(file.parent / row.path, reason=row.detail)
        elif row.audio_path is not None:
            path = file.parent / row.audio_path
            inside = path.resolve().is_relative_to(file.parent.resolve())
            reason = None if inside else f"{row.audio_path} leads out of the folder of {file.name}"
            yield Recording(path, row.transcript, row.speaker, row.start_s, row.end_s, reason)


def load_channels(recording: Recording, channel: int | str | None) -> list[tuple[int | None, Waveform]]:
    """The waveforms of a recording at their own rate, with the number of their channel from 1.

    Args:
        recording: the file
        channel: number of a channel from 1, ``EACH_CHANNEL`` for all apart, or None to mix them down

    Raises:
        AudioError: naming the file, if it cannot be read or has no such channel
    """
    name = str(recording.path)
    if recording.reason is not None:
        raise AudioError(recording.reason)
    is_video = recording.path.suffix.lower() in VIDEO_SUFFIXES
    try:
        content = recording.path.read_bytes()
    except (OSError, ValueError) as error:
        raise AudioError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if channel is None:
        return [(None, _part(decode_video(content, name) if is_video else decode(content, name), recording))]
    if is_video:
        raise AudioError(f"{name}: the channels of a video are mixed down; extract its sound to choose one", "channel")
    channels = list(enumerate(decode_channels(content, name), start=1))
    chosen: list[tuple[int | None, Waveform]] = [
        (number, _part(wave, recording)) for number, wave in channels if channel in (EACH_CHANNEL, number)
    ]
    if not chosen:
        raise AudioError(f"{name}: no channel {channel}; it has {len(channels)}", "channel")
    return chosen


def _part(waveform: Waveform, recording: Recording) -> Waveform:
    """The part from ``start_s`` to ``end_s``."""
    if recording.start_s is None and recording.end_s is None:
        return waveform
    first = round((recording.start_s or 0.0) * waveform.sampling_rate)
    last = len(waveform.samples) if recording.end_s is None else round(recording.end_s * waveform.sampling_rate)
    if not 0 <= first < last <= len(waveform.samples):
        raise AudioError(
            f"{recording.path}: {waveform.duration_s:.3f} s long; the part from {recording.start_s} to "
            f"{recording.end_s} s is not in it",
            "truncated",
        )
    return replace(waveform, samples=waveform.samples[first:last])


def cut_windows(waveform: Waveform, window: Window | None) -> Iterator[tuple[float, float, Waveform]]:
    """Windows of a waveform with their start and end in seconds; the whole of it where there is no window.

    The last window ends with the recording and may be shorter than the others.

    Example:
        >>> import numpy
        >>> wave = Waveform(numpy.zeros(100, numpy.float32), 10)
        >>> [(start, end) for start, end, _ in cut_windows(wave, Window(6.0, 3.0))]
        [(0.0, 6.0), (3.0, 9.0), (6.0, 10.0)]
    """
    rate, total = waveform.sampling_rate, len(waveform.samples)
    if window is None:
        yield 0.0, waveform.duration_s, waveform
        return
    length, hop = round(window.length_s * rate), max(1, round(window.hop_s * rate))
    start = 0
    while True:
        end = min(start + length, total)
        yield start / rate, end / rate, replace(waveform, samples=waveform.samples[start:end])
        if end == total:
            return
        start += hop
