"""Whether the rows of several folds and seeds are what they claim: the same utterances, each tested once per seed."""

from __future__ import annotations

import pandas as pd

from lalm_mer.core.errors import PredictionError

__all__ = ["check_repetitions"]


def check_repetitions(frame: pd.DataFrame, source: str) -> None:
    """Refuse rows that would inflate the number of utterances or speakers.

    Args:
        frame: ``utterance_id``, ``speaker`` (null where unknown), ``fold``, ``seed``, ``truth``, of one condition
        source: name of the table in errors

    Raises:
        PredictionError: if a row is duplicated, an utterance is in two folds of a seed, has different truths or
            speakers, or seeds have different utterances
    """
    row = _first(frame, ["utterance_id", "fold", "seed"])
    if row is not None:
        place = f"fold {_named(row['fold'])}, seed {_named(row['seed'])}"
        raise PredictionError(
            f"{source}: utterance {row['utterance_id']!r} ({place}) is duplicated; keep one row, or distinguish "
            "repetitions by columns fold and seed"
        )
    row = _first(frame, ["utterance_id", "seed"])
    if row is not None:
        same = frame[(frame["utterance_id"] == row["utterance_id"]) & (frame["seed"] == row["seed"])]
        folds = " and ".join(map(_named, sorted(same["fold"].unique(), key=str)[:2]))
        raise PredictionError(
            f"{source}: utterance {row['utterance_id']!r} is in folds {folds} with seed {_named(row['seed'])}; a test "
            "utterance is in one fold of a seed, so give each prediction once"
        )
    for column in ("truth", "speaker"):
        values = frame.groupby("utterance_id", sort=False)[column].nunique(dropna=False)
        if (values > 1).any():
            utterance = values.index[int((values > 1).to_numpy().argmax())]
            found = frame.loc[frame["utterance_id"] == utterance, column].unique()[:2]
            raise PredictionError(
                f"{source}: utterance {utterance!r} has the {column}s {found[0]!r} and {found[1]!r}; expected the "
                "same one with every seed"
            )
    seeds = frame["seed"].nunique()
    times = frame["utterance_id"].value_counts(sort=False)
    if (times < seeds).any():
        utterance = times.index[int((times < seeds).to_numpy().argmax())]
        missing = sorted(set(frame["seed"]) - set(frame.loc[frame["utterance_id"] == utterance, "seed"]), key=str)
        raise PredictionError(
            f"{source}: seed {_named(missing[0])} has no row of utterance {utterance!r}, which another seed has "
            f"({int((times < seeds).sum())} such utterances); complete the folds of every seed"
        )


def _first(frame: pd.DataFrame, key: list[str]) -> pd.Series | None:
    """The first row whose key an earlier row has."""
    duplicated = frame.duplicated(key).to_numpy()
    return frame.iloc[int(duplicated.argmax())] if duplicated.any() else None


def _named(value: object) -> str:
    return str(value) or "not given"
