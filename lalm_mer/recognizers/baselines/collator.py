"""Batches of a baseline: features from stores or computed, and token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lalm_mer.core.names import TRANSCRIPT
from lalm_mer.core.schema import Input
from lalm_mer.examples.context import context_input
from lalm_mer.examples.feature_store import FeatureStore
from lalm_mer.models.encoders.kinds import Encoder
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer
from lalm_mer.recognizers.base import Batch
from lalm_mer.recognizers.normalisation import SpeakerNormalisation

__all__ = ["BaselineCollator", "Source"]

Source: TypeAlias = Encoder | TranscriptTokenizer
"""What a branch reads: features of a frozen encoder, or token ids"""


class BaselineCollator:
    """Makes a batch for a ``BaselineNetwork`` to score; without a store, features are computed for every batch.

    Args:
        sources: modality -> its encoder or tokenizer
        stores: modality -> the store of its features
        normalisations: modality -> normalisation by speaker
        context: whether batches have the turns before each utterance

    Example:
        >>> batch = network.joint_collator(inputs)  # doctest: +SKIP
        >>> network(**batch)["log_probs"].shape  # doctest: +SKIP
        torch.Size([8, 4])
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        stores: Mapping[str, FeatureStore],
        normalisations: Mapping[str, SpeakerNormalisation],
        *,
        context: bool = False,
    ) -> None:
        self._context = context
        self._sources, self._stores, self._normalisations = dict(sources), dict(stores), dict(normalisations)

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs.

        Returns:
            for each modality its name, (B, F, D) features or (B, T) token ids, right-padded with zeros, and
            ``<modality>_lengths`` (B,); ``context`` and ``context_lengths`` likewise, with length 0 where there are no
            turns before

        Raises:
            CorpusError: naming the utterance, if its audio or transcript is missing
        """
        batch = {}
        for modality, source in self._sources.items():
            sequences = [self._sequence(modality, source, given) for given in inputs]
            batch[modality], batch[f"{modality}_lengths"] = _padded(sequences)
            if modality == TRANSCRIPT and self._context:
                before = map(context_input, inputs)
                turns = [
                    sequences[0][:0] if each is None else self._sequence(modality, source, each) for each in before
                ]
                batch["context"], batch["context_lengths"] = _padded(turns)
        return batch

    def _sequence(self, modality: str, source: Source, given: Input) -> Tensor:
        if isinstance(source, TranscriptTokenizer):
            return torch.tensor(source.ids(given))
        return self._frames(modality, source, given)

    def _frames(self, modality: str, encoder: Encoder, given: Input) -> Tensor:
        frames = self._stores[modality].frames(given) if modality in self._stores else encoder.extract(given)
        if modality in self._normalisations:
            frames = self._normalisations[modality](given, frames)
        return torch.tensor(frames, dtype=torch.float32)  # a copy, since the store's are read-only


def _padded(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B sequences, right-padded with zeros, and their lengths (B,)."""
    return nn.utils.rnn.pad_sequence(list(sequences), batch_first=True), torch.tensor([len(one) for one in sequences])
