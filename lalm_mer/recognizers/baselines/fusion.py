"""The fusion baseline: one branch per modality, concatenation of their pooled vectors, and a small classifier."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lalm_mer.core.errors import ConfigError, LalmMerError, ModelError, PredictionError, one_line
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import modalities_of
from lalm_mer.core.output import atomic_path, write_json
from lalm_mer.core.schema import Input
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.examples.feature_store import FeatureStore
from lalm_mer.recognizers.base import Batch, Collator, LabelledCollator
from lalm_mer.recognizers.baselines.acoustic import SAMPLING_RATE, AcousticFeatures, acoustic_features
from lalm_mer.recognizers.baselines.branches import SequenceBranch, frame_mask
from lalm_mer.recognizers.baselines.settings import BranchSettings, ScratchSettings
from lalm_mer.recognizers.baselines.word_embeddings import FrozenBert, ScratchBert, TranscriptTokenizer

__all__ = ["FusionCollator", "FusionNetwork", "TranscriptReader"]

TranscriptReader: TypeAlias = FrozenBert | TranscriptTokenizer

_CONFIG = "fusion.json"
_WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer"


class FusionNetwork(nn.Module):
    """Early fusion after Pepino et al.: convolutions and mean pooling in each branch, concatenation, dense layers.

    With a single modality it has a single branch. A frozen BERT is not trained; a scratch BERT is.

    Args:
        labels: K labels, in the order of the scores
        acoustic: computes the frames of the audio branch; None for no such branch
        transcripts: a frozen BERT, or the tokenizer of the scratch BERT; None for no transcript branch
        audio_branch: shape and regularisation of the audio branch
        transcript_branch: those of the transcript branch
        scratch: dimensions of the scratch BERT; used only with a tokenizer
        hidden: units of the dense layer between the concatenation and the K logits; 0 for none
        dropout: probability after the dense layer
        label_smoothing: fraction of the target that is distributed over all labels, in training only

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
                "fractions in [0, 1)"
            )
        self.labels = tuple(labels)
        self.label_set = LabelSet(self.labels)
        self.modalities = modalities_of(audio=acoustic is not None, transcript=transcripts is not None)
        self.sampling_rate = None if acoustic is None else SAMPLING_RATE
        self.content_free = None
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
    def training_collator(self) -> LabelledCollator:
        """Makes batches to train on."""
        return LabelledCollator(FusionCollator(self), self.label_set)

    @property
    def joint_collator(self) -> Collator:
        """Makes batches to score."""
        return FusionCollator(self)

    @property
    def scoring_collators(self) -> tuple[Collator, ...]:
        """The same, in a tuple."""
        return (self.joint_collator,)

    def refuses(self, duration_s: float) -> None:
        """None: it takes audio of any duration."""
        return

    def branch(self, modality: str) -> SequenceBranch:
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
        """Run a batch of a ``FusionCollator``.

        Returns:
            ``log_probs`` (B, K); with ``truth`` (B,), index of the true label, also ``losses`` (B,), cross-entropy, and
            ``items`` (B,), which are ones
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
        """Write weights, normalisation, settings and the scratch tokenizer; of a frozen BERT its name and a hash."""
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.transcripts, TranscriptTokenizer):
            self.transcripts.save(folder / _TOKENIZER)
        with atomic_path(folder / _WEIGHTS) as partial:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, partial)
        reader = None if self.transcripts is None else {"name": "scratch"}
        if isinstance(self.transcripts, FrozenBert):
            reader = self.transcripts.settings()
        branches = {name: asdict(cast(SequenceBranch, branch).settings) for name, branch in self.branches.items()}
        config = {
            "labels": list(self.labels),
            "modalities": self.modalities,
            "branches": branches,
            "head": self._head_settings,
            "acoustic": None if self.acoustic is None else self.acoustic.settings(),
            "transcripts": reader,
            "scratch": None if self._scratch is None else asdict(self._scratch),
        }
        write_json(folder / _CONFIG, config)

    @classmethod
    def load_trained(cls, folder: Path) -> FusionNetwork:
        """Read what ``save_trained`` wrote, in evaluation mode; warn of another version of the acoustic extractor.

        Raises:
            ModelError: if a file is missing or does not fit, or the frozen BERT's weights are not those of training
        """
        config = _read_config(folder / _CONFIG)
        options: dict[str, Any] = dict(config.head)
        options |= {f"{name}_branch": branch for name, branch in config.branches.items()}
        try:
            weights = load_file(folder / _WEIGHTS)
            network = cls(
                config.labels,
                acoustic=_load_acoustic(config.acoustic, folder),
                transcripts=_load_transcripts(config.transcripts, config.scratch, folder),
                scratch=config.scratch,
                **options,
            )
            network.load_state_dict(weights)
        except LalmMerError:
            raise
        except (OSError, TypeError, LookupError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder / _WEIGHTS}: does not fit {_CONFIG} ({one_line(error)})") from error
        return network.eval()

    def _make_head(self, hidden: int, dropout: float) -> nn.Module:
        size, k = sum(cast(SequenceBranch, branch).output_size for branch in self.branches.values()), len(self.labels)
        if not hidden:
            return nn.Linear(size, k)
        return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, k))


class FusionCollator:
    """Makes a batch for a ``FusionNetwork`` to score; without a store, features are computed for every batch.

    Example:
        >>> batch = FusionCollator(network)(inputs)  # doctest: +SKIP
        >>> network(**batch)["log_probs"].shape  # doctest: +SKIP
        torch.Size([8, 4])
    """

    def __init__(self, network: FusionNetwork) -> None:
        self._acoustic, self._transcripts = network.acoustic, network.transcripts
        self._stores = dict(network.stores)

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs.

        Returns:
            ``audio`` (B, F, D) frames and ``audio_lengths`` (B,); ``transcript``, (B, T, D) frozen embeddings or (B, T)
            token ids for the scratch BERT, and ``transcript_lengths`` (B,); right-padded with zeros

        Raises:
            CorpusError: naming the utterance, if its audio or transcript is missing
        """
        batch = {}
        if self._acoustic is not None:
            batch["audio"], batch["audio_lengths"] = self._frames("audio", self._acoustic, inputs)
        if isinstance(self._transcripts, TranscriptTokenizer):
            ids = [torch.tensor(self._transcripts.ids(given)) for given in inputs]
            batch["transcript"], batch["transcript_lengths"] = _padded(ids)
        elif self._transcripts is not None:
            batch["transcript"], batch["transcript_lengths"] = self._frames("transcript", self._transcripts, inputs)
        return batch

    def _frames(
        self, modality: str, extractor: AcousticFeatures | FrozenBert, inputs: Sequence[Input]
    ) -> tuple[Tensor, Tensor]:
        read = self._stores[modality].frames if modality in self._stores else extractor.extract
        return _padded([torch.tensor(read(given)) for given in inputs])  # copies, since the store's are read-only


def _padded(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B sequences, right-padded with zeros, and their lengths (B,)."""
    return nn.utils.rnn.pad_sequence(list(sequences), batch_first=True), torch.tensor([len(one) for one in sequences])


@dataclass(frozen=True)
class _Config:
    """Content of the file of settings."""

    labels: tuple[str, ...]
    modalities: str
    branches: Mapping[str, BranchSettings]
    head: Mapping[str, Any]
    acoustic: Mapping[str, Any] | None
    transcripts: Mapping[str, Any] | None
    scratch: ScratchSettings | None


def _read_config(file: Path) -> _Config:
    try:
        return parse(_Config, read_object(file), str(file))
    except PredictionError as error:
        raise ModelError(f"{file.parent}: not a saved fusion network ({error})") from error


def _load_acoustic(saved: Mapping[str, Any] | None, folder: Path) -> AcousticFeatures | None:
    if saved is None:
        return None
    extractor = acoustic_features(saved["name"], saved["trim_db"])
    if extractor.settings() != saved:
        warnings.warn(f"{folder}: trained with acoustic features {saved}, found {extractor.settings()}", stacklevel=3)
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
        raise ModelError(f"{folder}: the weights of bert {saved['model']!r} are not those of training; pin a revision")
    return bert
