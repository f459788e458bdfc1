"""The fusion baseline: one branch a modality, their pooled vectors side by side, and a small dense classifier."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import modalities_of
from lalm_mer.core.provenance import atomic_path, write_json
from lalm_mer.core.schema import Example, Input
from lalm_mer.examples.feature_store import FeatureStore
from lalm_mer.recognizers.base import Batch, Collator, true_indices
from lalm_mer.recognizers.baselines.acoustic import SAMPLING_RATE, AcousticFeatures, acoustic_features
from lalm_mer.recognizers.baselines.branches import SequenceBranch, frame_mask
from lalm_mer.recognizers.baselines.settings import BranchSettings, ScratchSettings
from lalm_mer.recognizers.baselines.word_embeddings import FrozenBert, ScratchBert, TranscriptTokenizer, pad_ids

__all__ = ["FusionCollator", "FusionNetwork", "FusionTrainingCollator", "TranscriptReader"]

TranscriptReader: TypeAlias = FrozenBert | TranscriptTokenizer

_CONFIG = "fusion.json"
_WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer"


class FusionNetwork(nn.Module):
    """Early fusion after Pepino et al.: convolutions and mean pooling in each branch, concatenation, dense layers.

    The same class is the unimodal model: a modality without a reader has no branch. ``acoustic`` and ``transcripts``
    say how the network's inputs are made, so that a saved network can be used again; only a scratch BERT is trained
    with it.

    Args:
        labels: K labels, in the order of the scores
        acoustic: makes the audio branch's frames; None leaves the branch out
        transcripts: a frozen BERT, or the tokenizer of the scratch BERT; None leaves the branch out
        audio_branch: shape and regularisation of the audio branch
        transcript_branch: those of the transcript branch
        scratch: dimensions of the scratch BERT, used with a tokenizer only
        hidden: units of the dense layer between the concatenation and the K logits; 0 for none
        dropout: probability after the dense layer
        label_smoothing: share of the target spread over all labels, training only

    Raises:
        ConfigError: if there is no branch, or a number is out of range

    References:
        Pepino et al., "Fusion approaches for emotion recognition from speech using acoustic and text-based features",
        ICASSP 2020.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        acoustic: AcousticFeatures | None,
        transcripts: TranscriptReader | None,
        audio_branch: BranchSettings | None = None,
        transcript_branch: BranchSettings | None = None,
        scratch: ScratchSettings | None = None,
        hidden: int = 64,
        dropout: float = 0.3,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if acoustic is None and transcripts is None:
            raise ConfigError("a fusion network needs acoustic features, transcripts, or both; found neither")
        if hidden < 0 or not 0 <= dropout < 1 or not 0 <= label_smoothing < 1:
            raise ConfigError(
                f"hidden={hidden}, dropout={dropout}, label_smoothing={label_smoothing}: expected 0 or more units and "
                "shares in [0, 1)"
            )
        self.labels = tuple(labels)
        self.stores: dict[str, FeatureStore] = {}
        self.acoustic, self.transcripts = acoustic, transcripts
        self.branches = nn.ModuleDict()
        self.embedder: ScratchBert | None = None
        self._scratch = (scratch or ScratchSettings()) if isinstance(transcripts, TranscriptTokenizer) else None
        if acoustic is not None:
            self.branches["audio"] = SequenceBranch(acoustic.size, audio_branch or BranchSettings())
        if transcripts is not None:
            size = self._scratch.size if self._scratch is not None else cast(FrozenBert, transcripts).size
            self.branches["transcript"] = SequenceBranch(size, transcript_branch or BranchSettings(kernel_size=3))
        if self._scratch is not None:
            self.embedder = ScratchBert(self._scratch, cast(TranscriptTokenizer, transcripts))
        self._head_settings = {"hidden": hidden, "dropout": dropout, "label_smoothing": label_smoothing}
        self.label_smoothing = label_smoothing
        self.head = self._make_head(hidden, dropout)

    @property
    def label_set(self) -> LabelSet:
        """The K labels."""
        return LabelSet(self.labels)

    @property
    def modalities(self) -> str:
        """One of ``core.names.MODALITIES``."""
        return modalities_of(audio=self.acoustic is not None, transcript=self.transcripts is not None)

    @property
    def sampling_rate(self) -> int | None:
        """Rate at which it takes audio, in Hz; None without an audio branch."""
        return None if self.acoustic is None else SAMPLING_RATE

    @property
    def training_collator(self) -> FusionTrainingCollator:
        """Of batches to learn from."""
        return FusionTrainingCollator(FusionCollator(self, self.stores), self.label_set)

    @property
    def scoring_collators(self) -> tuple[Collator, ...]:
        """Of batches to be scored."""
        return (FusionCollator(self, self.stores),)

    @property
    def content_free(self) -> None:
        """None: nothing is subtracted from its scores."""
        return

    def refuses(self, duration_s: float) -> None:
        """None: it takes audio of any duration that has a sample."""
        return

    def branch(self, modality: Literal["audio", "transcript"]) -> SequenceBranch:
        """The branch of a modality."""
        return cast(SequenceBranch, self.branches[modality])

    def forward(
        self,
        truth: Tensor | None = None,
        audio: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        transcript: Tensor | None = None,
        transcript_lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Scores of a batch, as ``FusionCollator`` makes it.

        Args:
            truth: (B,), index of the true label; without it there are no losses
            audio: (B, F, D) acoustic frames
            audio_lengths: (B,), frames of each utterance
            transcript: (B, T, D) frozen embeddings, or (B, T) token ids for the scratch BERT
            transcript_lengths: (B,), tokens of each utterance

        Returns:
            ``log_probs`` (B, K), log_softmax; with ``truth`` also ``losses`` (B,), cross entropy, and ``items`` (B,),
            1 each, so that the mean loss is the sum of the losses over the sum of the items
        """
        pooled = []
        if "audio" in self.branches:
            assert audio is not None
            assert audio_lengths is not None
            pooled.append(self.branches["audio"](audio, audio_lengths))
        if "transcript" in self.branches:
            assert transcript is not None
            assert transcript_lengths is not None
            if self.embedder is not None:
                transcript = self.embedder(transcript, frame_mask(transcript_lengths, transcript.shape[1]))
            pooled.append(self.branches["transcript"](transcript, transcript_lengths))
        logits = self.head(torch.cat(pooled, dim=1))
        scores = {"log_probs": F.log_softmax(logits.float(), dim=1)}
        if truth is None:
            return scores
        smoothing = self.label_smoothing if self.training else 0.0
        losses = F.cross_entropy(logits.float(), truth, label_smoothing=smoothing, reduction="none")
        return {"losses": losses, "items": torch.ones_like(losses), **scores}

    def save_trained(self, folder: Path) -> None:
        """Write what predicting again needs: weights with normalisation, settings, and the scratch tokenizer.

        A frozen BERT is named with a hash of its weights, not copied.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.transcripts, TranscriptTokenizer):
            self.transcripts.save(folder / _TOKENIZER)
        with atomic_path(folder / _WEIGHTS) as partial:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, partial)
        write_json(folder / _CONFIG, self._config())

    @classmethod
    def load_trained(cls, folder: Path) -> FusionNetwork:
        """Read what ``save_trained`` wrote, in eval mode.

        A frozen BERT with other weights is an error; another version of an acoustic extractor warns.

        Raises:
            ModelError: if a file is missing or does not fit, or the frozen BERT's weights are not those of training
        """
        try:
            config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
            weights = load_file(folder / _WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(f"{folder}: not a saved fusion network ({' '.join(str(error).split())})") from error
        branches = config["branches"]
        scratch = None if config["scratch"] is None else ScratchSettings(**config["scratch"])
        network = cls(
            config["labels"],
            acoustic=_load_acoustic(config["acoustic"], folder),
            transcripts=_load_transcripts(config["transcripts"], scratch, folder),
            audio_branch=BranchSettings(**branches["audio"]) if "audio" in branches else None,
            transcript_branch=BranchSettings(**branches["transcript"]) if "transcript" in branches else None,
            scratch=scratch,
            **config["head"],
        )
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(f"{folder / _WEIGHTS}: does not fit {_CONFIG} ({' '.join(str(error).split())})") from error
        return network.eval()

    def _make_head(self, hidden: int, dropout: float) -> nn.Module:
        size = sum(cast(SequenceBranch, branch).output_size for branch in self.branches.values())
        if not hidden:
            return nn.Linear(size, len(self.labels))
        return nn.Sequential(
            nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, len(self.labels))
        )

    def _config(self) -> dict[str, Any]:
        return {
            "labels": list(self.labels),
            "modalities": self.modalities,
            "branches": {name: asdict(cast(SequenceBranch, branch).settings) for name, branch in self.branches.items()},
            "head": self._head_settings,
            "acoustic": None if self.acoustic is None else self.acoustic.settings(),
            "transcripts": _describe(self.transcripts),
            "scratch": None if self._scratch is None else asdict(self._scratch),
        }


