"""Stored outputs of a frozen audio tower give the losses, gradients and scores of the tower itself."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from closeness import assert_close
from hashed_split import HashedSplit

from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families.base import TowerOutput
from lalm_mer.recognizers.language.tower_cache import TowerCache, changes_tower

BOUND = 1e-5  # a batch of another composition differs by rounding


@pytest.fixture(scope="module")
def filled(family, examples, tmp_path_factory):
    """A cache with the outputs of all examples."""
    if family.single_pass_reason is not None:
        pytest.skip(f"{family.name} has one step")
    cache = TowerCache(tmp_path_factory.mktemp("cache"), family, ["digest"])
    assert cache.fill([HashedSplit(examples), HashedSplit(examples[:3])], batch_size=3) == len(examples)
    assert cache.fill([HashedSplit(examples)], batch_size=2) == 0
    return cache


@pytest.fixture
def stored(filled):
    """A function that gives an example its stored output in place of the waveform."""

    def change(example):
        encoded = filled(f"hash of {example.input.utterance_id}")
        return replace(example, input=replace(example.input, waveform=None, encoded=encoded))

    return change


def test_scores_equal_those_without_a_cache(family, filled, prompts, examples, stored, score):
    prompt = prompts["audio_transcript"]
    inputs = [example.input for example in examples[:4]]
    from_store = score(family, prompt, [stored(example).input for example in examples[:4]])
    assert_close(from_store, score(family, prompt, inputs), max(BOUND, min(family.batch_tolerance, 1e-3)))


def test_an_output_is_bit_equal_to_that_of_the_same_batch(family, filled, examples, tmp_path):
    own = TowerCache(tmp_path, family, ["digest"])
    own.fill([HashedSplit(examples)], batch_size=1)
    for example in examples:
        with torch.no_grad():
            direct = family.encode_audio(**family.audio_inputs([example.input.waveform]))
        encoded = own(f"hash of {example.input.utterance_id}")
        again = family.encode_audio(**family.audio_inputs([encoded]))
        count = int(direct.lengths[0])
        assert int(again.lengths[0]) == count == family.placeholder_count(encoded)
        assert torch.equal(again.states[0], direct.states[0, :count])


def test_losses_and_gradients_equal_those_without_a_cache(
    load_family, filled, prompts, examples, stored, recognizer_of, training_batch
):
    gradients, losses = [], []
    batch = examples[:4]
    for chosen in (batch, [stored(example) for example in batch]):
        fresh = load_family()
        towers = {name: targets for name, targets in fresh.adapter_targets.items() if name != "audio_tower"}
        torch.manual_seed(0)
        model, _ = add_adapter(fresh, towers, {"r": 2, "init_lora_weights": False})
        assert not changes_tower(fresh)
        recognizer = recognizer_of(fresh, prompts["audio_transcript"], model).train()
        output = recognizer(**training_batch(recognizer, chosen))
        (output["losses"].sum() / output["items"].sum()).backward()
        losses.append(output["losses"])
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
    assert_close(losses[1], losses[0], BOUND)
    assert len(gradients[0]) > 4
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, name
        assert_close(gradients[1][name], gradient, BOUND, name)


def test_stored_outputs_and_waveforms_mix_in_a_batch(family, filled, examples, stored, score, prompts):
    prompt = prompts["audio"]
    mixed = [examples[0].input, stored(examples[1]).input, stored(examples[2]).input, examples[3].input]
    with_waveforms = score(family, prompt, [example.input for example in examples[:4]])
    assert_close(score(family, prompt, mixed), with_waveforms, max(BOUND, min(family.batch_tolerance, 1e-3)))


def test_outputs_are_returned_in_the_order_of_the_audio(family, filled, examples, stored):
    audio = [examples[0].input.waveform, *(stored(example).input.encoded for example in examples[1:3])]
    with torch.no_grad():
        mixed = family.encode_audio(**family.audio_inputs(audio))
        alone = [family.encode_audio(**family.audio_inputs([each])) for each in audio]
    assert isinstance(mixed, TowerOutput)
    for row, output in enumerate(alone):
        count = int(output.lengths[0])
        assert int(mixed.lengths[row]) == count
        assert_close(mixed.states[row, :count], output.states[0, :count])


def test_a_batch_without_audio_does_not_run_the_tower(
    load_family, filled, prompts, examples, recognizer_of, training_batch
):
    """Other processes do not run it with their stored outputs, and would wait for each other."""
    mute = [replace(each, input=replace(each.input, waveform=None, without_audio=True)) for each in examples[:3]]
    results = []
    for silence in (None, filled.silence()):
        fresh = load_family()
        fresh.silence = silence
        towers = {name: targets for name, targets in fresh.adapter_targets.items() if name != "audio_tower"}
        torch.manual_seed(0)
        model, _ = add_adapter(fresh, towers, {"r": 2, "init_lora_weights": False})
        recognizer = recognizer_of(fresh, prompts["audio_transcript"], model).train()
        encoder = type(fresh.encoder)
        with patch.object(encoder, "encode", autospec=True, side_effect=encoder.encode) as encode:
            output = recognizer(**training_batch(recognizer, mute))
        output["losses"].sum().backward()
        trained = {name for name, value in model.named_parameters() if value.grad is not None}
        results.append((encode.called, output["losses"].detach(), trained))
    (with_tower, losses, reached), (without_tower, stored_losses, stored_reached) = results
    assert (with_tower, without_tower) == (True, False)
    assert_close(stored_losses, losses, 1e-6)
    assert stored_reached == reached
