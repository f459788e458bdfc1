"""Folds made by the rule of a protocol, and the verification that their splits are disjoint as it claims."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pandas as pd

from lalm_mer.core.errors import ConfigError, SplitLeakError
from lalm_mer.core.notes import Note, NoteCode, Split, sentence
from lalm_mer.core.provenance import hash_bytes, hash_json
from lalm_mer.core.spelling import folded, normalised
from lalm_mer.protocols.protocol import COLUMNS, SPLITS, FoldRule, Protocol

__all__ = ["SPLITS", "Folds", "folded_columns", "hash_ids", "make_folds"]

_TEST_ALONE = ("test",)


@dataclass(frozen=True)
class Folds:
    """Folds of a corpus, whose claims have been verified.

    Args:
        frame: ``utterance_id``, ``fold``, ``split``; an utterance left out of a fold has no row in it
        digest: SHA-256 of fold, split and utterance id of all rows, sorted
        shared: column -> largest number of its values that occur in two splits of a fold
        unknown: column of ``disjoint_in`` -> number of utterances without a value, for which it cannot be verified
        left_out: fold -> number of utterances of the task that are in none of its splits
        extra_train: fold -> sorted ids of utterances without a label of the task that training by votes may use; they
            are in no other split, and ``frame`` and ``digest`` do not contain them
    """

    frame: pd.DataFrame
    protocol: Protocol
    digest: str
    shared: dict[str, int]
    unknown: dict[str, int]
    left_out: dict[int, int]
    extra_train: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def ids(self, fold: int, split: str) -> list[str]:
        """Utterance ids of one split of a fold, sorted.

        Raises:
            ConfigError: if there is no such fold
        """
        known = sorted(set(self.frame["fold"]))
        if fold not in known:
            raise ConfigError(f"argument 'fold': no fold {fold} in protocol {self.protocol.name}; it has {known}")
        rows = self.frame[(self.frame["fold"] == fold) & (self.frame["split"] == split)]
        return sorted(rows["utterance_id"])

    @property
    def has_training(self) -> bool:
        """Whether the folds have train and dev, and not test alone."""
        return set(self.frame["split"]) != set(_TEST_ALONE)

    def n_tested(self) -> int:
        """Number of utterances that are in the test split of some fold."""
        return int(self.frame.loc[self.frame["split"] == "test", "utterance_id"].nunique())

    def departures(self) -> list[Note]:
        """Notes on the splits that differ from those known to the protocol."""
        notes = []
        for fold, known_splits in sorted(self.protocol.known.items()):
            for name, known in known_splits.items():
                found, split = self.ids(fold, name), cast(Split, name)
                if len(found) != known.n:
                    facts = {"fold": fold, "expected": known.n}
                    notes.append(Note(NoteCode.FOLD_SIZE, split, len(found), facts=facts))
                elif known.sha256 not in (None, hash_ids(found)):
                    notes.append(Note(NoteCode.FOLD_UTTERANCES, split, len(found), facts={"fold": fold}))
        return notes

    def describe(self) -> list[str]:
        """What a reader of the results has to know about the folds, as lines."""
        protocol = self.protocol
        claims = [
            f"{column} ({self.unknown[column]} utterances unknown)" if self.unknown.get(column) else column
            for column in protocol.disjoint_in
        ]
        shared = [f"{column} ({n} values)" for column, n in self.shared.items()]
        n_folds = self.frame["fold"].nunique()
        lines = [
            f"protocol {protocol.name}, version {protocol.version}: {n_folds} fold{'s' * (n_folds > 1)}, "
            f"{self.n_tested()} utterances tested",
            f"train, dev and test are disjoint in: {', '.join(claims) or 'nothing'}; "
            f"they share: {', '.join(shared) or 'nothing'}"
            if self.has_training
            else "test alone, without train and dev: nothing can be trained or chosen on this corpus",
        ]
        left_out = [f"{n} of fold {fold}" for fold, n in self.left_out.items() if n]
        if left_out:
            lines.append(f"utterances of the task in no split: {', '.join(left_out)}")
        if "speaker" in protocol.shared_in:
            lines.append("speaker-dependent: results are not comparable with speaker-independent ones")
        departures = self.departures()
        if departures:
            more = f" {len(departures) - 1} more splits differ." if len(departures) > 1 else ""
            lines.append(
                f"not the utterances of {protocol.release or 'the release known to the protocol'}, so results are not "
                f"comparable with published ones: {sentence(departures[0])}{more}"
            )
        return lines


def hash_ids(ids: list[str]) -> str:
    """SHA-256 of utterance ids, sorted, one per line.

    Example:
        >>> hash_ids(["b", "a"]) == hash_ids(["a", "b"])
        True
    """
    return hash_bytes("".join(f"{name}\n" for name in sorted(ids)).encode())


def make_folds(utterances: pd.DataFrame, protocol: Protocol, voted: pd.DataFrame | None = None) -> Folds:
    """Assign utterances to folds and verify the claims of the protocol.

    ``utterances`` has ``utterance_id`` and ``COLUMNS`` of the utterances with a label of the task, and, for the rule
    ``grouped``, ``truth``, that label. ``voted`` has the same of utterances without a label that have votes: one is
    added to train where utterances with the same values of the rule's columns are in train, and claims are verified
    with it.

    Raises:
        ConfigError: if the column of the rule is empty, or the rule names groups that the corpus does not have
        SplitLeakError: naming fold, column and an example, if two splits share a value that must be disjoint
    """
    compared = folded_columns(utterances)
    extra = None if voted is None else folded_columns(voted)
    frames, extra_train = [], {}
    for fold, split in _assign(utterances, compared, protocol.folds, protocol.name):
        frames.append(pd.DataFrame({"utterance_id": utterances["utterance_id"], "fold": fold, "split": split}).dropna())
        if voted is not None and extra is not None:
            of_rule = (compared, extra) if protocol.folds.rule == "grouped" else (utterances, voted)
            in_train = _like_train(*of_rule, split, protocol.folds)
            extra_train[fold] = tuple(sorted(voted.loc[in_train, "utterance_id"]))
    frame = pd.concat(frames).sort_values(["fold", "split", "utterance_id"]).reset_index(drop=True)
    shared, unknown = _verify(_with_extra(frame, extra_train), pd.concat([compared, extra]), protocol)
    rows = [[int(fold), split, name] for fold, split, name in frame[["fold", "split", "utterance_id"]].to_numpy()]
    left_out = {int(str(fold)): len(utterances) - len(of_fold) for fold, of_fold in frame.groupby("fold")}
    return Folds(frame, protocol, hash_json(rows), shared, unknown, left_out, extra_train)


def _like_train(utterances: pd.DataFrame, voted: pd.DataFrame, split: pd.Series, rule: FoldRule) -> pd.Series:
    """Whether each voted utterance has the rule's values of utterances that are all in train."""
    if rule.rule == "test":
        return pd.Series(False, index=voted.index)
    if rule.rule == "file":  # which may list utterances
        listed = pd.read_csv(rule.file, dtype=str, keep_default_na=False)
        split_of = dict(zip(listed[rule.column].map(normalised), listed["split"], strict=True))
        if "fold" not in listed:
            return voted[rule.column].map(split_of) == "train"
    splits: dict[tuple[object, ...], set[object]] = {}
    for key, of_key in zip(_keys(utterances, rule), split, strict=True):
        splits.setdefault(key, set()).add(of_key)
    return pd.Series([splits.get(key) == {"train"} for key in _keys(voted, rule)], index=voted.index, dtype=bool)


