"""Any audio-language model with a class in transformers, so that a new one can be used before it has a family.

The stop token, the placeholder, their number and the towers are read from its processor, its chat template and its
module names, and one prompt is compared with the processor's own when the model is loaded; hence ``LIMITS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jinja2 import TemplateError
from torch import Tensor
from transformers import AutoConfig

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError, LalmMerError, ModelError, one_line, shown
from lalm_mer.models.families.base import (
    SPEECH_CORPORA,
    AudioEncoder,
    Decoder,
    Family,
    FrontEnd,
    LanguageInputs,
    TowerOutput,
)
from lalm_mer.models.families.parts.keys_values import KeysValues
from lalm_mer.models.families.parts.templates import PROBE, rendered_probe, stop_token_of
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.models.loading import from_pretrained
from lalm_mer.prompting.conversation import mark_parts

__all__ = ["LIMITS", "Generic"]

_NAMES = {"audio_tower": ("audio_tower", "audio_encoder", "sound_tower", "speech_encoder"), "projector": ("projector",)}
"""Tower -> parts of the last name of its outermost module"""
_UNKNOWN = "The training data of a generic model is not known, so that no corpus can be ruled out; see its card."
LIMITS = (
    "one forward pass from audio to logits per answer: slower, and neither tower output nor keys can be cached",
    "one utterance at a time, in training and in scoring",
    "one waveform per prompt, no longer than its feature extractor's window, or 30 s if that has none",
    "no quantisation, and adapters only in towers that are found by their names",
    "the training data and the licence of its published weights are not known",
    "no model whose processor needs torchvision, or whose chat template does not take messages of parts",
)
"""Also printed by ``lalm-mer doctor``"""


@dataclass(frozen=True)
class _Features(TowerOutput):
    """Instead of tower output, the arguments of the model's own forward for a waveform."""

    features: Mapping[str, Tensor]


class _OwnClass:
    """The class that a config names; AutoModelForMultimodalLM does not have all of them."""

    @staticmethod
    def from_pretrained(source: str, *, revision: str | None, trust_remote_code: bool, **settings: Any) -> Any:  # noqa: ANN401 transformers' own
        assert not trust_remote_code
        named = from_pretrained(AutoConfig, source, revision).architectures or ["no class"]
        first = named[0] if isinstance(named, list) else None
        own: Any = getattr(transformers, first, None) if isinstance(first, str) else None
        if not (isinstance(own, type) and issubclass(own, transformers.PreTrainedModel)):
            known = f"transformers {transformers.__version__}"
            raise ValueError(f"its class is {shown(first or named)}, a model that {known} does not have")
        return from_pretrained(own, source, revision, **settings)