class FusionCollator:
    """Makes the batch that a ``FusionNetwork`` scores.

    Args:
        network: whose batches to make; nothing of its weights is kept
        stores: stored features by modality; without one they are computed for every batch

    Example:
        >>> batch = FusionCollator(network)(inputs)  # doctest: +SKIP
        >>> network(**batch)["log_probs"].shape  # doctest: +SKIP
        torch.Size([8, 4])
    """

    def __init__(self, network: FusionNetwork, stores: Mapping[str, FeatureStore] | None = None) -> None:
        self._acoustic, self._transcripts = network.acoustic, network.transcripts
        self._stores = dict(stores or {})

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs.

        Returns:
            ``audio`` (B, F, D) and ``audio_lengths`` (B,); ``transcript``, (B, T, D) frozen embeddings or (B, T) token
            ids, and ``transcript_lengths`` (B,); right-padded with zeros

        Raises:
            CorpusError: naming the utterance, if its audio or transcript is missing
        """
        batch = {}
        if self._acoustic is not None:
            batch["audio"], batch["audio_lengths"] = self._frames("audio", self._acoustic, inputs)
        if isinstance(self._transcripts, TranscriptTokenizer):
            ids = [self._transcripts.ids(given) for given in inputs]
            batch["transcript"], batch["transcript_lengths"] = pad_ids(ids)
        elif self._transcripts is not None:
            frames, lengths = self._frames("transcript", self._transcripts, inputs)
            batch["transcript"], batch["transcript_lengths"] = frames, lengths
        return batch

    def _frames(
        self, modality: str, extractor: AcousticFeatures | FrozenBert, inputs: Sequence[Input]
    ) -> tuple[Tensor, Tensor]:
        read = self._stores[modality].frames if modality in self._stores else extractor.extract
        # copied: what the store memory-maps may not be written to
        frames = [torch.tensor(read(given)) for given in inputs]
        return nn.utils.rnn.pad_sequence(frames, batch_first=True), torch.tensor([len(one) for one in frames])


class FusionTrainingCollator:
    """Makes the batch that a ``FusionNetwork`` learns from: a batch to be scored and ``truth`` (B,).

    Args:
        collate: makes the batch to be scored
        label_set: the K labels
    """

    def __init__(self, collate: FusionCollator, label_set: LabelSet) -> None:
        self._collate = collate
        self._label_set = label_set

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Collate B examples; ``truth`` stands again as ``labels``, which the Trainer counts and does not pass on."""
        truth = true_indices(examples, self._label_set)
        return self._collate([example.input for example in examples]) | {"truth": truth, "labels": truth}


def _describe(reader: TranscriptReader | None) -> dict[str, Any] | None:
    if reader is None:
        return None
    return reader.settings() if isinstance(reader, FrozenBert) else {"name": "scratch"}


def _load_acoustic(saved: Mapping[str, Any] | None, folder: Path) -> AcousticFeatures | None:
    if saved is None:
        return None
    extractor = acoustic_features(saved["name"], saved["trim_db"])
    if extractor.settings() != saved:
        warnings.warn(f"{folder}: trained on acoustic features {saved}, these are {extractor.settings()}", stacklevel=3)
    return extractor


def _load_transcripts(
    saved: Mapping[str, Any] | None, scratch: ScratchSettings | None, folder: Path
) -> TranscriptReader | None:
    if saved is None:
        return None
    if scratch is not None:
        return TranscriptTokenizer.load(folder / _TOKENIZER, scratch.max_tokens)
    bert = FrozenBert(saved["model"], saved["revision"])
    if bert.settings() != saved:
        raise ModelError(
            f"{folder}: trained on bert {saved['model']!r}, whose weights have changed since; pin a revision"
        )
    return bert
