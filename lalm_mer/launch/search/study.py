"""The trials of a search: Optuna proposes values, the recipe trains with them, and its figure on dev is the result."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lalm_mer.core.config import override_key, to_dict
from lalm_mer.core.errors import ConfigError, LalmMerError, ModelError, PredictionError, message_of, one_line, shown
from lalm_mer.core.extras import install_extra
from lalm_mer.core.locks import only_writer
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.run_record import DEV_METRICS_FILE, MODEL_FOLDER, RUN_FILE, read_record
from lalm_mer.core.strict_json import read_object
from lalm_mer.core.suggestions import did_you_mean
from lalm_mer.evaluation.report.text import with_interval
from lalm_mer.evaluation.target_metrics import metric_names, primary_metrics
from lalm_mer.launch.config.cross_validation import RunSettings
from lalm_mer.launch.config.search import SearchSettings
from lalm_mer.launch.cross_validation.plan import folded_of, folds_of, load_run, require_one_process
from lalm_mer.launch.search.space import Range, Space, override_of, read_space
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS

__all__ = ["Search", "Trial", "open_search", "run_trials"]

_STORAGE = "study.db"
_NAME = "search"
_DEV_ALONE = "split.score_test=false"
_OF_A_TRIAL = ("split.score_test", "output.dir")
_FIRST = 3  # failures in a row from the first trial, after which a search ends
_NOT_KEPT = ("adapter", MODEL_FOLDER, "checkpoints")


@dataclass(frozen=True)
class Search:
    """A checked search.

    Args:
        settings: of the YAML
        base: settings of the run that the trials change
        space: key -> values or range
        metric: name of the metric on dev
        tested_elsewhere: number of dev utterances that other folds of the protocol test
    """

    settings: SearchSettings
    base: RunSettings
    space: Space
    metric: str
    tested_elsewhere: int

    @property
    def out(self) -> Path:
        """The folder of the search."""
        return Path(self.settings.output.dir)

    def folder(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.out / "trials" / f"{number:04d}"

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Those of a run with these values of the space."""
        return [*self.settings.overrides, *(override_of(key, value) for key, value in values.items())]


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Args:
        number: from 0
        values: key of the space -> its value
        result: value and interval of the metric on dev, with ``n``; None if the trial failed
        seconds: duration of its run; None if it failed
        error: why it failed
    """

    number: int
    values: Mapping[str, Any]
    result: Mapping[str, Any] | None
    seconds: float | None = None
    error: str | None = None


def open_search(settings: SearchSettings) -> Search:
    """Check a search before anything runs: Optuna, the YAML, and each value of the space by itself.

    Raises:
        ConfigError: naming the key
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(f"search.py needs optuna; {install_extra('search')}")
    space = read_space(settings.space)
    given = {override_key(override) for override in settings.overrides}
    for key in (*given, *space):
        if key in _OF_A_TRIAL:
            raise ConfigError(f"key {key!r}: each trial has its own; leave it out, and give output.dir of the search")
    if both := sorted(given & space.keys()):
        raise ConfigError(f"key 'space.{both[0]}': overrides has a value of it too; leave out one of the two")
    own = [*settings.overrides, _DEV_ALONE, f"output.dir={as_recorded(settings.output.dir)}"]
    base = load_run(settings.recipe, settings.config, own, "")
    require_one_process(base, "")
    for key, values in space.items():
        for value in values.ends:
            load_run(settings.recipe, settings.config, [*own, override_of(key, value)], f"key 'space.{key}': ")
    folds = folds_of(base.data.dir, base.split.protocol)
    others = {name for fold in set(folds.frame["fold"]) - {base.split.fold} for name in folds.ids(int(fold), "test")}
    shared = len(others & set(folds.ids(base.split.fold, SPLITS[1])))
    metric = settings.metric or load_protocol(Path(base.split.protocol)).primary_metric
    kind = folded_of(base.data.dir, base.split.protocol).task.kind
    known = [name for name in metric_names(kind) if name in primary_metrics()]
    if metric not in known:
        raise ConfigError(f"key 'metric': {metric!r}; expected one of {', '.join(known)}{did_you_mean(metric, known)}")
    return Search(settings, base, space, metric, shared)


def run_trials(search: Search, recipe: Callable[[Any], None]) -> list[Trial]:
    """Run the trials that are left, and return all; one that was interrupted is continued.

    A trial whose run ends with an error of this library, or lacks memory on its device, has failed, and the next one is
    run.

    Args:
        search: result of ``open_search``
        recipe: function of the recipe

    Raises:
        BusyError: if another process works on the folder
        ConfigError: if the folder has a search of other settings
        ModelError: if the first trials failed, or all
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states = optuna.trial.TrialState
    with only_writer(search.out / _STORAGE):
        study = _open_study(search.out / _STORAGE)
        _require_same(study, search)
        distributions = _distributions(search.space)
        while True:
            trials = study.get_trials(deepcopy=False)
            begun = next((each for each in trials if each.state == states.RUNNING), None)
            ended = [each for each in trials if each.state.is_finished()]
            if len(ended) == _FIRST and all(each.state == states.FAIL for each in ended):
                raise ModelError(f"the first {_FIRST} trials failed: {_error(study, ended[0].number)}")
            if begun is None and len(ended) >= search.settings.trials:
                break
            if begun is None:
                study.sampler = _sampler(search.settings, len(trials))
                begun = study.ask(fixed_distributions=distributions)
            elif begun.params.keys() != distributions.keys():  # it was killed while its values were drawn
                study.tell(begun.number, state=states.FAIL)
                continue
            _run(study, search, begun.number, _values(begun.params, search.space), recipe)
        found = [_read(study, search, each) for each in study.get_trials(deepcopy=False) if each.params]
    if not any(trial.result for trial in found):
        raise ModelError(f"all {len(found)} trials failed: {found[0].error}")
    return found


def _open_study(file: Path) -> Any:  # noqa: ANN401 of Optuna
    """The study in a file; a new one if there is none.

    Raises:
        ConfigError: if it is no database of Optuna
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return optuna.create_study(
            storage=f"sqlite:///{file}", study_name=_NAME, direction="maximize", load_if_exists=True
        )
    except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: of another version of Optuna
        raise ConfigError(
            f"key 'output.dir': {as_recorded(file)} cannot be read as a study of Optuna ({one_line(error)[:200]}); "
            "remove it, or choose another folder"
        ) from error


