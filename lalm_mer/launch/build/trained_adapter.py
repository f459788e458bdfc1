"""An adapter from an earlier run, found before the base model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lalm_mer.core.provenance import hash_file
from lalm_mer.core.settings import naming_keys
from lalm_mer.launch.config.sections import ModelSettings
from lalm_mer.models.adapter_files import CONFIG, WEIGHTS, read_json
from lalm_mer.sharing.hub import load_adapter_from

__all__ = ["TrainedAdapter", "find_adapter"]


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter on disk.

    Args:
        folder: folder of its files
        kind: one of ``ADAPTERS``
        digest: SHA-256 of its weights
    """

    folder: Path
    kind: str
    digest: str


def find_adapter(settings: ModelSettings) -> TrainedAdapter:
    """Find the adapter ``model.adapter``; download it if it is on the Hub.

    Raises:
        AdapterError: if there is no such adapter
    """
    with naming_keys("model", revision="adapter_revision"):
        folder = load_adapter_from(str(settings.adapter), settings.adapter_revision, key="key 'model.adapter'")
    kind = str(read_json(folder / CONFIG)["peft_type"]).lower()
    return TrainedAdapter(folder, kind, hash_file(folder / WEIGHTS))
