"""Runs that train in a second."""

from typing import Any

from lalm_mer.core.config import read_yaml


def small_baseline(workplace) -> dict[str, Any]:
    """The content of a YAML of ``train_baseline`` on the corpus of the workplace."""
    shared = read_yaml(workplace.config("zero_shot"))
    return {key: shared[key] for key in ("data", "split", "output")} | {
        "baseline": {
            "modalities": "transcript", "head": {"hidden": 0},
            "transcript": {"encoder": {"kind": "scratch", "scratch": {"size": 16, "layers": 1}}},
            "cache_dir": str(workplace.folder / "features"),
        },
        "train": {"num_train_epochs": 1, "per_device_train_batch_size": 16, "use_cpu": True},
    }  # fmt: skip