def _keys(table: pd.DataFrame, rule: FoldRule) -> list[tuple[object, ...]]:
    columns = [table[name].astype(object).where(table[name].notna(), None) for name in rule.needs]
    return list(zip(*columns, strict=True))


def _with_extra(frame: pd.DataFrame, extra_train: Mapping[int, tuple[str, ...]]) -> pd.DataFrame:
    rows = [(name, fold, "train") for fold, names in extra_train.items() for name in names]
    return pd.concat([frame, pd.DataFrame(rows, columns=frame.columns)]) if rows else frame


def folded_columns(utterances: pd.DataFrame) -> pd.DataFrame:
    """The table with ``COLUMNS`` in the form in which they are compared: ``folded``, and null if nothing remains."""
    compared = utterances.copy()
    for column in COLUMNS:
        if column != "audio":  # a hash
            forms = {value: folded(str(value)) or None for value in utterances[column].dropna().unique()}
            compared[column] = utterances[column].astype(object).map(forms)
    return compared


def _assign(
    utterances: pd.DataFrame, compared: pd.DataFrame, rule: FoldRule, name: str
) -> Iterator[tuple[int, pd.Series]]:
    """Yield each fold with the split of every utterance (null if it is in none)."""
    if rule.rule == "test":
        yield 1, pd.Series("test", index=utterances.index)
        return
    if rule.rule == "crossed":
        yield from _crossed(utterances, rule, name)
        return
    groups = (compared if rule.rule == "grouped" else utterances)[rule.column]
    if rule.rule == "file":
        yield from _by_file(groups, rule, name)
        return
    if groups.isna().any():
        missing = utterances.loc[groups.isna(), "utterance_id"]
        raise ConfigError(
            f"protocol {name}: {len(missing)} utterances have no {rule.column}, for example {missing.iloc[0]}; "
            "the rule needs a value for all"
        )
    if rule.rule == "column":
        yield 1, _by_column(groups, rule, name)
        return
    if rule.rule == "listed":
        test_groups = _listed(groups, rule, name)
    else:
        test_groups = _grouped(groups, utterances["truth"], rule, name)
    count = len(test_groups)
    for fold in range(1, count + 1):
        split = pd.Series("train", index=utterances.index)
        split[groups.isin(rule.dev[fold] if rule.dev else test_groups[fold % count + 1])] = "dev"
        split[groups.isin(test_groups[fold])] = "test"
        yield fold, split


