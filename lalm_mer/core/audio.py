"""Waveforms with their sampling rate, decoded by libsndfile or FFmpeg and resampled by soxr."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from lalm_mer.core.declared_size import FORMATS, with_size
from lalm_mer.core.errors import AudioError, one_line
from lalm_mer.core.extras import install_extra
from lalm_mer.core.file_kinds import FIRST_BYTES, needs_ffmpeg, placeholder

__all__ = ["VIDEO_SUFFIXES", "Waveform", "decode", "decode_channels", "decode_video", "encode", "is_video"]

VIDEO_SUFFIXES = frozenset((".mp4", ".mkv", ".mov", ".avi", ".webm", ".flv"))
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,aac,asf"  # FFmpeg's names of them
_TRACK_TOLERANCE_S = 0.25  # encoders pad, and edit lists trim, a few frames
_LOWEST_RATE, _HIGHEST_RATE = 100, 768_000  # in Hz
_MOST_SAMPLES = 2**28  # 1 GiB as float32
_LONGEST_S = _MOST_SAMPLES / 16_000  # so that resampling does not make much more of fewer samples
_LATEST_S = 2.0**31
_LOUDEST = 2.0**32  # full scale is 1, or 2**31 in integers written as floats; squares of these are finite
_LENGTH_UNKNOWN = 2**36 - 1  # frames that libsndfile reports, or more, of a FLAC whose writer did not know them
_VALUES_IN_A_BLOCK = 2**20

_Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Waveform:
    """Mono samples with their sampling rate.

    Args:
        samples: float32, shape (n,), full scale [-1, 1]
        sampling_rate: in Hz
    """

    samples: _Samples
    sampling_rate: int

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sampling_rate

    @property
    def sha256(self) -> str:
        """SHA-256 of rate and samples in hexadecimal, the same for every lossless file of the same audio."""
        samples = np.ascontiguousarray(self.samples, dtype="<f4")
        return hashlib.sha256(self.sampling_rate.to_bytes(4, "little") + samples.tobytes()).hexdigest()

    def resampled(self, sampling_rate: int) -> Waveform:
        """The same audio at ``sampling_rate`` Hz (soxr, high quality); the object itself if that is its rate."""
        if sampling_rate == self.sampling_rate:
            return self
        samples = soxr.resample(self.samples, self.sampling_rate, sampling_rate, quality="HQ")
        return Waveform(np.asarray(samples, dtype=np.float32), sampling_rate)

    def require_rate(self, sampling_rate: int, reader: str) -> None:
        """Check that the rate is the one that ``reader`` needs; nothing is resampled here.

        Raises:
            AudioError: if the rates differ
        """
        if self.sampling_rate != sampling_rate:
            raise AudioError(
                f"{reader} takes audio at {sampling_rate} Hz, found {self.sampling_rate} Hz; resample it first",
                "sampling_rate",
            )


def decode(source: bytes | Path, name: str, start_s: float | None = None, end_s: float | None = None) -> Waveform:
    """Decode an audio file at its own rate, mixed down to mono.

    Args:
        source: an audio file in one of ``FORMATS``: its bytes, or its path
        name: name of the file in errors
        start_s: start of the part to decode, in seconds; None for the beginning
        end_s: its end, in seconds; None for the end of the file

    Raises:
        AudioError: with reason ``unreadable``, ``empty``, ``truncated``, ``too_long`` or ``non_finite``

    Example:
        >>> import io, numpy, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, numpy.zeros((800, 2)), 8000, format="WAV")
        >>> decode(file.getvalue(), "stereo.wav").samples.shape
        (800,)
    """
    samples, rate = _decoded(source, name, start_s, end_s, mixed=True)
    return Waveform(samples[:, 0], rate)


def decode_channels(
    source: bytes | Path, name: str, start_s: float | None = None, end_s: float | None = None
) -> list[Waveform]:
    """Decode an audio file at its own rate, each channel separately; arguments and errors are those of ``decode``."""
    samples, rate = _decoded(source, name, start_s, end_s, mixed=False)
    return [Waveform(np.ascontiguousarray(channel), rate) for channel in samples.T]


def _decoded(
    source: bytes | Path, name: str, start_s: float | None, end_s: float | None, *, mixed: bool
) -> tuple[_Samples, int]:
    """Samples, shape (frames, channels), with one channel if they are mixed; and their rate in Hz."""
    with _opened(source, name) as opened:
        try:
            file = _Sequential(_ForLibsndfile(with_size(opened, name)))
        except soundfile.SoundFileError as error:
            raise AudioError(f"{name}: not audio that libsndfile reads ({_reason(error)})") from error
        with file:
            _check_header(file, name)
            rate = int(file.samplerate)
            most = int(min(_MOST_SAMPLES / (1 if mixed else file.channels), _LONGEST_S * rate))
            try:
                blocks = list(_blocks(file, name, (start_s, end_s), most, mixed=mixed))
            except soundfile.SoundFileError as error:  # a truncated FLAC opens like a complete one and fails here
                raise AudioError(
                    f"{name}: its samples end early ({_reason(error)}); truncated or damaged", "truncated"
                ) from error
        n = sum(map(len, blocks))
        if n * 1000 < rate:  # nothing may be left of it after resampling
            raise AudioError(f"{name}: {n or 'no'} samples{', less than a millisecond' * (n > 0)}", "empty")
        return np.concatenate(blocks), rate


class _Sequential(soundfile.SoundFile):  # type: ignore[misc] # which has no types
    """A file that is read from front to back.

    soundfile seeks after each block of a seekable file, which fails in a FLAC of unknown length and changes an MP3.
    """

    def seekable(self) -> bool:
        return False


class _ForLibsndfile:
    """A binary file without exceptions, which would be printed from the callbacks of libsndfile.

    libsndfile compares the place and the number of bytes that it gets with those that it needs.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell

    def seek(self, offset: int, whence: int) -> None:
        with suppress(OSError, ValueError):  # a place before the first byte
            self._file.seek(offset, whence)

    def read(self, n_bytes: int) -> bytes:
        try:
            return self._file.read(n_bytes)
        except OSError:  # of the disk
            return b""


