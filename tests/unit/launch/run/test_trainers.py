"""Loggers besides history.jsonl."""

import pytest
import torch
from transformers import TrainingArguments
from transformers.integrations import TensorBoardCallback, integration_utils

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.launch.config.sections import TrainSettings
from lalm_mer.launch.run.engine import Engine
from lalm_mer.launch.run.trainers import make_trainer


class Bare(torch.nn.Linear):
    """A recognizer that cannot score."""

    label_set = LabelSet(("happy", "sad"))
    training_collator = staticmethod(list)
    scoring_collators = (list,)


@pytest.fixture
def trainer(tmp_path):
    """Creates trainers with loggers of these names."""

    def make(*names):
        return make_trainer(
            Bare(2, 2), TrainSettings(report_to=list(names), use_cpu=True), Engine("cpu.yaml", "NO", 1, None),
            folder=tmp_path / "checkpoints", history=tmp_path / "history.jsonl", seed=0, train=[], dev=[],
        )  # fmt: skip

    return make


def test_a_plain_start_uses_one_of_several_gpus(trainer, monkeypatch):
    """transformers would put a copy of the model on each, with batches of as many times the utterances."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    arguments = trainer().args
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == arguments.per_device_train_batch_size


def logs_to_tensorboard(trainer):
    return [type(each) for each in trainer.callback_handler.callbacks].count(TensorBoardCallback)


def test_there_are_no_other_loggers_by_default(trainer):
    assert trainer().args.report_to == []
    assert logs_to_tensorboard(trainer()) == logs_to_tensorboard(trainer("none")) == 0


def test_names_are_passed_on(trainer):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; it is in the extra `dev`")
    assert trainer("tensorboard").args.report_to == ["tensorboard"]
    assert logs_to_tensorboard(trainer("tensorboard")) == logs_to_tensorboard(trainer("all")) == 1


def test_a_missing_package_is_an_error_of_one_line(trainer, monkeypatch):
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: False)
    with pytest.raises(ConfigError) as refused:
        trainer("tensorboard")
    assert str(refused.value).startswith(
        "key 'train.report_to': tensorboard: TensorBoardCallback requires tensorboard to be installed."
    )
    assert "\n" not in str(refused.value)


def test_a_name_unknown_to_transformers_is_an_error_of_one_line(trainer):
    with pytest.raises(ConfigError) as refused:
        trainer("tensorbored")
    assert str(refused.value).startswith("key 'train.report_to': tensorbored: tensorbored is not supported, only ")
    assert "tensorboard" in str(refused.value)