def _by_column(groups: pd.Series, rule: FoldRule, name: str) -> pd.Series:
    expected = _TEST_ALONE if set(groups) == set(_TEST_ALONE) else SPLITS
    mapping = rule.map or {split: split for split in expected}
    absent = sorted(set(mapping) - set(groups))
    is_complete = set(mapping.values()) in (set(SPLITS), set(_TEST_ALONE))
    if absent or not is_complete or (not rule.map and set(groups) != set(expected)):
        raise ConfigError(
            f"protocol {name}: column {rule.column!r} must have values {sorted(mapping)} for {SPLITS}, or for test "
            f"alone, found {sorted(set(groups))}"
        )
    return groups.map(mapping)


def _by_file(groups: pd.Series, rule: FoldRule, name: str) -> Iterator[tuple[int, pd.Series]]:
    listed = pd.read_csv(rule.file, dtype=str, keep_default_na=False)
    is_complete = "split" in listed and set(listed["split"]) in (set(SPLITS), set(_TEST_ALONE))
    if rule.column not in listed or not is_complete:
        raise ConfigError(
            f"protocol {name}: {rule.file} needs columns {rule.column}, split, and all of {SPLITS}, or test alone"
        )
    listed[rule.column] = listed[rule.column].map(normalised)
    if "fold" not in listed:
        listed["fold"] = "1"
    for fold, of_fold in listed.groupby(listed["fold"].astype(int)):
        duplicates = of_fold.loc[of_fold[rule.column].duplicated(), rule.column]
        if len(duplicates):
            raise ConfigError(f"protocol {name}: {rule.file} lists {duplicates.iloc[0]} twice in fold {fold}")
        yield int(str(fold)), groups.map(dict(zip(of_fold[rule.column], of_fold["split"], strict=True)))


def _crossed(utterances: pd.DataFrame, rule: FoldRule, name: str) -> Iterator[tuple[int, pd.Series]]:
    """Hold out a session and a script together.

    Test consists of the utterances of its session that have no script or its script; dev is the test split of the next
    fold. Train has neither of the two sessions and scripts; utterances of a held-out session with another script are in
    no split.
    """
    known_sessions, known_scripts = (sorted(set(utterances[name].dropna())) for name in ("session", "script"))
    if sorted(rule.test) != list(range(1, len(rule.test) + 1)) or len(rule.test) < 3:
        raise ConfigError(f"protocol {name}: folds must be numbered 1, 2, 3 ..., found {sorted(rule.test)}")
    for pair in rule.test.values():
        if len(pair) != 2 or pair[0] not in known_sessions or pair[1] not in known_scripts:
            raise ConfigError(
                f"protocol {name}: {pair} is not a session and a script of the corpus, which has {known_sessions} and "
                f"{known_scripts}"
            )
    count = len(rule.test)
    for fold in range(1, count + 1):
        held_out = {"test": rule.test[fold], "dev": rule.test[fold % count + 1]}
        sessions, scripts = zip(*held_out.values(), strict=True)
        if len(set(sessions)) < 2 or len(set(scripts)) < 2:
            raise ConfigError(f"protocol {name}: fold {fold} and the next share a session or script: {held_out}")
        split = pd.Series(None, index=utterances.index, dtype=object)
        split[~utterances["session"].isin(sessions) & ~utterances["script"].isin(scripts)] = "train"
        for held_out_split, (session, script) in held_out.items():
            has_script = utterances["script"].isna() | (utterances["script"] == script)
            split[(utterances["session"] == session) & has_script] = held_out_split
        yield fold, split