@contextmanager
def _opened(source: bytes | Path, name: str) -> Iterator[BinaryIO]:
    """Open a file that is neither empty, a device nor a placeholder of another."""
    try:
        is_file = isinstance(source, bytes) or source.is_file()  # opening a FIFO would wait for its writer
        opened = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") if is_file else None
    except (OSError, ValueError) as error:
        raise AudioError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if opened is None:
        raise AudioError(f"{name}: no such file, or not a regular file")
    with opened:
        head = opened.read(FIRST_BYTES)
        if not head:
            raise AudioError(f"{name}: the file has no bytes", "empty")
        if (what := placeholder(head)) is not None:
            raise AudioError(f"{name}: {what}")
        opened.seek(0)
        try:
            yield opened
        except MemoryError as error:
            raise AudioError(f"{name}: does not fit in memory; cut it into shorter files", "too_long") from error


def _check_header(file: soundfile.SoundFile, name: str) -> None:
    if file.format not in FORMATS:
        raise AudioError(f"{name}: {file.format} is not one of {', '.join(FORMATS)}; convert it to WAV or FLAC")
    if not _LOWEST_RATE <= file.samplerate <= _HIGHEST_RATE:
        raise AudioError(
            f"{name}: its header declares {file.samplerate} Hz; expected {_LOWEST_RATE} to {_HIGHEST_RATE} Hz"
        )


