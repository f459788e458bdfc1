"""CLAP as a recognizer: a label is described in several sentences, and its score is how near the audio lies to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from torch import Tensor, nn

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import OBJECTIVES
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.clap import Clap
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.recognizers.base import Batch, Collator, true_indices

__all__ = ["ClapCollator", "ClapRecognizer", "ClapSetup", "ClapTrainingCollator"]


@dataclass(frozen=True)
class ClapSetup:
    """What a CLAP compares audio with.

    Args:
        ensemble: descriptions of the labels
        label_set: the K labels with the ensemble's surface forms
    """

    ensemble: Ensemble
    label_set: LabelSet

    @property
    def modalities(self) -> str:
        """``audio``."""
        return self.ensemble.modalities

    @property
    def shots(self) -> tuple[Example, ...]:
        """None: it takes no answered examples."""
        return ()

    def digests(self) -> dict[str, str | None]:
        """Hash of the descriptions, for run.json."""
        return {"prompt": self.ensemble.digest}

    def uses(self, slot: str) -> bool:
        """It uses audio alone."""
        return slot == "audio"


class ClapCollator:
    """Makes a batch to be scored: spectrograms of B inputs.

    Args:
        clap: audio front end
    """

    def __init__(self, clap: Clap) -> None:
        self._clap = clap

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Collate B inputs.

        Raises:
            ConfigError: naming an utterance without audio
        """
        waveforms = []
        for given in inputs:
            if given.waveform is None:
                raise ConfigError(f"utterance {given.utterance_id}: clap uses audio, but none was loaded")
            waveforms.append(given.waveform)
        return self._clap.audio_inputs(waveforms)


