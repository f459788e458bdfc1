"""Models from their config alone: on the meta device without weights, or of any size with random weights.

``build_tiny`` writes small models for tests; here sizes are free, and the weights are created on the device itself, so
that a model of 7 B parameters needs neither a download nor a file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperFeatureExtractor

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.output import writing
from lalm_mer.core.suggestions import did_you_mean
from lalm_mer.models.families.base import Family
from lalm_mer.models.loading import WEIGHTS, from_pretrained
from lalm_mer.models.quantization import quantise_in_memory
from lalm_mer.models.tiny import build_tiny

__all__ = ["random_weights", "write_config"]

_KEPT = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "num_mel_bins",
         "max_source_positions")  # fmt: skip
"""Values of the tiny model's config that follow from its tokenizer and window."""


def write_config(
    family: type[Family],
    folder: Path,
    *,
    sizes: Mapping[str, Mapping[str, Any]],
    words: Iterable[str],
    window_s: int,
    vocabulary: int,
    initializer_range: float,
) -> None:
    """Write the config and processor of a model with random weights, for ``random_weights``; no weights are written.

    A part of the config that ``sizes`` names has transformers' defaults for all other values; the tokenizer is trained
    on ``words``.

    Args:
        family: the architecture
        folder: where to write
        sizes: part of the config, such as ``text_config`` -> values, with transformers' names
        words: lines on which the tokenizer is trained
        window_s: the audio tower's window, in seconds
        vocabulary: largest number of tokens of the tokenizer; ``vocab_size`` may be larger
        initializer_range: standard deviation of the weights

    Raises:
        ConfigError: if there is no such part or value, or the tokenizer does not fit
    """
    with tempfile.TemporaryDirectory() as tiny:
        build_tiny(
            family.name,
            Path(tiny),
            words=words,
            window_s=window_s,
            hidden_size=64,
            layers=1,
            vocabulary=vocabulary,
            initializer_range=initializer_range,
        )
        config = from_pretrained(family.model_class.config_class, tiny)
        processor = family.load_processor(tiny, None)
    for part, values in sizes.items():
        if part not in config.sub_configs:
            known = ", ".join(config.sub_configs)
            raise ConfigError(f"argument 'sizes': {part!r}; the config of {family.name} has the parts {known}")
        setattr(config, part, _resized(getattr(config, part), part, values))
        bins = values.get("num_mel_bins", processor.feature_extractor.feature_size)
        if bins != processor.feature_extractor.feature_size:
            processor.feature_extractor = WhisperFeatureExtractor(feature_size=bins, chunk_length=window_s)
    config.randomly_initialised = True
    with writing(folder):
        config.save_pretrained(folder)
        processor.save_pretrained(folder)


def _resized(old: Any, part: str, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 a config of transformers
    """A config of the same class with these values, and those of ``_KEPT``."""
    kept = {name: getattr(old, name) for name in _KEPT if hasattr(old, name)}
    for name, value in values.items():
        if not hasattr(old, name):
            near = did_you_mean(name, vars(old))
            raise ConfigError(f"argument 'sizes': {part} has no value {name!r}{near}")
        if name == "vocab_size" and value < old.vocab_size:
            raise ConfigError(f"argument 'sizes': {part} has {value} tokens, but the tokenizer {old.vocab_size}")
    return type(old)(**{**kept, **values})


@contextmanager
def random_weights(device: str, seed: int = 0) -> Iterator[None]:
    """Within the block, every ``load`` of a model builds it from its config, with random weights on a device.

    No file of weights is opened. On the device ``meta`` a model has shapes and no values.

    Args:
        device: meta, cpu or cuda
        seed: seed of the weights
    """

    def build(kind: Any, source: str, revision: str | None, options: Mapping[str, Any]) -> Any:  # noqa: ANN401
        config = from_pretrained(kind.config_class, source, revision)
        kept = {name: options[name] for name in ("dtype", "attn_implementation") if name in options}
        with torch.random.fork_rng([device] if device == "cuda" else []), torch.device(device):
            torch.manual_seed(seed)
            model = kind._from_config(config, **kept)
        if "quantization_config" in options:
            quantise_in_memory(model, options["quantization_config"])
        model.eval()
        return (model, {"missing_keys": []}) if options.get("output_loading_info") else model

    token = WEIGHTS.set(build)
    try:
        yield
    finally:
        WEIGHTS.reset(token)
