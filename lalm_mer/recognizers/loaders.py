"""Loaders of training, dev and scored items for transformers' Trainer; batches of a number of items, or of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence, Sized
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer
from transformers.trainer_utils import seed_worker

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Example, Input
from lalm_mer.recognizers.base import Batch, Collator, TrainingCollator
from lalm_mer.recognizers.order import (
    GroupedByLength,
    TokenBatches,
    batches_left,
    lengths_of,
    longest_first,
    of_size,
    token_lengths,
    within,
)

__all__ = ["POSITION", "Examples", "Inputs", "LoadingTrainer"]

ItemT = TypeVar("ItemT", covariant=True)
POSITION = "position"
"""Key of a batch: the position of each item among those that are scored."""


class Items(Sized, Protocol[ItemT]):
    """A map-style dataset."""

    def __getitem__(self, index: int) -> ItemT: ...


Examples: TypeAlias = Items[Example]
Inputs: TypeAlias = Items[Input]


class _Numbered:
    """Items with their positions.

    Args:
        items: a map-style dataset
    """

    def __init__(self, items: Items[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self._items[index]


def _collate_numbered(items: Sequence[tuple[int, Any]], collator: Callable[[Sequence[Any]], Batch]) -> Batch:
    """A batch of items of ``_Numbered``, with their positions."""
    return collator([item for _, item in items]) | {POSITION: torch.tensor([position for position, _ in items])}


class LoadingTrainer(Trainer):  # type: ignore[misc]  # transformers is not followed
    """Trainer with a collator each for training, dev and scoring, whose loaders draw from no global generator.

    Attributes:
        tokens_per_batch: about the largest number of tokens of a batch; None for batches of a number of items
        rows: largest number of items of a batch that is scored, in any process
    """

    tokens_per_batch: int | None
    rows: int
    _training_collator: TrainingCollator
    _dev_collator: TrainingCollator
    _test_collator: Collator
    _test_batches: list[list[int]]
    _train_sampler: GroupedByLength | TokenBatches | None = None

    def batches_to_score(
        self, items: Items[Any], collator: Callable[[Sequence[Any]], Batch], done: Container[int] = ()
    ) -> list[list[int]]:
        """Positions of the items of each batch, those of one process, the longest first; as many for each process.

        Args:
            items: map-style dataset
            collator: makes the batches
            done: positions with a result
        """
        order, tokens = longest_first(items), self.tokens_per_batch
        if tokens is None:
            batches = of_size(self.args.eval_batch_size, order)
        else:
            batches = within(tokens, order, token_lengths(items, collator))
        left = batches_left(batches, done)
        missing = -len(left) % int(self.args.world_size)
        return left + left[-1:] * missing  # sharded weights need the same work in each process

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Loader of training examples."""
        args = self.args
        if self.tokens_per_batch is None:
            loader: DataLoader[Any] = super().get_train_dataloader()
            return loader
        self._train_sampler = TokenBatches(
            token_lengths(self.train_dataset, self._training_collator),
            self.tokens_per_batch,
            self._order_seed(),
            step=args.gradient_accumulation_steps * args.world_size,
            epochs=math.ceil(args.num_train_epochs),
            max_steps=args.max_steps if args.max_steps > 0 else None,
        )
        return self._loader_of(self.train_dataset, self._train_sampler, self._training_collator)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:  # noqa: ANN401 as in transformers
        """Loader of dev examples, in batches of similar length."""
        examples = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._scoring_loader(examples, self.batches_to_score(examples, self._dev_collator), self._dev_collator)

    def get_test_dataloader(self, test_dataset: Items[Any]) -> DataLoader[Any]:
        """Loader of inputs to score."""
        return self._scoring_loader(test_dataset, self._test_batches, self._test_collator)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 as in transformers
        """Keep all rows: batches have none that accelerate added, and it would cut each to the last training batch."""
        self.gather_function = self.accelerator.gather
        return super().evaluation_loop(*args, **kwargs)

    def _scoring_loader(
        self, items: Items[Any], batches: list[list[int]], collator: Callable[..., Batch]
    ) -> DataLoader[Any]:
        """The batches of this process; accelerate would fill the last one with other items."""
        args = self.args
        self.rows = max(map(len, batches))
        return DataLoader(
            _Numbered(items),  # type: ignore[arg-type]  # map-style, but not torch's class
            batch_sampler=batches[args.process_index :: args.world_size],
            collate_fn=partial(_collate_numbered, collator=collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            generator=torch.Generator().manual_seed(args.seed),
        )

    def _loader_of(
        self,
        dataset: Any,  # noqa: ANN401 map-style
        batches: Sampler[list[int]],
        collator: Callable[..., Batch],
    ) -> DataLoader[Any]:
        """As transformers' ``_get_dataloader``, whose batches have one size; accelerate gives each process its part."""
        args = self.args
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )
        return self._with_generator(self.accelerator.prepare(loader))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:  # noqa: ANN401 as in transformers
        """Order of the training examples; transformers' own for any other strategy."""
        if self.args.train_sampling_strategy != "group_by_length":
            sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
            return sampler
        examples = self.train_dataset if train_dataset is None else train_dataset
        lengths = lengths_of(examples)
        if lengths is None:
            raise ConfigError(
                "argument 'train_sampling_strategy': group_by_length, but the examples have no lengths(); use random"
            )
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self._train_sampler = GroupedByLength(lengths, size, self._order_seed())
        return self._train_sampler

    def _order_seed(self) -> int:
        return int(self.args.seed if self.args.data_seed is None else self.args.data_seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> None:  # noqa: ANN401
        """None: in the order of the dataset, whatever the strategy of training is."""

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:  # noqa: ANN401
        return self._with_generator(super()._get_dataloader(*args, **kwargs))

    def _with_generator(self, loader: Any) -> DataLoader[Any]:  # noqa: ANN401 accelerate's
        """Loaders have their own generator, so that their number of starts does not change the dropout masks."""
        loader.base_dataloader.generator = torch.Generator().manual_seed(self.args.seed)
        made: DataLoader[Any] = loader
        return made
