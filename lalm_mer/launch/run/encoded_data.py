"""The data of a run with stored outputs of its audio tower, which are computed before training or scoring."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

from torch import nn
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.output import writing
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.processes import is_first_process, process_count
from lalm_mer.core.progress import size_text
from lalm_mer.examples.augmented_examples import AugmentedExamples
from lalm_mer.examples.dataset import ExampleDataset
from lalm_mer.examples.feature_caches import describe, make_room
from lalm_mer.launch.build.data import RunData, encoded
from lalm_mer.launch.build.model_run import LoadedRun
from lalm_mer.launch.config.sections import ModelSettings, ScoringSettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.launch.run.engine import Engine, run_device
from lalm_mer.models.families.base import Family
from lalm_mer.models.pretrained import PretrainedModel
from lalm_mer.recognizers.language.tower_cache import TowerCache, changes_tower, drops_at_random, trains_tower
from lalm_mer.recognizers.memory import available_bytes, stored_bytes
from lalm_mer.recognizers.preflight import evaluating

__all__ = ["encoded_data", "filled_cache", "is_shared"]


def encoded_data(
    loaded: LoadedRun, model: nn.Module, settings: ZeroShotSettings | FinetuneSettings, engine: Engine
) -> RunData:
    """The data of a run with tower outputs from the cache, if it can be used; all processes must call it.

    What is missing in the cache is computed first, by all processes together that share its folder.

    Args:
        loaded: the run
        model: its recognizer
        settings: settings of the run
        engine: the expected engine

    Raises:
        ConfigError: if the cache is required and cannot be used
        CorpusError: if the cache is damaged
    """
    data = loaded.data
    if not loaded.setup.uses("audio"):
        return data
    trains = isinstance(settings, FinetuneSettings)
    sizes: ScoringSettings = settings.train if isinstance(settings, FinetuneSettings) else settings.scoring
    scores_dev = isinstance(settings, FinetuneSettings) or settings.scoring.dev
    used = [*([data.train] if trains else []), *([data.dev] if scores_dev else []), data.scored_test]
    splits = [each for each in used if isinstance(each, ExampleDataset)]
    augmented = isinstance(data.train, AugmentedExamples)
    digests = loaded.hashes["base_model"], loaded.hashes.get("adapter")
    cache = filled_cache(
        loaded.model, model, splits, digests, settings.model, sizes, engine, trains=trains, augmented=augmented
    )
    return data if cache is None else encoded(data, cache)


def filled_cache(
    family: PretrainedModel,
    model: nn.Module,
    splits: Sequence[ExampleDataset],
    digests: tuple[str | None, str | None],
    choice: ModelSettings,
    sizes: ScoringSettings,
    engine: Engine,
    *,
    trains: bool,
    augmented: bool = False,
) -> TowerCache | None:
    """The tower outputs of splits, if they can be stored; all processes must call it.

    Args:
        family: the model
        model: its recognizer
        splits: what is trained on or scored
        digests: of the base model, and of an adapter of its tower
        choice: section ``model``
        sizes: section ``train`` or ``scoring``
        engine: the expected engine
        trains: whether the model is trained
        augmented: whether the audio is augmented

    Raises:
        ConfigError: if the cache is required and cannot be used
        CorpusError: if the cache is damaged
    """
    if choice.tower_cache == "never":
        return None
    reason = next(_reasons(family, model, sizes, trains=trains, augmented=augmented), None)
    if reason is None:
        assert isinstance(family, Family)
        weights = [digests[0], digests[1] if changes_tower(family) else None]
        cache = TowerCache(Path(choice.cache_dir), family, weights, engine.mixed_precision)
        try:
            count = _fill(cache, splits, model, choice, sizes, engine)
        except ConfigError as error:
            reason = str(error)
            if engine.num_processes > 1:  # the others wait for the share of this one
                raise ConfigError(
                    f"key 'model.tower_cache': {choice.tower_cache}, but {reason}; set it to never"
                ) from error
        else:
            if is_first_process():
                size = sum(path.stat().st_size for path in cache.folder.glob("*.arrow"))
                print(  # noqa: T201 for the user
                    f"tower cache: {count} utterances encoded by this process, {len(cache)} stored in "
                    f"{as_recorded(cache.folder)} ({size_text(size)})",
                    flush=True,
                )
            family.silence = cache.silence() if len(cache) else None
            return cache
    if choice.tower_cache == "require":
        raise ConfigError(f"key 'model.tower_cache': require, but {reason}; set it to auto")
    if is_first_process():
        print(f"tower cache: not used, because {reason}", flush=True)  # noqa: T201 for the user
    return None


def _reasons(
    family: PretrainedModel, model: nn.Module, sizes: ScoringSettings, *, trains: bool, augmented: bool
) -> Iterator[str]:
    """Why stored outputs would change results or cannot be computed."""
    if not isinstance(family, Family):
        yield f"{family.name} has none"
        return
    if family.single_pass_reason is not None:
        yield f"{family.name} has one step: {family.single_pass_reason}"
        return
    if augmented:
        yield "the audio is augmented"
    if trains and trains_tower(family):
        yield "the audio tower is trained"
    if trains and drops_at_random(family):
        yield "the audio tower drops out values at random in training"
    device = run_device(sizes)
    if stored_bytes(model) > available_bytes(device, model):
        yield f"the weights need {size_text(stored_bytes(model))}, and {device} has less"


def _fill(
    cache: TowerCache,
    splits: Sequence[ExampleDataset],
    model: nn.Module,
    choice: ModelSettings,
    sizes: ScoringSettings,
    engine: Engine,
) -> int:
    """Store what is missing; the number of utterances that this process encoded."""
    device = run_device(sizes)
    sharded = engine.distributed_type in ("FSDP", "DEEPSPEED")
    process, processes = _share(cache.folder.parent)
    with evaluating(model, device, moves_back=sharded):
        return cache.fill(
            splits,
            batch_size=sizes.per_device_eval_batch_size,
            workers=sizes.dataloader_num_workers,
            device=device,
            process=process,
            processes=processes,
            make_room=partial(_make_room, cache, choice),
        )


def _share(folder: Path) -> tuple[int, int]:
    """Number of this process among those that fill a folder, and their number: all, or those of its machine."""
    on_machine = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    process, processes = int(os.environ.get("RANK", "0")), process_count()
    if processes == on_machine[1] or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return on_machine
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = is_shared(folder, PrefixStore(f"tower_cache/{attempt}", store), process, processes)
    return (process, processes) if shared else on_machine


def is_shared(folder: Path, store: Store, process: int, processes: int) -> bool:
    """Whether all processes see the same folder; all must call it, with a store that they share."""
    if process == 0:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=folder, prefix=".shared-") as file:
                store.set("file", Path(file.name).name)
                return _all_see(folder, store, process, processes)
    return _all_see(folder, store, process, processes)


def _all_see(folder: Path, store: Store, process: int, processes: int) -> bool:
    seen = (folder / store.get("file").decode()).exists()
    store.set(f"seen by {process}", str(seen))
    return all(store.get(f"seen by {number}") == b"True" for number in range(processes))


def _make_room(cache: TowerCache, choice: ModelSettings, needed: int) -> None:
    """Say how much will be written, and remove old caches for it."""
    budget = round(choice.cache_max_gib * 2**30)
    if is_first_process():
        print(f"tower cache: about {size_text(needed)} to write", flush=True)  # noqa: T201 for the user
    for removed in make_room(Path(choice.cache_dir), needed, budget, kept=[cache.folder]):
        print(f"tower cache: removed {describe(removed)}", flush=True)  # noqa: T201 for the user
