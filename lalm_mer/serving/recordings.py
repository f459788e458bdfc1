"""Recordings to predict: files, folders or manifests, decoded one at a time and cut into windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lalm_mer.core.audio import VIDEO_SUFFIXES, Waveform, decode, decode_channels, decode_video, is_video
from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.schema import Rejection
from lalm_mer.corpora import manifest
from lalm_mer.corpora.base import AUDIO_SUFFIXES, list_files

__all__ = ["EACH_CHANNEL", "Recording", "Window", "cut_windows", "find_recordings", "load_channels"]

_MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl")
EACH_CHANNEL = "each"


@dataclass(frozen=True)
class Recording:
    """An audio file to predict.

    Args:
        path: path of the file
        transcript: None if unknown
        speaker: None if unknown
        start_s: start of the part to predict, in seconds; None for the start of the file
        end_s: its end, in seconds; None for the end of the file
        reason: why it cannot be predicted, if that is known before it is opened
    """

    path: Path
    transcript: str | None = None
    speaker: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Window:
    """Windows of a long recording.

    Args:
        length_s: length of each window, in seconds
        hop_s: time between the starts of two windows, in seconds

    Raises:
        ConfigError: if either is not above 0, or the hop is longer than the window
    """

    length_s: float
    hop_s: float

    def __post_init__(self) -> None:
        if not 0 < self.hop_s <= self.length_s:
            raise ConfigError(
                f"a window of {self.length_s:g} s with a hop of {self.hop_s:g} s: expected 0 < hop <= window, so that "
                "no audio is left out"
            )


def find_recordings(sources: Iterable[str | Path | Recording], transcript: str | None = None) -> Iterator[Recording]:
    """The recordings of files, folders and manifests, in order.

    A folder has all its files with the suffix of an audio or video file, in the order of their paths. A manifest
    (``.csv``, ``.tsv`` or ``.jsonl``) has a column ``path``, relative to it, and may have ``transcript``, ``speaker``,
    ``start_s`` and ``end_s``; a row that cannot be read is a recording with its reason.

    Args:
        sources: paths of files, folders and manifests, or recordings
        transcript: transcript of the only recording

    Raises:
        ConfigError: if a path does not exist, a folder has no audio, or there are several recordings and a transcript
        CorpusError: if a manifest cannot be read
    """
    found = (recording for source in sources for recording in _found_in(source))
    if transcript is None:
        yield from found
        return
    recordings = list(found)
    if len(recordings) != 1:
        raise ConfigError(
            f"one transcript for {len(recordings)} recordings; give a manifest with the columns path and transcript"
        )
    yield replace(recordings[0], transcript=transcript)


def _found_in(source: str | Path | Recording) -> list[Recording]:
    if isinstance(source, Recording):
        return [source]
    source = Path(source)
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
            reason = None if inside else f"{row.audio_path} is outside of the folder of {file.name}"
            yield Recording(path, row.transcript, row.speaker, row.start_s, row.end_s, reason)


def load_channels(recording: Recording, channel: int | str | None) -> list[tuple[int | None, Waveform]]:
    """The waveforms of a recording at their own rate, with the number of their channel from 1.

    Args:
        recording: the file
        channel: number of a channel from 1, ``EACH_CHANNEL`` for each separately, or None to mix them down

    Raises:
        AudioError: naming the file, if it cannot be read or has no such channel
    """
    name = str(recording.path)
    if recording.reason is not None:
        raise AudioError(recording.reason)
    path, times = recording.path, (recording.start_s, recording.end_s)
    if is_video(path):
        if channel is None:
            return [(None, _part(decode_video(path, name), recording))]
        raise AudioError(f"{name}: the channels of a video are mixed down; extract its audio to choose one", "channel")
    if channel is None:
        return [(None, decode(path, name, *times))]
    channels = decode_channels(path, name, *times)
    chosen: list[tuple[int | None, Waveform]] = [
        (number, wave) for number, wave in enumerate(channels, start=1) if channel in (EACH_CHANNEL, number)
    ]
    if not chosen:
        raise AudioError(f"{name}: no channel {channel}; it has {len(channels)}", "channel")
    return chosen


def _part(waveform: Waveform, recording: Recording) -> Waveform:
    """The waveform from ``start_s`` to ``end_s``."""
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
    """Windows of a waveform with their start and end in seconds; without ``window`` the complete waveform.

    The last window ends with the waveform and may be shorter than the others.

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