class _ProcessorFrontEnd(FrontEnd):
    def longest_audio_s(self, family: Family) -> float:
        """The feature extractor's window, in seconds; 30 if it has none."""
        return float(getattr(family.processor.feature_extractor, "chunk_length", None) or 30.0)

    def token_count(self, family: Family, samples: int) -> int:
        """Number of placeholders that the processor writes for silence of that length."""
        if samples < 1:
            return 0
        ids = _processed(family, family.audio_token, np.zeros(samples, np.float32))["input_ids"]
        return int((ids == family.audio_token_id).sum())

    def inputs(self, family: Family, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Arguments of the model's own forward for one waveform, ``audio_`` before each name."""
        if len(waveforms) != 1:
            raise ModelError(f"{family.name} takes one utterance at a time, found {len(waveforms)}")
        processed = _processed(family, family.audio_token, waveforms[0].samples)
        words = set(family.tokenizer.model_input_names) | {"input_ids", "attention_mask", "token_type_ids"}
        return {f"audio_{name}": value for name, value in processed.items() if name not in words}


class _NoEncoder(AudioEncoder):
    def encode(self, family: Family, **inputs: Tensor) -> TowerOutput:
        """The features: step two does both."""
        features = {name.removeprefix("audio_"): value for name, value in inputs.items()}
        nothing = torch.zeros(1, device=next(iter(inputs.values())).device)
        return _Features(nothing, nothing, features)


class _OwnForward(Decoder):
    def hidden_states(
        self, family: Family, inputs: LanguageInputs, audio: TowerOutput | None, cache: KeysValues | None = None
    ) -> Tensor:
        """Logits, (1, T, vocabulary): the output layer of a model may be more than a matrix."""
        if len(inputs.input_ids) != 1:
            raise ModelError(f"{family.name} takes one utterance at a time, found {len(inputs.input_ids)}")
        if cache is not None:
            raise ModelError(f"{family.name} keeps no keys and values: {family.single_pass_reason}")
        features = {
            name: value.to(family.model.dtype) if value.is_floating_point() else value
            for name, value in (audio.features if isinstance(audio, _Features) else {}).items()
        }
        rows: dict[int, Tensor] = {}
        for path in _paths(inputs):
            sequence = inputs.input_ids[:, path]
            output = family.model(input_ids=sequence, attention_mask=torch.ones_like(sequence), **features)
            rows = dict(zip(path.tolist(), output.logits[0], strict=True)) | rows
        return torch.stack([rows[index] for index in range(len(rows))])[None]

    def logits(self, family: Family, hidden: Tensor) -> Tensor:
        """The hidden states, which are logits already."""
        return hidden


class Generic(Family):
    """A model used by its own forward and its own processor, which takes ``text`` and ``audio``."""

    name = "generic"
    model_class = _OwnClass
    published = ()
    licence = "the model's own"
    contamination = dict.fromkeys(SPEECH_CORPORA, _UNKNOWN)
    single_turn_reason = "it takes one waveform per prompt"
    towers = {}  # found in the model
    front_end = _ProcessorFrontEnd()
    encoder = _NoEncoder()
    decoder = _OwnForward()
    quantised_tower = None
    adapter_targets = {}
    fsdp_layers = ()
    single_pass_reason = "it computes logits from audio in one call, for any architecture"
    batch_tolerance = float("inf")

    def __init__(self, model: Any, processor: Any) -> None:  # noqa: ANN401 any processor
        self._counts: dict[int, int] = {}
        config: Any = model.config
        audio_id = getattr(config, "audio_token_id", getattr(config, "audio_token_index", None))
        if getattr(processor, "feature_extractor", None) is None:
            raise ModelError(
                f"{self.name}: {type(processor).__name__} is opened as the processor, without feature_extractor; a "
                "processor that also takes images needs torchvision"
            )
        if audio_id is None:
            raise ModelError(f"{self.name}: the config of {type(model).__name__} has no audio_token_id")
        self.towers = _towers(model)  # type: ignore[misc]
        self.audio_token = processor.tokenizer.convert_ids_to_tokens(audio_id)  # type: ignore[misc]
        try:
            rendered = rendered_probe(processor)
            self.stop_token = stop_token_of(processor.tokenizer, rendered, self.name)  # type: ignore[misc]
            super().__init__(model, processor)
            self._compare(rendered)
        except LalmMerError:
            raise
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, ImportError) as error:
            raise ModelError(
                f"{self.name}: {type(processor).__name__} cannot be used like others ({one_line(error)}); the model "
                "needs a family"
            ) from error

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """Refuse: there is no architecture to build.

        Raises:
            ConfigError: always
        """
        raise ConfigError(f"family {cls.name} has no architecture of its own; name another family")

    def audio_token_count(self, samples: int) -> int:
        """Number of placeholders for a waveform of ``samples`` samples; each length is counted once."""
        if samples not in self._counts:
            self._counts[samples] = super().audio_token_count(samples)
        return self._counts[samples]

    def _compare(self, rendered: str) -> None:
        """Find the text that the processor adds around an audio slot, and compare a prompt with the processor's."""
        for number, word in enumerate(mark_parts(PROBE)[1]):
            rendered = rendered.replace(f"\ue000{number}\ue001", word)
        samples = np.zeros(self.sampling_rate, np.float32)
        theirs = _processed(self, rendered, samples)["input_ids"][0].tolist()
        plain = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        if self.audio_token_id in plain and self.audio_token_id in theirs:
            slot, last = plain.index(self.audio_token_id), len(theirs) - theirs[::-1].index(self.audio_token_id)
            before = theirs[slot : theirs.index(self.audio_token_id)]
            after = theirs[last : len(theirs) - (len(plain) - slot - 1)]
            self.audio_marks = (self.tokenizer.decode(before), self.tokenizer.decode(after))  # type: ignore[misc]
        ours = self.prompt_ids(PROBE, [self.audio_token_count(len(samples))])
        if ours != theirs:
            raise ModelError(
                f"{self.name}: a prompt is {self.tokenizer.decode(ours)[:120]!r}, but the processor makes "
                f"{self.tokenizer.decode(theirs)[:120]!r} of it; this model needs a family"
            )


def _processed(family: Family, rendered: str, samples: Any) -> Mapping[str, Any]:  # noqa: ANN401 an array
    processed: Mapping[str, Any] = family.processor(
        text=[rendered], audio=[samples], sampling_rate=family.sampling_rate, return_tensors="pt"
    )
    return processed


def _paths(inputs: LanguageInputs) -> list[Tensor]:
    """Indices of the tokens of each sequence: those to which a token attends that no other token attends to."""
    mask = inputs.attention_mask
    if not isinstance(mask, Tensor) or mask.ndim == 2:
        return [torch.arange(inputs.input_ids.shape[1], device=inputs.input_ids.device)]
    visible = mask[0, 0] == 0
    return [row.nonzero()[:, 0] for row in visible[visible.sum(dim=0) == 1]]


def _towers(model: Any) -> dict[str, str]:  # noqa: ANN401 any model
    """The language model as transformers finds it; the others by name, if only one module has a matching name."""
    modules = dict(model.named_modules())
    decoder = model.get_decoder()
    towers = {"language_model": next(path for path, module in modules.items() if module is decoder)}
    for tower, names in _NAMES.items():
        found = [path for path in modules if any(name in path.rpartition(".")[2] for name in names)]
        outermost = [path for path in found if not any(path.startswith(f"{other}.") for other in found)]
        if len(outermost) == 1:
            towers[tower] = outermost[0]
    return towers
