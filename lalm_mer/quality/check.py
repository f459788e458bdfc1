"""Do the audio, transcript and times of each utterance belong together? Every utterance checked, every doubt told.

The corpus is gone through twice: first every utterance is measured, on all cores, into a file; then it is compared
with what is usual in the corpus. Held in memory are some numbers and hashes an utterance (about half a kilobyte), and
the transcripts only where speech recognition is compared with them.
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
from tqdm import tqdm

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.processes import usable_cores
from lalm_mer.core.provenance import atomic_path, write_json
from lalm_mer.corpora import PreparedCorpus
from lalm_mer.quality.flags import (
    FLAGS,
    Finding,
    Spread,
    Thresholds,
    Typical,
    find_flags,
    find_misfit,
)
from lalm_mer.quality.hypotheses import Better, Fit, TranscriptIndex, fit
from lalm_mer.quality.measures import Measures, Sound, measured

__all__ = ["Distributions", "Quality", "Suspicious", "check_corpus"]

_SHOWN = 200  # utterances a flag that are kept for the report; quality.csv has all
_COLUMNS = ("utterance_id", "audio_path", "speaker", "label", "duration_s", "label_duration_s", "n_characters",
            "characters_per_s", "wer", "cer", "words_end_s", "words_match", "transcript", "flags",
            "reasons")  # fmt: skip
_SOUND_COLUMNS = ("peak", "clipped_share", "flat_share", "flat_runs", "level_dbfs", "loudest_dbfs", "silence_share")


@dataclass(frozen=True)
class Suspicious:
    """One finding with the utterance it is about."""

    row: Measures
    finding: Finding


@dataclass(frozen=True)
class Distributions:
    """Measures of all utterances that have them, for a figure."""

    duration_s: Sequence[float]
    characters_per_s: Sequence[float]
    loudest_dbfs: Sequence[float]
    silence_share: Sequence[float]


@dataclass(frozen=True)
class Quality:
    """What a check found.

    Args:
        corpus: its name
        summary: content of ``quality.json``; the count of a flag is None where nothing could be looked at
        suspicious: flag -> its first utterances
        distributions: of the measures
        thresholds: by which it was judged
        typical: what is usual in the corpus
    """

    corpus: str
    summary: dict[str, Any]
    suspicious: Mapping[str, Sequence[Suspicious]]
    distributions: Distributions
    thresholds: Thresholds
    typical: Typical


@dataclass
class _Seen:
    """What the first pass gathers of all utterances."""

    n: Counter[str] = field(default_factory=Counter)
    values: dict[str, array[float]] = field(default_factory=dict)
    first: dict[bytes, str] = field(default_factory=dict)  # hash -> the first utterance that has it
    defects: set[str] = field(default_factory=set)

    def add(self, row: Measures, defects: Mapping[str, str], heard: Mapping[str, str] | None) -> None:
        self.n["utterances"] += 1
        self.n["without_transcript"] += row.transcript is None
        self.n["without_label_times"] += row.label_duration_s is None
        self.n["with_word_times"] += row.has_word_times
        self.n["with_hypothesis"] += heard is not None and row.utterance_id in heard
        if row.utterance_id in defects:
            self.defects.add(row.utterance_id)
        if row.sound is None:
            return
        values = {
            "duration_s": row.duration_s,
            "characters_per_s": row.characters_per_s,
            "loudest_dbfs": row.sound.loudest_dbfs,
            "silence_share": row.sound.silence_share,
        }
        for name, value in values.items():
            if value is not None:
                self.values.setdefault(name, array("d")).append(value)
        for _, key in _sameness(row):
            self.first.setdefault(key, row.utterance_id)

    def distributions(self) -> Distributions:
        names = [known.name for known in dataclasses.fields(Distributions)]
        return Distributions(**{name: self.values.get(name, array("d")) for name in names})


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
    """Check every utterance and write ``quality.csv`` (all measures and flags, a row each) and ``quality.json``.

    Of utterances with the same sound the first is taken for the original; the others are flagged and name it.

    Args:
        corpus: as ``lalm_mer.corpora.load`` opens it
        out_dir: folder to write into
        thresholds: None for the defaults
        hypotheses: utterance id -> what speech recognition heard; without it no transcript can be called another's
        word_times: folder with a file of word times an utterance, named after its id
        known_defects: utterance id -> what is wrong with it, and who says so
        processes: how many decode audio; None for one a core. The result is the same

    Raises:
        CorpusError: if ``hypotheses`` or ``word_times`` belong to no utterance of the corpus
    """
    limits, defects = thresholds or Thresholds(), known_defects or {}
    index = None if hypotheses is None else TranscriptIndex(round(limits.fewest_words))
    seen = _Seen()
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=out_dir) as spool:
        with tqdm(desc=f"measure {corpus.name}", total=len(corpus.dataset), unit=" utterances", disable=None) as bar:
            for chunk in measured(corpus.dataset, word_times, processes or usable_cores()):
                for row in chunk:
                    seen.add(row, defects, hypotheses)
                    if index is not None:
                        index.add(row)
                    spool.write(json.dumps(dataclasses.asdict(row)) + "\n")
                bar.update(len(chunk))
        _require_some(seen, word_times, hypotheses)
        distributions = seen.distributions()
        typical = _typical(distributions)
        judge = _Judge(limits, typical, seen.first, defects, hypotheses or {}, index)
        listed = _judge_all(_read(spool), judge, out_dir / "quality.csv", seen.n["utterances"])
    summary = _summary(corpus, seen, listed, limits, typical)
    summary["known_defects_elsewhere"] = {name: told for name, told in defects.items() if name not in seen.defects}
    write_json(out_dir / "quality.json", summary)
    return Quality(corpus.name, summary, listed.suspicious, distributions, limits, typical)


@dataclass
class _Listed:
    """What the second pass found."""

    counts: Counter[str] = field(default_factory=Counter)
    n_flagged: int = 0
    suspicious: dict[str, list[Suspicious]] = field(default_factory=lambda: {flag: [] for flag in FLAGS})


def _judge_all(rows: Iterator[Measures], judge: _Judge, path: Path, n: int) -> _Listed:
    """Judge every row and write the table."""
    listed = _Listed()
    with (
        atomic_path(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
        tqdm(desc="judge", total=n, unit=" utterances", disable=None) as bar,
    ):
        writer = csv.DictWriter(file, [*_COLUMNS, *_SOUND_COLUMNS], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            own, findings = judge(row)
            writer.writerow(_cells(row, own, findings))
            listed.n_flagged += bool(findings)
            for finding in findings:
                listed.counts[finding.flag] += 1
                if len(listed.suspicious[finding.flag]) < _SHOWN:
                    listed.suspicious[finding.flag].append(Suspicious(row, finding))
            bar.update()
    return listed


@dataclass(frozen=True)
class _Judge:
    """Everything that an utterance is compared with in the second pass."""

    limits: Thresholds
    typical: Typical
    first: Mapping[bytes, str]
    defects: Mapping[str, str]
    hypotheses: Mapping[str, str]
    index: TranscriptIndex | None

    def __call__(self, row: Measures) -> tuple[Fit | None, list[Finding]]:
        """How well speech recognition fits the transcript, and all findings in the order of ``FLAGS``."""
        findings = list(find_flags(row, self.typical, self.limits))
        if row.utterance_id in self.defects:
            findings.append(Finding("known_defect", "listed", "-", self.defects[row.utterance_id]))
        # Silence is as silent as any other: its own flag says more
        if not any(finding.flag == "silent" for finding in findings):
            findings += _duplicate(row, self.first)
        heard = self.hypotheses.get(row.utterance_id)
        own = None if heard is None or row.transcript is None else fit(row.transcript, heard)
        if own is not None and heard is not None:
            misfit = find_misfit(own, self._better(row, heard, own), heard, self.limits)
            findings += [] if misfit is None else [misfit]
        return own, sorted(findings, key=lambda finding: list(FLAGS).index(finding.flag))

    def _better(self, row: Measures, heard: str, own: Fit) -> Better | None:
        if self.index is None or own.wer < self.limits.swapped_wer:
            return None
        return self.index.better(row, heard, own, highest_wer=self.limits.fitting_wer)


def _sameness(row: Measures) -> Iterator[tuple[str, bytes]]:
    """In what ways two utterances may have the same sound, and the key that is equal then; the strictest first."""
    sound = row.sound
    keys = (
        ("the same audio file", row.audio_sha256),
        ("the same samples", sound.samples_hash if sound else None),
        ("the same samples, but for silence at the ends,", sound.trimmed_hash if sound else None),
    )
    for kind, (way, key) in enumerate(keys):
        if key is not None:
            yield way, bytes([kind]) + bytes.fromhex(key)[:15]


def _duplicate(row: Measures, first: Mapping[bytes, str]) -> Iterator[Finding]:
    for way, key in _sameness(row):
        if first.get(key, row.utterance_id) != row.utterance_id:
            reason = f"{way} as utterance {first[key]}: one of the two has a wrong name, or is one too many"
            yield Finding("duplicate", way.strip(","), "-", reason)
            return


def _require_some(seen: _Seen, word_times: Path | None, hypotheses: Mapping[str, str] | None) -> None:
    if word_times is not None and not seen.n["with_word_times"]:
        raise CorpusError(f"{word_times}: no file is named <utterance_id>.TextGrid, .ctm or .json")
    if hypotheses is not None and not seen.n["with_hypothesis"]:
        example = next(iter(hypotheses), "none")
        raise CorpusError(f"hypotheses: no utterance of the corpus is among their ids, for example {example!r}")


def _typical(distributions: Distributions) -> Typical:
    loudest = distributions.loudest_dbfs
    return Typical(
        Spread.of(distributions.duration_s),
        Spread.of(distributions.characters_per_s),
        float(np.median(loudest)) if len(loudest) >= 20 else None,
    )


def _read(spool: IO[str]) -> Iterator[Measures]:
    spool.seek(0)
    for line in spool:
        cells = json.loads(line)
        sound = cells.pop("sound")
        yield Measures(**cells, sound=None if sound is None else Sound(**sound))


def _cells(row: Measures, own: Fit | None, findings: Sequence[Finding]) -> dict[str, Any]:
    values = dataclasses.asdict(row) | {
        "characters_per_s": row.characters_per_s,
        "wer": own.wer if own else None,
        "cer": own.cer if own else None,
        "flags": " ".join(finding.flag for finding in findings),
        "reasons": "; ".join(f"{finding.flag}: {finding.reason}" for finding in findings),
    }
    sound = values["sound"] or dict.fromkeys(_SOUND_COLUMNS)
    cells = {name: values[name] for name in _COLUMNS} | {name: sound[name] for name in _SOUND_COLUMNS}
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in cells.items()}


def _summary(
    corpus: PreparedCorpus, seen: _Seen, listed: _Listed, limits: Thresholds, typical: Typical
) -> dict[str, Any]:
    needed = {  # flag -> utterances that have what it is told by; zero found is said only where something was looked at
        "duration_mismatch": seen.n["utterances"] - seen.n["without_label_times"],
        **dict.fromkeys(("transcript_swapped", "transcript_mismatch"), seen.n["with_hypothesis"]),
        **dict.fromkeys(("word_times_unreadable", "words_mismatch", "words_outside_audio"), seen.n["with_word_times"]),
    }
    unchecked = {flag for flag, n in needed.items() if not n}
    return {
        "corpus": corpus.name,
        "synthetic": corpus.summary["synthetic"],
        "root_hash": corpus.summary["root_hash"],
        "n_utterances": seen.n["utterances"],
        "n_flagged": listed.n_flagged,
        "flags": {flag: None if flag in unchecked else listed.counts[flag] for flag in FLAGS},
        "n_without_transcript": seen.n["without_transcript"],
        "n_without_label_times": seen.n["without_label_times"],
        "n_with_hypothesis": seen.n["with_hypothesis"],
        "n_with_word_times": seen.n["with_word_times"],
        "typical": dataclasses.asdict(typical),
        "thresholds": dataclasses.asdict(limits),
    }
