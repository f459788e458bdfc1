"""Runs that train in a second."""

from typing import Any

import pytest

from lalm_mer.core.config import read_yaml
from lalm_mer.examples.dataset import ExampleSource

IN_FULL = [
    "adapter.kind=full", "adapter.towers=null", "adapter.r=16", "adapter.lora_dropout=0.05",
    "train.num_train_epochs=2", "train.learning_rate=2e-3",
]  # fmt: skip
"""Overrides by which the run of the workplace trains its model in full: no key of LoRA is set."""


@pytest.fixture(name="in_full", scope="session")
def run_in_full(workplace, made_once):
    """Run folder of a short run that trained the model in full."""
    return made_once("in_full_run", lambda folder: workplace.launch("finetune", folder, *IN_FULL))


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
