"""Flags on suspicious utterances, and their thresholds, each with a reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lalm_mer.core.errors import ConfigError
from lalm_mer.quality.hypotheses import BetterMatch, ErrorRates
from lalm_mer.quality.measures import Measures, Sound

__all__ = [
    "FLAGS", "Finding", "RobustScale", "Thresholds", "Typical", "find_flags", "find_mismatch", "quiet_limit",
    "with_settings",
]  # fmt: skip

FLAGS = {
    "known_defect": "a published defect",
    "missing_audio": "no audio",
    "unreadable_audio": "audio that cannot be decoded",
    "duration_mismatch": "audio longer or shorter than the times of the label",
    "too_short": "shorter than a syllable",
    "far_too_long": "far longer than the other utterances of the corpus",
    "transcript_empty": "a transcript without a word",
    "transcript_too_long": "more characters per second than can be spoken",
    "transcript_too_short": "fewer characters per second than in slow speech",
    "clipped": "clipped at its peaks",
    "silent": "near-digital silence",
    "very_quiet": "far quieter than the other utterances of the corpus",
    "mostly_silence": "almost only silence",
    "duplicate": "the same audio as an earlier utterance",
    "transcript_swapped": "the transcript of another utterance matches the output of speech recognition",
    "transcript_mismatch": "the transcript does not match the output of speech recognition",
    "word_times_unreadable": "word times that cannot be read",
    "words_mismatch": "word times of other words than those of the transcript",
    "words_outside_audio": "word times that end after the audio",
}
"""Flag -> its meaning."""


def _threshold(value: float, unit: str, reason: str) -> float:
    """Declare a threshold: its default, and the unit and reason that the report shows."""
    declared: float = field(default=value, metadata={"unit": unit, "reason": reason})
    return declared


@dataclass(frozen=True)
class Thresholds:
    """Limits beyond which an utterance is suspicious; the metadata of each field has its unit and reason."""

    mismatch_s: float = _threshold(0.25, "s", "cutting tools pad by about 0.1 s at each end")
    mismatch_share: float = _threshold(0.1, "of the label's duration", "times of long turns are less exact")
    shortest_s: float = _threshold(0.2, "s", "about one syllable, the shortest that can express an emotion")
    longest_s: float = _threshold(10.0, "s", "shorter turns are common in any corpus")
    longest_outlier: float = _threshold(
        5.0, "robust standard deviations of log duration", "natural turns stay within 4"
    )
    characters_per_s: float = _threshold(25.0, "1/s", "fast speech, 250 words per minute, has 20 to 25")
    characters_per_s_limit: float = _threshold(40.0, "1/s", "impossible for any speaker")
    characters_outlier: float = _threshold(
        3.5, "robust standard deviations of log rate", "the usual limit for outliers"
    )
    slowest_characters_per_s: float = _threshold(2.0, "1/s", "very slow speech has 4 to 5")
    pause_s: float = _threshold(3.0, "s", "silence that a recording may have in addition to speech")
    clipped_share: float = _threshold(0.001, "of samples", "one in a thousand at full scale is audible as a crackle")
    flat_runs: float = _threshold(5.0, "runs", "a natural peak is one run at most, clipping gives one per period")
    silent_dbfs: float = _threshold(-65.0, "dBFS", "about 20 steps of 16 bits remain: no speech is intelligible")
    quiet_dbfs: float = _threshold(-50.0, "dBFS", "the loudest 25 ms of soft speech at a usual gain are above it")
    quiet_below_typical_db: float = _threshold(30.0, "dB", "calm and shouted speech differ by about as much")
    silence_share: float = _threshold(0.95, "of 25 ms frames", "less than a word remains in a clip of usual length")
    swapped_wer: float = _threshold(0.3, "word errors per word", "usual error rate of emotional speech: one third")
    fitting_wer: float = _threshold(0.3, "word errors per word", "the other transcript has to match at the usual rate")
    mismatch_wer: float = _threshold(0.7, "word errors per word", "twice the usual error rate")
    mismatch_cer: float = _threshold(0.6, "character errors per character", "misrecognised words still share sounds")
    fewest_words: float = _threshold(3.0, "words", "one or two are misrecognised too easily")
    words_after_end_s: float = _threshold(0.05, "s", "aligners round up to frames of 10 to 40 ms")

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not math.isfinite(value):
                raise ConfigError(f"threshold {name}: {value}; expected a finite number")


def with_settings(thresholds: Thresholds, settings: Sequence[str]) -> Thresholds:
    """Change thresholds by settings of the form ``name=value``.

    Raises:
        ConfigError: if a setting has another form, or names an unknown threshold

    Example:
        >>> with_settings(Thresholds(), ["shortest_s=0.5"]).shortest_s
        0.5
    """
    names = [known.name for known in dataclasses.fields(Thresholds)]
    changed: dict[str, float] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in names:
            raise ConfigError(f"--set {setting}: no threshold {name!r}; expected one of {', '.join(names)}")
        try:
            changed[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"--set {setting}: {value!r} is not a number; expected name=value") from error
    return dataclasses.replace(thresholds, **changed)


@dataclass(frozen=True)
class RobustScale:
    """Median and robust standard deviation (1.4826 times the median absolute deviation, at least 0.15) of logarithms.

    The lower bound avoids false outliers in a corpus of almost equal values.

    Example:
        >>> scale = RobustScale.of([1.0, 2.0, 4.0] * 10)
        >>> round(scale.z_score(8.0), 2)
        1.35
    """

    median: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> RobustScale | None:
        """The scale of positive values; None for fewer than 20, which are too few to find outliers."""
        if len(values) < 20:
            return None
        logs = np.log(np.asarray(values, dtype=np.float64))
        median = float(np.median(logs))
        return cls(median, max(0.15, 1.4826 * float(np.median(np.abs(logs - median)))))

    def z_score(self, value: float) -> float:
        """Number of robust standard deviations above the median."""
        return (math.log(value) - self.median) / self.deviation


@dataclass(frozen=True)
class Typical:
    """Typical values of the corpus; None if there are too few utterances."""

    duration_s: RobustScale | None
    characters_per_s: RobustScale | None
    loudest_dbfs: float | None  # median of the loudest 25 ms


@dataclass(frozen=True)
class Finding:
    """A flag on an utterance, with measured value, threshold and explanation as text."""

    flag: str
    measure: str
    threshold: str
    reason: str


def find_flags(row: Measures, typical: Typical, limits: Thresholds) -> Iterator[Finding]:
    """Find what is suspicious about an utterance, by itself and compared with its corpus."""
    if row.audio_sha256 is None:
        yield Finding("missing_audio", "no audio", "-", "the release has no audio for it")
    if row.audio_error is not None:
        yield Finding("unreadable_audio", "not decodable", "-", f"damaged since it was prepared: {row.audio_error}")
    yield from _duration(row, typical, limits)
    yield from _transcript(row, typical, limits)
    if row.sound is not None:
        yield from _sound(row.sound, typical, limits)
    yield from _words(row, limits)


def _duration(row: Measures, typical: Typical, limits: Thresholds) -> Iterator[Finding]:
    if row.duration_s is None:
        return
    duration, stated = f"{row.duration_s:.2f} s", row.label_duration_s
    if stated is not None:
        allowed = max(limits.mismatch_s, limits.mismatch_share * stated)
        if abs(row.duration_s - stated) > allowed:
            reason = f"the audio lasts {duration}, but the label {stated:.2f} s: another file, or wrong times"
            difference = f"{row.duration_s - stated:+.2f} s"
            yield Finding("duration_mismatch", difference, f"more than {allowed:.2f} s in either direction", reason)
    if row.duration_s < limits.shortest_s:
        reason = "too short for a syllable: wrongly cut, or an empty turn"
        yield Finding("too_short", duration, f"less than {limits.shortest_s:g} s", reason)
    scale = typical.duration_s
    if scale and row.duration_s > limits.longest_s and scale.z_score(row.duration_s) > limits.longest_outlier:
        median = math.exp(scale.median)
        limit = max(limits.longest_s, math.exp(scale.median + limits.longest_outlier * scale.deviation))
        reason = f"half of the corpus is shorter than {median:.1f} s: several utterances in one file, or not cut"
        yield Finding("far_too_long", duration, f"more than {limit:.1f} s", reason)


def _transcript(row: Measures, typical: Typical, limits: Thresholds) -> Iterator[Finding]:
    if row.n_characters == 0:
        yield Finding("transcript_empty", "0 words", "at least 1", "the transcript has no letter or digit")
    rate, scale = row.characters_per_s, typical.characters_per_s
    if rate is None or row.n_characters is None or row.duration_s is None:
        return
    is_outlier = scale is None or abs(scale.z_score(rate)) > limits.characters_outlier
    measure = f"{rate:.1f} characters/s"
    # short turns may be cut tightly, so the audio is taken to be longer by the allowed mismatch
    lowest_rate = row.n_characters / (row.duration_s + limits.mismatch_s)
    if lowest_rate > limits.characters_per_s_limit or (lowest_rate > limits.characters_per_s and is_outlier):
        reason = f"{row.n_characters} characters in {row.duration_s:.2f} s: another transcript, or truncated audio"
        yield Finding("transcript_too_long", measure, f"more than {limits.characters_per_s:g}", reason)
    needed_s = limits.pause_s + row.n_characters / limits.slowest_characters_per_s
    if row.duration_s > needed_s and is_outlier:
        reason = f"{row.n_characters} characters in {row.duration_s:.1f} s: words are missing, or the audio is not cut"
        yield Finding("transcript_too_short", measure, f"audio longer than {needed_s:.1f} s for them", reason)


def quiet_limit(typical: Typical, limits: Thresholds) -> float:
    """The level in dBFS below which an utterance is very quiet."""
    usual = typical.loudest_dbfs
    return limits.quiet_dbfs if usual is None else min(limits.quiet_dbfs, usual - limits.quiet_below_typical_db)


def _sound(sound: Sound, typical: Typical, limits: Thresholds) -> Iterator[Finding]:
    if sound.clipped_share > limits.clipped_share:
        reason = "samples at full scale: recorded or amplified too loudly"
        limit = f"more than {limits.clipped_share:.1%}"
        yield Finding("clipped", f"{sound.clipped_share:.2%} of samples", limit, reason)
    elif sound.flat_share > limits.clipped_share and sound.flat_runs >= limits.flat_runs:
        reason = f"{sound.flat_runs} flat peaks at the same level, {sound.peak:.2f} of full scale: clipped, then scaled"
        limit = f"more than {limits.clipped_share:.1%} in {limits.flat_runs:g} runs"
        yield Finding("clipped", f"{sound.flat_share:.2%} of samples", limit, reason)
    measure = f"loudest 25 ms at {sound.loudest_dbfs:.0f} dBFS"
    if sound.loudest_dbfs < limits.silent_dbfs:
        yield Finding("silent", measure, f"below {limits.silent_dbfs:g} dBFS", "nothing is audible")
        return
    quiet = quiet_limit(typical, limits)
    if sound.loudest_dbfs < quiet:
        reason = "far quieter than the others: a wrong gain, a distant microphone, or no speech"
        yield Finding("very_quiet", measure, f"below {quiet:.0f} dBFS", reason)
    if sound.silence_share > limits.silence_share:
        reason = "a click or a breath in silence: no speech, or the wrong part of a recording"
        limit = f"more than {limits.silence_share:.0%}"
        yield Finding("mostly_silence", f"{sound.silence_share:.0%} silent", limit, reason)


def _words(row: Measures, limits: Thresholds) -> Iterator[Finding]:
    if row.word_times_error is not None:
        yield Finding("word_times_unreadable", "not readable", "-", row.word_times_error)
    if row.words_match is False:
        reason = "the aligned words are not those of the transcript"
        yield Finding("words_mismatch", "other words", "the same words", reason)
    if row.words_end_s is not None and row.duration_s is not None:
        after_s = row.words_end_s - row.duration_s
        if after_s > limits.words_after_end_s:
            reason = f"the last word ends at {row.words_end_s:.2f} s, the audio at {row.duration_s:.2f} s: other audio"
            limit = f"more than {limits.words_after_end_s:g} s after the end"
            yield Finding("words_outside_audio", f"{after_s:+.2f} s", limit, reason)


def find_mismatch(rates: ErrorRates, better: BetterMatch | None, hypothesis: str, limits: Thresholds) -> Finding | None:
    """Find a wrong transcript by the hypothesis of speech recognition; None if they match well enough.

    ``better`` is another utterance whose transcript matches better.
    """
    measure = f"{rates.wer:.0%} word errors"
    recognised = f'recognised "{_shortened(hypothesis)}"'
    if better is not None:
        other = f'{better.utterance_id}, "{_shortened(better.transcript)}"'
        reason = f"{recognised}: matches {other}, with {better.rates.wer:.0%} errors"
        limit = f"{limits.swapped_wer:.0%} or more, and another has at most half of the errors"
        return Finding("transcript_swapped", measure, limit, reason)
    has_enough_words = rates.n_words >= limits.fewest_words
    if has_enough_words and rates.wer > limits.mismatch_wer and rates.cer > limits.mismatch_cer:
        reason = f"{recognised}: another transcript, other audio, or misrecognised speech"
        limit = f"more than {limits.mismatch_wer:.0%}, and {limits.mismatch_cer:.0%} of characters"
        return Finding("transcript_mismatch", f"{measure}, {rates.cer:.0%} character errors", limit, reason)
    return None


def _shortened(words: str, length: int = 120) -> str:
    line = " ".join(words.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
