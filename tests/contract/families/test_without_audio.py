"""Utterances whose audio is missing, alone and beside others: judged by their transcript, whatever the batch."""

from dataclasses import replace

import pytest
import torch
from lalm_mer.recognizers.language.answer_model import AnswerModel

from lalm_mer.recognizers.language.collator import AnswerCollator, answer_forms


@pytest.fixture(scope="module")
def mute(examples):
    return [replace(example, waveform=None, without_audio=True) for example in examples[:3]]


def test_a_batch_without_audio_scores_as_words_alone(family, prompts, label_set, mute, score):
    """The tower runs on silence that nobody hears."""
    prompt = prompts["audio_transcript"]
    batch = AnswerCollator(family, prompt, label_set, every_answer=True)(mute)
    words = {name: value for name, value in batch.items() if name in
             ("input_ids", "position_ids", "segment_ids", "sources", "targets", "truth")}  # fmt: skip
    assert len(words) < len(batch)
    owners = [label for label, _ in answer_forms(label_set)]
    with torch.no_grad():
        alone = AnswerModel(family, owners, len(label_set)).eval()(**words)["log_probs"]
    torch.testing.assert_close(score(family, prompt, mute), alone, atol=1e-6, rtol=0)


def test_with_and_without_audio_in_one_batch(family, prompts, examples, mute, score):
    prompt = prompts["audio_transcript"]
    mixed = [examples[0], mute[1], examples[1], mute[2]]
    together = score(family, prompt, mixed)
    alone = torch.cat([score(family, prompt, [example]) for example in mixed])
    torch.testing.assert_close(together, alone, atol=max(family.batch_tolerance, 1e-5), rtol=0)
    assert (together[1] - score(family, prompt, [examples[1]])[0]).abs().max() > 1e-6


def test_every_tower_takes_part_in_the_gradient(fresh_family, prompts, label_set, examples, mute):
    """Processes that share weights or gradients would wait for each other if one left a tower out."""
    family = fresh_family
    family.model.requires_grad_(True)
    collator = AnswerCollator(family, prompts["audio_transcript"], label_set, every_answer=False)
    reached = []
    for asked in (mute, examples[:3]):
        family.model.zero_grad(set_to_none=True)
        batch = {name: value for name, value in collator(asked).items() if name != "labels"}
        AnswerModel(family, [0], len(label_set)).train()(**batch)["losses"].sum().backward()
        reached.append({name for name, weight in family.model.named_parameters() if weight.grad is not None})
    assert reached[0] == reached[1]
    assert any(name.startswith(f"{family.towers['audio_tower']}.") for name in reached[0])