def _blocks(
    file: soundfile.SoundFile, name: str, times: tuple[float | None, float | None], most: int, *, mixed: bool
) -> Iterator[_Samples]:
    """The samples between two times, in blocks of shape (frames, channels); ``most`` is the limit of frames."""
    frames = file.frames if file.frames < _LENGTH_UNKNOWN else None
    first, last = (None if time is None else _frame(time, file.samplerate) for time in times)
    start, end = first or 0, frames if last is None else last
    if not 0 <= start <= (start if end is None else end) or (frames is not None and (end or 0) > frames):
        raise _not_in_it(file, frames, name, times)
    position = 0 if frames is None else file.seek(start)
    most += position
    while end is None or position < end:
        if (end or position) > most:
            raise AudioError(
                f"{name}: longer than {most - position} samples, the most that is read of a file at {file.samplerate} "
                "Hz; cut it into shorter files, or name its parts by start_s and end_s in a manifest",
                "too_long",
            )
        n = min(most + 1 if end is None else end - position, _VALUES_IN_A_BLOCK // file.channels)
        block = file.read(n, dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        yield _checked(block[max(0, start - position) :], name, mixed=mixed)
        position += len(block)
    if end is not None and position < end:
        raise AudioError(f"{name}: {max(0, position - start)} of {end - start} samples could be read", "truncated")
    if position < start:
        raise _not_in_it(file, position, name, times)


def _frame(time_s: float, rate: int) -> int:
    """Number of the frame at a time; -1 for a time before the first."""
    return round(min(time_s, _LATEST_S) * rate) if time_s >= 0 else -1


def _not_in_it(
    file: soundfile.SoundFile, frames: int | None, name: str, times: tuple[float | None, float | None]
) -> AudioError:
    length = "" if frames is None else f"{frames / file.samplerate:.3f} s long; "
    end = "" if times[1] is None else f" to {times[1]}"
    return AudioError(f"{name}: {length}the part from {times[0] or 0.0}{end} s is not in it", "truncated")


def _checked(block: _Samples, name: str, *, mixed: bool) -> _Samples:
    """The block, mixed down if required, with finite samples."""
    with np.errstate(over="ignore", invalid="ignore"):
        samples = block.mean(axis=1, dtype=np.float32, keepdims=True) if mixed else block
    if not np.abs(samples).max(initial=0.0) <= _LOUDEST:  # also if one is NaN
        raise AudioError(f"{name}: samples that are NaN, infinite or above {_LOUDEST:g} times full scale", "non_finite")
    return samples


def _reason(error: soundfile.SoundFileError) -> str:
    return one_line(getattr(error, "error_string", str(error))).removeprefix("Error : ").rstrip(".")


def encode(waveform: Waveform) -> bytes:
    """Encode mono audio as 24-bit FLAC, exact for 16 and 24 bits, or as float WAV if it exceeds full scale."""
    file = io.BytesIO()
    fits = np.abs(waveform.samples).max(initial=0.0) <= 1.0
    container, subtype = ("FLAC", "PCM_24") if fits else ("WAV", "FLOAT")
    soundfile.write(file, waveform.samples, waveform.sampling_rate, format=container, subtype=subtype)
    return file.getvalue()


def is_video(path: Path) -> bool:
    """Whether ``decode_video`` reads a file: a video, or audio such as M4A and WMA, by its suffix or first bytes.

    False for a file that cannot be opened, which ``decode`` reports.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return True
    with suppress(OSError, ValueError):
        if path.is_file():
            with path.open("rb") as file:
                return needs_ffmpeg(file.read(FIRST_BYTES))
    return False


def decode_video(source: bytes | Path, name: str) -> Waveform:
    """Decode the first audio track of a video, or of audio that FFmpeg reads, at its own rate, mixed down to mono.

    A file that refers to other files, such as a playlist, is refused: no other is opened.

    Args:
        source: the bytes of the file, or its path
        name: name of the file in errors

    Raises:
        AudioError: with reason ``unreadable``, ``empty``, ``truncated`` or ``too_long``; ``missing_extra`` if the
            extra ``video`` is not installed
    """
    with _opened(source, name) as opened:
        blocks, rate, declared_s = _track(opened, name)
    if not blocks:
        raise AudioError(f"{name}: no samples", "empty")
    waveform = Waveform(np.concatenate(blocks).astype(np.float32), rate)
    if waveform.duration_s < declared_s - _TRACK_TOLERANCE_S:  # FFmpeg does not report a truncated file
        raise AudioError(
            f"{name}: {waveform.duration_s:.3f} s of the {declared_s:.3f} s of audio its header declares", "truncated"
        )
    return waveform


def _track(opened: BinaryIO, name: str) -> tuple[list[_Samples], int, float]:
    """The first audio track: samples, mixed down, in blocks; their rate in Hz, and the declared duration in seconds."""
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"{name}: decoding a video, or audio such as M4A, needs PyAV; {install_extra('video')}",
            "missing_extra",
        ) from error
    options = {"format_whitelist": _CONTAINERS}
    blocks: list[_Samples] = []
    n, rate = 0, 0
    try:
        with av.open(opened, mode="r", options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: a video without an audio track", "empty")
            track = container.streams.audio[0]
            declared_s = float(track.duration * track.time_base) if track.duration and track.time_base else 0.0
            resampler = av.AudioResampler(format="flt")  # PyAV 18 reads wrong memory of 9 planar channels or more
            for frame in chain(container.decode(track), [None]):
                for part in resampler.resample(frame):
                    blocks.append(part.to_ndarray().reshape(part.samples, -1).mean(axis=1))
                    n, rate = n + part.samples, int(part.sample_rate)
                    if n > min(_MOST_SAMPLES, _LONGEST_S * rate):
                        raise AudioError(f"{name}: longer than {n} samples; cut it into shorter files", "too_long")
    except (av.FFmpegError, ValueError) as error:  # PyAV: ValueError if rate or channels change midway
        raise AudioError(f"{name}: not a video that FFmpeg reads ({' '.join(str(error).split())})") from error
    return blocks, rate, declared_s
