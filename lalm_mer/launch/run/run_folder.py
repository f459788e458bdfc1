"""The run folder: what was run is written first, what came out last, and the same command again goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lalm_mer.core.config import to_dict
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.provenance import write_json
from lalm_mer.core.run_record import RUN_FILE, RunRecord, read_record
from lalm_mer.core.settings import changeable_keys
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.scores import score
from lalm_mer.launch.build.data import RunData, with_unscored
from lalm_mer.recognizers.base import Scores

__all__ = ["RunFolder", "is_finished", "open_run"]


@dataclass
class RunFolder:
    """A run on disk.

    Args:
        path: the folder
        record: content of run.json
        finished: whether an earlier process ended it
        writes: whether this process writes (the first of all)
    """

    path: Path
    record: RunRecord
    finished: bool
    writes: bool
    started: float = field(default_factory=time.monotonic)

    @property
    def checkpoints(self) -> Path:
        """Where training keeps its checkpoints."""
        return self.path / "checkpoints"

    @property
    def history(self) -> Path:
        """Train and dev, step by step."""
        return self.path / "history.jsonl"

    def finish(self, data: RunData, scores: Scores) -> None:
        """Write predictions, metrics and the time it took; metrics.json comes last and marks the run finished.

        Args:
            data: whose test utterances were scored
            scores: of the N that the recognizer takes
        """
        if self.writes:
            log_probs = with_unscored(data, scores).values
            self._end(Predictions.from_scores(**self._rows(data), log_probs=log_probs))

    def finish_answers(self, data: RunData, answers: Sequence[str | None], parsed: Sequence[str]) -> None:
        """The same for answers in words.

        Args:
            data: whose test utterances were asked about
            answers: N free texts, None for each unscored utterance
            parsed: N labels or ``UNPARSED``
        """
        if self.writes:
            self._end(Predictions.from_answers(**self._rows(data), answers=answers, parsed=parsed))

    def _rows(self, data: RunData) -> dict[str, Any]:
        """What a table of predictions says besides the predictions."""
        table = data.test.utterances()
        return {
            "utterance_ids": list(table["utterance_id"]),
            "speakers": list(table["speaker"]),
            "corpus": self.record.corpus,
            "fold": self.record.fold,
            "seed": self.record.seed,
            "truth": list(table["truth"]),
            "labels": self.record.labels,
            "condition": self.record.condition,
        }

    def _end(self, predictions: Predictions) -> None:
        if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
            self.checkpoints.rmdir()  # transformers makes it, also where nothing is trained
        predictions.write(self.path / "predictions.parquet")
        self.record = replace(self.record, seconds=round(time.monotonic() - self.started, 1))
        write_json(self.path / RUN_FILE, self.record.to_json())
        write_json(self.path / "metrics.json", score(predictions))


def open_run(path: Path, identity: RunRecord, schema: type, *, writes: bool) -> RunFolder:
    """Open a run folder: a new one, one to go on with, or a finished one.

    Args:
        path: the folder
        identity: as ``run_identity`` makes it; ``hashes`` and ``config`` must equal those of an earlier process
        schema: of the config, which declares the settings that may differ all the same
        writes: whether this process writes (the first of all)

    Raises:
        ConfigError: naming the first key that differs, if the folder holds another run
        PredictionError: if its run.json is malformed or of another format
    """
    file, record = path / RUN_FILE, identity
    if path.exists() and not path.is_dir():
        raise ConfigError(f"key 'output.dir': {path} is a file; choose a folder")
    if file.is_file() and _has_results(path):
        earlier = read_record(file)
        _require_same(path, "config", earlier.config, identity.config, changeable_keys(schema, "config."))
        _require_same(path, "hashes", earlier.hashes, identity.hashes)
        record = replace(identity, started_at=earlier.started_at, seconds=earlier.seconds)
    elif writes and path.is_dir() and _has_results(path):  # other processes may see it half-made
        raise ConfigError(f"key 'output.dir': {path} holds other files and no run.json; choose a folder of its own")
    if writes and not (path / "metrics.json").is_file():
        write_json(file, record.to_json())
    return RunFolder(path, record, (path / "metrics.json").is_file(), writes)


def is_finished(path: Path, settings: Any, hashes: Mapping[str, str | None]) -> bool:  # noqa: ANN401 any dataclass
    """Whether the very same run was finished earlier, told before any weights are loaded.

    Args:
        path: the run folder
        settings: resolved config, which must equal the earlier one but for the settings declared to be changeable
        hashes: those that are known already, which must equal the earlier ones

    Raises:
        ConfigError: naming the first key that differs, if the folder holds another finished run
        PredictionError: if its run.json is malformed or of another format
    """
    if not (path / "metrics.json").is_file() or not (path / RUN_FILE).is_file():
        return False
    earlier = read_record(path / RUN_FILE)
    _require_same(path, "config", earlier.config, to_dict(settings), changeable_keys(type(settings), "config."))
    _require_same(path, "hashes", {key: earlier.hashes.get(key) for key in hashes}, hashes)
    return True


def _has_results(path: Path) -> bool:
    """Whether there is more than the run.json of a run that ended before it learnt or scored anything."""
    found = (item for item in path.iterdir() if item.name not in (RUN_FILE, f".{RUN_FILE}.partial"))
    return any(item.is_file() or any(item.iterdir()) for item in found)


def _require_same(path: Path, key: str, earlier: object, now: object, changeable: frozenset[str] = frozenset()) -> None:
    if key in changeable:
        return
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name in sorted(earlier.keys() | now.keys()):
            _require_same(path, f"{key}.{name}", earlier.get(name), now.get(name), changeable)
    elif earlier != now:
        raise ConfigError(
            f"key 'output.dir': {path} holds a run with {key} = {earlier!r}, now it is {now!r}; choose another folder, "
            "or remove that one"
        )
