"""Comparison of runs that were tested on the same utterances of the same folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lalm_mer.core.errors import PredictionError
from lalm_mer.core.names import (
    ADAPTERS,
    AUDIO_TRANSCRIPT,
    BASELINE,
    FULL,
    LATE_FUSION,
    LINEAR,
    SIMULATED,
    UNCHANGED,
    ZERO_SHOT,
    input_text,
)
from lalm_mer.core.output import atomic_path, write_json
from lalm_mer.core.plain_text import plain_cells
from lalm_mer.core.run_record import RunRecord
from lalm_mer.evaluation.conventions import values_of, write_values
from lalm_mer.evaluation.metrics import UAR
from lalm_mer.evaluation.prediction_checks import TRUTH
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.repetitions import check_repetitions
from lalm_mer.evaluation.runs import Run, row_identity
from lalm_mer.evaluation.scores import score
from lalm_mer.evaluation.statistics import PairedTest, holm, paired_test
from lalm_mer.evaluation.target_metrics import TARGET_METRICS, default_metric, metric_called, metric_names
from lalm_mer.evaluation.target_statistics import default_by_seed, paired_target_test

__all__ = ["Comparison", "Pair", "Row", "against", "compare", "write_comparison"]


@dataclass(frozen=True)
class Row:
    """The runs of one recognizer on one corpus and protocol: folds pooled per seed, then averaged over seeds.

    Args:
        runs: its runs, each of one fold and one seed
        predictions: their pooled rows of the condition that they share
        scores: ``score`` of ``predictions``
        by_seed: seed -> UAR over the pooled folds, or the default metric of another kind of task
        folds: sorted numbers of the folds
    """

    runs: tuple[Run, ...]
    predictions: Predictions
    scores: dict[str, Any]
    by_seed: dict[int, float]
    folds: tuple[int, ...]

    @property
    def record(self) -> RunRecord:
        """The record of the first run, for values that all runs of the row share."""
        return self.runs[0].record

    @property
    def kind(self) -> str:
        """Kind of its task: ``single``, ``multi`` or ``scalar``."""
        return self.predictions.kind

    @property
    def modalities(self) -> str:
        """Its modalities, with the source of transcripts other than those of the corpus, and a changed condition."""
        return input_text(self.record.modalities, self.record.transcript_source, self.record.condition)

    @property
    def is_plain(self) -> bool:
        """Whether it was tested on unchanged inputs."""
        return self.record.condition == UNCHANGED

    @property
    def label(self) -> str:
        """Short name, for example ``qwen2_audio lora audio+transcript``."""
        return f"{self.record.recognizer} {self.record.method} {self.modalities}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that an utterance of the pooled folds has; the means over classes leave the others out."""
        found = set(self.predictions.frame["truth"])
        return tuple(label for label in self.record.labels if label in found)

    @property
    def chance(self) -> float:
        """UAR of always predicting one of ``classes``."""
        return 1 / len(self.classes)

    @property
    def described_classes(self) -> str:
        """Number of classes, and those without an utterance."""
        missing = [label for label in self.record.labels if label not in self.classes]
        if not missing:
            return f"{len(self.classes)} classes"
        return f"{len(self.classes)} of {len(self.record.labels)} classes, no utterance of {', '.join(missing)}"

    @property
    def sd(self) -> float | None:
        """Standard deviation of ``by_seed`` over seeds (ddof 1); None with one seed."""
        values = list(self.by_seed.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def utterances(self, status: str | None = None) -> int:
        """Number of utterances of the pooled folds, or of those that have the status with at least one seed."""
        frame = self.predictions.frame
        chosen = frame if status is None else frame[frame["status"] == status]
        return len(chosen[["utterance_id", "fold"]].drop_duplicates())

    def as_dict(self) -> dict[str, Any]:
        """The row of comparison.csv, in the order of its columns."""
        main, figures = default_metric(self.kind), self._figures()
        last = {"uar_without_unparsed": self.scores["without_unparsed"][UAR]} if self.kind == "single" else {}
        return {
            **{key: getattr(self.record, key) for key in ("recognizer", "modalities", "method", "corpus", "protocol")},
            "n": self.utterances(),
            "n_unscored": self.utterances("unscored"),
            **figures,
            "seconds": sum(run.seconds for run in self.runs),
            "run": ";".join(run.name for run in self.runs),
            "folds": len(self.folds),
            "seeds": len(self.by_seed),
            f"{main}_sd": self.sd,
            "synthetic": self.record.synthetic,
            "transcript_source": self.record.transcript_source,
            "n_unparsed": self.utterances("unparsed"),
            "condition": self.record.condition,
            **last,
        }

    def _figures(self) -> dict[str, float | None]:
        """Columns of the metrics: with the interval of UAR, or the values of each target."""
        figures: dict[str, float | None] = {}
        for name in metric_names(self.kind):
            metric, result = metric_called(name), self.scores[name]
            figures[metric.column] = result["value"]
            if metric.name == UAR:
                figures |= {f"{metric.column}_{end}": result[end] for end in ("low", "high")}
            figures |= {f"{metric.column}_{target}": value for target, value in result.get("by_target", {}).items()}
        return figures

    def values(self) -> list[dict[str, Any]]:
        """``values_of`` the row, with what identifies it."""
        of = self.record
        identity = {key: getattr(of, key) for key in ("recognizer", "modalities", "method", "corpus", "protocol")}
        parts = values_of(self.predictions)
        return [identity | {"condition": of.condition} | part for part in parts]


@dataclass(frozen=True)
class Pair:
    """A paired test of the UAR, or the default metric of another kind of task, of row ``a`` minus that of row ``b``.

    ``p_holm`` is the p-value adjusted by Holm's rule over the tests of the corpus and protocol.
    """

    a: Row
    b: Row
    test: PairedTest
    p_holm: float | None

    def as_dict(self) -> dict[str, Any]:
        """The entry in comparison.json."""
        identity = ("recognizer", "modalities", "method", "transcript_source")
        return {
            "corpus": self.a.record.corpus,
            "protocol": self.a.record.protocol,
            "a": {key: getattr(self.a.record, key) for key in identity},
            "b": {key: getattr(self.b.record, key) for key in identity},
            **asdict(self.test),
            "p_holm": self.p_holm,
        }


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of their first runs, and the paired tests of rows."""

    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]

    def frame(self) -> pd.DataFrame:
        """The content of comparison.csv."""
        return pd.DataFrame([row.as_dict() for row in self.rows])

    def blocks(self) -> dict[tuple[str, str], tuple[Row, ...]]:
        """(corpus, protocol) -> its rows, which are comparable with each other only."""
        blocks: dict[tuple[str, str], tuple[Row, ...]] = {}
        for row in self.rows:
            key = (row.record.corpus, row.record.protocol)
            blocks[key] = (*blocks.get(key, ()), row)
        return blocks


def compare(runs: Sequence[Run], *, allow_simulated: bool = False) -> Comparison:
    """Group runs into rows, score them, and test the pairs that show the gain of a modality or a method.

    Pairs: audio+transcript against audio and against transcript of one recognizer and method; and different methods
    of one recognizer (or a baseline, linear model or late fusion against any) with the same modalities; and a late
    fusion against its members. Runs under a changed condition are in separate rows and are not tested.

    Raises:
        PredictionError: naming two runs, if they were not tested on the same data, folds, utterances and label set, or
            one row would mix base models, prompts, transcripts or synonyms; if a run uses simulated transcripts and
            ``allow_simulated`` is not set; or if there is no run
    """
    if not runs:
        raise PredictionError("no run to compare; give at least one run folder")
    name, times = Counter(run.name for run in runs).most_common(1)[0]
    if times > 1:
        raise PredictionError(f"duplicate run folder {name}; give each once")
    leaking = [run.name for run in runs if run.record.transcript_source == SIMULATED]
    if leaking and not allow_simulated:
        raise PredictionError(
            f"{leaking[0]} uses simulated transcripts, which name the label ({len(leaking)} of {len(runs)} runs); "
            "leave such runs out, or include them with --allow-simulated"
        )
    for run in runs[1:]:
        kinds = (runs[0].predictions.kind, run.predictions.kind)
        if kinds[0] != kinds[1]:
            raise _differs(runs[0], run, "kinds of tasks", kinds, "compare runs of one kind of task")
    by_block: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_block.setdefault((run.record.corpus, run.record.protocol), []).append(run)
    for members in by_block.values():
        _require_comparable(members)
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(row_identity(run), []).append(run)
    rows = tuple(_make_row(members) for members in groups.values())
    for block in Comparison(rows, ()).blocks().values():
        _require_same_folds(block)
    return Comparison(rows, _paired_tests(rows))


def write_comparison(comparison: Comparison, folder: Path, *, with_values: bool = False) -> None:
    """Write comparison.csv and comparison.json into ``folder``; missing values are empty, or null.

    With ``with_values``, the figures of every fold and seed are in comparison_values.csv, and in comparison.json as
    ``values``. A text of a CSV that a spreadsheet would take for a formula begins with an apostrophe.
    """
    frame = plain_cells(comparison.frame())
    with atomic_path(folder / "comparison.csv") as partial:
        frame.to_csv(partial, index=False, encoding="utf-8")
    content: dict[str, Any] = {
        "format": 1,
        "rows": [row.as_dict() for row in comparison.rows],
        "paired_tests": [pair.as_dict() for pair in comparison.pairs],
    }
    if with_values:
        content["values"] = [value for row in comparison.rows for value in row.values()]
        write_values(content["values"], folder / "comparison_values.csv")
    write_json(folder / "comparison.json", content)


def _differs(first: Run, second: Run, what: str, values: tuple[object, object], advice: str) -> PredictionError:
    return PredictionError(
        f"{first.name} and {second.name} cannot be compared: {what} differ ({values[0]} and {values[1]}); {advice}"
    )


def _require_comparable(runs: Sequence[Run]) -> None:
    """Check that the runs of a corpus and protocol have the same data, folds, task, utterances and truths."""
    first = runs[0]
    tested: dict[int, tuple[Run, dict[str, tuple[Any, ...]]]] = {}
    for run in runs:
        for key in ("data", "folds"):
            pair = (first.record.hashes[key], run.record.hashes[key])
            if pair[0] != pair[1]:
                raise _differs(first, run, f"hashes of {key}", pair, "run both on the same prepared data and folds")
        for key in ("task", "protocol_version", "synthetic"):
            pair = (getattr(first.record, key), getattr(run.record, key))
            if pair[0] != pair[1]:
                raise _differs(first, run, f"values of {key!r}", pair, "compare runs of one task and protocol")
        labels = (list(first.record.labels), list(run.record.labels))
        if set(labels[0]) != set(labels[1]):
            raise _differs(first, run, "label sets", labels, "compare runs of one task")
        rows = run.predictions.of_condition(run.record.condition).frame
        columns = ["truth"] if run.predictions.kind == "single" else [TRUTH + name for name in sorted(labels[0])]
        truths = dict(zip(rows["utterance_id"], map(tuple, rows[columns].to_numpy().tolist()), strict=True))
        other, known = tested.setdefault(run.record.fold, (run, truths))
        if truths != known:
            different = truths.items() ^ known.items()
            raise PredictionError(
                f"{other.name} and {run.name} cannot be compared: both are fold {run.record.fold}, but utterance "
                f"{min(different)[0]!r} is in one only or has another truth ({len(different)} such entries); run both "
                "on the same folds"
            )


def _make_row(runs: Sequence[Run]) -> Row:
    first = runs[0]
    seen: dict[tuple[int, int], Run] = {}
    for run in runs:
        of = run.record
        earlier = seen.setdefault((of.fold, of.seed), run)
        if earlier is not run:
            raise PredictionError(
                f"{earlier.name} and {run.name} are both fold {of.fold}, seed {of.seed} of {of.recognizer} {of.method} "
                f"{of.modalities}; give one, or name their recognizers differently"
            )
        for key in ("base_model", "prompt", "transcripts", "synonyms"):
            pair = (first.record.hashes.get(key), run.record.hashes.get(key))
            if pair[0] != pair[1]:
                advice = "name their recognizers differently, or give one kind"
                raise _differs(first, run, f"hashes of {key}", pair, advice)
    folds = {seed: sorted(fold for fold, trained in seen if trained == seed) for _, seed in seen}
    first_seed = first.record.seed
    for seed, found in folds.items():
        if found != folds[first_seed]:
            other = next(run for run in runs if run.record.seed == seed)
            values = (folds[first_seed], found)
            raise _differs(first, other, f"folds of seeds {first_seed} and {seed}", values, "complete every seed")
    pooled = Predictions.concat([run.predictions.of_condition(run.record.condition) for run in runs])
    check_repetitions(pooled.frame, pooled.source)
    return Row(tuple(runs), pooled, score(pooled), default_by_seed(pooled), tuple(folds[first_seed]))


def _require_same_folds(rows: Sequence[Row]) -> None:
    for row in rows[1:]:
        if row.folds != rows[0].folds:
            values = (list(rows[0].folds), list(row.folds))
            raise _differs(rows[0].runs[0], row.runs[0], "folds", values, "give the same folds of every recognizer")


def _shows_a_gain(a: Row, b: Row) -> bool:
    """Whether the pair shows the gain of a modality or of a method."""
    if not (a.is_plain and b.is_plain):
        return False
    if len({a.record.transcript_source, b.record.transcript_source} - {None}) > 1:
        return False
    if any(_is_member(one, other) for one, other in ((a, b), (b, a))):
        return True
    same_recognizer = a.record.recognizer == b.record.recognizer
    if a.record.method == b.record.method:
        return same_recognizer and [a.record.modalities, b.record.modalities].count(AUDIO_TRANSCRIPT) == 1
    comparable = same_recognizer or bool({BASELINE, LINEAR, LATE_FUSION} & {a.record.method, b.record.method})
    return comparable and a.record.modalities == b.record.modalities


def _is_member(row: Row, fusion: Row) -> bool:
    """Whether a row is that of a member of a late fusion."""
    of = row.record
    named = {(member.recognizer, member.method, member.modalities) for member in fusion.record.members}
    return (of.recognizer, of.method, of.modalities) in named


def _rank(row: Row) -> tuple[bool, int]:
    """Sort key by which the row that should be better comes first: both modalities, then late fusion, then what was
    trained in full, then adapters.
    """
    methods = (LATE_FUSION, FULL, *ADAPTERS, BASELINE, LINEAR, ZERO_SHOT)
    return (row.record.modalities != AUDIO_TRANSCRIPT, methods.index(row.record.method))


def _test(a: Row, b: Row) -> PairedTest:
    names = (a.label, b.label)
    if a.kind != "single":
        metric = TARGET_METRICS[default_metric(a.kind)]
        same_order = replace(b.predictions, labels=a.predictions.labels)
        return paired_target_test(a.predictions, same_order, metric, names)
    return paired_test(a.predictions.frame, b.predictions.frame, a.predictions.labels, names)


def _paired_tests(rows: Sequence[Row]) -> tuple[Pair, ...]:
    """Tests within a corpus and protocol; Holm's rule adjusts over the tests of one such block."""
    pairs: list[Pair] = []
    for block in Comparison(tuple(rows), ()).blocks().values():
        tested: list[tuple[Row, Row, PairedTest]] = []
        for pair in combinations(block, 2):
            if _shows_a_gain(*pair):
                a, b = sorted(pair, key=_rank)
                result = _test(a, b)
                tested.append((a, b, result))
        adjusted = holm([result.p_value for _, _, result in tested])
        pairs += [Pair(a, b, result, p) for (a, b, result), p in zip(tested, adjusted, strict=True)]
    return tuple(pairs)


def against(rows: Sequence[Row], reference: Row) -> tuple[Pair, ...]:
    """Tests of every other row under unchanged inputs minus a reference; Holm's rule adjusts over them alone."""
    others = [row for row in rows if row is not reference and row.is_plain]
    tests = [_test(row, reference) for row in others]
    adjusted = holm([test.p_value for test in tests])
    return tuple(Pair(row, reference, test, p) for row, test, p in zip(others, tests, adjusted, strict=True))
