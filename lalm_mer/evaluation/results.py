"""Published results, the files ``eval/results/NAME.json``: figures with what is needed to check and to repeat them.

Fractions and bytes, as in other files. Nothing in them is a path, an utterance, a speaker or a machine's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.provenance import Commit
from lalm_mer.core.run_record import Parameters
from lalm_mer.core.strict_json import parse, read_object

__all__ = ["Difference", "Figure", "ResultRow", "Results", "read_results"]

_FORMAT = 1


@dataclass(frozen=True)
class Figure:
    """A metric of a row: folds are pooled for each seed, then seeds are averaged.

    Args:
        value: mean over seeds
        low: lower end of its 95% interval by speakers; None if there is no interval
        high: upper end
        n_speakers: number of speakers; None if they are unknown
        by_seed: seed -> value over the pooled folds
        sd_over_seeds: standard deviation (ddof 1) of ``by_seed``; None with one seed
        mean_over_folds: mean of the values of the folds, each averaged over seeds
        sd_over_folds: their standard deviation (ddof 1); None with one fold
    """

    value: float
    low: float | None
    high: float | None
    n_speakers: int | None
    by_seed: Mapping[str, float]
    sd_over_seeds: float | None
    mean_over_folds: float
    sd_over_folds: float | None


@dataclass(frozen=True)
class Difference:
    """A paired test by speaker: ``tested_metric`` of system ``a`` minus that of system ``b``.

    Args:
        a: name of a system
        b: name of another
        value: the difference
        low: lower end of its 95% interval; None if there is no interval
        high: upper end
        p_value: two-sided; None without a test
        smallest_p: smallest one that this number of speakers can give
        p_holm: adjusted by Holm's rule over the tests of the same list
        method: how the p-value was computed
    """

    a: str
    b: str
    value: float
    low: float | None
    high: float | None
    p_value: float | None
    smallest_p: float | None
    p_holm: float | None
    method: str


@dataclass(frozen=True)
class ResultRow:
    """All runs of one system.

    Args:
        system: its name, unique in the file
        label: name in tables
        recognizer: name in comparisons
        base_model: Hub ids of pretrained models; ``local model`` for one that is not published; None for none
        method: one of ``METHODS``
        modalities: one of ``MODALITIES``
        transcript_source: one of ``TRANSCRIPT_SOURCES``; None if no transcript is used
        condition: one of ``CONDITIONS``
        random_weights: whether the base model's weights were never trained
        seeds: sorted
        n: number of utterances of all folds
        n_unparsed: of them, those whose generated answer names no label, with at least one seed
        n_unscored: of them, those that the recognizer cannot use
        metrics: name -> figure, of all metrics of the kind of task
        minutes_per_seed: of the runs of a seed, training and scoring, mean over seeds; of a late fusion without members
        parameters: largest numbers of all runs; None if they are not known of each
        peak_gpu_bytes: largest peak memory on the GPU of all runs; None if no run was measured there
        peak_process_bytes: largest peak resident memory of the runs without a GPU; None if none was measured
        notes: codes of the notes of its runs
    """

    system: str
    label: str
    recognizer: str
    base_model: str | None
    method: str
    modalities: str
    transcript_source: str | None
    condition: str
    random_weights: bool
    seeds: tuple[int, ...]
    n: int
    n_unparsed: int
    n_unscored: int
    metrics: Mapping[str, Figure]
    minutes_per_seed: float
    parameters: Parameters | None
    peak_gpu_bytes: int | None
    peak_process_bytes: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """Systems that were tested on the same utterances.

    Args:
        title: heading
        corpus: name of the corpus
        synthetic: whether it is synthetic
        protocol: name of the protocol
        protocol_version: its version
        task: name of the task
        task_kind: ``single``, ``multi`` or ``scalar``
        n_classes: number of classes with an utterance; None for another kind than ``single``
        primary_metric: the protocol's
        tested_metric: that of the paired tests
        folds: sorted numbers
        seeds: all seeds of all systems, sorted
        reference: system with which every other is compared
        rows: the systems
        differences: of every other system under unchanged inputs, minus the reference
        gains: of pairs that show the gain of a modality, a method or a fusion, as in a comparison
        command: that makes the runs
        machine: on which the minutes were measured, in words
        commits: of the code, of all runs
        versions: package -> versions, of all runs
        first_day: on which a run began, ISO 8601
        last_day: likewise
    """

    title: str
    corpus: str
    synthetic: bool
    protocol: str
    protocol_version: int
    task: str
    task_kind: str
    n_classes: int | None
    primary_metric: str
    tested_metric: str
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    reference: str
    rows: tuple[ResultRow, ...]
    differences: tuple[Difference, ...]
    gains: tuple[Difference, ...]
    command: str
    machine: str | None
    commits: tuple[Commit, ...]
    versions: Mapping[str, tuple[str, ...]]
    first_day: str
    last_day: str

    def row(self, system: str) -> ResultRow:
        """The row of a system."""
        return next(row for row in self.rows if row.system == system)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain data."""
        return {"format": _FORMAT} | asdict(self)


def read_results(file: Path) -> Results:
    """Read a file of results.

    Raises:
        PredictionError: naming the file and the key, if it is malformed, of another format, or names an unknown system
    """
    content = read_object(file)
    if content.get("format") != _FORMAT:
        raise PredictionError(
            f"{file}: format {content.get('format')}, but this version reads format {_FORMAT}; collect the runs again"
        )
    results = parse(Results, {key: value for key, value in content.items() if key != "format"}, str(file))
    systems = [row.system for row in results.rows]
    if len(set(systems)) < len(systems):
        raise PredictionError(f"{file}: key 'rows': two rows have the same system; found {systems}")
    tests = (*results.differences, *results.gains)
    for name in (results.reference, *(each.a for each in tests), *(each.b for each in tests)):
        if name not in systems:
            raise PredictionError(f"{file}: {name!r} is no system of its rows; expected one of {systems}")
    for row in results.rows:
        if missing := {results.primary_metric, results.tested_metric} - row.metrics.keys():
            raise PredictionError(f"{file}: metrics of {row.system} lack {min(missing)!r}; found {sorted(row.metrics)}")
    return results
