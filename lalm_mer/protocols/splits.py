"""Folds made by a protocol's rule, and the proof that their sides are disjoint in what the protocol says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from sklearn.model_selection import GroupKFold

from lalm_mer.core.errors import ConfigError, SplitLeakError
from lalm_mer.core.provenance import hash_json
from lalm_mer.protocols.protocol import COLUMNS, FoldRule, Protocol

__all__ = ["SPLITS", "Folds", "make_folds"]

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Folds:
    """Folds of a corpus under a protocol, proven.

    Args:
        frame: ``utterance_id``, ``fold``, ``split``; an utterance left out of a fold has no row in it
        protocol: the protocol that made them
        digest: SHA-256 of fold, split and utterance id of every row, sorted
    """

    frame: pd.DataFrame
    protocol: Protocol
    digest: str

    def ids(self, fold: int, split: str) -> list[str]:
        """Utterance ids of one side of a fold, sorted.

        Raises:
            ConfigError: if there is no such fold
        """
        if fold not in set(self.frame["fold"]):
            known = sorted(set(self.frame["fold"]))
            raise ConfigError(f"key 'split.fold': no fold {fold} in protocol {self.protocol.name}; it has {known}")
        side = self.frame[(self.frame["fold"] == fold) & (self.frame["split"] == split)]
        return sorted(side["utterance_id"])


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
    _prove(frame, utterances, protocol)
    rows = [[int(fold), split, name] for fold, split, name in frame[["fold", "split", "utterance_id"]].to_numpy()]
    return Folds(frame, protocol, hash_json(rows))


def _deal(utterances: pd.DataFrame, rule: FoldRule, name: str) -> Iterator[tuple[int, pd.Series]]:
    """Yield each fold with the split of every utterance (null where it is in none)."""
    groups = utterances[rule.column]
    if groups.isna().any():
        missing = utterances.loc[groups.isna(), "utterance_id"]
        raise ConfigError(
            f"protocol {name}: {len(missing)} utterances have no {rule.column}, for example {missing.iloc[0]}; "
            "the rule needs it for all"
        )
    if rule.rule == "column":
        unknown = set(groups) ^ set(SPLITS)
        if unknown:
            raise ConfigError(
                f"protocol {name}: column {rule.column!r} must hold {SPLITS}, found {sorted(set(groups))}"
            )
        yield 1, groups
        return
    test_groups = _listed(groups, rule, name) if rule.rule == "listed" else _grouped(groups, rule, name)
    count = len(test_groups)
    for fold in range(1, count + 1):
        split = pd.Series("train", index=utterances.index)
        split[groups.isin(test_groups[fold % count + 1])] = "dev"
        split[groups.isin(test_groups[fold])] = "test"
        yield fold, split


def _listed(groups: pd.Series, rule: FoldRule, name: str) -> dict[int, list[str]]:
    listed = [group for fold in rule.test.values() for group in fold]
    if sorted(rule.test) != list(range(1, len(rule.test) + 1)) or len(rule.test) < 3:
        raise ConfigError(f"protocol {name}: folds must be numbered 1, 2, 3 ..., found {sorted(rule.test)}")
    if len(set(listed)) < len(listed) or set(listed) != set(groups):
        odd = sorted(set(listed) ^ set(groups))
        raise ConfigError(f"protocol {name}: the listed {rule.column}s are not those of the corpus, once each: {odd}")
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


def _prove(frame: pd.DataFrame, utterances: pd.DataFrame, protocol: Protocol) -> None:
    """Compare the sides of every fold in every column; nothing is taken on trust."""
    rows = frame.merge(utterances[["utterance_id", *COLUMNS]], on="utterance_id")
    for fold, of_fold in rows.groupby("fold"):
        absent = sorted(set(SPLITS) - set(of_fold["split"]))
        if absent:
            raise SplitLeakError(f"protocol {protocol.name}, fold {fold}: {absent} is empty; three sides are needed")
        for column in COLUMNS:
            # an unknown speaker may be any speaker; an utterance without transcript or script shares none
            if column in {"speaker", "session"} & set(protocol.disjoint_in) and of_fold[column].isna().any():
                example = of_fold.loc[of_fold[column].isna(), "utterance_id"].iloc[0]
                raise SplitLeakError(
                    f"protocol {protocol.name}: disjoint in {column} cannot be proven: {example} has none"
                )
            sides = of_fold.dropna(subset=[column]).groupby(column)["split"].nunique()
            shared = sorted(str(value) for value in sides.index[sides > 1])
            if shared and column not in protocol.shared_in:
                raise SplitLeakError(
                    f"protocol {protocol.name}, fold {fold}: {len(shared)} values of {column} stand on two sides, for "
                    f"example {shared[0]!r}; mend the folds, or declare it in 'shared_in'"
                )
