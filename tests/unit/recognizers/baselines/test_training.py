"""The baseline in the trainer of all recognizers."""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close
from torch.utils.data import Subset
from transformers import TrainingArguments

from lalm_mer.core.errors import PredictionError
from lalm_mer.recognizers.baselines.build import build_fusion
from lalm_mer.recognizers.baselines.fusion import FusionCollator, FusionNetwork
from lalm_mer.recognizers.baselines.settings import BranchSettings
from lalm_mer.recognizers.training import RecognizerTrainer

LABELS = ("happy", "sad")


def test_the_trainer_trains_it_and_restores_its_best_checkpoint(examples, inputs, tmp_path):
    torch.manual_seed(0)
    network = build_fusion(
        inputs, LABELS, corpus_hash="synthetic", features="log_mel", cache_dir=tmp_path / "cache",
        audio_branch=BranchSettings(batch_norm=True, pooling="mean_std", stride=2),
    )  # fmt: skip
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
    again = FusionNetwork.load_trained(tmp_path / "trained")
    with torch.no_grad():
        restored = again(**FusionCollator(again)(inputs))["log_probs"]
    assert_close(restored, scores)


def test_scores_in_another_order_are_refused(inputs, tmp_path, monkeypatch):
    network = build_fusion(
        inputs, LABELS, corpus_hash="synthetic", features="log_mel", cache_dir=tmp_path / "cache",
        audio_branch=BranchSettings(),
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"), use_cpu=True, report_to=[], remove_unused_columns=False, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = RecognizerTrainer(network, arguments)
    (collator,) = network.scoring_collators
    assert trainer.score(inputs, collator).shape == (16, 2)
    loader_of = trainer.get_test_dataloader
    for order in ([0, 2, 1, *range(3, 16)], [*range(15)], [*range(16), 15]):  # swapped, lost, twice
        monkeypatch.setattr(
            trainer, "get_test_dataloader", lambda dataset, order=order: loader_of(Subset(dataset, order))
        )
        with pytest.raises(PredictionError, match=rf"^scoring 16 utterances returned {len(order)}, or"):
            trainer.score(inputs, collator)
