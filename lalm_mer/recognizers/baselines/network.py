"""A baseline network: a branch per modality, their fusion, and a small classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lalm_mer.core.errors import ConfigError, LalmMerError, ModelError, one_line
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import AUDIO, TRANSCRIPT
from lalm_mer.core.output import atomic_path
from lalm_mer.core.settings import values_of_base
from lalm_mer.examples.feature_store import FeatureStore
from lalm_mer.models.encoders.audio import AudioEncoder
from lalm_mer.models.encoders.finetuned_text import FinetunedText, FinetunedTokenizer
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer
from lalm_mer.recognizers.base import Collator, LabelledCollator, TargetCollator, TrainingCollator
from lalm_mer.recognizers.baselines.branches import Branch
from lalm_mer.recognizers.baselines.collator import BaselineCollator, Source
from lalm_mer.recognizers.baselines.fusions import Encoded, fusion_of
from lalm_mer.recognizers.baselines.learnt_text import learnt_embedder, learnt_size
from lalm_mer.recognizers.baselines.saved import (
    NETWORK,
    WEIGHTS,
    load_source,
    read_saved,
    read_weights,
    save_parts,
)
from lalm_mer.recognizers.baselines.settings import HeadSettings, NetworkSettings
from lalm_mer.recognizers.normalisation import SpeakerNormalisation

__all__ = ["BaselineNetwork"]


class BaselineNetwork(nn.Module):
    """Branches over frozen features or learnt embeddings, their fusion, and dense layers, as the settings name them.

    With a single modality it has a single branch. Frozen encoders are not part of its weights.

    Args:
        labels: K labels, or the T numbers that it predicts, in the order of the scores
        settings: its parts
        sources: modality -> what its branch reads, for the modalities of the settings
        kind: ``single``, ``multi`` (a sigmoid for each label) or ``scalar`` (numbers)
        ranges: lowest and highest value of each number; before training, the output is near the middle
        embedder: of the transcripts, where they are token ids; None to make it here, with random weights

    Raises:
        ConfigError: if ``sources`` has other modalities

    References:
        Pepino et al., "Fusion approaches for emotion recognition from speech using acoustic and text-based features",
        ICASSP 2020.
    """

    range_middle: Tensor
    range_half: Tensor

    def __init__(
        self,
        labels: Sequence[str],
        settings: NetworkSettings,
        sources: Mapping[str, Source],
        *,
        kind: str = "single",
        ranges: Sequence[tuple[float, float]] = (),
        embedder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if set(sources) != set(settings.branches):
            raise ConfigError(f"sources of {sorted(sources)} for modalities {settings.modalities}; expected the same")
        self.labels = self.targets = tuple(labels)
        self.kind, self.ranges = kind, tuple((float(low), float(high)) for low, high in ranges)
        self._label_set = None if kind == "scalar" else LabelSet(self.labels)
        self.register_buffer("range_middle", torch.tensor([(low + high) / 2 for low, high in ranges]), persistent=False)
        self.register_buffer("range_half", torch.tensor([(high - low) / 2 for low, high in ranges]), persistent=False)
        self.settings = values_of_base(NetworkSettings, settings)
        self.modalities = settings.modalities
        self.content_free = None
        self.sources = {modality: sources[modality] for modality in settings.branches}
        self.stores: dict[str, FeatureStore] = {}
        self.normalisations = {  # the builder adds the statistics
            modality: SpeakerNormalisation()
            for modality, branch in settings.branches.items()
            if branch.normalisation == "speaker"
        }
        audio = self.sources.get(AUDIO)
        self.sampling_rate = audio.sampling_rate if isinstance(audio, AudioEncoder) else None
        self.branches = nn.ModuleDict(
            {modality: self._make_branch(modality, source) for modality, source in self.sources.items()}
        )
        text = self.sources.get(TRANSCRIPT)
        if isinstance(text, TranscriptTokenizer):
            made = learnt_embedder(settings.transcript.encoder, text) if embedder is None else embedder
            self.branch(TRANSCRIPT).embedder = made
        widths = {modality: self.branch(modality).output_size for modality in self.sources}
        if self.uses_context:
            widths[TRANSCRIPT] *= 2
        states = {modality: self.branch(modality).sequence.output_size for modality in self.sources}
        self.fusion = fusion_of(settings.fusion, states, widths)
        self.head = _head(self.fusion.output_size, settings.head, len(self.labels))

    def _make_branch(self, modality: str, source: Source) -> Branch:
        sequence = self.settings.branches[modality].sequence
        if isinstance(source, TranscriptTokenizer) and not isinstance(source, FinetunedTokenizer):
            return Branch(learnt_size(self.settings.transcript.encoder), sequence)
        return Branch(source.size, sequence, layers=source.layers)

    @property
    def uses_context(self) -> bool:
        """Whether the transcript branch also encodes the turns before an utterance."""
        return TRANSCRIPT in self.sources and self.settings.transcript.context_turns > 0

    @property
    def own_learning_rates(self) -> list[tuple[nn.Module, float]]:
        """Parts with a learning rate of their own: a pretrained encoder that is trained."""
        encoder = self.branch(TRANSCRIPT).embedder if TRANSCRIPT in self.sources else None
        rate = self.settings.transcript.encoder.learning_rate
        return [(encoder, rate)] if isinstance(encoder, FinetunedText) else []

    @property
    def label_set(self) -> LabelSet:
        """The K labels.

        Raises:
            ConfigError: if it predicts numbers
        """
        if self._label_set is None:
            raise ConfigError(f"a baseline network of {', '.join(self.targets)} predicts numbers and has no labels")
        return self._label_set

    @property
    def training_collator(self) -> TrainingCollator:
        """Makes batches to train on."""
        if self.kind != "single":
            return TargetCollator(self.joint_collator)
        return LabelledCollator(self.joint_collator, self.label_set)

    @property
    def joint_collator(self) -> Collator:
        """Makes batches to score."""
        return BaselineCollator(self.sources, self.stores, self.normalisations, context=self.uses_context)

    @property
    def scoring_collators(self) -> tuple[Collator, ...]:
        """The same, in a tuple."""
        return (self.joint_collator,)

    def refuses(self, duration_s: float) -> None:
        """None: it takes audio of any duration."""
        return

    def branch(self, modality: str) -> Branch:
        """The branch of a modality."""
        return cast(Branch, self.branches[modality])

    def forward(
        self,
        truth: Tensor | None = None,
        audio: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        transcript: Tensor | None = None,
        transcript_lengths: Tensor | None = None,
        context: Tensor | None = None,
        context_lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run a batch of a ``BaselineCollator``.

        Returns:
            ``log_probs`` (B, K); with ``truth`` (B,), index of the true label, also ``losses`` (B,), cross-entropy, and
            ``items`` (B,), which are ones. For other kinds, ``scores`` (B, T): logits or numbers
        """
        given = {AUDIO: (audio, audio_lengths), TRANSCRIPT: (transcript, transcript_lengths)}
        encoded = {}
        for modality in self.sources:
            frames, lengths = given[modality]
            assert frames is not None
            assert lengths is not None
            branch = self.branch(modality)
            states, lengths = branch(frames, lengths)
            encoded[modality] = Encoded(states, lengths, branch.pool(states, lengths))
        if context is not None:
            assert context_lengths is not None
            before = self._context_vectors(context, context_lengths)
            own = encoded[TRANSCRIPT]
            encoded[TRANSCRIPT] = replace(own, pooled=torch.cat([own.pooled, before], dim=1))
        logits = self.head(self.fusion(encoded))
        if self.kind != "single":
            return {
                "scores": logits.float()
                if self.kind == "multi"
                else self.range_middle + self.range_half * logits.float()
            }
        scores = {"log_probs": F.log_softmax(logits.float(), dim=1)}
        if truth is None:
            return scores
        losses = F.cross_entropy(logits.float(), truth, reduction="none")
        return {"losses": losses, "items": torch.ones_like(losses), **scores}

    def _context_vectors(self, context: Tensor, lengths: Tensor) -> Tensor:
        """Vectors of the turns before, (B, D), of the same branch as the transcript; zeros where there are none."""
        branch, some = self.branch(TRANSCRIPT), lengths > 0
        vectors = torch.zeros(len(lengths), branch.output_size, device=lengths.device)
        if some.any():
            vectors[some] = branch.pool(*branch(context[some], lengths[some])).to(vectors.dtype)
        return vectors

    def save_trained(self, folder: Path) -> None:
        """Write weights, normalisation, settings and a learnt tokenizer; of a frozen encoder its name and a hash."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS) as file:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, file)
        save_parts(folder, self.labels, self.settings, self.sources, kind=self.kind, ranges=self.ranges)

    @classmethod
    def load_trained(cls, folder: Path) -> BaselineNetwork:
        """Read what ``save_trained`` wrote, in evaluation mode; warn of another version of an encoder of audio.

        Raises:
            ModelError: if a file is missing or does not fit, or the weights of an encoder are not those of training
        """
        saved = read_saved(folder)
        try:
            weights = read_weights(folder)
            sources = {modality: load_source(saved, modality, folder) for modality in saved.settings.branches}
            build = partial(cls, saved.labels, saved.settings, sources, kind=saved.kind, ranges=saved.ranges)
            with torch.device("meta"):  # the sizes of any network are compared before it takes memory
                expected = build()
                expected.load_state_dict({name: value.to("meta") for name, value in weights.items()})
            for name, value in expected.state_dict().items():
                if weights[name].dtype != value.dtype:  # load_state_dict would convert it
                    raise TypeError(f"{name} is {weights[name].dtype}, expected {value.dtype}")
            network = build()
            network.load_state_dict(weights)
        except LalmMerError:
            raise
        except (OSError, TypeError, LookupError, RuntimeError) as error:
            raise ModelError(f"{folder / WEIGHTS}: does not fit {NETWORK} ({one_line(error)})") from error
        return network.eval()


def _head(size: int, settings: HeadSettings, k: int) -> nn.Module:
    if not settings.hidden:
        return nn.Linear(size, k)
    dropout = nn.Dropout(settings.dropout)
    return nn.Sequential(nn.Linear(size, settings.hidden), nn.ReLU(), dropout, nn.Linear(settings.hidden, k))
