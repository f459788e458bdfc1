"""The baseline in the trainer of all recognizers."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from closeness import assert_close
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from lalm_mer.core.errors import PredictionError
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.recognizers import score_journal
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.network import BaselineNetwork
from lalm_mer.recognizers.baselines.settings import (
    AudioBranchSettings,
    NetworkSettings,
    SequenceSettings,
    TranscriptBranchSettings,
)
from lalm_mer.recognizers.score_journal import ScoreJournal
from lalm_mer.recognizers.training import RecognizerTrainer

LABELS = ("happy", "sad")


def settings_of(sequence):
    return NetworkSettings(
        audio=AudioBranchSettings(sequence=sequence, encoder=AudioEncoderSettings(kind="log_mel")),
        transcript=TranscriptBranchSettings(encoder=TextEncoderSettings(kind="scratch")),
    )


def test_the_trainer_trains_it_and_restores_its_best_checkpoint(examples, inputs, tmp_path):
    torch.manual_seed(0)
    sequence = SequenceSettings(batch_norm=True, pooling="mean_std", stride=2)
    network = build_network(settings_of(sequence), LABELS, inputs, cache_dir=tmp_path / "cache")
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"), num_train_epochs=12, per_device_train_batch_size=8, learning_rate=3e-3,
        eval_strategy="epoch", save_strategy="epoch", save_total_limit=2, load_best_model_at_end=True,
        metric_for_best_model="uar", use_cpu=True, report_to=[], remove_unused_columns=False, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = RecognizerTrainer(network, arguments, train_examples=examples, dev_examples=examples)
    trainer.train()
    scores = trainer.score(inputs, network.scoring_collators[0])
    assert [LABELS[index] for index in scores.argmax(axis=1)] == [example.label for example in examples]
    network.save_trained(tmp_path / "trained")
    again = BaselineNetwork.load_trained(tmp_path / "trained")
    with torch.no_grad():
        restored = again(**again.joint_collator(inputs))["log_probs"]
    assert_close(restored, scores)


@pytest.fixture
def trainer(inputs, tmp_path):
    """Of an untrained network, which scores batches of three inputs."""
    network = build_network(settings_of(SequenceSettings()), LABELS, inputs, cache_dir=tmp_path / "cache")
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"), use_cpu=True, report_to=[], remove_unused_columns=False, disable_tqdm=True,
        dataloader_pin_memory=False, per_device_eval_batch_size=3,
    )  # fmt: skip
    return RecognizerTrainer(network, arguments)


def test_scores_in_another_order_are_refused(inputs, trainer, monkeypatch):
    (collator,) = trainer.recognizer.scoring_collators
    assert trainer.score(inputs, collator).shape == (16, 2)
    loader_of = trainer.get_test_dataloader

    def reordered(loader, order):
        batches = [order[start : start + 3] for start in range(0, len(order), 3)]
        return DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn)

    for order in ([0, 2, 1, *range(3, 16)], [*range(15)], [*range(16), 15]):  # swapped, lost, twice
        monkeypatch.setattr(
            trainer, "get_test_dataloader", lambda dataset, order=order: reordered(loader_of(dataset), order)
        )
        with pytest.raises(PredictionError, match=rf"^scoring 16 utterances returned {len(order)}, or"):
            trainer.score(inputs, collator)


@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_scoring_that_is_resumed_runs_the_other_batches_alone(killed_after, inputs, trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(score_journal, "PART_S", 0.0)
    (collator,) = trainer.recognizer.scoring_collators
    expected, batches = trainer.score(inputs, collator), []

    def collate(items):
        batches.append([inputs.index(given) for given in items])
        if stops and len(batches) > killed_after:
            raise KeyboardInterrupt
        return collator(items)

    def journal(run="run"):
        return ScoreJournal(tmp_path / "scores.jsonl", run, len(inputs))

    stops = True
    with pytest.raises(KeyboardInterrupt):
        trainer.score(inputs, collate, journal())
    begun, stops = batches[:killed_after], False
    batches.clear()
    np.testing.assert_array_equal(trainer.score(inputs, collate, journal()), expected)
    assert begun + batches == [list(range(16))[start : start + 3] for start in range(0, 16, 3)]
    batches.clear()
    np.testing.assert_array_equal(trainer.score(inputs, collate, journal()), expected)
    assert not batches  # all are on disk
    np.testing.assert_array_equal(trainer.score(inputs, collate, journal("another run")), expected)
    assert [position for batch in batches for position in batch] == list(range(16))


def test_the_trainer_keeps_no_scores(inputs, trainer, monkeypatch):
    outputs, predict = [], trainer.predict
    monkeypatch.setattr(trainer, "predict", lambda dataset: outputs.append(predict(dataset)))
    assert trainer.score(inputs, trainer.recognizer.scoring_collators[0]).shape == (16, 2)
    (output,) = outputs
    assert (output.predictions, output.label_ids) == (None, None)


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_several_processes_score_the_batches_of_one(processes, inputs, trainer, tmp_path, monkeypatch):
    """Each process is a thread here; what they gather is exchanged between the threads. 16 inputs are six batches."""
    (collator,) = trainer.recognizer.scoring_collators
    expected, batches = trainer.score(inputs, collator), []
    exchange: dict[int, tuple[torch.Tensor, ...]] = {}
    barrier = Barrier(processes, timeout=60)

    def collate(items):
        batches.append([inputs.index(given) for given in items])
        return collator(items)

    def score(process):
        def gather(tensors):
            exchange[process] = tensors
            barrier.wait()
            together = tuple(
                torch.cat(parts) for parts in zip(*(exchange[each] for each in range(processes)), strict=True)
            )
            barrier.wait()
            return together

        own = RecognizerTrainer(copy.deepcopy(trainer.recognizer), copy.copy(trainer.args))
        own.args.__class__ = type("Process", (TrainingArguments,), {"world_size": processes, "process_index": process})
        monkeypatch.setattr(own.accelerator, "gather", gather, raising=True)
        return own.score(inputs, collate, ScoreJournal(count=len(inputs)))

    with ThreadPoolExecutor(processes) as pool:
        found = list(pool.map(score, range(processes)))
    for scores in found:
        np.testing.assert_array_equal(scores, expected)
    whole = [list(range(16))[start : start + 3] for start in range(0, 16, 3)]
    assert sorted(batches) == sorted(whole + [[15]] * (-6 % processes))  # all run the same number of batches
