"""The folder of a saved baseline: its settings, what its branches read, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lalm_mer.core.errors import ModelError, PredictionError, one_line
from lalm_mer.core.names import AUDIO
from lalm_mer.core.output import write_json
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.models.encoders.kinds import FITTED, load_encoder
from lalm_mer.models.encoders.transcript_tokens import TranscriptTokenizer
from lalm_mer.recognizers.baselines.collator import Source
from lalm_mer.recognizers.baselines.learnt_text import learnt_max_tokens
from lalm_mer.recognizers.baselines.settings import NetworkSettings

__all__ = ["CONFIG", "WEIGHTS", "SavedNetwork", "branch_weights", "load_source", "read_saved", "save_parts"]

CONFIG = "network.json"
WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class SavedNetwork:
    """Content of the file of settings.

    Args:
        labels: K labels, or the T numbers that it predicts, in the order of the scores
        kind: ``single``, ``multi`` or ``scalar``
        ranges: lowest and highest value of each number
        settings: the parts of the network
        encoders: modality -> settings of its frozen encoder, with hashes
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
        if isinstance(source, TranscriptTokenizer):
            source.save(folder / _TOKENIZER)
        else:
            source.save(folder / FITTED)
            encoders[modality] = source.settings()
    task = {"labels": list(labels), "kind": kind, "ranges": [list(ends) for ends in ranges]}
    write_json(folder / CONFIG, {**task, "settings": asdict(settings), "encoders": encoders})


def read_saved(folder: Path) -> SavedNetwork:
    """Read the settings of a saved baseline.

    Raises:
        ModelError: if the folder has none
    """
    file = folder / CONFIG
    try:
        return parse(SavedNetwork, read_object(file), str(file))
    except PredictionError as error:
        raise ModelError(f"{folder}: not a saved baseline network ({error})") from error


def load_source(saved: SavedNetwork, modality: str, folder: Path) -> Source:
    """What a branch of a saved baseline reads; warn of another version of an encoder.

    Raises:
        ModelError: if a file is missing, or the weights of an encoder are not those of training
    """
    text = saved.settings.transcript.encoder
    if modality != AUDIO and text.learnt:
        return TranscriptTokenizer.load(folder / _TOKENIZER, learnt_max_tokens(text))
    if modality not in saved.encoders:
        raise ModelError(f"{folder / CONFIG}: encoders has no {modality}, which its settings use")
    return load_encoder(saved.settings.encoders[modality], folder, saved.encoders[modality])


def branch_weights(folder: Path, modality: str) -> dict[str, Tensor]:
    """The weights of one branch of a saved baseline, with names as in the branch.

    Raises:
        ModelError: if the file cannot be read, or has no such branch
    """
    prefix = f"branches.{modality}."
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS}: cannot be read ({one_line(error)})") from error
    found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not found:
        raise ModelError(f"{folder}: has no branch of {modality}; expected a baseline that uses it")
    return found
