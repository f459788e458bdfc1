"""Predictions for new recordings by any recognizer; one that cannot be predicted is a row with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.names import uses_transcript
from lalm_mer.core.output import atomic_path
from lalm_mer.core.plain_text import plain_cells
from lalm_mer.core.schema import Input
from lalm_mer.evaluation.target_metrics import THRESHOLD
from lalm_mer.recognizers.base import kind_of, targets_of
from lalm_mer.recognizers.scoring import score_inputs
from lalm_mer.serving.recordings import Recording, Window, cut_windows, find_recordings, load_channels

__all__ = ["TABLE_SUFFIXES", "Prediction", "predict", "predictions_table", "write_predictions"]

TABLE_SUFFIXES = (".csv", ".json", ".parquet")


@dataclass(frozen=True)
class Prediction:
    """The prediction of a recording, or of a window of it.

    Args:
        path: path of the file
        start_s: start in the recording, in seconds; None if it was not decoded
        end_s: its end, in seconds
        channel: number of the channel from 1; None if the channels are mixed down
        reason: why there is no prediction; None if there is one
        probabilities: label -> probability, with sum 1 unless several labels may be present; None for numbers, and if
            there is a reason
        numbers: dimension -> number, of a recognizer that predicts numbers
        several: whether several labels may be present
    """

    path: str
    start_s: float | None
    end_s: float | None
    channel: int | None = None
    reason: str | None = None
    probabilities: Mapping[str, float] | None = None
    numbers: Mapping[str, float] | None = None
    several: bool = False

    @property
    def prediction(self) -> str | None:
        """The most probable label, or the labels that are present, joined by ``+``; None for numbers or a reason."""
        if self.several and self.probabilities:
            return "+".join(label for label, value in self.probabilities.items() if value >= THRESHOLD)
        return max(self.probabilities, key=self.probabilities.__getitem__) if self.probabilities else None


def predict(
    recognizer: Any,  # noqa: ANN401 a Recognizer and nn.Module
    sources: Iterable[str | Path | Recording],
    *,
    transcript: str | None = None,
    window: Window | None = None,
    channel: int | str | None = None,
    batch_size: int = 1,
) -> Iterator[Prediction]:
    """Predict recordings in order, opening each when it is needed.

    Args:
        recognizer: result of ``lalm_mer.open_recognizer``
        sources: audio files, folders of them, manifests, or ``Recording``
        transcript: transcript of the only recording
        window: windows to predict; None predicts complete recordings
        channel: number of a channel from 1, ``each``, or None to mix the channels down
        batch_size: recordings or windows per batch

    Raises:
        ConfigError: if a source does not exist, or windows are requested from a recognizer that uses transcripts
    """
    if window is not None and uses_transcript(recognizer.modalities):
        raise ConfigError(
            "windows of a recording have no transcripts, which this recognizer uses; predict complete recordings, or "
            "use a recognizer of audio only"
        )
    waiting: list[tuple[Prediction, Input | None]] = []
    for item in _inputs(recognizer, find_recordings(sources, transcript), window, channel):
        waiting.append(item)
        if sum(given is not None for _, given in waiting) == batch_size:
            yield from _scored(recognizer, waiting, batch_size)
            waiting = []
    yield from _scored(recognizer, waiting, batch_size)


def _inputs(
    recognizer: Any,  # noqa: ANN401
    recordings: Iterable[Recording],
    window: Window | None,
    channel: int | str | None,
) -> Iterator[tuple[Prediction, Input | None]]:
    """Rows without probabilities, each with its input, or None and the reason in the row."""
    needs_audio, needs_transcript = recognizer.sampling_rate is not None, uses_transcript(recognizer.modalities)
    for recording in recordings:
        name = str(recording.path)
        if needs_transcript and not recording.transcript:
            yield Prediction(name, None, None, reason="no transcript, which this recognizer uses"), None
            continue
        if not needs_audio:
            yield Prediction(name, None, None), Input(name, recording.transcript, None, recording.speaker)
            continue
        try:
            channels = load_channels(recording, channel)
        except AudioError as error:
            yield Prediction(name, None, None, reason=str(error).removeprefix(f"{name}: ")), None
            continue
        offset = recording.start_s or 0.0
        for number, waveform in channels:
            for start_s, end_s, part in cut_windows(waveform, window):
                row = Prediction(name, offset + start_s, offset + end_s, number)
                reason = recognizer.refuses(part.duration_s)
                if reason is not None:
                    yield replace(row, reason=reason), None
                else:
                    resampled = part.resampled(recognizer.sampling_rate)
                    yield row, Input(name, recording.transcript, resampled, recording.speaker)


def _scored(
    recognizer: Any,  # noqa: ANN401
    rows: Sequence[tuple[Prediction, Input | None]],
    batch_size: int,
) -> Iterator[Prediction]:
    inputs = [given for _, given in rows if given is not None]
    scores = score_inputs(recognizer, inputs, batch_size=batch_size)
    kind, targets = kind_of(recognizer), targets_of(recognizer)
    for row, given in rows:
        if given is None:
            yield row
            continue
        found = next(scores)
        values = dict(zip(targets, map(float, np.exp(found) if kind == "single" else found), strict=True))
        if kind == "scalar":
            yield replace(row, numbers=values)
        else:
            yield replace(row, probabilities=values, several=kind == "multi")


def predictions_table(
    predictions: Iterable[Prediction], targets: Sequence[str], *, numbers: bool = False
) -> pd.DataFrame:
    """One row per prediction: ``path``, ``start_s``, ``end_s``, ``channel``, ``status`` (scored, unscored), ``reason``,
    ``prediction`` and ``prob_<label>``, or ``score_<target>`` of ``numbers``; a missing value is null.
    """
    prefix = "score_" if numbers else "prob_"
    rows = [
        {
            "path": each.path,
            "start_s": each.start_s,
            "end_s": each.end_s,
            "channel": each.channel,
            "status": "unscored" if each.reason else "scored",
            "reason": each.reason,
            "prediction": each.prediction,
            **{prefix + target: (each.probabilities or each.numbers or {}).get(target) for target in targets},
        }
        for each in predictions
    ]
    return pd.DataFrame(rows).astype({"channel": "Int64"})


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a table as ``.csv``, ``.json`` (a list of rows) or ``.parquet``, atomically.

    A text of the CSV that a spreadsheet would take for a formula begins with an apostrophe.

    Raises:
        ConfigError: if the name has another suffix
    """
    with atomic_path(path) as partial:
        if path.suffix == ".csv":
            plain_cells(table).to_csv(partial, index=False)
        elif path.suffix == ".json":
            table.to_json(partial, orient="records", indent=2, force_ascii=False, double_precision=15)
        elif path.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            raise ConfigError(f"{path}: expected a name that ends in {', '.join(TABLE_SUFFIXES)}")
