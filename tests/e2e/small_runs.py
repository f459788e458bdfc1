"""Runs that train in a second."""

from typing import Any

import pytest

from lalm_mer.core.config import read_yaml
from lalm_mer.examples.dataset import ExampleSource


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


@pytest.fixture
def test_stays_closed(monkeypatch):
    """Any access to the utterances of test is an error."""
    examples = ExampleSource.examples

    def without_test(self, fold, split, sampling_rate):
        assert split != "test"
        return examples(self, fold, split, sampling_rate)

    monkeypatch.setattr(ExampleSource, "examples", without_test)
