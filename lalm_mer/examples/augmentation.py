"""Random augmentation of training audio (not of dev or test): speed, reverberation, noise, gain and MP3."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.extras import install_extra
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.settings import require_declared, setting

__all__ = [
    "AugmentSettings", "Augmentation", "GainSettings", "Mp3Settings", "NoiseSettings",
    "ReverbSettings", "SpeedSettings",
]  # fmt: skip

_Samples: TypeAlias = npt.NDArray[np.float32]
_Step: TypeAlias = Callable[[_Samples, int], _Samples]

_NAMES = ("speed", "reverb", "noise", "gain", "mp3")  # in the order in which they are applied
_RANGES = {"speed": "rate", "reverb": "rt60_s", "noise": "snr_db", "gain": "gain_db", "mp3": "bitrate_kbps"}
_BITRATES_KBPS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320)
_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")  # those that audiomentations finds and libsndfile reads
_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_REFLECTIONS = 8  # order of the image sources: takes 20 ms per clip; 12 would take half a second


_SNR_DB: dict[str, Any] = {"at_least": -30, "at_most": 100}
_RATE: dict[str, Any] = {"at_least": 0.5, "at_most": 2}
_RT60_S: dict[str, Any] = {"at_least": 0.15, "at_most": 2}  # below 0.15 s no absorption is enough
_GAIN_DB: dict[str, Any] = {"at_least": -60, "at_most": 60}


def _probability() -> Any:  # noqa: ANN401 a declaration
    return setting(0.0, at_least=0, at_most=1, help="probability for each training clip")


@dataclass(frozen=True)
class NoiseSettings:
    """Noise added at a signal-to-noise ratio drawn from a range."""

    p: float = _probability()
    min_snr_db: float = setting(5.0, **_SNR_DB, help="lowest signal-to-noise ratio")
    max_snr_db: float = setting(30.0, **_SNR_DB, help="highest signal-to-noise ratio")
    color: str = setting(
        "white", choices=("white", "random"), help="random: a slope of -6 to 6 dB per octave, brown to violet"
    )
    folder: str | None = setting(
        None, path="new", help="noise recordings, parts of which are added instead of computed noise"
    )


@dataclass(frozen=True)
class SpeedSettings:
    """Speed perturbation: faster (rate above 1) or slower, with the pitch."""

    p: float = _probability()
    min_rate: float = setting(0.9, **_RATE, help="lowest rate; a clip becomes 1 / rate times as long")
    max_rate: float = setting(1.1, **_RATE, help="highest rate; a clip becomes 1 / rate times as long")


@dataclass(frozen=True)
class ReverbSettings:
    """Reverberation by simulated rooms, with reflections up to the 8th only, or by recorded impulse responses."""

    p: float = _probability()
    min_rt60_s: float = setting(0.2, **_RT60_S, help="shortest reverberation time of simulated rooms")
    max_rt60_s: float = setting(0.8, **_RT60_S, help="longest reverberation time of simulated rooms")
    folder: str | None = setting(None, path="new", help="recorded impulse responses, used instead of simulated rooms")


@dataclass(frozen=True)
class GainSettings:
    """A gain drawn from a range."""

    p: float = _probability()
    min_gain_db: float = setting(-6.0, **_GAIN_DB, help="lowest gain")
    max_gain_db: float = setting(6.0, **_GAIN_DB, help="highest gain")


@dataclass(frozen=True)
class Mp3Settings:
    """MP3 encoding and decoding at a bit rate drawn from a range; clips under 0.1 s are not changed."""

    p: float = _probability()
    min_bitrate_kbps: int = setting(16, choices=_BITRATES_KBPS, help="lowest bit rate")
    max_bitrate_kbps: int = setting(64, choices=_BITRATES_KBPS, help="highest bit rate")


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentation of training clips, in this order, each with its probability ``p``, which is 0 (off) by default."""

    speed: SpeedSettings = field(default_factory=SpeedSettings)
    reverb: ReverbSettings = field(default_factory=ReverbSettings)
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    gain: GainSettings = field(default_factory=GainSettings)
    mp3: Mp3Settings = field(default_factory=Mp3Settings)

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the steps with a probability above 0."""
        return tuple(name for name in _NAMES if getattr(self, name).p != 0)


class Augmentation:
    """A chain of random transforms of a waveform, seeded by a key: equal keys give bit-identical samples.

    The draws depend only on the key, not on the process or earlier draws, and the random states of Python and numpy are
    restored. Reverberation and MP3 keep the root mean square, since loudness carries emotion. The output is float32 at
    the same rate; a clip that would exceed full scale is scaled down, not clipped. Only speed changes the length.

    Args:
        settings: the steps and their probabilities

    Raises:
        ConfigError: if a range is empty or impossible, a package is missing, or a folder has no valid audio

    Example:
        >>> augment = Augmentation(AugmentSettings(gain=GainSettings(p=1, min_gain_db=-6.0206, max_gain_db=-6.0206)))
        >>> augment(Waveform(np.full(4, 0.5, np.float32), 16_000), "seed 0, epoch 0, utterance u1").samples.round(3)
        array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    def __init__(self, settings: AugmentSettings) -> None:
        _check(settings)
        self.settings = settings
        self._noises = _recordings("noise", settings.noise.folder) if settings.noise.p else []
        self._responses = _recordings("reverb", settings.reverb.folder) if settings.reverb.p else []
        self._chains: dict[tuple[int, bool], list[_Step]] = {}

    def __call__(self, waveform: Waveform, key: str, *, changes_speed: bool = True) -> Waveform:
        """Augment a waveform that is not empty; ``key`` is the seed of the draws.

        Raises:
            AudioError: if the result has samples that are not finite
            ConfigError: if MP3 does not support the rate
        """
        samples, rate = waveform.samples, waveform.sampling_rate
        chain = self._chain(rate, changes_speed)
        with _seeded_by(key), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on silent or resampled noise
            for step in chain:
                samples = np.asarray(step(samples, rate), dtype=np.float32)
        if samples is waveform.samples:
            return waveform
        if not np.isfinite(samples).all():
            raise AudioError(f"{key}: augmentation produced samples that are NaN or infinite", "non_finite")
        return Waveform(_within_full_scale(samples, waveform.samples), rate)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_chains": {}}  # each process builds its own chains

    def digest(self) -> str:
        """Hash of the settings with names and sizes of the recordings in their folders."""
        files = [(path.name, path.stat().st_size) for path in (*self._noises, *self._responses)]
        return hash_json([repr(self.settings), files])

    def _chain(self, rate: int, changes_speed: bool) -> list[_Step]:
        if (rate, changes_speed) not in self._chains:
            settings = self.settings if changes_speed else replace(self.settings, speed=SpeedSettings())
            self._chains[rate, changes_speed] = _steps(settings, rate, self._noises, self._responses)
        return self._chains[rate, changes_speed]


