"""The runs of a cross-validation: one for each system, modality, seed and fold."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from lalm_mer.core.config import load_config, override_key, read_yaml, require_paths
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import UNCHANGED
from lalm_mer.core.notes import Split
from lalm_mer.core.paths import absolute, as_recorded
from lalm_mer.core.run_record import DEV_METRICS_FILE, METRICS_FILE, has_results
from lalm_mer.corpora import load
from lalm_mer.launch.config.cross_validation import (
    LATE_FUSION,
    RECIPES,
    CrossValidationSettings,
    PlannedSettings,
    RunSettings,
    SystemSettings,
)
from lalm_mer.launch.config.late_fusion import LateFusionSettings
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.config.sections import EngineSettings, TrainingSplitSettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.protocols.folded_corpus import FoldedCorpus, fold_corpus
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS, Folds

__all__ = [
    "PlannedRun", "engine_of", "folded_of", "folds_of", "load_run", "plan_runs", "require_free", "require_one_process",
]  # fmt: skip

_OF_A_RUN = ("split.fold", "seed", "output.dir")
_INSTEAD = "folds, seeds and output.dir of the cross-validation"
_SECTIONS = {"train_baseline": "baseline", "train_linear": "linear"}
"""Recipe -> section with its modalities, where it is not the prompt."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a system on one fold with one seed.

    Args:
        system: its name in the config
        row: name of the system with its modalities, over whose folds and seeds the results are pooled
        recipe: name of the recipe, without ``.py``
        settings: of the run
        arguments: command line of the recipe
        sizes: split -> number of utterances
        after: systems whose runs are finished first
    """

    system: str
    row: str
    recipe: str
    settings: PlannedSettings
    arguments: tuple[str, ...]
    sizes: Mapping[Split, int]
    after: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings.output.dir)

    @property
    def name(self) -> str:
        """Row, fold and seed."""
        return f"{self.row}/{self.folder.name}"

    @property
    def metrics_file(self) -> str:
        """The file in its folder that is written last."""
        split = None if isinstance(self.settings, LateFusionSettings) else self.settings.split
        dev_alone = isinstance(split, TrainingSplitSettings) and not split.score_test
        return DEV_METRICS_FILE if dev_alone else METRICS_FILE

    @property
    def is_finished(self) -> bool:
        """Whether its folder has results; only the recipe checks that they are of the same settings."""
        return has_results(self.folder, self.metrics_file)

    @property
    def engine(self) -> Path:
        """The file of accelerate launch."""
        return Path(engine_of(self.settings).accelerate_config)

    @property
    def command(self) -> str:
        """The command that runs it alone."""
        launch = ["accelerate", "launch", "--quiet", "--config_file", as_recorded(self.engine)]
        launch = launch if hasattr(self.settings, "engine") else ["python"]
        return shlex.join([*launch, f"recipes/{self.recipe}.py", *self.arguments])


def engine_of(settings: PlannedSettings) -> EngineSettings:
    """Section ``engine`` of a run; the default for a recipe without one, which needs no device."""
    engine: EngineSettings = getattr(settings, "engine", EngineSettings())
    return engine


def plan_runs(settings: CrossValidationSettings) -> list[PlannedRun]:
    """All runs of the chosen systems, in the order in which they are run; every config is checked.

    A run without random draws is planned for the first seed alone.

    Raises:
        ConfigError: naming system and key, if a config is wrong, a fold is unknown, or a run needs several processes
    """
    rows: dict[str, list[PlannedRun]] = {}
    for name, system in settings.systems.items():
        if name in settings.chosen or _is_member(name, settings):
            own = _fusions(name, system, settings, rows) if system.recipe == LATE_FUSION else None
            for run in _runs_of(name, system, settings) if own is None else own:
                of_row = rows.setdefault(run.row, [])
                if of_row and of_row[0].system != name:
                    raise ConfigError(
                        f"key 'systems': {of_row[0].system} and {name} both have runs in folder {run.row}; rename one"
                    )
                of_row.append(run)
    return [run for runs in rows.values() for run in runs if run.system in settings.chosen]


def _is_member(name: str, settings: CrossValidationSettings) -> bool:
    """Whether a chosen late fusion may have runs of the system as its members."""
    names = [member for system in settings.chosen.values() for member in system.members]
    return any(member == name or member.startswith(f"{name}_") for member in names)


def _fusions(
    name: str, system: SystemSettings, settings: CrossValidationSettings, rows: Mapping[str, Sequence[PlannedRun]]
) -> Iterator[PlannedRun]:
    """A late fusion for each fold and seed of its members; a member of one seed is combined with all of the others."""
    require_free(system.overrides, _OF_A_RUN, _INSTEAD, f"system {name}: ")
    for member in system.members:
        if member not in rows:
            raise ConfigError(
                f"key 'systems.{name}.members': {member!r}; expected systems above it, with their modalities: "
                f"{', '.join(rows)}"
            )
    members = [{_place(run): run for run in rows[member]} for member in system.members]
    most = max(members, key=len)
    single = [{fold: run for (fold, _), run in each.items()} if len({seed for _, seed in each}) == 1 else {}
              for each in members]  # fmt: skip
    for (fold, seed), first in most.items():
        found = [each.get((fold, seed)) or alone.get(fold) for each, alone in zip(members, single, strict=True)]
        if None in found:
            lacking = system.members[found.index(None)]
            raise ConfigError(
                f"key 'systems.{name}.members': {lacking} has no run on fold {fold} with seed {seed}; give all members "
                "the same seeds"
            )
        runs = [run for run in found if run is not None]
        folder = Path(settings.output.dir) / "runs" / name / f"fold{fold}_seed{seed}"
        named = ",".join(as_recorded(run.folder) for run in runs)
        own = (f"fusion.members=[{named}]", f"seed={seed}", f"output.dir={as_recorded(folder)}")
        overrides = (*system.overrides, *own)
        run = _load_late_fusion(name, system, overrides)
        if run.fusion.name is None:  # by default it contains the whole name of each member
            overrides = (*overrides, f"fusion.name={run.fusion.rule} of {' and '.join(system.members)}")
            run = _load_late_fusion(name, system, overrides)
        after = tuple(dict.fromkeys([*system.after, *(each.system for each in runs)]))
        yield PlannedRun(name, name, LATE_FUSION, run, ("--config", system.config, *overrides), first.sizes, after)


def _load_late_fusion(name: str, system: SystemSettings, overrides: Sequence[str]) -> LateFusionSettings:
    """The settings of a late fusion; its members need not exist yet."""
    try:
        return load_config(LateFusionSettings, Path(absolute(system.config)), overrides)
    except ConfigError as error:
        raise ConfigError(f"system {name}: {error}") from None


def _place(run: PlannedRun) -> tuple[int, int]:
    """Fold and seed of a run."""
    if isinstance(run.settings, LateFusionSettings):
        fold, seed = run.folder.name.removeprefix("fold").split("_seed")
        return int(fold), int(seed)
    return run.settings.split.fold, run.settings.seed


def _runs_of(name: str, system: SystemSettings, settings: CrossValidationSettings) -> Iterator[PlannedRun]:
    seeds = settings.seeds if system.seeds is None else system.seeds
    require_free([*settings.overrides, *system.overrides], _OF_A_RUN, _INSTEAD, f"system {name}: ")
    for modalities, seed in product(system.modalities or (None,), seeds):
        row = name if modalities is None else f"{name}_{modalities.replace('+', '_')}"
        shared = (*settings.overrides, *system.overrides, *_modalities(system, modalities), f"seed={seed}")
        of_seed = _load(name, system, shared)
        if seed != seeds[0] and not _draws(of_seed):
            continue
        require_one_process(of_seed, f"system {name}: ")
        folds = folds_of(of_seed.data.dir, of_seed.split.protocol)
        known = sorted(set(folds.frame["fold"]))
        for fold in settings.folds or known:
            if fold not in known:
                raise ConfigError(f"key 'folds': {fold}; protocol {folds.protocol.name} of system {name} has {known}")
            sizes = {split: len(folds.ids(fold, split)) for split in SPLITS}
            folder = Path(settings.output.dir) / "runs" / row / f"fold{fold}_seed{seed}"
            overrides = (*shared, f"split.fold={fold}", f"output.dir={as_recorded(folder)}")
            run = _load(name, system, overrides)
            arguments = ("--config", system.config, *overrides)
            yield PlannedRun(name, row, system.recipe, run, arguments, sizes, tuple(system.after))


def require_free(overrides: Sequence[str], own: Sequence[str], instead: str, where: str = "") -> None:
    """Check that no override is of a key, or of a section with a key, that differs between the runs.

    Args:
        overrides: to check
        own: keys of which each run has its own value
        instead: what to give in place of such an override
        where: beginning of the error

    Raises:
        ConfigError: naming the override
    """
    for override in overrides:
        key = override_key(override)
        if any(each == key or each.startswith(f"{key}.") for each in own):
            raise ConfigError(f"{where}override {override!r}: each run has its own {', '.join(own)}; give {instead}")


def _modalities(system: SystemSettings, modalities: str | None) -> tuple[str, ...]:
    """The override that chooses the modalities; none if the YAML does."""
    if modalities is None:
        return ()
    section = _SECTIONS.get(system.recipe, "prompt")
    return (f"{section}.modalities={modalities}",)


def _draws(settings: RunSettings) -> bool:
    """Whether a run makes random draws, so that its results depend on its seed."""
    if isinstance(settings, LinearSettings):
        return settings.split.train_utterances is not None
    if not isinstance(settings, ZeroShotSettings):
        return True
    return settings.prompt.shots > 0 or settings.scoring.condition != UNCHANGED


def _load(name: str, system: SystemSettings, overrides: tuple[str, ...]) -> RunSettings:
    """The settings of a run.

    Raises:
        ConfigError: naming the system
    """
    settings = load_run(system.recipe, system.config, overrides, f"system {name}: ")
    prompted = settings if isinstance(settings, ZeroShotSettings | FinetuneSettings) else None
    if system.modalities is not None and prompted is not None and prompted.prompt.file:
        raise ConfigError(
            f"key 'systems.{name}.modalities': {', '.join(system.modalities)}, but prompt.file="
            f"{as_recorded(prompted.prompt.file)} of {system.config} decides them; leave out one of the two"
        )
    return settings


def load_run(recipe: str, config: str, overrides: Sequence[str], where: str) -> RunSettings:
    """The settings of a run of a recipe.

    Raises:
        ConfigError: beginning with ``where``
    """
    try:
        settings = load_config(RECIPES[recipe], Path(absolute(config)), overrides)
        require_paths(settings)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    return settings


@cache
def folded_of(data: str, protocol: str) -> FoldedCorpus:
    """A prepared corpus with the folds of a protocol."""
    return fold_corpus(load(Path(data)), load_protocol(Path(protocol)))


def folds_of(data: str, protocol: str) -> Folds:
    """The folds of a protocol on a prepared corpus."""
    return folded_of(data, protocol).folds


def require_one_process(settings: RunSettings, where: str) -> None:
    """Check that a run has one process: a worker makes one run after another in its own process.

    Raises:
        ConfigError: beginning with ``where``
    """
    engine = engine_of(settings)
    file = engine.accelerate_config
    found = engine.num_processes or int(read_yaml(Path(file)).get("num_processes", 1))
    if found != 1:
        raise ConfigError(
            f"{where}key 'engine.accelerate_config': {as_recorded(file)} has {found} processes; each run of a "
            "cross-validation has one; name a file with num_processes: 1"
        )
