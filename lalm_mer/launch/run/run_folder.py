"""The run folder: the record of the run is written first, the results last; the same command resumes the run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lalm_mer.core.config import to_dict
from lalm_mer.core.errors import ConfigError, one_line
from lalm_mer.core.locks import only_writer
from lalm_mer.core.notes import Note, NoteCode, Split
from lalm_mer.core.output import write_json
from lalm_mer.core.paths import absolute, as_recorded
from lalm_mer.core.processes import is_first_process, process_count
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.run_record import (
    DEV_METRICS_FILE,
    METRICS_FILE,
    RUN_FILE,
    Parameters,
    RunRecord,
    has_results,
    read_record,
)
from lalm_mer.core.settings import changeable_keys
from lalm_mer.evaluation.metrics import Floats
from lalm_mer.evaluation.predictions import DEV_PREDICTIONS_FILE, PREDICTIONS_FILE, EvaluatedSplit, Predictions
from lalm_mer.evaluation.report.text import figure_text
from lalm_mer.evaluation.scores import score
from lalm_mer.examples.dataset import ExampleDataset
from lalm_mer.launch.build.data import RunData, with_unscored
from lalm_mer.launch.run.prompt_table import PROMPTS_FILE, write_prompts
from lalm_mer.launch.run.resources import peak_memory, restart_peak
from lalm_mer.recognizers.base import Scores
from lalm_mer.recognizers.score_journal import ScoreJournal

__all__ = ["RunFolder", "is_finished", "open_run", "run_lock"]

_SCORES = "scores"
_STEP_KEYS = ("per_device_train_batch_size", "gradient_accumulation_steps")


@dataclass
class RunFolder:
    """A run on disk.

    Args:
        path: the folder
        record: content of run.json
        writes: whether this process writes; only the first process does
    """

    path: Path
    record: RunRecord
    writes: bool
    started: float = field(default_factory=time.monotonic)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def history(self) -> Path:
        """Losses and dev metrics by step."""
        return self.path / "history.jsonl"

    @property
    def scores(self) -> Path:
        """Folder of the scores while they are computed; it is removed when the run is finished."""
        return self.path / _SCORES

    def journal(self, split: Split, examples: ExampleDataset, weights: str | None = None) -> ScoreJournal:
        """The scores of a split so far, from an earlier process that was killed; those of another run are not used.

        Args:
            split: what is scored
            examples: the N scored examples
            weights: hash of what was trained; None if nothing was trained
        """
        if not self.writes:
            return ScoreJournal(count=len(examples))
        path, record, ids = self.scores / f"{split}.jsonl", self.record, list(examples.utterances()["utterance_id"])
        named = (record.started_at, record.recognizer, record.condition, record.fold, record.seed, record.labels)
        journal = ScoreJournal(path, hash_json([split, named, record.hashes, weights, ids]), len(examples))
        if journal.of_another_run:
            print(f"{as_recorded(path)}: has scores of another run, which are not used", flush=True)  # noqa: T201
        if journal.damaged:
            lines = ", ".join(map(str, journal.damaged[:5]))
            print(f"{as_recorded(path)}: damaged in line {lines}; these utterances are scored again", flush=True)  # noqa: T201
        if journal.results:
            print(f"resuming: {len(journal.results)} of {len(examples)} {split} utterances are scored", flush=True)  # noqa: T201
        return journal

    def add_notes(self, *notes: Note) -> None:
        """Add notes to run.json of a run that is not finished."""
        self.record = replace(self.record, notes=(*self.record.notes, *notes))
        if self.writes:
            write_json(self.path / RUN_FILE, self.record.to_json())

    def count(self, parameters: Parameters | None) -> None:
        """Record the numbers of parameters, which are written when the run ends."""
        self.record = replace(self.record, parameters=parameters)

    def finish(self, data: RunData, scores: Scores, dev: Floats | None = None) -> None:
        """Write predictions, duration and metrics; metrics.json is written last and marks the run as finished.

        Args:
            data: the data with the N scored test utterances
            scores: of these utterances
            dev: scores of the dev utterances that the recognizer can use; None if dev was not scored
        """
        if self.writes:
            on_dev = None if dev is None else self._predictions(data.dev, dev)
            complete = with_unscored(data, scores)
            by_prompt = [(each, self._predictions(data.test, each.values)) for each in complete.by_prompt]
            if by_prompt:
                print(write_prompts(self.path / PROMPTS_FILE, by_prompt), flush=True)  # noqa: T201 for the user
            self.finish_tables(self._predictions(data.test, complete.values), on_dev)

    def finish_tables(self, test: Predictions, dev: Predictions | None) -> None:
        """Write the results of complete tables, as ``finish``; in the process that writes."""
        if dev is not None:
            dev.write(self.path / DEV_PREDICTIONS_FILE)
            print(f"dev {figure_text(score(dev))}", flush=True)  # noqa: T201 for the user
        self._end(test)

    def finish_dev(self, data: RunData, dev: Floats) -> None:
        """Write the results of a run that scores dev alone; dev_metrics.json is written last.

        Args:
            data: the data of the run
            dev: scores of the dev utterances
        """
        if self.writes:
            self._end(self._predictions(data.dev, dev), "dev")

    def finish_dev_table(self, dev: Predictions) -> None:
        """Write the results of a complete table of dev, as ``finish_dev``; in the process that writes."""
        self._end(dev, "dev")

    def finish_answers(self, data: RunData, answers: Sequence[str | None], parsed: Sequence[str]) -> None:
        """Write the results of generated answers, as ``finish``.

        Args:
            data: the data with all N test utterances
            answers: N free texts, None for each unscored utterance
            parsed: N labels or ``UNPARSED``
        """
        if self.writes:
            self._end(Predictions.from_answers(self._split(data.test), answers, parsed))

    def _predictions(self, examples: ExampleDataset, values: Floats) -> Predictions:
        """The table of scored examples, of any kind of task."""
        split, kind = self._split(examples), self.record.task_kind
        if kind == "single":
            return Predictions.from_scores(split, values)
        return Predictions.from_targets(replace(split, targets=examples.targets()), kind, values)

    def _split(self, examples: ExampleDataset) -> EvaluatedSplit:
        table, record = examples.utterances(), self.record
        ids, speakers, truth = (list(table[name]) for name in ("utterance_id", "speaker", "truth"))
        return EvaluatedSplit(
            ids,
            speakers,
            truth,
            record.labels,
            record.corpus,
            record.fold,
            record.seed,
            record.condition,
            votes=examples.votes(),
            ranges=examples.ranges,
        )

    def _end(self, predictions: Predictions, split: Split = "test") -> None:
        if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
            self.checkpoints.rmdir()  # transformers creates it even without training
        predictions.write(self.path / (PREDICTIONS_FILE if split == "test" else DEV_PREDICTIONS_FILE))
        served = any(note.code == NoteCode.SERVED_MODEL for note in self.record.notes)
        measured = None if served else peak_memory()
        self.record = replace(self.record, seconds=round(time.monotonic() - self.started, 1), peak_memory=measured)
        write_json(self.path / RUN_FILE, self.record.to_json())
        metrics = score(predictions)
        write_json(self.path / (METRICS_FILE if split == "test" else DEV_METRICS_FILE), metrics)
        shutil.rmtree(self.scores, ignore_errors=True)
        print(f"{split} {figure_text(metrics)}", flush=True)  # noqa: T201 for the user


def run_lock(path: Path, *, writes: bool) -> AbstractContextManager[None]:
    """Let no other run use the folder during the block.

    Args:
        path: the run folder
        writes: whether this process writes; the others of a launched run take no lock, and end if the first one fails

    Raises:
        OutputError: if another run uses the folder
    """
    return only_writer(path) if writes else nullcontext()


def open_run(path: Path, identity: RunRecord, schema: type, *, writes: bool) -> RunFolder:
    """Open the folder of a new run or of one to resume.

    Args:
        path: the folder
        identity: result of ``run_identity``; ``hashes`` and ``config`` must equal those of an earlier process
        schema: of the config; it declares which settings may differ
        writes: whether this process writes; only the first process does

    Raises:
        ConfigError: naming the first key that differs, if the folder has another run
        PredictionError: if its run.json is malformed or of another format
    """
    file = path / RUN_FILE
    if path.exists() and not path.is_dir():
        raise ConfigError(f"key 'output.dir': {path} is a file; choose a folder")
    record = identity = replace(identity, config=_with_processes(identity.config))
    if file.is_file() and _has_files(path):
        earlier = read_record(file)
        _require_same_config(path, earlier.config, identity.config, schema)
        _require_same(path, "hashes", earlier.hashes, identity.hashes)
        record = replace(identity, started_at=earlier.started_at, seconds=earlier.seconds)
    elif writes and path.is_dir() and _has_files(path):  # other processes may see it while it is created
        raise ConfigError(f"key 'output.dir': {path} has other files and no run.json; choose another folder")
    if writes and not any((path / name).is_file() for name in (METRICS_FILE, DEV_METRICS_FILE)):
        write_json(file, record.to_json())
    restart_peak()
    return RunFolder(path, record, writes)


def is_finished(path: Path, settings: Any, hashes: Mapping[str, str | None]) -> bool:  # noqa: ANN401 any dataclass
    """Whether the same run has finished; used before weights are loaded.

    The first process removes its scores, if the process that finished it was killed before it had removed them.

    Args:
        path: the run folder
        settings: resolved config, which must equal the earlier one except for settings that may change
        hashes: the hashes known so far, which must equal the earlier ones

    Raises:
        ConfigError: naming the first key that differs, if the folder has another finished run
        PredictionError: if its run.json is malformed or of another format
    """
    if not has_results(path) and not has_results(path, DEV_METRICS_FILE):
        return False
    earlier = read_record(path / RUN_FILE)
    _require_same_config(path, earlier.config, _with_processes(to_dict(settings)), type(settings))
    _require_same(path, "hashes", {key: earlier.hashes.get(key) for key in hashes}, hashes)
    if is_first_process():
        shutil.rmtree(path / _SCORES, ignore_errors=True)
    return True


def _has_files(path: Path) -> bool:
    """Whether the folder has more than the run.json of a run that ended before training or scoring."""
    found = (item for item in path.iterdir() if item.name not in (RUN_FILE, f".{RUN_FILE}.partial"))
    return any(item.is_file() or any(item.iterdir()) for item in found)


def _same_path(earlier: object, now: object) -> bool:
    """Whether both are the same path, written differently."""
    return isinstance(earlier, str) and isinstance(now, str) and absolute(earlier) == absolute(now)


def _with_processes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the number of processes, which the file of the engine states if the config does not."""
    engine = config.get("engine", {})
    return {**config, "engine": {**engine, "num_processes": engine.get("num_processes") or process_count()}}