def _run(study: Any, search: Search, number: int, values: Mapping[str, Any], recipe: Callable[[Any], None]) -> None:  # noqa: ANN401 of Optuna
    """Run one trial, and tell its result."""
    import optuna
    import torch

    folder = search.folder(number)
    overrides = [*search.overrides(values), _DEV_ALONE, f"output.dir={as_recorded(folder)}"]
    print(f"trial {number}: {', '.join(search.overrides(values)[len(search.settings.overrides) :])}", flush=True)  # noqa: T201
    try:
        recipe(load_run(search.settings.recipe, search.settings.config, overrides, ""))
        result = _result(search, folder)
    except (LalmMerError, torch.OutOfMemoryError) as error:
        text = message_of(error) if isinstance(error, LalmMerError) else "out of memory on the device"
        study.set_user_attr(_error_key(number), text)
        study.tell(number, state=optuna.trial.TrialState.FAIL)
        print(f"trial {number} failed: {text}", flush=True)  # noqa: T201
        return
    study.tell(number, result["value"])
    for name in _NOT_KEPT:
        shutil.rmtree(folder / name, ignore_errors=True)
    best = study.best_trial
    print(  # noqa: T201
        f"trial {number}: dev {search.metric} {with_interval(result)}, n = {result['n']}; highest so far "
        f"{100 * best.value:.1f}, of trial {best.number}",
        flush=True,
    )


def _result(search: Search, folder: Path) -> dict[str, Any]:
    """The metric on dev of a finished run, with ``n``.

    Raises:
        PredictionError: if it has no such metric
    """
    file = folder / DEV_METRICS_FILE
    metrics = read_object(file)
    found = metrics.get(search.metric)
    if not isinstance(found, dict) or not isinstance(found.get("value"), int | float):
        known = sorted(name for name, value in metrics.items() if isinstance(value, dict) and "value" in value)
        raise PredictionError(f"{file}: no metric {search.metric!r}; set metric to one of {', '.join(known)}")
    return {**found, "n": metrics["n"]}


def _error_key(number: int) -> str:
    return f"error of trial {number}"


def _error(study: Any, number: int) -> str:  # noqa: ANN401 of Optuna
    return str(study.user_attrs.get(_error_key(number), "interrupted while its values were drawn"))


def _read(study: Any, search: Search, trial: Any) -> Trial:  # noqa: ANN401 of Optuna
    values, folder = _values(trial.params, search.space), search.folder(trial.number)
    if trial.value is None:
        return Trial(trial.number, values, None, error=_error(study, trial.number))
    return Trial(trial.number, values, _result(search, folder), read_record(folder / RUN_FILE).seconds)


def _sampler(settings: SearchSettings, number: int) -> Any:  # noqa: ANN401 of Optuna
    """The sampler of one trial, with its own seed, so that a resumed search draws the same values."""
    import optuna

    seed = settings.seed + number
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _distributions(space: Space) -> dict[str, Any]:
    """Optuna's form of the space; values are texts of JSON, since Optuna takes no lists and mappings."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for key, each in space.items():
        if not isinstance(each, Range):
            found[key] = CategoricalDistribution([json.dumps(value) for value in each.values])
        elif each.is_whole:
            found[key] = IntDistribution(int(each.low), int(each.high), log=each.log, step=int(each.step or 1))
        else:
            found[key] = FloatDistribution(each.low, each.high, log=each.log, step=each.step)
    return found


def _values(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    return {key: params[key] if isinstance(each, Range) else json.loads(params[key]) for key, each in space.items()
            if key in params}  # fmt: skip


def _require_same(study: Any, search: Search) -> None:  # noqa: ANN401 of Optuna
    """Check that the folder has no search of other settings; the number of trials may differ."""
    settings = search.settings
    now: dict[str, Any] = {"space": settings.space, "metric": search.metric, "recipe": settings.recipe}
    now |= {"sampler": settings.sampler, "seed": settings.seed}
    now |= {f"config.{key}": value for key, value in to_dict(search.base).items() if key not in ("output", "engine")}
    earlier = study.user_attrs.get("settings")
    if earlier is None:
        study.set_user_attr("settings", now)
        return
    for key in sorted(earlier.keys() | now.keys()):
        if json.dumps(earlier.get(key), sort_keys=True) != json.dumps(now.get(key), sort_keys=True):
            raise ConfigError(
                f"key 'output.dir': {as_recorded(search.out)} has a search with {key} = {shown(earlier.get(key))}, now "
                f"it is {shown(now.get(key))}; choose another folder, or remove that one"
            )
