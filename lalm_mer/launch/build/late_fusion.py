"""A late fusion of finished runs: its members are read, checked and combined from their files of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lalm_mer.core.config import to_dict
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import UNPARSED
from lalm_mer.core.names import (
    LATE_FUSION,
    TRANSCRIPT_SOURCES,
    modalities_of,
    uses_audio,
    uses_transcript,
)
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.provenance import git_commit, hash_file, hash_json, package_versions
from lalm_mer.core.run_record import Member, Parameters, RunRecord, has_results
from lalm_mer.core.settings import naming_keys
from lalm_mer.evaluation.metrics import METRICS, Floats
from lalm_mer.evaluation.prediction_checks import prefix_of
from lalm_mer.evaluation.predictions import DEV_PREDICTIONS_FILE, PREDICTIONS_FILE, EvaluatedSplit, Predictions
from lalm_mer.evaluation.runs import Run, read_dev_predictions, read_run
from lalm_mer.launch.build.defaults import with_folder
from lalm_mer.launch.config.late_fusion import LateFusionSettings
from lalm_mer.recognizers.late_fusion.rules import FITTED_RULES, FusionRule, fit_rule

__all__ = ["Fused", "OpenedLateFusion", "open_late_fusion"]

_SAME = ("corpus", "protocol", "protocol_version", "fold", "task", "condition")
_OF_UTTERANCES = ("speaker", "truth")
_OF_MEMBERS = (NoteCode.UNSCORED, NoteCode.FOUND_BATCH_SIZE, NoteCode.FITTED_ON_DEV)
"""Notes of members that say nothing about their fusion"""


@dataclass(frozen=True)
class Fused:
    """Result of a fusion.

    Args:
        rule: with its fitted numbers
        test: predictions of the test set
        dev: those of dev; None if a member has none
    """

    rule: FusionRule
    test: Predictions
    dev: Predictions | None


@dataclass(frozen=True)
class OpenedLateFusion:
    """An opened late fusion, before the rule is fitted.

    Args:
        settings: resolved config
        record: the record of the run
        members: M finished runs
    """

    settings: LateFusionSettings
    record: RunRecord
    members: tuple[Run, ...]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings.output.dir)

    @property
    def hashes(self) -> dict[str, str | None]:
        """Hashes of everything that the run depends on."""
        return dict(self.record.hashes)

    def fuse(self) -> Fused:
        """Fit the rule on dev, if it is one that is fitted, and combine the predictions.

        Raises:
            ConfigError: if a member has no dev predictions that the rule needs, or has no probabilities
        """
        chosen, labels = self.settings.fusion, self.record.labels
        test = [run.predictions.of_condition(self.record.condition) for run in self.members]
        dev = self._dev()
        rule = FusionRule(chosen.rule, labels, len(test)) if chosen.rule not in FITTED_RULES else None
        if rule is None:
            assert dev is not None
            truth, log_probs = self._aligned(dev)
            scored = np.isfinite(log_probs.max(axis=(0, 2))).tolist()
            with naming_keys("fusion", name="rule"):
                rule = fit_rule(
                    chosen.rule,
                    log_probs[:, scored],
                    [label for label, kept in zip(truth["truth"], scored, strict=True) if kept],
                    labels,
                    metric=METRICS[self.record.primary_metric],
                    c=chosen.c,
                )
        return Fused(rule, self._combined(rule, test), None if dev is None else self._combined(rule, dev))

    def parameters(self, fused: Fused) -> Parameters | None:
        """Sums over the members, with the fitted numbers of the rule; None if those of a member are not known."""
        known = [run.record.parameters for run in self.members]
        trained, of_all = fused.rule.size, fused.rule.size
        for each in known:
            if each is None:
                return None
            trained, of_all = trained + each.trained, of_all + each.all
        return Parameters(trained, of_all)

    def notes(self, fused: Fused) -> list[Note]:
        """Notes on utterances without a prediction."""
        unscored = list(fused.test.frame.loc[fused.test.frame["status"] == "unscored", "utterance_id"])
        return [Note(NoteCode.UNSCORED, "test", len(unscored), tuple(unscored[:5]))] if unscored else []

    def _dev(self) -> list[Predictions] | None:
        """Dev predictions of all members; None if one has none and the rule needs none."""
        tables = []
        for run, folder in zip(self.members, self.settings.fusion.members, strict=True):
            found = read_dev_predictions(run, Path(folder))
            if found is not None:
                tables.append(found)
            elif self.settings.fusion.rule in FITTED_RULES:
                how = "score it in a new folder with scoring.dev=true" if run.history.empty else "train it again"
                raise ConfigError(
                    f"key 'fusion.rule': {self.settings.fusion.rule} is fitted on dev, but {run.name} has no "
                    f"{DEV_PREDICTIONS_FILE}; {how}, or choose another rule"
                )
            else:
                return None
        _require_same_utterances(tables, self.members)
        return tables

    def _combined(self, rule: FusionRule, tables: Sequence[Predictions]) -> Predictions:
        rows, log_probs = self._aligned(tables)
        of = self.record
        split = EvaluatedSplit(
            rows["utterance_id"], rows["speaker"], rows["truth"], of.labels, of.corpus, of.fold, of.seed, of.condition
        )
        return Predictions.from_scores(split, rule.combine(log_probs))

    def _aligned(self, tables: Sequence[Predictions]) -> tuple[dict[str, list[Any]], Floats]:
        """Columns of the utterances, in order of their ids, and the log-probabilities, (M, N, K)."""
        ids = sorted(tables[0].frame["utterance_id"])
        found = [_log_probs(each, ids, self.record.labels, self.settings.fusion.rule) for each in tables]
        rows = tables[0].frame.set_index("utterance_id").loc[ids]
        return {"utterance_id": ids, **{key: rows[key].tolist() for key in _OF_UTTERANCES}}, np.stack(found)


def open_late_fusion(settings: LateFusionSettings) -> OpenedLateFusion:
    """Read and check the members.

    Raises:
        ConfigError: naming two members and what differs, if they were not run on the same data and utterances, or one
            that is not finished
        PredictionError: if a file of a member is malformed
    """
    members = []
    for folder in map(Path, settings.fusion.members):
        if not has_results(folder):
            raise ConfigError(f"key 'fusion.members': {as_recorded(folder)} is no finished run; finish it first")
        run = read_run(folder)
        if run.record.task_kind != "single":
            raise ConfigError(
                f"key 'fusion.members': the task of {run.name} is {run.record.task_kind}; only those of one label "
                "an utterance are fused"
            )
        members.append(run)
    _require_same(members)
    modalities = modalities_of(
        audio=any(uses_audio(run.record.modalities) for run in members),
        transcript=any(uses_transcript(run.record.modalities) for run in members),
    )
    record = _record(settings, members, modalities)
    _require_distinct(record.members)
    settings = with_folder(
        settings,
        corpus=record.corpus,
        recognizer=record.recognizer,
        method=LATE_FUSION,
        modalities=modalities,
        fold=record.fold,
    )
    return OpenedLateFusion(settings, replace(record, config=to_dict(settings)), tuple(members))


def _require_same_utterances(tables: Sequence[Predictions], members: Sequence[Run]) -> None:
    """Check that all tables have the same utterances, with the same speaker and truth.

    Raises:
        ConfigError: naming an utterance and two members that differ in it
    """
    first = tables[0].frame.set_index("utterance_id")
    for table, run in zip(tables[1:], members[1:], strict=True):
        found = table.frame.set_index("utterance_id")
        if different := set(first.index) ^ set(found.index):
            raise ConfigError(
                f"key 'fusion.members': {table.source} and {tables[0].source} do not have the same utterances: "
                f"{min(different)!r} is in one only ({len(different)} such); fuse runs on the same utterances"
            )
        for key in _OF_UTTERANCES:
            one, other = first[key].fillna(""), found.loc[first.index, key].fillna("")
            if (differs := one[one != other]).size:
                name = differs.index[0]
                raise ConfigError(
                    f"key 'fusion.members': utterance {name!r} has {key} {other[name]!r} in {run.name} and "
                    f"{one[name]!r} in {members[0].name}; fuse runs of one task and corpus"
                )


def _require_same(members: Sequence[Run]) -> None:
    first = members[0]
    for run in members[1:]:
        differing = [(key, getattr(first.record, key), getattr(run.record, key)) for key in _SAME]
        differing += [(f"hash of {key}", first.record.hashes[key], run.record.hashes[key]) for key in ("data", "folds")]
        differing.append(("labels", sorted(first.record.labels), sorted(run.record.labels)))
        for key, one, other in differing:
            if one != other:
                raise ConfigError(
                    f"key 'fusion.members': {first.name} and {run.name} differ in {key} ({one} and {other}); fuse runs "
                    "on the same utterances"
                )
    _require_same_utterances([run.predictions.of_condition(run.record.condition) for run in members], members)


def _require_distinct(members: Sequence[Member]) -> None:
    """Check that no run counts twice, as a copy or under another path."""
    folders: dict[str, str] = {}
    for member in members:
        if (other := folders.setdefault(member.predictions, member.folder)) != member.folder:
            raise ConfigError(
                f"key 'fusion.members': {member.folder} and {other} have the same predictions; give each run once"
            )


def _record(settings: LateFusionSettings, members: Sequence[Run], modalities: str) -> RunRecord:
    first, chosen = members[0].record, settings.fusion
    used = tuple(
        Member(
            as_recorded(Path(folder)),
            run.record.recognizer,
            run.record.method,
            run.record.modalities,
            hash_file(Path(folder) / PREDICTIONS_FILE),
        )
        for folder, run in zip(chosen.members, members, strict=True)
    )
    sources = [run.record.transcript_source for run in members]
    notes: list[Note] = []
    for note in (note for run in members for note in run.record.notes):
        if note.code not in _OF_MEMBERS and note not in notes:
            notes.append(note)
    fitted = [Note(NoteCode.FITTED_ON_DEV, facts={"rule": chosen.rule})] if chosen.rule in FITTED_RULES else []
    dev = [_dev_hash(Path(folder)) for folder in chosen.members]
    return replace(
        first,
        recognizer=chosen.name or f"{chosen.rule} of {' and '.join(_name(member) for member in used)}",
        base_model=None,
        modalities=modalities,
        transcript_source=max(filter(None, sources), key=TRANSCRIPT_SOURCES.index, default=None),
        method=LATE_FUSION,
        seed=settings.seed,
        hashes={
            **{key: first.hashes[key] for key in ("data", "folds")},
            "prompt": None,
            "base_model": None,
            "members": hash_json([[member.predictions for member in used], dev]),
        },
        balance=None,
        class_weights=None,
        notes=(*notes, *fitted),
        config=to_dict(settings),
        versions=package_versions(),
        git=git_commit(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=None,
        members=used,
    )


def _name(member: Member) -> str:
    return f"{member.recognizer} {member.method} {member.modalities}"


def _dev_hash(folder: Path) -> str | None:
    file = folder / DEV_PREDICTIONS_FILE
    return hash_file(file) if file.is_file() else None


def _log_probs(table: Predictions, ids: Sequence[str], labels: Sequence[str], rule: str) -> Floats:
    """Label log-probabilities of the utterances, (N, K); NaN for one that the table has not scored.

    Answers that were generated have none; in a vote, the label that they name counts.

    Raises:
        ConfigError: if there are generated answers, and the rule is no vote
    """
    frame = table.frame.set_index("utterance_id")
    scores = frame[[f"{prefix_of(table.kind)}{label}" for label in labels]].to_numpy(dtype=np.float64, copy=True)
    generated = (frame["status"] != "unscored").to_numpy() & np.isnan(scores).all(axis=1)
    if generated.any():
        if rule != "vote":
            raise ConfigError(
                f"key 'fusion.rule': {rule}, but {table.source} has generated answers without log-probabilities; only "
                "vote takes them"
            )
        named = frame["prediction"].to_numpy()[:, None] == np.array(labels)
        votes = np.where(named, 0.0, -np.inf)
        votes[(frame["prediction"] == UNPARSED).to_numpy()] = np.nan
        scores[generated] = votes[generated]
    aligned: Floats = pd.DataFrame(scores, index=frame.index).reindex(list(ids)).to_numpy(dtype=np.float64)
    return aligned
