"""Folds made by a protocol's rule, and the proof that their sides are disjoint in what the protocol says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pandas as pd
from sklearn.model_selection import GroupKFold

from lalm_mer.core.errors import ConfigError, SplitLeakError
from lalm_mer.core.notes import Note, NoteCode, Split, sentence
from lalm_mer.core.provenance import hash_bytes, hash_json
from lalm_mer.protocols.protocol import COLUMNS, FoldRule, Protocol

__all__ = ["SPLITS", "Folds", "hash_ids", "make_folds"]

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class Folds:
    """Folds of a corpus under a protocol, proven.

    Args:
        frame: ``utterance_id``, ``fold``, ``split``; an utterance left out of a fold has no row in it
        protocol: the protocol that made them
        digest: SHA-256 of fold, split and utterance id of every row, sorted
        shared: column -> largest number of its values that stand on two sides of a fold
        unknown: column of ``disjoint_in`` -> utterances that have none, so that nothing can be said of them
        left_out: fold -> utterances of the task that are on none of its sides
    """

    frame: pd.DataFrame
    protocol: Protocol
    digest: str
    shared: dict[str, int]
    unknown: dict[str, int]
    left_out: dict[int, int]

    def ids(self, fold: int, split: str) -> list[str]:
        """Utterance ids of one side of a fold, sorted.

        Raises:
            ConfigError: if there is no such fold
        """
        if fold not in set(self.frame["fold"]):
            known = sorted(set(self.frame["fold"]))
            raise ConfigError(f"argument 'fold': no fold {fold} in protocol {self.protocol.name}; it has {known}")
        side = self.frame[(self.frame["fold"] == fold) & (self.frame["split"] == split)]
        return sorted(side["utterance_id"])

    def pooled(self) -> int:
        """Utterances that some fold tests."""
        return int(self.frame.loc[self.frame["split"] == "test", "utterance_id"].nunique())

    def departures(self) -> list[Note]:
        """Where the corpus at hand is not the one that the protocol knows, for each split of each fold."""
        notes = []
        for fold, sides in sorted(self.protocol.known.items()):
            for split, known in sides.items():
                found, side = self.ids(fold, split), cast(Split, split)
                if len(found) != known.n:
                    facts = {"fold": fold, "expected": known.n}
                    notes.append(Note(NoteCode.FOLD_SIZE, side, len(found), facts=facts))
                elif known.sha256 not in (None, hash_ids(found)):
                    notes.append(Note(NoteCode.FOLD_UTTERANCES, side, len(found), facts={"fold": fold}))
        return notes

    def describe(self) -> list[str]:
        """What a reader of the figures has to know of the split, a line each."""
        protocol = self.protocol
        claims = [
            f"{column} ({self.unknown[column]} utterances unknown)" if self.unknown.get(column) else column
            for column in protocol.disjoint_in
        ]
        shared = [f"{column} ({n} values)" for column, n in self.shared.items()]
        n_folds = self.frame["fold"].nunique()
        lines = [
            f"protocol {protocol.name}, version {protocol.version}: {n_folds} fold{'s' * (n_folds > 1)}, "
            f"{self.pooled()} utterances tested",
            f"train, dev and test are disjoint in: {', '.join(claims) or 'nothing'}; "
            f"they share: {', '.join(shared) or 'nothing'}",
        ]
        left_out = [f"{n} of fold {fold}" for fold, n in self.left_out.items() if n]
        if left_out:
            lines.append(f"utterances of the task on no side: {', '.join(left_out)}")
        if "speaker" in protocol.shared_in:
            lines.append("speaker-dependent: its figures do not compare with speaker-independent ones")
        departures = self.departures()
        if departures:
            more = f" {len(departures) - 1} more splits differ." if len(departures) > 1 else ""
            lines.append(
                f"not the utterances of {protocol.release or 'the release that the protocol knows'}, so figures do not "
                f"compare with published ones: {sentence(departures[0])}{more}"
            )
        return lines


def hash_ids(ids: list[str]) -> str:
    """SHA-256 of utterance ids, sorted, one a line.

    Example:
        >>> hash_ids(["b", "a"]) == hash_ids(["a", "b"])
        True
    """
    return hash_bytes("".join(f"{name}\n" for name in sorted(ids)).encode())


def make_folds(utterances: pd.DataFrame, protocol: Protocol) -> Folds:
    """Deal utterances to folds and prove what the protocol claims.

    Args:
        utterances: ``utterance_id`` and the columns of ``COLUMNS``; only utterances whose label the task maps
        protocol: the rule and its claims

    Raises:
        ConfigError: if the rule's column is empty or names groups the corpus does not have
        SplitLeakError: naming fold, column and an example, if two sides share what they may not
    """
    frames = [
        pd.DataFrame({"utterance_id": utterances["utterance_id"], "fold": fold, "split": split}).dropna()
        for fold, split in _deal(utterances, protocol.folds, protocol.name)
    ]
    frame = pd.concat(frames).sort_values(["fold", "split", "utterance_id"]).reset_index(drop=True)
    shared, unknown = _prove(frame, utterances, protocol)
    rows = [[int(fold), split, name] for fold, split, name in frame[["fold", "split", "utterance_id"]].to_numpy()]
    left_out = {int(str(fold)): len(utterances) - len(of_fold) for fold, of_fold in frame.groupby("fold")}
    return Folds(frame, protocol, hash_json(rows), shared, unknown, left_out)


def _deal(utterances: pd.DataFrame, rule: FoldRule, name: str) -> Iterator[tuple[int, pd.Series]]:
    """Yield each fold with the split of every utterance (null where it is in none)."""
    if rule.rule == "crossed":
        yield from _crossed(utterances, rule, name)
        return
    groups = utterances[rule.column]
    if rule.rule == "file":
        yield from _by_file(groups, rule, name)
        return
    if groups.isna().any():
        missing = utterances.loc[groups.isna(), "utterance_id"]
        raise ConfigError(
            f"protocol {name}: {len(missing)} utterances have no {rule.column}, for example {missing.iloc[0]}; "
            "the rule needs it for all"
        )
    if rule.rule == "column":
        yield 1, _by_column(groups, rule, name)
        return
    test_groups = _listed(groups, rule, name) if rule.rule == "listed" else _grouped(groups, rule, name)
    count = len(test_groups)
    for fold in range(1, count + 1):
        split = pd.Series("train", index=utterances.index)
        split[groups.isin(rule.dev[fold] if rule.dev else test_groups[fold % count + 1])] = "dev"
        split[groups.isin(test_groups[fold])] = "test"
        yield fold, split


def _by_column(groups: pd.Series, rule: FoldRule, name: str) -> pd.Series:
    mapping = rule.map or {split: split for split in SPLITS}
    absent = sorted(set(mapping) - set(groups))
    if absent or set(mapping.values()) != set(SPLITS) or (not rule.map and set(groups) != set(SPLITS)):
        raise ConfigError(
            f"protocol {name}: column {rule.column!r} must hold {sorted(mapping)} for {SPLITS}, found "
            f"{sorted(set(groups))}"
        )
    return groups.map(mapping)


def _by_file(groups: pd.Series, rule: FoldRule, name: str) -> Iterator[tuple[int, pd.Series]]:
    listed = pd.read_csv(rule.file, dtype=str, keep_default_na=False)
    if not {rule.column, "split"} <= set(listed.columns) or set(listed["split"]) != set(SPLITS):
        raise ConfigError(f"protocol {name}: {rule.file} needs columns {rule.column}, split, and all of {SPLITS}")
    if "fold" not in listed:
        listed["fold"] = "1"
    for fold, of_fold in listed.groupby(listed["fold"].astype(int)):
        doubled = of_fold.loc[of_fold[rule.column].duplicated(), rule.column]
        if len(doubled):
            raise ConfigError(f"protocol {name}: {rule.file} lists {doubled.iloc[0]} twice in fold {fold}")
        yield int(str(fold)), groups.map(dict(zip(of_fold[rule.column], of_fold["split"], strict=True)))


def _crossed(utterances: pd.DataFrame, rule: FoldRule, name: str) -> Iterator[tuple[int, pd.Series]]:
    """Hold out a session and a script together.

    Test is what its session says without a script and under its script; dev likewise of the next fold. Train is what
    is left without these two sessions and these two scripts; other scripts of a session held out are on no side.
    """
    known = {"session": set(utterances["session"].dropna()), "script": set(utterances["script"].dropna())}
    if sorted(rule.test) != list(range(1, len(rule.test) + 1)) or len(rule.test) < 3:
        raise ConfigError(f"protocol {name}: folds must be numbered 1, 2, 3 ..., found {sorted(rule.test)}")
    for pair in rule.test.values():
        if len(pair) != 2 or pair[0] not in known["session"] or pair[1] not in known["script"]:
            raise ConfigError(
                f"protocol {name}: {pair} is not a session and a script of the corpus, which has "
                f"{sorted(known['session'])} and {sorted(known['script'])}"
            )
    count = len(rule.test)
    for fold in range(1, count + 1):
        held_out = {"test": rule.test[fold], "dev": rule.test[fold % count + 1]}
        sessions, scripts = zip(*held_out.values(), strict=True)
        if len(set(sessions)) < 2 or len(set(scripts)) < 2:
            raise ConfigError(f"protocol {name}: fold {fold} and the next hold out the same: {held_out}")
        split = pd.Series(None, index=utterances.index, dtype=object)
        split[~utterances["session"].isin(sessions) & ~utterances["script"].isin(scripts)] = "train"
        for side, (session, script) in held_out.items():
            said = utterances["script"].isna() | (utterances["script"] == script)
            split[(utterances["session"] == session) & said] = side
        yield fold, split


def _listed(groups: pd.Series, rule: FoldRule, name: str) -> dict[int, list[str]]:
    listed = [group for fold in rule.test.values() for group in fold]
    if sorted(rule.test) != list(range(1, len(rule.test) + 1)) or (len(rule.test) < 3 and not rule.dev):
        raise ConfigError(f"protocol {name}: folds must be numbered 1, 2, 3 ..., found {sorted(rule.test)}")
    if len(set(listed)) < len(listed) or set(listed) != set(groups):
        odd = sorted(set(listed) ^ set(groups))
        shown = ", ".join(odd[:5]) + (" ..." if len(odd) > 5 else "")
        raise ConfigError(
            f"protocol {name}: the listed {rule.column}s are not those of the corpus, once each: {len(odd)} differ "
            f"({shown})"
        )
    if rule.dev and (
        set(rule.dev) != set(rule.test) or any(set(rule.dev[fold]) & set(rule.test[fold]) for fold in rule.dev)
    ):
        raise ConfigError(f"protocol {name}: dev must list, for each fold, {rule.column}s that it does not test")
    return rule.test


def _grouped(groups: pd.Series, rule: FoldRule, name: str) -> dict[int, list[str]]:
    if groups.nunique() < rule.k or rule.k < 3:
        raise ConfigError(
            f"protocol {name}: {groups.nunique()} {rule.column}s for {rule.k} folds; needs 3 <= k <= {rule.column}s"
        )
    dealer = GroupKFold(n_splits=rule.k, shuffle=True, random_state=rule.seed)
    ordered = groups.sort_values()
    return {
        fold: sorted(set(ordered.iloc[test]))
        for fold, (_, test) in enumerate(dealer.split(ordered, groups=ordered), start=1)
    }


def _prove(frame: pd.DataFrame, utterances: pd.DataFrame, protocol: Protocol) -> tuple[dict[str, int], dict[str, int]]:
    """Compare the sides of every fold in every column; nothing is taken on trust.

    Returns:
        what is shared, as declared, and what is not known: both as ``Folds`` has them
    """
    rows = frame.merge(utterances[["utterance_id", *COLUMNS]], on="utterance_id")
    most_shared: Counter[str] = Counter()
    unknown: dict[str, int] = {}
    for column in sorted({"speaker", "session"} & set(protocol.disjoint_in)):
        # an unknown speaker may be any speaker; an utterance without transcript or script shares none
        lacking = rows.loc[rows[column].isna(), "utterance_id"]
        unknown[column] = int(lacking.nunique())
        if len(lacking) and column not in protocol.unknown_in:
            raise SplitLeakError(
                f"protocol {protocol.name}: disjoint in {column} cannot be proven: {lacking.iloc[0]} has none; "
                "declare it in 'unknown_in', or choose a protocol that does not claim it"
            )
    for fold, of_fold in rows.groupby("fold"):
        absent = sorted(set(SPLITS) - set(of_fold["split"]))
        if absent:
            raise SplitLeakError(f"protocol {protocol.name}, fold {fold}: {absent} is empty; three sides are needed")
        for column in COLUMNS:
            sides = of_fold.dropna(subset=[column]).groupby(column)["split"].nunique()
            shared = sorted(str(value) for value in sides.index[sides > 1])
            most_shared[column] = max(most_shared[column], len(shared))
            if shared and column not in protocol.shared_in:
                raise SplitLeakError(
                    f"protocol {protocol.name}, fold {fold}: {len(shared)} values of {column} stand on two sides, for "
                    f"example {shared[0]!r}; mend the folds, or declare it in 'shared_in'"
                )
    return {column: n for column, n in most_shared.items() if n}, unknown