def _check(settings: AugmentSettings) -> None:
    require_declared(settings)
    for name, what in _RANGES.items():
        low, high = (getattr(getattr(settings, name), f"{end}_{what}") for end in ("min", "max"))
        if low > high:
            raise ConfigError(f"argument '{name}.min_{what}': {low:g}; expected at most max_{what}, which is {high:g}")
    needed = {
        "audiomentations": settings.active,
        "pyroomacoustics": settings.reverb.p and not settings.reverb.folder,
        "fast_mp3_augment": settings.mp3.p,
    }
    missing = [name for name, is_needed in needed.items() if is_needed and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"augmentation needs {', '.join(missing)}; {install_extra('augment')}")


def _recordings(section: str, folder: str | None) -> list[Path]:
    """Audio files below a folder, sorted; each must be readable and not empty or silent."""
    if folder is None:
        return []
    found = sorted(path.absolute() for path in Path(folder).rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise ConfigError(f"argument '{section}.folder': no {', '.join(_SUFFIXES)} file in {folder}")
    for path in found:
        try:  # impulse responses are read completely: they are short, and a silent one would silence the clip
            has_audio = soundfile.info(str(path)).frames if section == "noise" else soundfile.read(str(path))[0].any()
        except soundfile.LibsndfileError as error:
            raise ConfigError(f"argument '{section}.folder': {path} cannot be read ({error.error_string})") from error
        if not has_audio:
            raise ConfigError(f"argument '{section}.folder': {path} is empty or silent; remove it")
    return found


def _steps(settings: AugmentSettings, rate: int, noises: list[Path], responses: list[Path]) -> list[_Step]:
    """The active transforms for clips at ``rate`` Hz, in order."""
    if not settings.active:
        return []
    import audiomentations

    speed, reverb, noise, gain, mp3 = settings.speed, settings.reverb, settings.noise, settings.gain, settings.mp3
    steps: list[_Step] = []
    if speed.p:  # resampled to another rate, and then used at the original rate
        low, high = round(rate / speed.max_rate), round(rate / speed.min_rate)
        steps.append(audiomentations.Resample(min_sample_rate=low, max_sample_rate=high, p=speed.p))
    if reverb.p and responses:
        files = list(map(str, responses))
        room = audiomentations.ApplyImpulseResponse(files, p=reverb.p, leave_length_unchanged=True)
        steps.append(_preserving_level(room))
    elif reverb.p:
        room = audiomentations.RoomSimulator(
            calculation_mode="rt60", min_target_rt60=reverb.min_rt60_s, max_target_rt60=reverb.max_rt60_s,
            min_mic_distance=0.5, max_mic_distance=2.0, max_order=_REFLECTIONS, leave_length_unchanged=True,
            use_ray_tracing=False, p=reverb.p,  # ray tracing cannot be seeded
        )  # fmt: skip
        steps.append(_preserving_level(room))
    snr = {"min_snr_db": noise.min_snr_db, "max_snr_db": noise.max_snr_db, "p": noise.p}
    if noise.p and noises:
        steps.append(audiomentations.AddBackgroundNoise(list(map(str, noises)), **snr))
    elif noise.p:
        computed = audiomentations.AddGaussianSNR if noise.color == "white" else audiomentations.AddColorNoise
        steps.append(computed(**snr))
    if gain.p:
        steps.append(audiomentations.Gain(min_gain_db=gain.min_gain_db, max_gain_db=gain.max_gain_db, p=gain.p))
    if mp3.p:
        if rate not in _MP3_RATES:
            raise ConfigError(f"argument 'mp3.p': no MP3 at {rate} Hz, only at {_MP3_RATES}; set it to 0")
        transform = audiomentations.Mp3Compression(
            min_bitrate=mp3.min_bitrate_kbps, max_bitrate=mp3.max_bitrate_kbps, backend="fast-mp3-augment", p=mp3.p
        )
        coded = _preserving_level(transform)
        steps.append(lambda samples, rate: coded(samples, rate) if len(samples) >= 0.1 * rate else samples)
    return steps


def _preserving_level(transform: _Step) -> _Step:
    """Wrap a transform so that its output has the root mean square of its input."""

    def step(samples: _Samples, rate: int) -> _Samples:
        changed = transform(samples, rate)
        before, after = _rms(samples), _rms(changed)
        return changed if changed is samples or not after else changed * np.float32(before / after)

    return step


def _rms(samples: _Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _within_full_scale(samples: _Samples, before: _Samples) -> _Samples:
    """Scale down to a peak of 1, or to the original peak if that was higher."""
    most, peak = max(1.0, float(np.abs(before).max())), float(np.abs(samples).max())
    return samples if peak <= most else samples * np.float32(most / peak)


@contextmanager
def _seeded_by(key: str) -> Iterator[None]:
    """Seed the global random states of Python and numpy, which audiomentations uses, and restore them at the end."""
    digest = hashlib.sha256(key.encode()).digest()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(int.from_bytes(digest, "big"))
    np.random.seed(np.frombuffer(digest, dtype=">u4").astype(np.uint32))
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
