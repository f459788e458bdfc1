"""Check whether audio, transcript and times of each utterance of a corpus belong together.

There are two passes: the first measures all utterances, on all cores, into a temporary file; the second compares each
with the typical values of the corpus. Memory holds some numbers and hashes per utterance (about half a kilobyte), and
transcripts only if they are compared with speech recognition.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.output import atomic_path, write_json, writing
from lalm_mer.core.plain_text import to_cell
from lalm_mer.core.processes import usable_cores
from lalm_mer.core.progress import progress
from lalm_mer.corpora import PreparedCorpus
from lalm_mer.quality.flags import FLAGS, Finding, RobustScale, Thresholds, Typical, find_flags, find_mismatch
from lalm_mer.quality.hypotheses import ErrorRates, TranscriptIndex, error_rates
from lalm_mer.quality.measures import Measures, Sound, measure_all

__all__ = ["Distributions", "FlaggedUtterance", "Quality", "check_corpus"]

_SHOWN = 200  # utterances per flag in the report; quality.csv has all
_COLUMNS = ("utterance_id", "audio_path", "speaker", "label", "duration_s", "label_duration_s", "n_characters",
            "characters_per_s", "wer", "cer", "words_end_s", "words_match", "transcript", "flags",
            "reasons")  # fmt: skip
_COUNTED = ("without_transcript", "without_label_times", "with_hypothesis", "with_word_times")
_SOUND_COLUMNS = ("peak", "clipped_share", "flat_share", "flat_runs", "level_dbfs", "loudest_dbfs", "silence_share")


@dataclass(frozen=True)
class FlaggedUtterance:
    """A finding and its utterance."""

    row: Measures
    finding: Finding


@dataclass(frozen=True)
class Distributions:
    """Measures of all utterances that have them, for a figure."""

    duration_s: array[float] = field(default_factory=lambda: array("d"))
    characters_per_s: array[float] = field(default_factory=lambda: array("d"))
    loudest_dbfs: array[float] = field(default_factory=lambda: array("d"))
    silence_share: array[float] = field(default_factory=lambda: array("d"))


@dataclass(frozen=True)
class Quality:
    """Results of a check.

    Args:
        summary: content of ``quality.json``; the count of a flag is None if no utterance could be checked for it
        flagged: flag -> its first utterances
    """

    summary: dict[str, Any]
    flagged: Mapping[str, Sequence[FlaggedUtterance]]
    distributions: Distributions
    thresholds: Thresholds
    typical: Typical


@dataclass
class _FirstPass:
    """Values collected from all utterances in the first pass."""

    n: Counter[str] = field(default_factory=Counter)
    distributions: Distributions = field(default_factory=Distributions)
    first: dict[bytes, str] = field(default_factory=dict)  # hash -> the first utterance with it
    defects: set[str] = field(default_factory=set)

    def add(self, row: Measures, defects: Mapping[str, str], hypotheses: Mapping[str, str] | None) -> None:
        self.n["utterances"] += 1
        self.n["without_transcript"] += row.transcript is None
        self.n["without_label_times"] += row.label_duration_s is None
        self.n["with_word_times"] += row.has_word_times
        self.n["with_hypothesis"] += hypotheses is not None and row.utterance_id in hypotheses
        if row.utterance_id in defects:
            self.defects.add(row.utterance_id)
        if row.sound is None:
            return
        sound, found = row.sound, self.distributions
        for values, value in (
            (found.duration_s, row.duration_s), (found.characters_per_s, row.characters_per_s),
            (found.loudest_dbfs, sound.loudest_dbfs), (found.silence_share, sound.silence_share),
        ):  # fmt: skip
            if value is not None:
                values.append(value)
        for _, key in _audio_keys(row):
            self.first.setdefault(key, row.utterance_id)


def check_corpus(
    corpus: PreparedCorpus,
    out_dir: Path,
    *,
    thresholds: Thresholds | None = None,
    hypotheses: Mapping[str, str] | None = None,
    word_times: Path | None = None,
    known_defects: Mapping[str, str] | None = None,
    processes: int | None = None,
) -> Quality:
    """Check all utterances and write ``quality.csv`` (measures and flags, one row each) and ``quality.json``.

    Of utterances with the same audio the first is not flagged; the others are flagged as duplicates of it.

    Args:
        corpus: a corpus from ``lalm_mer.corpora.load``
        out_dir: output folder
        thresholds: None for the defaults
        hypotheses: utterance id -> hypothesis of speech recognition; without it wrong transcripts are not detected
        word_times: folder with one file of word times per utterance, named after its id
        known_defects: utterance id -> published defect, with its source
        processes: number of processes that decode audio; None for one per core. The result is the same

    Raises:
        CorpusError: if no utterance of the corpus has an entry of ``hypotheses`` or a file in ``word_times``
    """
    limits, defects = thresholds or Thresholds(), known_defects or {}
    index = None if hypotheses is None else TranscriptIndex(round(limits.fewest_words))
    first_pass = _FirstPass()
    with writing(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    with writing(out_dir), tempfile.TemporaryFile("w+", encoding="utf-8", dir=out_dir) as spool:
        with progress(desc=f"measure {corpus.name}", total=len(corpus.dataset), unit="utterances") as bar:
            for chunk in measure_all(corpus.dataset, word_times, processes or usable_cores()):
                for row in chunk:
                    first_pass.add(row, defects, hypotheses)
                    if index is not None:
                        index.add(row)
                    spool.write(json.dumps(dataclasses.asdict(row)) + "\n")
                bar.update(len(chunk))
        _require_some(first_pass, word_times, hypotheses)
        typical = _typical(first_pass.distributions)
        checker = _Checker(limits, typical, first_pass.first, defects, hypotheses or {}, index)
        second_pass = _check_all(_read(spool), checker, out_dir / "quality.csv", first_pass.n["utterances"])
    elsewhere = {name: defect for name, defect in defects.items() if name not in first_pass.defects}
    summary = _summary(corpus, first_pass, second_pass, limits, typical) | {"known_defects_elsewhere": elsewhere}
    write_json(out_dir / "quality.json", summary)
    return Quality(summary, second_pass.flagged, first_pass.distributions, limits, typical)


@dataclass
class _SecondPass:
    """Findings of the second pass."""

    counts: Counter[str] = field(default_factory=Counter)
    n_flagged: int = 0
    flagged: dict[str, list[FlaggedUtterance]] = field(default_factory=lambda: {flag: [] for flag in FLAGS})


def _check_all(rows: Iterator[Measures], checker: _Checker, path: Path, n: int) -> _SecondPass:
    """Check every row and write the table."""
    found = _SecondPass()
    with (
        atomic_path(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
        progress(desc="check", total=n, unit="utterances") as bar,
    ):
        writer = csv.DictWriter(file, [*_COLUMNS, *_SOUND_COLUMNS], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            rates, findings = checker(row)
            writer.writerow(_cells(row, rates, findings))
            found.n_flagged += bool(findings)
            for finding in findings:
                found.counts[finding.flag] += 1
                if len(found.flagged[finding.flag]) < _SHOWN:
                    found.flagged[finding.flag].append(FlaggedUtterance(row, finding))
            bar.update()
    return found


@dataclass(frozen=True)
class _Checker:
    """Compares an utterance with the results of the first pass."""

    limits: Thresholds
    typical: Typical
    first: Mapping[bytes, str]
    defects: Mapping[str, str]
    hypotheses: Mapping[str, str]
    index: TranscriptIndex | None

    def __call__(self, row: Measures) -> tuple[ErrorRates | None, list[Finding]]:
        """Error rates of speech recognition on the transcript, and all findings in the order of ``FLAGS``."""
        findings = list(find_flags(row, self.typical, self.limits))
        if row.utterance_id in self.defects:
            findings.append(Finding("known_defect", "listed", "-", self.defects[row.utterance_id]))
        # silent utterances are trivially equal and have their own flag
        if not any(finding.flag == "silent" for finding in findings):
            findings += _duplicate(row, self.first)
        hypothesis = self.hypotheses.get(row.utterance_id)
        rates = None if hypothesis is None or row.transcript is None else error_rates(row.transcript, hypothesis)
        if rates is not None and hypothesis is not None:
            better = None
            if self.index is not None and rates.wer >= self.limits.swapped_wer:
                better = self.index.better_match(row, hypothesis, rates, highest_wer=self.limits.fitting_wer)
            mismatch = find_mismatch(rates, better, hypothesis, self.limits)
            findings += [] if mismatch is None else [mismatch]
        return rates, sorted(findings, key=lambda finding: list(FLAGS).index(finding.flag))


def _audio_keys(row: Measures) -> Iterator[tuple[str, bytes]]:
    """Ways in which two utterances may have the same audio, the strictest first, each with a key that is equal then."""
    sound = row.sound
    keys = (
        ("the same audio file", row.audio_sha256),
        ("the same samples", sound.samples_hash if sound else None),
        ("the same samples, except for silence at the ends,", sound.trimmed_hash if sound else None),
    )
    for kind, (way, key) in enumerate(keys):
        if key is not None:
            yield way, bytes([kind]) + bytes.fromhex(key)[:15]


def _duplicate(row: Measures, first: Mapping[bytes, str]) -> Iterator[Finding]:
    for way, key in _audio_keys(row):
        if first.get(key, row.utterance_id) != row.utterance_id:
            reason = f"{way} as utterance {first[key]}: one of them has a wrong name, or is a copy"
            yield Finding("duplicate", way.strip(","), "-", reason)
            return


def _require_some(first_pass: _FirstPass, word_times: Path | None, hypotheses: Mapping[str, str] | None) -> None:
    if word_times is not None and not first_pass.n["with_word_times"]:
        raise CorpusError(f"{word_times}: no file is named <utterance_id>.TextGrid, .ctm or .json")
    if hypotheses is not None and not first_pass.n["with_hypothesis"]:
        example = next(iter(hypotheses), "none")
        raise CorpusError(f"hypotheses: none of the ids is in the corpus, for example {example!r}")


def _typical(distributions: Distributions) -> Typical:
    loudest = distributions.loudest_dbfs
    return Typical(
        RobustScale.of(distributions.duration_s),
        RobustScale.of(distributions.characters_per_s),
        float(np.median(loudest)) if len(loudest) >= 20 else None,
    )


def _read(spool: IO[str]) -> Iterator[Measures]:
    spool.seek(0)
    for line in spool:
        cells = json.loads(line)
        sound = cells.pop("sound")
        yield Measures(**cells, sound=None if sound is None else Sound(**sound))


def _cells(row: Measures, rates: ErrorRates | None, findings: Sequence[Finding]) -> dict[str, Any]:
    values = dataclasses.asdict(row) | {
        "characters_per_s": row.characters_per_s,
        "wer": rates.wer if rates else None,
        "cer": rates.cer if rates else None,
        "flags": " ".join(finding.flag for finding in findings),
        "reasons": "; ".join(f"{finding.flag}: {finding.reason}" for finding in findings),
    }
    sound = values["sound"] or dict.fromkeys(_SOUND_COLUMNS)
    cells = {name: values[name] for name in _COLUMNS} | {name: sound[name] for name in _SOUND_COLUMNS}
    return {name: f"{value:.6g}" if isinstance(value, float) else to_cell(value) for name, value in cells.items()}


def _summary(
    corpus: PreparedCorpus, first_pass: _FirstPass, second_pass: _SecondPass, limits: Thresholds, typical: Typical
) -> dict[str, Any]:
    n = first_pass.n
    unchecked: set[str] = set()  # flags for which no utterance can be checked: their count is None
    if n["utterances"] == n["without_label_times"]:
        unchecked |= {"duration_mismatch"}
    if not n["with_hypothesis"]:
        unchecked |= {"transcript_swapped", "transcript_mismatch"}
    if not n["with_word_times"]:
        unchecked |= {"word_times_unreadable", "words_mismatch", "words_outside_audio"}
    return {
        "corpus": corpus.name,
        "synthetic": corpus.summary["synthetic"],
        "root_hash": corpus.summary["root_hash"],
        "n_utterances": n["utterances"],
        "n_flagged": second_pass.n_flagged,
        "flags": {flag: None if flag in unchecked else second_pass.counts[flag] for flag in FLAGS},
        **{f"n_{name}": n[name] for name in _COUNTED},
        "typical": dataclasses.asdict(typical),
        "thresholds": dataclasses.asdict(limits),
    }