def _listed(groups: pd.Series, rule: FoldRule, name: str) -> dict[int, list[str]]:
    listed = [group for fold in rule.test.values() for group in fold]
    if sorted(rule.test) != list(range(1, len(rule.test) + 1)) or (len(rule.test) < 3 and not rule.dev):
        raise ConfigError(f"protocol {name}: folds must be numbered 1, 2, 3 ..., found {sorted(rule.test)}")
    if len(set(listed)) < len(listed) or set(listed) != set(groups):
        different = sorted(set(listed) ^ set(groups))
        shown = ", ".join(different[:5]) + (" ..." if len(different) > 5 else "")
        raise ConfigError(
            f"protocol {name}: expected each {rule.column} of the corpus to be listed once: {len(different)} differ "
            f"({shown})"
        )
    if rule.dev and (
        set(rule.dev) != set(rule.test) or any(set(rule.dev[fold]) & set(rule.test[fold]) for fold in rule.dev)
    ):
        raise ConfigError(f"protocol {name}: dev must list, for each fold, {rule.column}s that it does not test")
    return rule.test


def _grouped(groups: pd.Series, truths: pd.Series, rule: FoldRule, name: str) -> dict[int, list[str]]:
    """Distribute the groups so that each fold has about the same share of every class."""
    if groups.nunique() < rule.k or rule.k < 3:
        raise ConfigError(
            f"protocol {name}: {groups.nunique()} {rule.column}s for {rule.k} folds; needs 3 <= k <= {rule.column}s"
        )
    if truths.value_counts().max() < rule.k:
        raise ConfigError(f"protocol {name}: every class has fewer utterances than {rule.k} folds; choose fewer folds")
    from sklearn.model_selection import StratifiedGroupKFold  # here, because most protocols list their folds

    # The seed orders the groups here, since the shuffling of StratifiedGroupKFold differs between its versions.
    order = np.random.RandomState(rule.seed).permutation(sorted(set(groups)))
    places = groups.map({group: place for place, group in enumerate(order)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer than k utterances: describe_classes has it
        folds = list(StratifiedGroupKFold(n_splits=rule.k).split(groups, truths, places))
    return {fold: sorted(set(groups.iloc[test])) for fold, (_, test) in enumerate(folds, start=1)}


def _verify(frame: pd.DataFrame, utterances: pd.DataFrame, protocol: Protocol) -> tuple[dict[str, int], dict[str, int]]:
    """Compare the splits of all folds in all ``folded_columns``; returns ``Folds.shared`` and ``Folds.unknown``."""
    rows = frame.merge(utterances[["utterance_id", *COLUMNS]], on="utterance_id")
    most_shared: Counter[str] = Counter()
    unknown: dict[str, int] = {}
    for column in sorted({"speaker", "session"} & set(protocol.disjoint_in)):
        # an unknown speaker may be any speaker; a missing transcript or script is not shared
        lacking = rows.loc[rows[column].isna(), "utterance_id"]
        unknown[column] = int(lacking.nunique())
        if len(lacking) and column not in protocol.unknown_in:
            raise SplitLeakError(
                f"protocol {protocol.name}: disjoint in {column} cannot be proven: {lacking.iloc[0]} has none; "
                "declare it in 'unknown_in', or choose a protocol that does not claim it"
            )
    for fold, of_fold in rows.groupby("fold"):
        absent = sorted(set(SPLITS) - set(of_fold["split"])) if set(frame["split"]) != set(_TEST_ALONE) else []
        if absent:
            raise SplitLeakError(f"protocol {protocol.name}, fold {fold}: {absent} is empty; expected all of {SPLITS}")
        for column in COLUMNS:
            n_splits = of_fold.dropna(subset=[column]).groupby(column)["split"].nunique()
            shared = sorted(str(value) for value in n_splits.index[n_splits > 1])
            most_shared[column] = max(most_shared[column], len(shared))
            if shared and column not in protocol.shared_in:
                found = of_fold[of_fold[column] == shared[0]].drop_duplicates("split").iloc[:2]
                where = " and ".join(f"{row.utterance_id} of {row.split}" for row in found.itertuples())
                raise SplitLeakError(
                    f"protocol {protocol.name}, fold {fold}: {len(shared)} values of {column} are in two splits, for "
                    f"example {shared[0]!r}, of {where}; correct the folds, or declare it in 'shared_in'"
                )
    return {column: n for column, n in most_shared.items() if n}, unknown
