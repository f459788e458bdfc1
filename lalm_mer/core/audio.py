"""Waveforms with their sampling rate, decoded by soundfile and resampled by soxr."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.extras import install_extra

__all__ = ["VIDEO_SUFFIXES", "Waveform", "decode", "decode_channels", "decode_video", "encode"]

VIDEO_SUFFIXES = frozenset((".mp4", ".mkv", ".mov", ".avi", ".webm", ".flv"))
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv"  # FFmpeg's names of them
_TRACK_TOLERANCE_S = 0.25  # encoders pad, and edit lists trim, a few frames


@dataclass(frozen=True)
class Waveform:
    """Mono samples with their sampling rate.

    Args:
        samples: float32, shape (n,), full scale [-1, 1]
        sampling_rate: in Hz
    """

    samples: npt.NDArray[np.float32]
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


def decode(content: bytes, name: str, start_s: float | None = None, end_s: float | None = None) -> Waveform:
    """Decode an audio file at its own rate, mixed down to mono.

    Args:
        content: the bytes of an audio file in any format that libsndfile reads
        name: name of the file in errors
        start_s: start of the part to decode, in seconds; None for the beginning
        end_s: its end, in seconds; None for the end of the file

    Raises:
        AudioError: with reason ``unreadable``, ``empty``, ``truncated`` or ``non_finite``

    Example:
        >>> import io, numpy, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, numpy.zeros((800, 2)), 8000, format="WAV")
        >>> decode(file.getvalue(), "stereo.wav").samples.shape
        (800,)
    """
    samples, rate = _decoded(content, name, start_s, end_s)
    return Waveform(samples.mean(axis=1, dtype=np.float32), rate)


def decode_channels(content: bytes, name: str) -> list[Waveform]:
    """Decode an audio file at its own rate, each channel separately; arguments and errors are those of ``decode``."""
    samples, rate = _decoded(content, name, None, None)
    return [Waveform(np.ascontiguousarray(channel), rate) for channel in samples.T]


def _decoded(
    content: bytes, name: str, start_s: float | None, end_s: float | None
) -> tuple[npt.NDArray[np.float32], int]:
    """Samples, shape (n, channels), and their rate in Hz."""
    if not content:
        raise AudioError(f"{name}: the file has no bytes", "empty")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, frames = int(file.samplerate), int(file.frames)
            _check_size(content, name)
            first = 0 if start_s is None else round(start_s * rate)
            last = frames if end_s is None else round(end_s * rate)
            if not 0 <= first <= last <= frames:
                raise AudioError(
                    f"{name}: {frames / rate:.3f} s long; the utterance from {start_s} to {end_s} s is not in it",
                    "truncated",
                )
            samples = _read(file, first, last, name)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: not audio that libsndfile reads ({error.error_string})", "unreadable") from error
    if len(samples) < last - first:
        raise AudioError(f"{name}: {len(samples)} of {last - first} samples could be read", "truncated")
    if len(samples) == 0:
        raise AudioError(f"{name}: no samples", "empty")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: samples that are NaN or infinite", "non_finite")
    return samples, rate


def _read(file: soundfile.SoundFile, first: int, last: int, name: str) -> npt.NDArray[np.float32]:
    """The samples, shape (n, channels). A truncated FLAC file opens like a complete one and fails only here."""
    try:
        file.seek(first)
        return np.asarray(file.read(last - first, dtype="float32", always_2d=True))
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        raise AudioError(f"{name}: its samples end early ({reason}); truncated or damaged", "truncated") from error


def _check_size(content: bytes, name: str) -> None:
    """Compare the declared size of a RIFF file with its bytes: libsndfile shortens a truncated one silently."""
    if content[:4] != b"RIFF":
        return
    declared = int.from_bytes(content[4:8], "little") + 8
    streamed = declared >= 0xFFFFFFFF  # written to a pipe, where the size is not known in advance
    if not streamed and len(content) < declared - 1:  # some writers count a pad byte they do not write
        raise AudioError(f"{name}: {len(content)} bytes of the {declared} its header declares", "truncated")


def encode(waveform: Waveform) -> bytes:
    """Encode mono audio as 24-bit FLAC, exact for 16 and 24 bits, or as float WAV if it exceeds full scale."""
    file = io.BytesIO()
    fits = np.abs(waveform.samples).max(initial=0.0) <= 1.0
    container, subtype = ("FLAC", "PCM_24") if fits else ("WAV", "FLOAT")
    soundfile.write(file, waveform.samples, waveform.sampling_rate, format=container, subtype=subtype)
    return file.getvalue()


def decode_video(content: bytes, name: str) -> Waveform:
    """Decode the first audio track of a video, of which ``content`` is the bytes, at its own rate, mixed down to mono.

    A file that refers to other files, such as a playlist, is refused: only ``content`` is opened.

    Raises:
        AudioError: with reason ``unreadable``, ``empty`` or ``truncated``
        ConfigError: if the extra ``video`` is not installed
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(f"{name}: decoding a video needs PyAV; {install_extra('video')}") from error
    options = {"format_whitelist": _CONTAINERS}
    try:
        with av.open(io.BytesIO(content), mode="r", options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: a video without an audio track", "empty")
            track = container.streams.audio[0]
            declared_s = float(track.duration * track.time_base) if track.duration and track.time_base else 0.0
            resampler = av.AudioResampler(format="fltp")
            frames = [part for frame in container.decode(track) for part in resampler.resample(frame)]
            frames += resampler.resample(None)
    except (av.FFmpegError, ValueError) as error:  # PyAV: ValueError if rate or channels change midway
        raise AudioError(f"{name}: not a video that FFmpeg reads ({' '.join(str(error).split())})") from error
    if not frames:
        raise AudioError(f"{name}: no samples", "empty")
    samples = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in frames]).astype(np.float32)
    waveform = Waveform(samples, int(frames[0].sample_rate))
    if waveform.duration_s < declared_s - _TRACK_TOLERANCE_S:  # FFmpeg does not report a truncated file
        raise AudioError(
            f"{name}: {waveform.duration_s:.3f} s of the {declared_s:.3f} s of audio its header declares", "truncated"
        )
    return waveform