def _require_same_config(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any], schema: type) -> None:
    """With another number of processes, the keys of a batch may differ, but not the examples of a step."""
    changeable = changeable_keys(schema, "config.")
    before, after = _step(earlier), _step(now)
    if before and after and before[-1] != after[-1]:
        by_tokens = bool((now.get("train") or {}).get("tokens_per_batch"))
        unit, keys = ("tokens", _STEP_KEYS[1:]) if by_tokens else ("examples", _STEP_KEYS)
        if math.prod(before) != math.prod(after):
            raise ConfigError(
                f"key 'train.gradient_accumulation_steps': {path} has a run with {math.prod(before)} {unit} per step "
                f"({_product(before)}), now there are {math.prod(after)} ({_product(after)}); change this key"
                f"{'' if by_tokens else ' or train.per_device_train_batch_size'} to resume it"
            )
        changeable |= {f"config.train.{key}" for key in keys}
    _require_same(path, "config", dict(earlier), dict(now), changeable)


def _step(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Factors of the examples, or tokens, per optimiser step; None without training, or if they are not known."""
    train, engine = (config.get(name) for name in ("train", "engine"))
    if not isinstance(train, Mapping) or not isinstance(engine, Mapping):  # a run.json can contain anything
        return None
    size, accumulated = (train.get(key) for key in _STEP_KEYS)
    factors: tuple[Any, ...] = (train.get("tokens_per_batch") or size, accumulated, engine.get("num_processes"))
    return factors if all(isinstance(factor, int) for factor in factors) else None


def _product(step: tuple[int, ...]) -> str:
    return f"{step[0]} per device x {step[1]} accumulated x {step[2]} process{'es' if step[2] > 1 else ''}"


def _require_same(path: Path, key: str, earlier: object, now: object, changeable: frozenset[str] = frozenset()) -> None:
    if key in changeable:
        return
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name in sorted(earlier.keys() | now.keys()):
            _require_same(path, f"{key}.{name}", earlier.get(name), now.get(name), changeable)
    elif earlier != now and not _same_path(earlier, now):
        raise ConfigError(
            f"key 'output.dir': {path} has a run with {key} = {one_line(repr(earlier))}, now it is "
            f"{one_line(repr(now))}; choose another folder, or remove that one"
        )
