"""Utterances without audio are scored by their transcript, in any batch."""

from dataclasses import replace

import pytest
import torch
from closeness import assert_close


@pytest.fixture(scope="module")
def mute(inputs):
    return [replace(given, waveform=None, without_audio=True) for given in inputs[:3]]


def test_a_batch_without_audio_scores_as_text_only(family, prompts, mute, score, recognizer_of):
    """The tower runs on silence that belongs to no utterance."""
    prompt = prompts["audio_transcript"]
    recognizer = recognizer_of(family, prompt).eval()
    batch = recognizer.scoring_collators[0](mute)
    words = {name: value for name, value in batch.items() if not name.startswith("audio_")}
    assert len(words) < len(batch)
    with torch.no_grad():
        alone = recognizer(**words)["log_probs"]
    assert_close(score(family, prompt, mute), alone, 1e-6)


def test_with_and_without_audio_in_one_batch(family, prompts, inputs, mute, score):
    prompt = prompts["audio_transcript"]
    mixed = [inputs[0], mute[1], inputs[1], mute[2]]
    together = score(family, prompt, mixed)
    alone = torch.cat([score(family, prompt, [given]) for given in mixed])
    assert_close(together, alone, max(family.batch_tolerance, 1e-5))
    assert (together[1] - score(family, prompt, [inputs[1]])[0]).abs().max() > 1e-6


def test_every_tower_gets_a_gradient(fresh_family, prompts, examples, mute, recognizer_of, training_batch):
    """Processes that share weights or gradients would wait for each other if one left a tower out."""
    family = fresh_family
    family.model.requires_grad_(True)
    recognizer = recognizer_of(family, prompts["audio_transcript"]).train()
    silent = [replace(example, input=given) for example, given in zip(examples, mute, strict=False)]
    reached = []
    for chosen in (silent, examples[:3]):
        family.model.zero_grad(set_to_none=True)
        recognizer(**training_batch(recognizer, chosen))["losses"].sum().backward()
        reached.append({name for name, weight in family.model.named_parameters() if weight.grad is not None})
    assert reached[0] == reached[1]
    assert any(name.startswith(f"{family.towers['audio_tower']}.") for name in reached[0])