class ClapTrainingCollator:
    """Makes a batch to learn from: spectrograms and ``truth`` (B,), which is also counted as ``labels``.

    Args:
        clap: audio front end
        label_set: the K labels
    """

    def __init__(self, clap: Clap, label_set: LabelSet) -> None:
        self._collate = ClapCollator(clap)
        self._label_set = label_set

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Collate B examples."""
        truth = true_indices(examples, self._label_set)
        return self._collate([example.input for example in examples]) | {"truth": truth, "labels": truth}


class ClapRecognizer(nn.Module):
    """A CLAP behind the interface that training and scoring share.

    The score of a label: the normalised embeddings of all its descriptions are averaged and normalised again (Radford
    et al. 2021, CLIP, section 3.1.4); their cosine with the audio's, times exp(logit_scale_a), log_softmax over the K
    labels. With one description a label, that is ``logits_per_audio`` of ClapModel.

    Training makes small either ``cross_entropy``, the negative log-probability of the true label, or ``contrastive``:
    each utterance is paired with a description of its label, drawn anew each time, and both directions of CLAP's loss
    are taken over the batch, its target shared among the pairs of one label, which are no negatives of each other. A
    contrastive loss depends on what else is in the batch, so that 8 x 1 is not 1 x 8, and a batch of one teaches
    nothing. Dev loss is cross-entropy either way.

    Batch norms keep their statistics: they would learn from the training batches without being saved as trained.

    Args:
        clap: the model, which an adapter may already be part of
        setup: descriptions of the labels
        model: the model as peft wraps it; None for the bare model
        objective: one of ``OBJECTIVES``

    Raises:
        ConfigError: if the objective is unknown, two labels are described alike, or a description is too long
    """

    description_ids: Tensor
    description_mask: Tensor
    label_of_description: Tensor

    def __init__(
        self,
        clap: Clap,
        setup: ClapSetup,
        model: PeftModel | None = None,
        *,
        objective: str = "cross_entropy",
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ConfigError(f"argument 'objective': {objective!r}; expected {' or '.join(OBJECTIVES)}")
        self.model: Any = clap.model if model is None else model
        self.clap = clap
        self.objective = objective
        self.setup = setup
        self.label_set = setup.label_set
        self.training_collator = ClapTrainingCollator(clap, setup.label_set)
        self.scoring_collators: tuple[Collator, ...] = (ClapCollator(clap),)
        descriptions = setup.ensemble.descriptions(setup.label_set)
        tokens = clap.tokenizer([sentence for _, sentence in descriptions])["input_ids"]
        self._check(descriptions, tokens)
        width = max(len(ids) for ids in tokens)
        pad = int(clap.tokenizer.pad_token_id)
        padded = torch.tensor([ids + [pad] * (width - len(ids)) for ids in tokens])
        self.register_buffer("description_ids", padded, persistent=False)
        lengths = torch.tensor([len(ids) for ids in tokens])
        mask = (torch.arange(width)[None] < lengths[:, None]).long()
        self.register_buffer("description_mask", mask, persistent=False)
        owners = torch.tensor([index for index, _ in descriptions])
        self.register_buffer("label_of_description", owners, persistent=False)
        self._kept: Tensor | None = None
        self._no_split_modules = list(clap.fsdp_layers)  # accelerate reads it: FSDP shards these one by one

    @property
    def modalities(self) -> str:
        """``audio``: it uses no transcript."""
        return self.setup.modalities

    @property
    def sampling_rate(self) -> int:
        """Rate at which it takes audio, in Hz."""
        return self.clap.sampling_rate

    @property
    def content_free(self) -> None:
        """None: nothing is subtracted from its scores."""
        return

    def refuses(self, duration_s: float) -> str | None:
        """Why it cannot take audio of this duration, in seconds; None where it can."""
        return self.clap.refuses(duration_s)

    def forward(self, input_features: Tensor, is_longer: Tensor, truth: Tensor | None = None) -> dict[str, Tensor]:
        """Run a batch of a ``ClapCollator``.

        Returns:
            ``log_probs`` (B, K); with ``truth`` also ``losses`` (B,) and ``items`` (B,): ones
        """
        audio = self._audio_embeddings(input_features, is_longer)
        descriptions = self._description_embeddings()
        similarities = self._scale("a") * audio @ self._label_embeddings(descriptions).T
        log_probs = similarities.float().log_softmax(dim=1)  # a CPU's autocast would leave it in half precision
        if truth is None:
            return {"log_probs": log_probs}
        if self.training and self.objective == "contrastive":
            losses = self._contrastive(audio, descriptions, truth)
        else:
            losses = -log_probs.gather(1, truth[:, None])[:, 0]
        return {"log_probs": log_probs, "losses": losses, "items": torch.ones_like(truth)}

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but batch norms, and text encoders in which nothing learns."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        if self._text_learns():
            self._kept = None
        else:
            for tower in ("text_tower", "text_projector"):
                self.clap.submodule(tower).eval()
        return self

    def save_trained(self, folder: Path) -> None:
        """Write what was trained, in the format of its library, so that others can load it without this one."""
        self.model.save_pretrained(folder)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Not in transformers' CLAP.

        Raises:
            ConfigError: always
        """
        raise ConfigError("argument 'gradient_checkpointing': transformers' ClapModel has none; set it to false")

    activation_checkpointing_enable = gradient_checkpointing_enable

    @property
    def _bare(self) -> Any:  # noqa: ANN401 transformers is not followed
        return self.clap.model  # adapters are in it: peft changes it in place

    def _audio_embeddings(self, input_features: Tensor, is_longer: Tensor) -> Tensor:
        """Normalised, (B, D), float32."""
        features = input_features.to(self._bare.dtype)
        output = self._bare.get_audio_features(input_features=features, is_longer=is_longer)
        return nn.functional.normalize(output.pooler_output.float(), dim=-1)

    def _description_embeddings(self) -> Tensor:
        """Normalised, (P, D), float32; kept as long as they cannot change."""
        here = self.description_ids.device
        if self._kept is not None and self._kept.device == here and not (self.training and self._text_learns()):
            return self._kept
        output = self._bare.get_text_features(input_ids=self.description_ids, attention_mask=self.description_mask)
        embeddings = nn.functional.normalize(output.pooler_output.float(), dim=-1)
        if not (embeddings.requires_grad or embeddings.is_inference()):
            self._kept = embeddings
        return embeddings

    def _label_embeddings(self, descriptions: Tensor) -> Tensor:
        """Mean over each label's descriptions, normalised: (K, D)."""
        of_label = [
            descriptions[self.label_of_description == label].mean(dim=0) for label in range(len(self.label_set))
        ]
        return nn.functional.normalize(torch.stack(of_label), dim=-1)

    def _contrastive(self, audio: Tensor, descriptions: Tensor, truth: Tensor) -> Tensor:
        """Mean of both directions, (B,)."""
        mine = truth.cpu()[:, None] == self.label_of_description.cpu()[None]
        drawn = torch.multinomial(mine.double(), 1)[:, 0].to(audio.device)
        cosines = (audio @ descriptions[drawn].T).float()  # (B, B): utterances by descriptions
        alike = (truth[:, None] == truth[None]).float()
        target = alike / alike.sum(dim=1, keepdim=True)
        from_audio = (self._scale("a") * cosines).log_softmax(dim=1)
        from_text = (self._scale("t") * cosines.T).log_softmax(dim=1)
        return -(target * (from_audio + from_text)).sum(dim=1) / 2

    def _scale(self, side: str) -> Tensor:
        scale: Tensor = getattr(self._bare, f"logit_scale_{side}")
        return scale.float().exp()

    def _text_learns(self) -> bool:
        towers = (self.clap.submodule(tower) for tower in ("text_tower", "text_projector"))
        return any(parameter.requires_grad for tower in towers for parameter in tower.parameters())

    def _check(self, descriptions: Sequence[tuple[int, str]], tokens: Sequence[Sequence[int]]) -> None:
        longest = int(self._bare.config.text_config.max_position_embeddings) - 2  # positions begin after padding's
        owner: dict[tuple[int, ...], int] = {}
        for (label, sentence), ids in zip(descriptions, tokens, strict=True):
            if len(ids) > longest:
                raise ConfigError(f"description {sentence[:60]!r}: {len(ids)} tokens; clap reads {longest} at most")
            if owner.setdefault(tuple(ids), label) != label:
                raise ConfigError(
                    f"description {sentence[:60]!r} has the tokens of another label's; change one of them"
                )
