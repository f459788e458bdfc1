"""Results for a public page, made of finished runs: an explicit list of figures and names, as in ``public_record``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from lalm_mer.core.errors import ConfigError, PredictionError, one_line
from lalm_mer.core.names import LATE_FUSION, LINEAR, ZERO_SHOT
from lalm_mer.core.notes import NoteCode
from lalm_mer.core.provenance import PACKAGES, Commit
from lalm_mer.core.run_record import Parameters, RunRecord
from lalm_mer.evaluation.comparison import Comparison, Pair, Row, against, compare
from lalm_mer.evaluation.results import Difference, Figure, ResultRow, Results
from lalm_mer.evaluation.runs import Run, with_distinct_names
from lalm_mer.evaluation.target_metrics import default_metric, metric_called, metric_names
from lalm_mer.sharing.hub_ids import has_id_form, published_id
from lalm_mer.sharing.public_record import is_hash, is_name, is_version, public_version

__all__ = ["About", "public_results"]

_LOCAL = "local model"
_LONGEST = 120
_PRIVATE = re.compile(r"(?:^|[\s=,:\[{('\"])(?:[/~\\]|\.\.(?:/|$)|[A-Za-z]:[\\/])|://|@|\\")
"""In a command: an absolute path, a folder above, a home, an address"""
_SAME = ("corpus", "protocol", "protocol_version")


@dataclass(frozen=True)
class About:
    """What runs do not say about themselves.

    Args:
        title: heading
        command: that makes the runs
        reference: system with which every other is compared; None for the first one
        labels: system -> its name in tables
        base_models: system -> Hub id of the published model of which its local one is a copy
        machine: on which the durations were measured, in words
        allow_missing_seeds: whether a system may have fewer seeds than others
    """

    title: str
    command: str
    reference: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    base_models: Mapping[str, str] = field(default_factory=dict)
    machine: str | None = None
    allow_missing_seeds: bool = False


def public_results(named: Sequence[tuple[str | None, Run]], about: About) -> Results:
    """Compare finished runs of one corpus and protocol, and keep what is public.

    Args:
        named: name of the system, and a run of it; None to name it by its recognizer, method and modalities
        about: what the runs do not say

    Raises:
        PredictionError: if runs are of several protocols, cannot be compared, or lack seeds that others have
        ConfigError: if a text could be private, or an option names no system
    """
    first = named[0][1]
    for _, run in named:
        for key in _SAME:
            values = getattr(first.record, key), getattr(run.record, key)
            if values[0] != values[1]:
                raise PredictionError(
                    f"{first.name} and {run.name} have different values of {key} ({values[0]} and {values[1]}); "
                    "collect the runs of one corpus and protocol into one file"
                )
    comparison = compare(with_distinct_names([(system or "", run) for system, run in named]))
    systems = _systems(comparison, {run.name: system for system, run in named})
    _check_options(about, systems)
    if not about.allow_missing_seeds:
        _require_seeds(systems)
    reference = about.reference or next(iter(systems))
    if not systems[reference].is_plain:
        raise ConfigError(f"--reference {reference!r}: was tested on changed inputs; choose another system")
    results = _results(comparison, systems, reference, about)
    _check_texts(results)
    return results


def _systems(comparison: Comparison, named: Mapping[str, str | None]) -> dict[str, Row]:
    """System -> its row.

    Raises:
        PredictionError: if the runs of a system are not one row, or those of a row of two systems
    """
    found: dict[str, Row] = {}
    for row in comparison.rows:
        names = {named[run.name] for run in row.runs}
        system = next(iter(names)) or f"{_public_names(row.record, None)[0]} {row.record.method} {row.modalities}"
        if len(names) > 1 or system in found:
            other = found[system].runs[0] if system in found else row.runs[-1]
            raise PredictionError(
                f"{row.runs[0].name} and {other.name} are of one system by their folders or by their recognizers, but "
                "not by both; keep the runs of each system in a folder of its own"
            )
        found[system] = row
    return found


def _check_options(about: About, systems: Mapping[str, Row]) -> None:
    given = [("--label", name) for name in about.labels] + [("--base-model", name) for name in about.base_models]
    given += [] if about.reference is None else [("--reference", about.reference)]
    for option, name in given:
        if name not in systems:
            raise ConfigError(f"{option} {name!r}: no such system; expected one of {', '.join(map(repr, systems))}")
    for name, model in about.base_models.items():
        if not has_id_form(model):
            raise ConfigError(f"--base-model {name}={model}: expected a Hub id, user/name")


def _require_seeds(systems: Mapping[str, Row]) -> None:
    """Check that all systems have the same seeds; one without random draws may have a single one."""
    seeds = {seed for row in systems.values() for seed in row.by_seed}
    for system, row in systems.items():
        missing = sorted(seeds - row.by_seed.keys())
        methods = {member.method for member in row.record.members} or {row.record.method}
        if missing and not (len(row.by_seed) == 1 and methods <= {LINEAR, ZERO_SHOT}):
            raise PredictionError(
                f"{system} has seeds {_listed(row.by_seed)}, but no run with {_listed(missing)}, which other systems "
                "have; run these, or give --allow-missing-seeds"
            )


def _listed(numbers: Sequence[int] | Mapping[int, object]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _results(comparison: Comparison, systems: Mapping[str, Row], reference: str, about: About) -> Results:
    runs = [run for row in comparison.rows for run in row.runs]
    name_of = {id(row): system for system, row in systems.items()}
    first, record = comparison.rows[0], comparison.rows[0].record
    days = sorted(datetime.fromisoformat(run.record.started_at).date().isoformat() for run in runs)
    commits = {(run.record.git.commit, run.record.git.modified): run.record.git for run in runs}
    return Results(
        title=about.title,
        corpus=record.corpus,
        synthetic=record.synthetic,
        protocol=record.protocol,
        protocol_version=record.protocol_version,
        task=record.task,
        task_kind=record.task_kind,
        n_classes=len(first.classes) if first.kind == "single" else None,
        primary_metric=record.primary_metric,
        tested_metric=default_metric(first.kind),
        folds=first.folds,
        seeds=tuple(sorted({seed for row in comparison.rows for seed in row.by_seed})),
        reference=reference,
        rows=tuple(_row(system, row, about) for system, row in systems.items()),
        differences=_differences(against(comparison.rows, systems[reference]), name_of),
        gains=_differences(comparison.pairs, name_of),
        command=about.command,
        machine=about.machine,
        commits=tuple(Commit(each.commit, each.modified) for each in commits.values()),
        versions=_versions([run.record.versions for run in runs]),
        first_day=days[0],
        last_day=days[-1],
    )


def _row(system: str, row: Row, about: About) -> ResultRow:
    record = row.record
    recognizer, base_model = _public_names(record, about.base_models.get(system))
    numbers = [run.record.parameters for run in row.runs]
    known = [each for each in numbers if each is not None]
    peaks = [run.record.peak_memory for run in row.runs]
    on_gpu, resident = (
        [peak.bytes for peak in peaks if peak is not None and peak.of == of] for of in ("gpu", "process")
    )
    return ResultRow(
        system=system,
        label=about.labels.get(system, system),
        recognizer=recognizer,
        base_model=base_model,
        method=record.method,
        modalities=record.modalities,
        transcript_source=record.transcript_source,
        condition=record.condition,
        random_weights=any(run.record.randomly_initialised for run in row.runs),
        seeds=tuple(sorted(row.by_seed)),
        n=row.utterances(),
        n_unparsed=row.utterances("unparsed"),
        n_unscored=row.utterances("unscored"),
        metrics=_figures(row),
        minutes_per_seed=sum(run.seconds for run in row.runs) / 60 / len(row.by_seed),
        parameters=Parameters(max(each.trained for each in known), max(each.all for each in known))
        if len(known) == len(numbers)
        else None,
        peak_gpu_bytes=max(on_gpu, default=None),
        peak_process_bytes=max(resident, default=None),
        notes=tuple(sorted({note.code.value for run in row.runs for note in run.record.notes})),
    )


def _figures(row: Row) -> dict[str, Figure]:
    values = [each for each in row.values() if each["unparsed"] == "error"]
    of_part = {each["part"]: each for each in values}  # the means and deviations; seeds and folds are several
    figures = {}
    for name in metric_names(row.kind):
        result, column = row.scores[name], metric_called(name).column
        figures[name] = Figure(
            value=result["value"],
            low=result["low"],
            high=result["high"],
            n_speakers=result["n_clusters"],
            by_seed={str(each["seed"]): each[column] for each in values if each["part"] == "seed"},
            sd_over_seeds=of_part["sd_over_seeds"][column],
            mean_over_folds=of_part["mean_over_folds"][column],
            sd_over_folds=of_part["sd_over_folds"][column],
        )
    return figures


def _differences(pairs: Sequence[Pair], name_of: Mapping[int, str]) -> tuple[Difference, ...]:
    return tuple(
        Difference(
            a=name_of[id(pair.a)],
            b=name_of[id(pair.b)],
            value=pair.test.difference,
            low=pair.test.interval.low,
            high=pair.test.interval.high,
            p_value=pair.test.p_value,
            smallest_p=pair.test.smallest_p,
            p_holm=pair.p_holm,
            method=pair.test.method,
        )
        for pair in pairs
    )


def _versions(versions: Sequence[Mapping[str, str | None]]) -> dict[str, tuple[str, ...]]:
    found = {name: {public_version(each.get(name)) for each in versions} - {None} for name in ("python", *PACKAGES)}
    return {name: tuple(sorted(filter(None, of_name))) for name, of_name in found.items() if of_name}


def _public_names(record: RunRecord, published: str | None) -> tuple[str, str | None]:
    """Name of the recognizer and ids of its pretrained models, without the name of a folder.

    Args:
        record: of a run
        published: Hub id of the model of which a local one is a copy; None if it is not known
    """
    name, ids = record.recognizer, []
    if record.method == LATE_FUSION:
        settings = record.config.get("fusion", {})
        given = settings.get("name") if isinstance(settings, Mapping) else None
        return str(given or f"late fusion of {len(record.members)} recognizers"), None
    for model in (record.base_model or "").split(", ") if record.base_model else ():
        if _is_published(model, record):
            ids.append(model)
            continue
        ids.append(published or _LOCAL)
        folder = re.escape(Path(model).name)
        name = re.sub(rf"(?<![\w.-]){folder}(?![\w.-])", (published or _LOCAL).rpartition("/")[2], name)
    return name, ", ".join(ids) or None


def _is_published(model: str, record: RunRecord) -> bool:
    """Whether it is a model of the Hub, or the name of one on a server."""
    if any(note.code == NoteCode.SERVED_MODEL for note in record.notes):
        return has_id_form(model) or is_name(model)
    digest = record.hashes.get("base_model")  # of a model of the Hub it begins with its id
    of_folder = digest is not None and not digest.startswith(f"{model}@")
    return published_id(model) is not None and not of_folder


def _check_texts(results: Results) -> None:
    """Check that every text has the form of what it is.

    Raises:
        ConfigError: naming the text and what was expected
    """
    for what, text, fits, expected in _texts(results):
        if not fits:
            raise ConfigError(
                f"{what} {one_line(repr(text))}: could be private and is not written; expected {expected}"
            )


def _texts(results: Results) -> Iterator[tuple[str, object, bool, str]]:
    """Where a text comes from, the text, whether it is public, and what is."""
    a_name = f"at most {_LONGEST} letters, digits, spaces and . , + ( ) - _"
    given: list[tuple[str, str | None]] = [("--title", results.title), ("--machine", results.machine)]
    given += [(f"key {key!r} of run.json:", getattr(results, key)) for key in ("corpus", "protocol", "task")]
    for row in results.rows:
        given += [("folder of a system", row.system), ("--label", row.label), ("recognizer", row.recognizer)]
        for model in (row.base_model or _LOCAL).split(", "):
            yield "base model", model, has_id_form(model) or is_name(model), "a Hub id, user/name"
    for what, text in given:
        yield what, text, text is None or is_name(text, _LONGEST), a_name
    yield (
        "--command",
        results.command,
        _is_public_command(results.command),
        ("a command with relative paths, without addresses"),
    )
    for commit in results.commits:
        yield "git commit", commit.commit, commit.commit is None or is_hash(commit.commit), "a hash"
    for name, versions in results.versions.items():
        for version in versions:
            yield f"version of {name}", version, is_version(version), "a version such as 2.13.0"


def _is_public_command(command: str) -> bool:
    """Whether a command names no absolute path, no folder above, no home and no address, on one or several lines.

    Example:
        >>> _is_public_command("python recipes/cross_validate.py --config a.yaml 'only=[b,c]'")
        True
        >>> [_is_public_command(f"python a.py {word}") for word in ("x=/home/b", "../b", "u=http://b", "'")]
        [False, False, False, False]
    """
    try:
        words = shlex.split(command.replace("\\\n", " "))
    except ValueError:  # an open quotation mark
        return False
    return bool(words) and command.isascii() and not any(_PRIVATE.search(word) for word in words)
