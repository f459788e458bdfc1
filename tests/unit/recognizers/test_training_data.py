"""Balanced, weighted and augmented training data in the trainer of all recognizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closeness import assert_close
from loudness import LABELS, Examples, KillAt, Killed, collate, levels, trainer, uneven_examples

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Example, Input
from lalm_mer.examples.augmentation import (
    Augmentation,
    AugmentSettings,
    GainSettings,
    NoiseSettings,
)
from lalm_mer.examples.augmented_examples import AugmentedExamples
from lalm_mer.examples.balancing import class_weights
from lalm_mer.recognizers import training
from lalm_mer.recognizers.dev_metrics import dev_metrics


@pytest.fixture
def examples():
    random = np.random.default_rng(0)
    waves = [Waveform(0.1 * random.standard_normal(800).astype(np.float32), 16_000) for _ in range(12)]
    return Examples(
        Example(Input(f"u{n:02}", None, wave, "s"), LABELS.labels[n % 4 == 0]) for n, wave in enumerate(waves)
    )


def augmented(examples):
    settings = AugmentSettings(noise=NoiseSettings(p=1), gain=GainSettings(p=1))
    return AugmentedExamples(examples, Augmentation(settings), seed=0)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_every_epoch_augments_anew_and_a_resumed_run_augments_the_same(examples, tmp_path, workers):
    complete = trainer(tmp_path / "complete", augmented(examples), examples, workers=workers)
    complete.train()
    levels_seen = complete.model.levels_seen
    assert len(levels_seen) == len(set(levels_seen)) == 3 * 12
    expected = augmented(examples)
    for epoch in range(3):
        expected.set_epoch(epoch)
        levels = collate(list(expected))["level"].flatten().tolist()
        assert sorted(levels_seen[12 * epoch : 12 * epoch + 12]) == sorted(levels)
    killed = trainer(tmp_path / "cut", augmented(examples), examples, workers=workers, callbacks=[KillAt(8)])
    with pytest.raises(Killed):
        killed.train()
    assert killed.state.epoch == pytest.approx(8 / 6)  # in the middle of the second epoch
    again = trainer(tmp_path / "cut", augmented(examples), examples, workers=workers)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-8"))
    assert again.model.levels_seen == levels_seen[16:]
    torch.testing.assert_close(again.model.linear.weight, complete.model.linear.weight, rtol=0, atol=0)


@pytest.fixture
def uneven():
    """Twelve examples of 100 to 1200 samples, in an order of no length."""
    return uneven_examples()


def test_a_run_in_order_of_length_resumes_in_the_middle_of_an_epoch(uneven, tmp_path):
    complete = trainer(tmp_path / "complete", uneven, uneven, order="group_by_length")
    complete.train()
    seen = np.reshape(complete.model.levels_seen, (3, 12))
    assert np.array_equal(np.sort(seen), np.broadcast_to(np.sort(seen[0]), (3, 12)))  # each once an epoch
    assert len({tuple(epoch) for epoch in seen}) == 3  # in another order
    killed = trainer(tmp_path / "cut", uneven, uneven, order="group_by_length", callbacks=[KillAt(8)])
    with pytest.raises(Killed):
        killed.train()
    again = trainer(tmp_path / "cut", uneven, uneven, order="group_by_length")
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-8"))
    assert again.model.levels_seen == complete.model.levels_seen[16:]
    torch.testing.assert_close(again.model.linear.weight, complete.model.linear.weight, rtol=0, atol=0)


def test_scores_are_in_the_order_of_the_inputs_and_batches_by_length(uneven, tmp_path, monkeypatch):
    inputs = Examples(example.input for example in uneven)
    monkeypatch.setattr(Examples, "lengths", lambda self: [len(given.waveform.samples) for given in self])
    run = trainer(tmp_path, uneven, uneven)
    batches = []

    def collator(batch):
        batches.append([len(given.waveform.samples) for given in batch])
        return levels(batch)

    scores = run.score(inputs, collator)
    assert batches == [list(range(1200, 400, -100)), list(range(400, 0, -100))]  # of 8
    with torch.no_grad():
        expected = [run.model(**levels([given]), truth=torch.tensor([0]))["log_probs"][0].tolist() for given in inputs]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_dev_is_run_in_batches_of_similar_length(uneven, tmp_path):
    run = trainer(tmp_path, uneven, uneven, order="group_by_length")
    lengths = torch.cat([batch["level"] for batch in run.get_eval_dataloader()]).flatten().tolist()
    assert lengths == sorted(lengths, reverse=True)


def test_examples_without_lengths_are_refused(uneven, tmp_path):
    run = trainer(tmp_path, list(uneven), uneven, order="group_by_length")
    with pytest.raises(ConfigError, match=r"group_by_length, but the examples have no lengths\(\); use random"):
        run.train()


def test_dev_is_not_augmented(examples, tmp_path):
    bare = trainer(tmp_path / "bare", examples, examples)
    changed = trainer(tmp_path / "changed", augmented(examples), examples)
    batches = [next(iter(one.get_eval_dataloader()))["level"] for one in (bare, changed)]
    assert torch.equal(*batches)


def test_the_weighted_loss_is_by_class_and_accumulates_exactly(examples, tmp_path):
    weights = class_weights(examples.truths(), LABELS.labels)
    assert weights == pytest.approx((12 / 18, 2.0))
    at_once = trainer(tmp_path / "a", examples, examples, batch=12, class_weights=weights)
    one_by_one = trainer(tmp_path / "b", examples, examples, batch=1, accumulated=12, class_weights=weights)
    with torch.no_grad():
        batch = collate(examples)
        losses = at_once.model(**batch)["losses"]
        expected = float((losses * torch.tensor(weights)[batch["truth"]]).sum() / 12)
        bare_dev = float(losses.mean())
    at_once.model.levels_seen.clear()
    assert at_once.evaluate()["eval_loss"] == pytest.approx(bare_dev, rel=1e-6)
    logs = []
    for one in (at_once, one_by_one):
        one.train()
        logs.append([entry["loss"] for entry in one.state.log_history if "loss" in entry])
    assert logs[0][0] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(logs[1], logs[0], rtol=1e-5)
    assert_close(one_by_one.model.linear.weight, at_once.model.linear.weight, 1e-6)


def test_weights_of_one_change_nothing(examples, tmp_path):
    runs = [trainer(tmp_path / name, examples, examples, **more) for name, more in (
        ("none", {}), ("ones", {"class_weights": (1.0, 1.0)}),
    )]  # fmt: skip
    for run in runs:
        run.train()
    assert torch.equal(runs[0].model.linear.weight, runs[1].model.linear.weight)


def test_dev_metrics_are_of_all_dev_utterances_whatever_the_last_training_batch_is(uneven, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(training, "dev_metrics", lambda *given: counted.append(len(given[2])) or dev_metrics(*given))
    trained = trainer(tmp_path, Examples(uneven[:5]), uneven)  # the last step of an epoch has one example
    trained.train()
    assert trained.state.global_step == 9
    assert counted == [12] * 5
