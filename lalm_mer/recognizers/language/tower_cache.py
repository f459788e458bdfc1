"""Stored outputs of a frozen audio tower, so that no epoch, fold, seed or prompt encodes an utterance again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lalm_mer.core.progress import progress
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import EncodedAudio
from lalm_mer.examples.dataset import ExampleDataset
from lalm_mer.examples.feature_shards import FeatureShards, Row, part_of
from lalm_mer.models.adapters import tower_of
from lalm_mer.models.families.base import Family
from lalm_mer.recognizers.order import of_size

__all__ = ["TowerCache", "changes_tower", "drops_at_random", "trains_tower"]

ItemT = TypeVar("ItemT")
_FORMAT = 1
_POLL_S = 0.2
_DROPS = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "dropout_rate")


def changes_tower(family: Family) -> bool:
    """Whether the audio tower has an adapter."""
    return any(isinstance(module, BaseTunerLayer) for _, module in _of_tower(family, family.model.named_modules()))


def trains_tower(family: Family) -> bool:
    """Whether a parameter of the audio tower is trained."""
    return any(weight.requires_grad for _, weight in _of_tower(family, family.model.named_parameters()))


def drops_at_random(family: Family) -> bool:
    """Whether the audio tower drops out values in training, so that its output differs from pass to pass."""
    tower: Any = family.submodule("audio_tower")
    modules = (module for _, module in _of_tower(family, family.model.named_modules()))
    in_modules = any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)
    return in_modules or any(getattr(tower.config, name, 0) for name in _DROPS)


def _of_tower(family: Family, named: Iterable[tuple[str, ItemT]]) -> Iterator[tuple[str, ItemT]]:
    """Modules or parameters of the audio tower; a projector within it is none of them."""
    return ((name, item) for name, item in named if tower_of(family, name) == "audio_tower")


@dataclass(frozen=True)
class _Item:
    """One utterance to encode: its examples, its place in them, and its duration in seconds."""

    examples: ExampleDataset
    index: int
    duration_s: float


class TowerCache:
    """Outputs of one audio tower by the hash of the audio, on disk.

    Folder and values depend on weights, precision, settings of the processor and version of transformers, and on
    nothing else, so all corpora, folds and prompts share them. Outputs differ by rounding from batch to batch.

    Args:
        cache_dir: folder of all caches
        family: the model; its tower must not be trained
        weights: digest of the base model, and of the adapter if the tower has one
        precision: name in accelerate: no, bf16, fp16
    """

    def __init__(self, cache_dir: Path, family: Family, weights: Sequence[str | None], precision: str = "no") -> None:
        self._family = family
        self._precision = precision
        extractor = family.processor.feature_extractor.to_json_string()
        key = {
            "name": "audio_tower",
            "family": family.name,
            "weights": list(weights),
            "dtype": str(family.submodule("audio_tower").dtype).removeprefix("torch."),
            "mixed_precision": precision,
            "attn_implementation": attention.used if (attention := family.attention("audio_tower")) else None,
            "full_window": family.full_window,
            "processor": hash_json([extractor, getattr(family.processor, "max_audio_len", None)]),
            "transformers": metadata.version("transformers"),
            "format": _FORMAT,
        }
        self.folder = cache_dir / f"audio_tower-{hash_json(key)[:16]}"
        self._shards = FeatureShards(self.folder, key)

    def __call__(self, audio_hash: str) -> EncodedAudio:
        """Stored output for the audio with this hash.

        Raises:
            CorpusError: if it is damaged
        """
        states = self._shards.read(self._shards.places[audio_hash][None])
        return EncodedAudio(states, "bfloat16" if states.dtype == np.uint16 else states.dtype.name)

    def __len__(self) -> int:
        return len(self._shards.places)

    def __contains__(self, audio_hash: str) -> bool:
        return audio_hash in self._shards.places

    def silence(self) -> EncodedAudio:
        """A frame of zeros with the width and type of the stored outputs, of which there must be one."""
        stored = self(next(iter(self._shards.places)))
        return EncodedAudio(np.zeros_like(stored.states[:1]), stored.dtype)

    def fill(
        self,
        splits: Sequence[ExampleDataset],
        *,
        batch_size: int,
        workers: int = 0,
        device: torch.device | None = None,
        process: int = 0,
        processes: int = 1,
        make_room: Callable[[int], object] = lambda _: None,
    ) -> int:
        """Encode what is not stored, the longest first, in evaluation mode; returns the number that this process did.

        Every process encodes its share of the batches, those of one process, and returns when all are done. Another run
        that writes the same outputs is waited for.

        Args:
            splits: examples with waveforms; those without audio are left out
            batch_size: utterances in a batch
            workers: processes that decode audio
            device: device of the tower; None for that of its parameters
            process: number of this process, of those that share the cache
            processes: their number
            make_room: called by one process with the size of what all will write, in bytes, before it writes
        """
        items = _items(splits)
        count = 0
        if any(audio_hash not in self for audio_hash in items):
            with self._shards.only_writer(process, processes):
                count = self._encode_missing(items, batch_size, workers, device, process, processes, make_room)
        while any(audio_hash not in self for audio_hash in items):  # that other processes encode
            time.sleep(_POLL_S)
            self._shards.reopen()
        return count

    def _encode_missing(
        self,
        items: Mapping[str, _Item],
        batch_size: int,
        workers: int,
        device: torch.device | None,
        process: int,
        processes: int,
        make_room: Callable[[int], object],
    ) -> int:
        """The share of this process; arguments as of ``fill``. A batch belongs to the process of its first name."""
        whole = of_size(batch_size, [*items])  # the batches of one process
        left = [(part_of(batch[0], processes), [each for each in batch if each not in self]) for batch in whole]
        own = [batch for part, batch in left if batch and part == process]
        if not own:
            return 0
        loader: DataLoader[Any] = DataLoader(
            items,  # type: ignore[arg-type]  # map-style, but not torch's class
            batch_sampler=own,
            num_workers=workers,
            collate_fn=self._collated,
        )
        with progress(desc="encoding audio", unit="utterances", total=sum(map(len, own))) as bar:
            batches = self._encoded(loader, [*chain.from_iterable(own)], device, bar.update)
            first = next(batches)
            if process == min(part for part, batch in left if batch):
                missing = chain.from_iterable(batch for _, batch in left)
                frames = sum(self._frame_count(items[audio_hash]) for audio_hash in missing)
                make_room(frames * first[0][2][0].nbytes)
            return self._shards.write(chain([first], batches), process)

    def _frame_count(self, item: _Item) -> int:
        return self._family.audio_token_count(round(item.duration_s * self._family.sampling_rate))

    def _collated(self, items: Sequence[_Item]) -> dict[str, Tensor]:
        waveforms = [item.examples[item.index].input.waveform for item in items]
        return self._family.audio_inputs([waveform for waveform in waveforms if waveform is not None])

    def _encoded(
        self,
        batches: DataLoader[Any],
        names: Sequence[str],
        device: torch.device | None,
        update: Callable[[int], object],
    ) -> Iterator[list[Row]]:
        """Rows of the shards by batch, in the order of the names."""
        remaining = iter(names)
        place = device or next(self._family.submodule("audio_tower").parameters()).device
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._precision)
        for batch in batches:
            inputs = {name: tensor.to(place) for name, tensor in batch.items()}
            with torch.inference_mode(), torch.autocast(place.type, dtype=dtype, enabled=dtype is not None):
                output = self._family.encode_audio(**inputs)
            pairs = zip(output.states, output.lengths.tolist(), strict=True)
            yield [(next(remaining), None, _bits(states[:length])) for states, length in pairs]
            update(len(output.states))


def _items(splits: Sequence[ExampleDataset]) -> dict[str, _Item]:
    """Hash of the audio -> an utterance with it, the longest first."""
    items: dict[str, _Item] = {}
    for examples in splits:
        for index, (found, duration_s) in enumerate(zip(examples.audio_hashes(), examples.durations_s(), strict=True)):
            if found is not None and duration_s is not None:
                items.setdefault(found, _Item(examples, index, duration_s))
    return dict(sorted(items.items(), key=lambda item: (-item[1].duration_s, item[0])))


def _bits(states: Tensor) -> npt.NDArray[Any]:
    """A tensor as an array; of bfloat16, which numpy does not have, its bits."""
    on_cpu = states.cpu().contiguous()
    found: npt.NDArray[Any] = (
        on_cpu.view(torch.int16).numpy().view(np.uint16) if states.dtype == torch.bfloat16 else on_cpu.numpy()
    )
    return found
