"""CLAP, or another dual encoder, as a recognizer: a label's score is the audio's similarity to its descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from torch import Tensor, nn

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import OBJECTIVES
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.adapters import save_trained
from lalm_mer.models.dual_encoder import DualEncoder
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.recognizers.base import Batch, Collator, LabelledCollator

__all__ = ["ClapCollator", "ClapRecognizer", "ClapSetup"]


@dataclass(frozen=True)
class ClapSetup:
    """The descriptions that a CLAP compares audio with, and the K labels with the descriptions' surface forms."""

    ensemble: Ensemble
    label_set: LabelSet
    shots: tuple[Example, ...] = field(default=(), init=False)

    @property
    def modalities(self) -> str:
        """``audio``."""
        return self.ensemble.modalities

    def digests(self) -> dict[str, str | None]:
        """Hash of the descriptions, for run.json."""
        return {"prompt": self.ensemble.digest}

    def uses(self, slot: str) -> bool:
        """Whether the slot is that of audio."""
        return slot == "audio"


class ClapCollator:
    """Makes a batch to score: the spectrograms of B inputs."""

    def __init__(self, clap: DualEncoder) -> None:
        self._clap = clap

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs.

        Raises:
            ConfigError: naming an utterance without audio
        """
        waveforms = []
        for given in inputs:
            if given.waveform is None:
                raise ConfigError(f"utterance {given.utterance_id}: {self._clap.name} uses audio, but none was loaded")
            waveforms.append(given.waveform)
        return self._clap.audio_inputs(waveforms)


class ClapRecognizer(nn.Module):
    """A dual encoder as a ``Recognizer``.

    The score of a label: the normalised embeddings of its descriptions are averaged and normalised again (Radford et
    al. 2021, CLIP, section 3.1.4); their cosine with the audio's, times the model's scale, log_softmax over the K
    labels. With one description per label, that is ``logits_per_audio`` of ClapModel.

    Training minimises ``cross_entropy``, the negative log-probability of the true label, or ``contrastive``: each
    utterance is paired with a randomly drawn description of its label, and both directions of CLAP's loss are computed
    over the batch; the target is shared equally by all pairs of one label, which are not negatives of each other. A
    contrastive loss depends on the other utterances of the batch: 8 x 1 differs from 1 x 8, and a batch of one has no
    gradient. Dev loss is cross-entropy in both cases.

    Batch norms keep their statistics, also if they are trained in full: an adapter would not save others.

    Args:
        clap: the model, possibly with an adapter in it
        setup: descriptions of the labels
        model: the model as peft wraps it; None for the base model alone
        objective: one of ``OBJECTIVES``

    Raises:
        ConfigError: if the objective is unknown, two labels have the same description, or a description is too long
    """

    description_ids: Tensor
    description_mask: Tensor
    label_of_description: Tensor

    def __init__(
        self, clap: DualEncoder, setup: ClapSetup, model: PeftModel | None = None, *, objective: str = "cross_entropy"
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ConfigError(f"argument 'objective': {objective!r}; expected {' or '.join(OBJECTIVES)}")
        self.model: Any = clap.model if model is None else model
        self.clap = clap
        self.objective = objective
        self.setup = setup
        self.label_set, self.modalities = setup.label_set, setup.modalities
        self.sampling_rate = clap.sampling_rate
        self.content_free = None
        self.training_collator = LabelledCollator(ClapCollator(clap), setup.label_set)
        self.joint_collator: Collator = ClapCollator(clap)
        self.scoring_collators = (self.joint_collator,)
        descriptions = setup.ensemble.descriptions(setup.label_set)
        tokens = clap.tokenizer([sentence for _, sentence in descriptions])["input_ids"]
        self._check(descriptions, tokens)
        rows = [torch.tensor(ids) for ids in tokens]
        pad = int(clap.tokenizer.pad_token_id)
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        labels = torch.tensor([index for index, _ in descriptions])
        self.register_buffer("description_ids", padded, persistent=False)
        self.register_buffer("description_mask", mask, persistent=False)
        self.register_buffer("label_of_description", labels, persistent=False)
        self._cached_descriptions: Tensor | None = None
        self._no_split_modules = list(clap.fsdp_layers)  # accelerate reads it: FSDP shards these one by one

    def refuses(self, duration_s: float) -> str | None:
        """The reason why it cannot take audio of this duration, in seconds; None if it can."""
        return self.clap.refuses(duration_s)

    def forward(self, truth: Tensor | None = None, **audio_inputs: Tensor) -> dict[str, Tensor]:
        """Run a batch of a ``ClapCollator``.

        Returns:
            ``log_probs`` (B, K); with ``truth`` also ``losses`` (B,) and ``items`` (B,), which are ones
        """
        audio = self._audio_embeddings(audio_inputs)
        descriptions = self._description_embeddings()
        similarities = self.clap.scales()[0] * audio @ self._label_embeddings(descriptions).T
        log_probs = similarities.float().log_softmax(dim=1)  # autocast on a CPU would leave it in half precision
        if truth is None:
            return {"log_probs": log_probs}
        if self.training and self.objective == "contrastive":
            losses = self._contrastive(audio, descriptions, truth)
        else:
            losses = -log_probs.gather(1, truth[:, None])[:, 0]
        return {"log_probs": log_probs, "losses": losses, "items": torch.ones_like(truth)}

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all modules but batch norms and, if it is not trained, the text encoder."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        if self._trains_text():
            self._cached_descriptions = None
        else:
            for tower in ("text_tower", "text_projector"):
                self.clap.submodule(tower).eval()
        return self

    @property
    def saves_every_weight(self) -> bool:
        """Whether ``save_trained`` writes the complete model, because it has no adapter."""
        return bool(self.clap.trained_in_full)

    def save_trained(self, folder: Path) -> None:
        """Write what was trained, an adapter or the complete model, in the format of its library, which can load it
        without this one.
        """
        save_trained(self.clap, self.model, folder)

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 as in transformers
        """Raise ConfigError: dual encoders have no gradient checkpointing."""
        raise ConfigError(f"argument 'gradient_checkpointing': {self.clap.name} has none; set it to false")

    activation_checkpointing_enable = gradient_checkpointing_enable

    def _audio_embeddings(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Normalised, (B, D), float32."""
        model: Any = self.clap.model  # with the adapter, which peft adds in place
        cast = {name: each.to(model.dtype) if each.is_floating_point() else each for name, each in inputs.items()}
        output = model.get_audio_features(**cast)
        return nn.functional.normalize(output.pooler_output.float(), dim=-1)

    def _description_embeddings(self) -> Tensor:
        """Normalised, (P, D), float32; cached as long as they cannot change."""
        cached = self._cached_descriptions
        may_change = self.training and self._trains_text()
        if cached is not None and cached.device == self.description_ids.device and not may_change:
            return cached
        model: Any = self.clap.model
        output = model.get_text_features(input_ids=self.description_ids, attention_mask=self.description_mask)
        embeddings = nn.functional.normalize(output.pooler_output.float(), dim=-1)
        if not (embeddings.requires_grad or embeddings.is_inference()):
            self._cached_descriptions = embeddings
        return embeddings

    def _label_embeddings(self, descriptions: Tensor) -> Tensor:
        """Mean of each label's descriptions, normalised, (K, D)."""
        of_label = [
            descriptions[self.label_of_description == label].mean(dim=0) for label in range(len(self.label_set))
        ]
        return nn.functional.normalize(torch.stack(of_label), dim=-1)

    def _contrastive(self, audio: Tensor, descriptions: Tensor, truth: Tensor) -> Tensor:
        """Mean of both directions, (B,)."""
        of_label = truth.cpu()[:, None] == self.label_of_description.cpu()[None]
        drawn = torch.multinomial(of_label.double(), 1)[:, 0].to(audio.device)
        cosines = (audio @ descriptions[drawn].T).float()  # (B, B): utterances by descriptions
        same_label = (truth[:, None] == truth[None]).float()
        target = same_label / same_label.sum(dim=1, keepdim=True)
        of_audio, of_text = self.clap.scales()
        from_audio = (of_audio * cosines).log_softmax(dim=1)
        from_text = (of_text * cosines.T).log_softmax(dim=1)
        return -(target * (from_audio + from_text)).sum(dim=1) / 2

    def _trains_text(self) -> bool:
        towers = (self.clap.submodule(tower) for tower in ("text_tower", "text_projector"))
        return any(parameter.requires_grad for tower in towers for parameter in tower.parameters())

    def _check(self, descriptions: Sequence[tuple[int, str]], tokens: Sequence[Sequence[int]]) -> None:
        longest = self.clap.longest_description
        label_of: dict[tuple[int, ...], int] = {}
        for (label, sentence), ids in zip(descriptions, tokens, strict=True):
            if len(ids) > longest:
                raise ConfigError(
                    f"description {sentence[:60]!r}: {len(ids)} tokens; {self.clap.name} reads {longest} at most"
                )
            if label_of.setdefault(tuple(ids), label) != label:
                raise ConfigError(f"description {sentence[:60]!r} has the tokens of another label; change one of them")
