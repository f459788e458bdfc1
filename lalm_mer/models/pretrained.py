"""Base class of families and dual encoders: declarations of the published weights, loading, and towers for adapters."""

from __future__ import annotations

import importlib.util
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoProcessor

from lalm_mer.core.errors import ConfigError, ModelError, one_line
from lalm_mer.core.extras import install_extra
from lalm_mer.models.attention import DEFAULT, TowerAttention, find_attention, implementation_of
from lalm_mer.models.loading import WEIGHTS, from_pretrained, load_weights
from lalm_mer.models.quantization import NF4, nf4_config, require_quantised

__all__ = ["PretrainedModel"]


class PretrainedModel(ABC):
    """A transformers model with its processor.

    Args:
        model: the transformers model
        processor: its processor, with ``tokenizer`` and ``feature_extractor``
    """

    name: ClassVar[str]
    model_class: ClassVar[type[Any]]
    """The transformers class of the complete model"""
    processor_class: ClassVar[type[Any]] = AutoProcessor
    published: ClassVar[Sequence[str]]
    """Hub ids of published weights"""
    published_revision: ClassVar[str | None] = None
    """Branch, tag or commit of the first of them; None for main"""
    source_help: ClassVar[str] = "a Hub id or a local folder"
    """Valid values of ``model.id``, for errors"""
    licence: ClassVar[str]
    """Licence of the published weights"""
    contamination: ClassVar[Mapping[str, str]]
    """Corpus of this library -> what is known of it in the published weights' training data, with the source"""
    towers: ClassVar[Mapping[str, str]]
    """Tower -> module path in the transformers model"""
    other_linear_modules: ClassVar[Sequence[str]] = ()
    """Paths of modules with linear layers that are in no tower, such as those for images; never quantised"""
    language_model_parts: ClassVar[Sequence[str]] = ()
    """Paths of modules of the language model outside its tower, besides the output layer"""
    quantised_tower: ClassVar[str | None] = "language_model"
    """Tower that can be loaded in 4 bits; None if there is none"""
    adapter_targets: ClassVar[Mapping[str, Sequence[str]]]
    """Tower -> last names of the linear layers that are adapted by default"""
    fsdp_layers: ClassVar[Sequence[str]]
    """Classes of the layers that FSDP shards one by one"""
    takes_full_window: ClassVar[bool] = False
    """Whether ``model.full_window`` can be set: the tower takes audio of any length and of its full window"""
    unusable_attention: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Tower -> implementations of attention that transformers declares, but that cannot take the tower's mask"""
    has_language_model: ClassVar[bool] = True
    """Whether it can generate answers"""
    batch_tolerance: ClassVar[float] = 1e-5
    """Largest difference of a score between a batch of one and of several; a larger one requires batches of one"""
    required_module: ClassVar[str | None] = None
    """Module without which its tokenizer cannot be opened; the extra that installs it has the model's name"""
    derived_buffers: ClassVar[tuple[str, ...]] = ()
    """Last names of buffers that follow from the config and may be missing from the weights"""

    has_published_adapter: ClassVar[bool] = False
    """Whether the published weights include an adapter, which ``merge_published_adapter`` merges"""

    trained_in_full: Sequence[str] = ()
    """Towers of this model whose own weights are trained, without an adapter; see ``models.full_training``"""

    def __init__(self, model: Any, processor: Any) -> None:  # noqa: ANN401 transformers is not followed
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._attention: dict[str, TowerAttention | None] = {}

    @classmethod
    @abstractmethod
    def default_prompt(cls, modalities: str) -> str:
        """Default of ``prompt.file``."""

    @classmethod
    @abstractmethod
    def load_prompt(cls, path: Path) -> Any:  # noqa: ANN401 a Prompt or an Ensemble
        """Read the file that ``prompt.file`` names."""

    @abstractmethod
    def refuses(self, duration_s: float) -> str | None:
        """Why the model cannot take audio of this duration, in seconds; None if it can."""

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> Any:  # noqa: ANN401 each its own class
        """Its processor, with ``tokenizer`` and ``feature_extractor``."""
        return from_pretrained(cls.processor_class, source, revision)

    @classmethod
    def attention_setting(cls, implementation: str) -> Any:  # noqa: ANN401 a name, or one for each part of the model
        """``attn_implementation`` of ``from_pretrained``."""
        return implementation

    def merge_published_adapter(self, source: str, revision: str | None) -> None:  # noqa: B027 most do nothing
        """Merge an adapter that is published with the weights into them."""

    @classmethod
    def require_installed(cls) -> None:
        """Check that the package of its own extra is installed.

        Raises:
            ConfigError: naming the package and the extra
        """
        if cls.required_module is not None and importlib.util.find_spec(cls.required_module) is None:
            raise ConfigError(f"family {cls.name} needs {cls.required_module}; {install_extra(cls.name)}")

    @classmethod
    def load(
        cls,
        model_id: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        attn_implementation: str | Mapping[str, str] | None = None,
        quantization: str | None = None,
    ) -> Self:
        """Load model and processor from a Hub id or a local folder; safetensors only, no remote code.

        Args:
            model_id: Hub id or folder
            revision: branch, tag or commit
            dtype: float32, bfloat16 or float16
            attn_implementation: as of ``set_attention``, sdpa for towers without; None for transformers' default
            quantization: ``nf4`` for ``quantised_tower`` in 4 bits; None for no quantisation

        Raises:
            ModelError: naming the id, if it cannot be found or is of another architecture
            ConfigError: if the quantization is unknown, or a required extra or the attention is missing
        """
        cls.require_installed()
        source = str(model_id)
        extra: dict[str, Any] = {}
        if attn_implementation is not None:
            at_first = attn_implementation if attn_implementation == "eager" else DEFAULT
            extra["attn_implementation"] = cls.attention_setting(str(at_first))
        if quantization is not None:
            extra["quantization_config"] = cls._quantization_config(quantization, dtype)
        failed = f"model {source!r} cannot be loaded as {cls.name}"
        try:
            processor = cls.load_processor(source, revision)
            model, report = load_weights(
                cls.model_class,
                source,
                revision,
                with_adapter=cls.has_published_adapter,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                **extra,
            )
        except ModelError:
            raise
        except (OSError, ValueError, TypeError, AttributeError, KeyError, ImportError, StrictDataclassError) as error:
            raise ModelError(f"{failed}: {one_line(error)}; model.id is {cls.source_help}") from error
        # transformers would only warn in its log and initialise them at random
        if absent := sorted(name for name in report["missing_keys"] if not name.endswith(cls.derived_buffers)):
            raise ModelError(
                f"{failed}: it has no weights for {len(absent)} of its tensors, such as {absent[0]}; is the model "
                f"complete, and of family {cls.name}?"
            )
        if quantization is not None:
            require_quantised(model, cls.towers[str(cls.quantised_tower)], cls.name)
        loaded = cls(model, processor)
        if WEIGHTS.get() is None:  # random weights have none
            loaded.merge_published_adapter(source, revision)
        if attn_implementation is not None:
            loaded.set_attention(attn_implementation)
        return loaded

    @classmethod
    def _quantization_config(cls, quantization: str, dtype: str) -> Any:  # noqa: ANN401 transformers' own
        if quantization != NF4:
            raise ConfigError(f"argument 'quantization': {quantization!r}; expected nf4 or null")
        if cls.quantised_tower is None:
            raise ConfigError(f"argument 'quantization': {cls.name} only takes null; its towers are not known yet")
        parts = {**cls.towers, **{path: path for path in cls.other_linear_modules}}
        return nf4_config(parts, getattr(torch, dtype), cls.quantised_tower)

    @property
    def sampling_rate(self) -> int:
        """Rate of the audio it takes, in Hz."""
        return int(self.processor.feature_extractor.sampling_rate)

    @property
    def randomly_initialised(self) -> bool:
        """Whether the weights were never trained, as ``build_tiny`` marks them."""
        return bool(getattr(self.model.config, "randomly_initialised", False))

    def save(self, folder: Path) -> None:
        """Write model and processor as a checkpoint of transformers, in safetensors.

        Raises:
            ModelError: if transformers refuses to save it
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # else a fast tokenizer would be saved with the padding and truncation of its last call
            backend.no_padding()
            backend.no_truncation()
        try:
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
        except ValueError as error:
            raise ModelError(f"{folder}: transformers cannot save the model: {one_line(error)}") from error

    def require_savable(self) -> None:
        """Check that ``save`` will not be refused after hours of training; only the weights are not tried.

        Raises:
            ModelError: if transformers refuses to save a config or the processor
        """
        model: Any = self.model
        with tempfile.TemporaryDirectory() as folder:
            try:
                model.config.save_pretrained(folder)
                if model.can_generate():
                    model.generation_config.save_pretrained(folder)
                self.processor.save_pretrained(folder)
            except ValueError as error:
                raise ModelError(
                    f"model {model.config.name_or_path}: transformers cannot save it after training "
                    f"({one_line(error)}); correct it in a local copy"
                ) from error

    def submodule(self, tower: str) -> nn.Module:
        """The module of a tower, adapters included."""
        module: nn.Module = self.model.get_submodule(self.towers[tower])
        return module

    def attention(self, tower: str) -> TowerAttention | None:
        """The attention of a tower; None if it has none, as most projectors."""
        if tower not in self._attention:
            unusable = self.unusable_attention.get(tower, ())
            self._attention[tower] = find_attention(self.model, self.towers[tower], self.submodule(tower), unusable)
        return self._attention[tower]

    def set_attention(self, implementation: str | Mapping[str, str]) -> None:
        """Choose the implementation of attention; a tower that is not named keeps the one that it has.

        Args:
            implementation: eager, sdpa, flash_attention_2 or flex_attention for all towers but those that compute
                attention in their own way, or tower -> its own

        Raises:
            ConfigError: naming the tower, if it is unknown, or it or this machine does not have the implementation
        """
        if not isinstance(implementation, str | Mapping):
            raise ConfigError(
                f"argument 'attn_implementation': {implementation!r}; expected a name, or a mapping of towers to names"
            )
        if not isinstance(implementation, str) and (unknown := sorted(set(implementation) - set(self.towers))):
            raise ConfigError(
                f"argument 'attn_implementation': {unknown[0]!r}; the towers of {self.name} are "
                f"{', '.join(self.towers)}"
            )
        for tower in self.towers:
            found, chosen = self.attention(tower), implementation_of(implementation, tower)
            if found is not None and chosen is not None and (found.exchangeable or not isinstance(implementation, str)):
                found.set(chosen, f"the {tower} of {self.name}")
