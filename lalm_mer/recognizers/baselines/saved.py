"""The folder of a saved baseline: its settings, what its branches read, and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lalm_mer.core.errors import ModelError, PredictionError, one_line, shown
from lalm_mer.core.names import TASK_KINDS
from lalm_mer.core.output import write_json
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.models.encoders.finetuned_text import ARCHITECTURE, FinetunedTokenizer
from lalm_mer.models.encoders.kinds import FITTED, load_encoder
from lalm_mer.models.encoders.tfidf import TFIDF_FILES
from lalm_mer.models.encoders.transcript_tokens import TOKENIZER_FILES, TranscriptTokenizer
from lalm_mer.models.encoders.word_vectors import WORD_FILES
from lalm_mer.recognizers.baselines.collator import Source
from lalm_mer.recognizers.baselines.learnt_text import load_tokenizer
from lalm_mer.recognizers.baselines.settings import NetworkSettings

__all__ = [
    "NETWORK", "SAVED_FILES", "WEIGHTS", "SavedNetwork", "branch_weights", "load_source", "read_saved", "read_weights",
    "require_task", "save_parts", "save_source", "write_saved",
]  # fmt: skip

NETWORK = "network.json"
WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer"
SAVED_FILES = (
    NETWORK, WEIGHTS, *(f"{_TOKENIZER}/{name}" for name in (*TOKENIZER_FILES, ARCHITECTURE)),
    *(f"{FITTED}/{name}" for name in (*TFIDF_FILES, *WORD_FILES)),
)  # fmt: skip
"""All files that a saved baseline may have, relative to its folder."""


@dataclass(frozen=True)
class SavedNetwork:
    """Content of the file of settings.

    Args:
        labels: K labels, or the T numbers that it predicts, in the order of the scores
        kind: ``single``, ``multi`` or ``scalar``
        ranges: lowest and highest value of each number
        settings: the parts of the network
        encoders: modality -> settings of its pretrained or fitted encoder, with hashes
    """

    labels: tuple[str, ...]
    kind: str
    ranges: tuple[tuple[float, float], ...]
    settings: NetworkSettings
    encoders: Mapping[str, Mapping[str, Any]]


def save_parts(
    folder: Path,
    labels: tuple[str, ...],
    settings: NetworkSettings,
    sources: Mapping[str, Source],
    *,
    kind: str,
    ranges: tuple[tuple[float, float], ...],
) -> None:
    """Write the settings, and what was fitted or learnt of the sources; of a frozen encoder its name and a hash."""
    encoders = {}
    for modality, source in sources.items():
        save_source(source, folder)
        if known := source.settings():
            encoders[modality] = known
    write_saved(folder, SavedNetwork(labels, kind, ranges, settings, encoders))


def save_source(source: Source, folder: Path) -> None:
    """Write what was fitted or learnt of a source into the folder of a baseline."""
    source.save(folder / (_TOKENIZER if isinstance(source, TranscriptTokenizer) else FITTED))


def write_saved(folder: Path, saved: SavedNetwork) -> None:
    """Write the file of settings."""
    write_json(folder / NETWORK, asdict(saved))


def read_saved(folder: Path) -> SavedNetwork:
    """Read the settings of a saved baseline.

    Raises:
        ModelError: if the folder has none, or they contradict each other
    """
    file = folder / NETWORK
    try:
        saved = parse(SavedNetwork, read_object(file), str(file))
    except PredictionError as error:
        raise ModelError(f"{folder}: not a saved baseline network ({error})") from error
    expected = len(saved.labels) if saved.kind == "scalar" else 0
    if saved.kind not in TASK_KINDS or len(saved.ranges) != expected:
        raise ModelError(
            f"{file}: kind {shown(saved.kind)} with {len(saved.ranges)} ranges; expected one of "
            f"{', '.join(TASK_KINDS)}, and a range for each number of scalar"
        )
    return saved


def require_task(saved: SavedNetwork, folder: Path, kind: str, labels: Sequence[str]) -> None:
    """Check that a saved baseline has the task of its run.

    Args:
        saved: its settings
        folder: for the error
        kind: kind of the task in run.json
        labels: the labels, or the numbers, in run.json

    Raises:
        ModelError: naming both
    """
    if (saved.kind, saved.labels) != (kind, tuple(labels)):
        raise ModelError(
            f"{folder / NETWORK}: {saved.kind} labels {list(saved.labels)}; expected those of run.json, {kind} "
            f"{list(labels)}"
        )


def load_source(saved: SavedNetwork, modality: str, folder: Path) -> Source:
    """What a branch of a saved baseline reads; warn of another version of an encoder.

    Raises:
        ModelError: if a file is missing, or the weights of an encoder are not those of training
    """
    text = saved.settings.transcript.encoder
    kind = saved.settings.encoders[modality].kind
    if kind in ("scratch", "embeddings"):
        return load_tokenizer(folder / _TOKENIZER, text)
    if modality not in saved.encoders:
        raise ModelError(f"{folder / NETWORK}: encoders has no {modality}, which its settings use")
    if kind == "finetuned":
        return FinetunedTokenizer.load(folder / _TOKENIZER, text, saved.encoders[modality])
    return load_encoder(saved.settings.encoders[modality], folder, saved.encoders[modality])


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a saved baseline.

    Raises:
        ModelError: if the file cannot be read, or has a tensor that is not finite
    """
    file = folder / WEIGHTS
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: cannot be read ({one_line(error)}); expected the weights of a baseline") from error
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise ModelError(
                f"{file}: tensor {name} has values that are not finite; its training diverged, or the file is damaged"
            )
    return weights


def branch_weights(folder: Path, modality: str) -> dict[str, Tensor]:
    """The weights of one branch of a saved baseline, with names as in the branch.

    Raises:
        ModelError: if the file cannot be read, or has no such branch
    """
    prefix = f"branches.{modality}."
    found = {
        name.removeprefix(prefix): value for name, value in read_weights(folder).items() if name.startswith(prefix)
    }
    if not found:
        raise ModelError(f"{folder}: has no branch of {modality}; expected a baseline that uses it")
    return found
