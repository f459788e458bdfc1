"""The data of a run with stored outputs of its audio tower, which are computed before training or scoring."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
from lalm_mer.examples.feature_caches import describe, make_room
from lalm_mer.launch.build.data import RunData, encoded
from lalm_mer.launch.build.model_run import LoadedRun
from lalm_mer.launch.config.sections import ScoringSettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.launch.run.engine import Engine, run_device
from lalm_mer.models.families.base import Family
from lalm_mer.recognizers.language.tower_cache import TowerCache, changes_tower, drops_at_random, trains_tower
from lalm_mer.recognizers.memory import available_bytes, stored_bytes
from lalm_mer.recognizers.preflight import evaluating

__all__ = ["encoded_data", "is_shared"]


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
    family, data, choice = loaded.model, loaded.data, settings.model
    if choice.tower_cache == "never" or not loaded.setup.uses("audio"):
        return data
    sizes: ScoringSettings = settings.train if isinstance(settings, FinetuneSettings) else settings.scoring
    reason = next(_reasons(loaded, model, sizes, trains=isinstance(settings, FinetuneSettings)), None)
    if reason is None:
        assert isinstance(family, Family)
        cache_dir = Path(choice.cache_dir)
        weights = [loaded.hashes["base_model"], loaded.hashes.get("adapter") if changes_tower(family) else None]
        cache = TowerCache(cache_dir, family, weights, engine.mixed_precision)
        try:
            count = _fill(cache, data, model, settings, sizes, engine)
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
            return encoded(data, cache)
    if choice.tower_cache == "require":
        raise ConfigError(f"key 'model.tower_cache': require, but {reason}; set it to auto")
    if is_first_process():
        print(f"tower cache: not used, because {reason}", flush=True)  # noqa: T201 for the user
    return data


def _reasons(loaded: LoadedRun, model: nn.Module, sizes: ScoringSettings, *, trains: bool) -> Iterator[str]:
    """Why stored outputs would change results or cannot be computed."""
    family = loaded.model
    if not isinstance(family, Family):
        yield f"{family.name} has none"
        return
    if family.single_pass_reason is not None:
        yield f"{family.name} has one step: {family.single_pass_reason}"
        return
    if isinstance(loaded.data.train, AugmentedExamples):
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
    data: RunData,
    model: nn.Module,
    settings: ZeroShotSettings | FinetuneSettings,
    sizes: ScoringSettings,
    engine: Engine,
) -> int:
    """Store what is missing; the number of utterances that this process encoded."""
    assert not isinstance(data.train, AugmentedExamples)
    trains = isinstance(settings, FinetuneSettings)
    splits = [data.scored_test]
    if trains:
        splits = [data.train, data.dev, *splits]
    elif isinstance(settings, ZeroShotSettings) and settings.scoring.dev:
        splits = [data.dev, *splits]
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
            make_room=partial(_make_room, cache, settings),
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


def _make_room(cache: TowerCache, settings: ZeroShotSettings | FinetuneSettings, needed: int) -> None:
    """Say how much will be written, and remove old caches for it."""
    choice = settings.model
    budget = round(choice.cache_max_gib * 2**30)
    if is_first_process():
        print(f"tower cache: about {size_text(needed)} to write", flush=True)  # noqa: T201 for the user
    for removed in make_room(Path(choice.cache_dir), needed, budget, kept=[cache.folder]):
        print(f"tower cache: removed {describe(removed)}", flush=True)  # noqa: T201 for the user
