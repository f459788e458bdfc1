"""What is suspicious about an utterance, by thresholds whose reasons stand beside them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lalm_mer.core.errors import ConfigError
from lalm_mer.quality.hypotheses import Better, Fit
from lalm_mer.quality.measures import Measures, Sound

__all__ = ["FLAGS", "Finding", "Spread", "Thresholds", "Typical", "find_flags", "find_misfit", "with_settings"]

FLAGS = {
    "known_defect": "a defect that the corpus's reader knows of",
    "missing_audio": "no audio at all",
    "unreadable_audio": "audio that cannot be decoded",
    "duration_mismatch": "audio longer or shorter than the label's times say",
    "too_short": "shorter than a syllable",
    "far_too_long": "far longer than the corpus's other utterances",
    "transcript_empty": "a transcript without a word",
    "transcript_too_long": "more characters a second than can be spoken",
    "transcript_too_short": "fewer characters a second than is spoken",
    "clipped": "sound cut off at its peaks",
    "silent": "near-digital silence",
    "very_quiet": "far quieter than the corpus's other utterances",
    "mostly_silence": "almost nothing but silence",
    "duplicate": "the same sound as an earlier utterance",
    "transcript_swapped": "another utterance's transcript fits what speech recognition heard",
    "transcript_mismatch": "the transcript does not fit what speech recognition heard",
    "word_times_unreadable": "word times that cannot be read",
    "words_mismatch": "word times of other words than the transcript's",
    "words_outside_audio": "word times that end after the audio",
}
"""Every flag, and what it means."""


def _because(value: float, unit: str, reason: str) -> float:
    """A default with its unit and its reason, which the report shows."""
    chosen: float = field(default=value, metadata={"unit": unit, "reason": reason})
    return chosen


@dataclass(frozen=True)
class Thresholds:
    """From where on an utterance is suspicious; each field carries its unit and its reason as metadata."""

    mismatch_s: float = _because(0.25, "s", "cutting tools pad by about 0.1 s at each end")
    mismatch_share: float = _because(0.1, "of the label's duration", "times of long turns are noted less exactly")
    shortest_s: float = _because(0.2, "s", "about one syllable; nothing shorter carries an emotion")
    longest_s: float = _because(10.0, "s", "long turns are common below it, whatever the others are")
    longest_outlier: float = _because(5.0, "robust standard deviations of log duration", "natural turns stay within 4")
    characters_per_s: float = _because(25.0, "1/s", "fast speech, 250 words a minute, has 20 to 25")
    characters_per_s_limit: float = _because(40.0, "1/s", "beyond any speaker, whatever the corpus's others are")
    characters_outlier: float = _because(3.5, "robust standard deviations of log rate", "the usual cut for outliers")
    slowest_characters_per_s: float = _because(2.0, "1/s", "very slow speech has 4 to 5")
    pause_s: float = _because(3.0, "s", "silence that a recording may have besides slow speech")
    clipped_share: float = _because(0.001, "of samples", "one in a thousand at full scale can be heard as a crackle")
    flat_runs: float = _because(5.0, "runs", "a natural peak is one run at most, clipping makes one a wave")
    silent_dbfs: float = _because(-65.0, "dBFS", "16 bits have some 20 steps left there: no speech is intelligible")
    quiet_dbfs: float = _because(-50.0, "dBFS", "the loudest 25 ms of soft speech at a usual gain lie above it")
    quiet_below_typical_db: float = _because(30.0, "dB", "calm and shouted speech differ by about as much")
    silence_share: float = _because(0.95, "of 25 ms frames", "leaves less than a word in a clip of usual length")
    swapped_wer: float = _because(0.3, "word errors a word", "recognition of emotional speech errs in a third of words")
    fitting_wer: float = _because(0.3, "word errors a word", "the other transcript has to fit as well as usual")
    mismatch_wer: float = _because(0.7, "word errors a word", "twice the usual errors")
    mismatch_cer: float = _because(0.6, "character errors a character", "misheard words still share their sounds")
    fewest_words: float = _because(3.0, "words", "one or two are misheard too easily to tell anything")
    words_after_end_s: float = _because(0.05, "s", "aligners round up to frames of 10 to 40 ms")

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not math.isfinite(value):
                raise ConfigError(f"threshold {name}: {value}; expected a finite number")


def with_settings(thresholds: Thresholds, settings: Sequence[str]) -> Thresholds:
    """Thresholds changed by settings written ``name=value``.

    Raises:
        ConfigError: if a setting is not written so, or names no threshold

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
class Spread:
    """Median and robust standard deviation (1.4826 times the median absolute deviation, at least 0.15) of logarithms.

    The floor keeps a corpus of almost equal values from having outliers at every whim.

    Example:
        >>> spread = Spread.of([1.0, 2.0, 4.0] * 10)
        >>> round(spread.outlyingness(8.0), 2)
        1.35
    """

    median: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Spread of positive values; None for fewer than 20, of which none can be called usual."""
        if len(values) < 20:
            return None
        logs = np.log(np.asarray(values, dtype=np.float64))
        median = float(np.median(logs))
        return cls(median, max(0.15, 1.4826 * float(np.median(np.abs(logs - median)))))

    def outlyingness(self, value: float) -> float:
        """Robust standard deviations above the median."""
        return (math.log(value) - self.median) / self.deviation


@dataclass(frozen=True)
class Typical:
    """What is usual in the corpus; None where too few utterances tell.

    Args:
        duration_s: spread of the durations
        characters_per_s: spread of the speaking rates
        loudest_dbfs: median of the loudest 25 ms
    """

    duration_s: Spread | None
    characters_per_s: Spread | None
    loudest_dbfs: float | None


@dataclass(frozen=True)
class Finding:
    """One reason to listen to an utterance.

    Args:
        flag: one of ``FLAGS``
        measure: what was measured, with its value and unit, for a person
        threshold: from where on it is suspicious, for a person
        reason: one sentence
    """

    flag: str
    measure: str
    threshold: str
    reason: str


def find_flags(row: Measures, typical: Typical, limits: Thresholds) -> Iterator[Finding]:
    """What is suspicious about an utterance by itself and beside what is usual in its corpus."""
    if row.audio_sha256 is None:
        yield Finding("missing_audio", "no audio", "-", "the release has no audio for it; nothing can be heard")
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
            reason = f"the audio lasts {duration}, the label's times enclose {stated:.2f} s: other file, or times"
            difference = f"{row.duration_s - stated:+.2f} s"
            yield Finding("duration_mismatch", difference, f"more than {allowed:.2f} s either way", reason)
    if row.duration_s < limits.shortest_s:
        reason = "too short for a syllable: cut wrongly, or an empty turn"
        yield Finding("too_short", duration, f"less than {limits.shortest_s:g} s", reason)
    spread = typical.duration_s
    if spread is not None and row.duration_s > limits.longest_s:
        outlying = spread.outlyingness(row.duration_s)
        if outlying > limits.longest_outlier:
            median = math.exp(spread.median)
            limit = max(limits.longest_s, math.exp(spread.median + limits.longest_outlier * spread.deviation))
            reason = f"half of the corpus is shorter than {median:.1f} s: several utterances in one file, or never cut"
            yield Finding("far_too_long", duration, f"more than {limit:.1f} s", reason)


def _transcript(row: Measures, typical: Typical, limits: Thresholds) -> Iterator[Finding]:
    if row.n_characters == 0:
        yield Finding("transcript_empty", "0 words", "at least 1", "the transcript has no letter and no digit")
    rate, spread = row.characters_per_s, typical.characters_per_s
    if rate is None or row.n_characters is None or row.duration_s is None:
        return
    outlying = math.inf if spread is None else abs(spread.outlyingness(rate))
    measure = f"{rate:.1f} characters/s"
    # A label may be cut tight, which matters in short turns: 0.25 s more is granted
    granted = row.n_characters / (row.duration_s + limits.mismatch_s)
    is_outlier = outlying > limits.characters_outlier
    if granted > limits.characters_per_s_limit or (granted > limits.characters_per_s and is_outlier):
        reason = f"nobody says {row.n_characters} characters in {row.duration_s:.2f} s: another transcript, or cut off"
        yield Finding("transcript_too_long", measure, f"more than {limits.characters_per_s:g}", reason)
    needed_s = limits.pause_s + row.n_characters / limits.slowest_characters_per_s
    if row.duration_s > needed_s and is_outlier:
        reason = f"{row.n_characters} characters in {row.duration_s:.1f} s: words are missing, or it is not cut"
        yield Finding("transcript_too_short", measure, f"audio longer than {needed_s:.1f} s for them", reason)


def _sound(sound: Sound, typical: Typical, limits: Thresholds) -> Iterator[Finding]:
    if sound.clipped_share > limits.clipped_share:
        reason = "samples at full scale: recorded or amplified too loud"
        limit = f"more than {limits.clipped_share:.1%}"
        yield Finding("clipped", f"{sound.clipped_share:.2%} of samples", limit, reason)
    elif sound.flat_share > limits.clipped_share and sound.flat_runs >= limits.flat_runs:
        reason = f"{sound.flat_runs} flat peaks at the same level, {sound.peak:.2f} of full scale: clipped, then scaled"
        limit = f"more than {limits.clipped_share:.1%} in {limits.flat_runs:g} runs"
        yield Finding("clipped", f"{sound.flat_share:.2%} of samples", limit, reason)
    measure = f"loudest 25 ms at {sound.loudest_dbfs:.0f} dBFS"
    if sound.loudest_dbfs < limits.silent_dbfs:
        yield Finding("silent", measure, f"below {limits.silent_dbfs:g} dBFS", "nothing can be heard in it")
        return
    usual = typical.loudest_dbfs
    quiet = limits.quiet_dbfs if usual is None else min(limits.quiet_dbfs, usual - limits.quiet_below_typical_db)
    if sound.loudest_dbfs < quiet:
        reason = "far quieter than the others: a wrong gain, a far microphone, or no speech"
        yield Finding("very_quiet", measure, f"below {quiet:.0f} dBFS", reason)
    if sound.silence_share > limits.silence_share:
        reason = "a click or a breath in silence: no speech, or the wrong part of a recording"
        limit = f"more than {limits.silence_share:.0%}"
        yield Finding("mostly_silence", f"{sound.silence_share:.0%} silent", limit, reason)


def _words(row: Measures, limits: Thresholds) -> Iterator[Finding]:
    if row.word_times_error is not None:
        yield Finding("word_times_unreadable", "not readable", "-", row.word_times_error)
    if row.words_match is False:
        reason = "the words that were aligned are not those of the transcript"
        yield Finding("words_mismatch", "other words", "the same words", reason)
    if row.words_end_s is not None and row.duration_s is not None:
        after_s = row.words_end_s - row.duration_s
        if after_s > limits.words_after_end_s:
            reason = f"the last word ends at {row.words_end_s:.2f} s, the audio at {row.duration_s:.2f} s: other audio"
            limit = f"more than {limits.words_after_end_s:g} s after the end"
            yield Finding("words_outside_audio", f"{after_s:+.2f} s", limit, reason)


def find_misfit(own: Fit, better: Better | None, hypothesis: str, limits: Thresholds) -> Finding | None:
    """What the words that speech recognition heard say about the transcript; None where they fit it well enough."""
    measure = f"{own.wer:.0%} word errors"
    heard = f'heard "{_cut(hypothesis)}"'
    if better is not None:
        reason = f'{heard}: fits {better.utterance_id}, "{_cut(better.transcript)}", with {better.fit.wer:.0%} errors'
        limit = f"from {limits.swapped_wer:.0%} on, and another fits twice as well"
        return Finding("transcript_swapped", measure, limit, reason)
    is_telling = own.n_words >= limits.fewest_words
    if is_telling and own.wer > limits.mismatch_wer and own.cer > limits.mismatch_cer:
        reason = f"{heard}: another transcript, other audio, or speech that was not recognised"
        limit = f"more than {limits.mismatch_wer:.0%}, and {limits.mismatch_cer:.0%} of characters"
        return Finding("transcript_mismatch", f"{measure}, {own.cer:.0%} character errors", limit, reason)
    return None


def _cut(words: str, length: int = 120) -> str:
    line = " ".join(words.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
