"""Batches by tokens, a search for the batch size, optimisers, and the time spent waiting, in the trainer of all."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from closeness import assert_close
from loudness import Examples, KillAt, Killed, levels, trainer, uneven_examples

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.recognizers.optimizers import OptimizerReport, describe_state
from lalm_mer.recognizers.score_journal import ScoreJournal


@pytest.fixture
def uneven():
    """Twelve examples of 100 to 1200 samples, in an order of no length."""
    return uneven_examples()


def losses_of(run):
    return [row["loss"] for row in run.state.log_history if "loss" in row]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_of_tokens_resume_in_the_middle_of_an_epoch(uneven, tmp_path, workers):
    settings = {"tokens_per_batch": 1600, "accumulated": 2, "workers": workers}
    complete = trainer(tmp_path / "complete", uneven, uneven, **settings)
    sizes = []
    complete.model.register_forward_hook(
        lambda model, given, kwargs, output: sizes.append(tuple(kwargs["input_ids"].shape)) if model.training else None,
        with_kwargs=True,
    )
    complete.train()
    batches = len(sizes) // 3
    assert batches % 2 == 0
    assert all(count * width <= 1600 for count, width in sizes)
    assert len({count for count, _ in sizes}) > 1
    assert complete.state.max_steps == complete.state.global_step == 3 * batches // 2
    seen = np.reshape(complete.model.levels_seen, (3, 12))
    assert np.array_equal(np.sort(seen), np.broadcast_to(np.sort(seen[0]), (3, 12)))  # each once an epoch
    assert len({tuple(epoch) for epoch in seen}) == 3
    steps = batches // 2
    kill = steps + 1 if (steps + 1) % 2 == 0 else steps + 2  # a checkpoint of the second epoch
    assert steps < kill < 2 * steps
    killed = trainer(tmp_path / "cut", uneven, uneven, callbacks=[KillAt(kill)], **settings)
    with pytest.raises(Killed):
        killed.train()
    again = trainer(tmp_path / "cut", uneven, uneven, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{kill}"))
    done = sum(count for count, _ in sizes[: 2 * kill])
    assert again.model.levels_seen == complete.model.levels_seen[done:]
    torch.testing.assert_close(again.model.linear.weight, complete.model.linear.weight, rtol=0, atol=0)


def test_the_loss_of_a_step_does_not_depend_on_how_tokens_are_divided(uneven, tmp_path):
    at_once = trainer(tmp_path / "a", uneven, uneven, batch=12, max_steps=2)
    by_tokens = trainer(tmp_path / "b", uneven, uneven, tokens_per_batch=1600, accumulated=8, max_steps=2)
    for run in (at_once, by_tokens):
        run.train()
    assert_close(losses_of(by_tokens), losses_of(at_once), 1e-6)
    assert_close(by_tokens.model.linear.weight, at_once.model.linear.weight, 1e-6)
    dev = [[row["eval_loss"] for row in run.state.log_history if "eval_loss" in row] for run in (at_once, by_tokens)]
    assert_close(*dev, 1e-6)


def test_scores_of_batches_of_tokens_are_in_the_order_of_the_inputs(uneven, tmp_path, monkeypatch):
    monkeypatch.setattr(Examples, "lengths", lambda self: [len(given.waveform.samples) for given in self])
    inputs = Examples(example.input for example in uneven)
    batches = []

    def collator(batch):
        batches.append([len(given.waveform.samples) for given in batch])
        return levels(batch)

    scores = trainer(tmp_path, uneven, uneven, tokens_per_batch=2000).score(inputs, collator)
    assert batches[:2] == [[100], [1200]]  # their tokens are counted
    assert batches[2:] == [[1200], [1100], [1000, 900], [800, 700], [600, 500, 400], [300, 200, 100]]
    expected = trainer(tmp_path, uneven, uneven).score(inputs, levels)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_journal_removes_complete_batches_of_tokens(uneven, tmp_path, monkeypatch):
    monkeypatch.setattr(Examples, "lengths", lambda self: [len(given.waveform.samples) for given in self])
    inputs = Examples(example.input for example in uneven)
    run, scored = trainer(tmp_path, uneven, uneven, tokens_per_batch=2000), []

    def collator(batch):
        scored.extend(given.utterance_id for given in batch)
        return levels(batch)

    complete = run.score(inputs, levels)
    batches = run.batches_to_score(inputs, levels)
    done = {*batches[1], *batches[2], batches[3][0]}  # the last of them in part
    journal = ScoreJournal(count=12)
    journal.results = {position: complete[position] + 1 for position in done}
    scores = run.score(inputs, collator, journal)
    run_again = [position for number, batch in enumerate(batches) if number not in (1, 2) for position in batch]
    assert scored[2:] == [inputs[position].utterance_id for position in run_again]  # after two whose tokens are counted
    for position in range(12):
        np.testing.assert_array_equal(scores[position], complete[position] + (position in done))


def test_examples_without_lengths_have_no_batches_of_tokens(uneven, tmp_path):
    run = trainer(tmp_path, list(uneven), uneven, tokens_per_batch=1600)
    with pytest.raises(ConfigError, match=r"'tokens_per_batch': the examples have no lengths\(\); give a batch size"):
        run.train()


def test_the_order_by_length_does_not_depend_on_how_a_step_is_divided(uneven, tmp_path):
    runs = [
        trainer(tmp_path / name, uneven, uneven, order="group_by_length", batch=batch, accumulated=accumulated)
        for name, batch, accumulated in (("at_once", 4, 1), ("accumulated", 2, 2))
    ]
    for run in runs:
        run.train()
    assert runs[0].model.levels_seen == runs[1].model.levels_seen


# The search for a batch size


def with_memory_for(run, count):
    """Let the recognizer run out of memory in training with more than ``count`` examples; returns the tried sizes."""
    tried = []

    def check(model, args, kwargs):
        if model.training:
            tried.append(len(kwargs["level"]))
            if len(kwargs["level"]) > count:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    run.model.register_forward_pre_hook(check, with_kwargs=True)
    return tried


def test_a_smaller_batch_is_found_and_a_step_keeps_its_examples(uneven, tmp_path):
    expected = trainer(tmp_path / "whole", uneven, uneven, batch=12)
    expected.train()
    run = trainer(tmp_path / "found", uneven, uneven, batch=12)
    tried, state = with_memory_for(run, 3), torch.get_rng_state()
    assert run.find_batch_size() == 3
    assert tried == [12, 6, 4, 3]
    assert run.model.levels_seen[-3:] == pytest.approx([0.12, 0.11, 0.1])  # the longest
    assert torch.equal(torch.get_rng_state(), state)
    assert run.model.linear.weight.grad is None
    assert run.args.gradient_accumulation_steps == 4
    tried.clear()
    run.train()
    assert tried == [3] * 12
    assert run.state.max_steps == expected.state.max_steps == 3
    assert_close(losses_of(run), losses_of(expected), 1e-5)
    assert_close(run.model.linear.weight, expected.model.linear.weight, 1e-5)


@pytest.mark.slow
def test_a_resumed_run_uses_the_batch_that_was_found(uneven, tmp_path):
    complete = trainer(tmp_path / "whole", uneven, uneven, batch=6)
    with_memory_for(complete, 2)
    complete.find_batch_size()
    complete.train()
    killed = trainer(tmp_path / "cut", uneven, uneven, batch=6, callbacks=[KillAt(2)])
    with_memory_for(killed, 2)
    killed.find_batch_size()
    with pytest.raises(Killed):
        killed.train()
    again = trainer(tmp_path / "cut", uneven, uneven, batch=6)
    tried, checkpoint = with_memory_for(again, 2), tmp_path / "cut" / "checkpoint-2"
    assert again.find_batch_size(checkpoint) == 2
    assert tried == []
    again.train(resume_from_checkpoint=checkpoint)
    assert again.args.gradient_accumulation_steps == 3
    torch.testing.assert_close(again.model.linear.weight, complete.model.linear.weight, rtol=0, atol=0)


def test_no_batch_that_fits_is_one_line(uneven, tmp_path):
    run = trainer(tmp_path, uneven, uneven, batch=4)
    with_memory_for(run, 0)
    with pytest.raises(ModelError, match="out of memory with a batch of one utterance, the longest; set train"):
        run.find_batch_size()


def test_another_error_is_not_taken_for_a_lack_of_memory(uneven, tmp_path):
    run = trainer(tmp_path, uneven, uneven, batch=4)
    run.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run.find_batch_size()


# Optimisers


def test_the_state_of_the_optimizer_is_printed_once(uneven, tmp_path, capsys):
    trainer(tmp_path, uneven, uneven, optim="adafactor", callbacks=[OptimizerReport()]).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("optimizer")]
    assert lines == ["optimizer: Adafactor of transformers; state of 4 trained values in float32"]


def test_an_8_bit_optimizer_resumes_exactly_and_small_tensors_keep_32_bits(uneven, tmp_path, capsys):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    settings = {"optim": "adamw_bnb_8bit", "batch": 4}
    complete = trainer(tmp_path / "whole", uneven, uneven, callbacks=[OptimizerReport()], **settings)
    complete.train()
    assert "optimizer: AdamW of bitsandbytes; state of 4 trained values in float32" in capsys.readouterr().out
    killed = trainer(tmp_path / "cut", uneven, uneven, callbacks=[KillAt(4)], **settings)
    with pytest.raises(Killed):
        killed.train()
    again = trainer(tmp_path / "cut", uneven, uneven, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    torch.testing.assert_close(again.model.linear.weight, complete.model.linear.weight, rtol=0, atol=0)
    weights = [torch.nn.Parameter(torch.randn(64, 64)), torch.nn.Parameter(torch.randn(64, 63))]
    optimizer = bitsandbytes.optim.AdamW(weights, optim_bits=8)
    sum((weight**2).sum() for weight in weights).backward()
    optimizer.step()
    assert describe_state(optimizer) == (
        "AdamW of bitsandbytes; state of 4,096 trained values in uint8, 4,032 trained values in float32 (tensors of "
        "fewer than 4096 values keep 32 bits)"
    )


# Waiting


class Slow(Examples):
    """Examples that take ten milliseconds each."""

    def __getitem__(self, index):
        time.sleep(0.01)
        return super().__getitem__(index)


def test_the_time_spent_waiting_is_logged(uneven, tmp_path):
    run = trainer(tmp_path, Slow(uneven), uneven, batch=4)
    run.train()
    rows = [row for row in run.state.log_history if "loss" in row]
    assert len(rows) == 9
    assert all(0 < row["waited_share"] <= 1 for row in rows)
    waited_s = run.waiting["training"].waited_s
    assert 36 * 0.01 <= sum(row["waited_s"] for row in rows) <= waited_s + 0.01
    assert waited_s < run.waiting["training"].wall_s
    slow = Slow(example.input for example in uneven)
    slow.lengths = lambda: [len(given.waveform.samples) for given in list(slow)]
    run.score(slow, levels)
    assert run.waiting["scoring"].waited_s >= 12 * 0.01
    assert run.state.log_history[-1]["scoring"] == 12
    assert run.state.log_history[-1]["waited_s"] >= 12 * 0.01
