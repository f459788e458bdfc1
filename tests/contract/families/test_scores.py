"""The two steps of a family give the scores of the transformers model."""

from dataclasses import replace

import pytest
import torch
from closeness import assert_close

from lalm_mer.core.errors import AudioError, ModelError
from lalm_mer.models.families.base import LanguageInputs


@pytest.mark.parametrize("prompt_name", ["audio_transcript", "audio", "transcript"])
def test_label_scores_equal_those_of_single_sequences(family, prompts, inputs, score, own_scores, prompt_name):
    chosen = inputs[:3]
    packed = score(family, prompts[prompt_name], chosen)
    alone = own_scores(family, prompts[prompt_name], chosen)
    assert_close(packed.double(), alone)
    assert packed.exp().sum(dim=1) == pytest.approx(torch.ones(3), abs=1e-5)
    assert packed.std(dim=0).max() > 1e-2  # utterances do differ, or equality would mean nothing
    assert packed.std(dim=1).min() > 1e-2  # and so do labels


def test_eager_attention_gives_the_same_scores(load_family, prompts, inputs, score, own_scores):
    family = load_family("eager")
    chosen = inputs[:2]
    packed = score(family, prompts["audio_transcript"], chosen)
    assert_close(packed.double(), own_scores(family, prompts["audio_transcript"], chosen))


@pytest.mark.parametrize("prompt_name", ["audio_transcript", "audio", "transcript"])
def test_a_batch_of_eight_scores_as_eight_batches_of_one(family, prompts, inputs, score, prompt_name):
    prompt = prompts[prompt_name]
    together = score(family, prompt, inputs)
    one_by_one = torch.cat([score(family, prompt, [given]) for given in inputs])
    assert_close(together, one_by_one, family.batch_tolerance)
    backwards = score(family, prompt, inputs[::-1]).flip(0)
    assert_close(together, backwards, family.batch_tolerance)


def two_steps(family, rows, waveforms):
    width = max(len(ids) for ids in rows)
    inputs = LanguageInputs(
        torch.tensor([ids + [family.pad_token_id] * (width - len(ids)) for ids in rows]),
        torch.arange(width).expand(len(rows), width),
        torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows]),
    )
    with torch.no_grad():
        audio = family.encode_audio(**family.audio_inputs(waveforms)) if waveforms else None
        return family.logits(family.hidden_states(inputs, audio))


@pytest.mark.parametrize("prompt_name", ["audio_transcript", "transcript"])
@pytest.mark.parametrize("count", [1, 5])
def test_two_steps_equal_the_models_own_forward(
    family, prompts, label_set, inputs, own_inputs, prompt_name, count, trait
):
    prompt, chosen = prompts[prompt_name], inputs[:count]
    waveforms = [given.waveform for given in chosen] if prompt.uses_audio else []
    counts = [[family.audio_token_count(len(waveform.samples))] for waveform in waveforms] or [[]] * count
    rows = [
        family.prompt_ids(prompt.conversation(given, label_set), tokens)
        for given, tokens in zip(chosen, counts, strict=True)
    ]
    assert count == 1 or len({len(ids) for ids in rows}) > 1
    ours = two_steps(family, rows, waveforms)
    with torch.no_grad():
        if not trait("OWN_BATCHES_LEAK"):
            own = family.model(**own_inputs(family, rows, waveforms)).logits
        else:  # padding changes the model's own batches: single sequences are the reference
            own = [
                family.model(**own_inputs(family, [ids], waveforms[row : row + 1])).logits[0]
                for row, ids in enumerate(rows)
            ]
    bound = trait("ROUNDING") or 1e-5
    for row, ids in enumerate(rows):  # padding is not compared
        assert_close(ours[row, : len(ids)], own[row][: len(ids)], bound)
        if count > 1:
            alone = two_steps(family, [ids], waveforms[row : row + 1])
            assert_close(ours[row, : len(ids)], alone[0], bound)


def test_scores_depend_on_the_audio(family, prompts, inputs, noise, score):
    """Another sound moves the scores; the same sound does not."""
    first = inputs[0]
    other = replace(first, waveform=noise(len(first.waveform.samples), 99))
    scores = score(family, prompts["audio_transcript"], [first, other, first])
    assert (scores[0] - scores[1]).abs().max() > 1e-4
    assert_close(scores[0], scores[2])


def test_swapped_audio_moves_scores_far_more_than_a_batch_does(family, prompts, inputs, score):
    prompt = prompts["audio_transcript"]
    own = score(family, prompt, inputs)
    alone = torch.cat([score(family, prompt, [given]) for given in inputs])
    rotated = [
        replace(given, waveform=other.waveform) for given, other in zip(inputs, inputs[1:] + inputs[:1], strict=True)
    ]
    moved = (score(family, prompt, rotated) - own).abs().median()
    assert moved >= 100 * max(float((own - alone).abs().max()), 1e-7)


def test_tower_output_can_be_cached(family, noise):
    """Step one does not depend on the batch, so that it can be computed once per utterance."""
    waveforms = [noise(family.sampling_rate), noise(family.sampling_rate // 2, 1)]
    with torch.no_grad():
        together = family.encode_audio(**family.audio_inputs(waveforms))
        for number, waveform in enumerate(waveforms):
            alone = family.encode_audio(**family.audio_inputs([waveform]))
            frames = int(alone.lengths[0])
            assert int(together.lengths[number]) == frames
            assert_close(together.states[number, :frames], alone.states[0, :frames])


def test_placeholders_and_frames_must_agree(family, prompts, label_set, inputs):
    prompt, first = prompts["audio"], inputs[0]
    true_count = family.audio_token_count(len(first.waveform.samples))
    ids = family.prompt_ids(prompt.conversation(first, label_set), [true_count - 1])
    with pytest.raises(ModelError, match=f"{true_count - 1} placeholders for {true_count} frames"):
        two_steps(family, [ids], [first.waveform])


def test_audio_at_another_rate_is_refused(family, noise):
    waveform = noise(4000)
    wrong = type(waveform)(waveform.samples, family.sampling_rate // 2)
    with pytest.raises(
        AudioError, match=f"takes audio at {family.sampling_rate} Hz, found {family.sampling_rate // 2} Hz"
    ):
        family.audio_inputs([waveform, wrong])
