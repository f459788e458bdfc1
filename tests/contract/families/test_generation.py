"""Greedy answers through the two steps are those of the transformers model's own ``generate``."""

import pytest
import torch

from lalm_mer.recognizers.language.collator import PromptCollator
from lalm_mer.recognizers.language.generation import generate, stop_ids

TOKENS = 6


def answers(family, prompt, label_set, inputs, **options):
    batch = PromptCollator(family, prompt, label_set)(inputs)
    return generate(family, **batch, **{"max_new_tokens": TOKENS, **options})


def own_answer(family, prompt, label_set, given, own_inputs):
    """What transformers' own decoding adds to the prompt, by its own audio and its cache."""
    ids, waveforms = PromptCollator(family, prompt, label_set).render(given)
    family.model._validate_model_kwargs = lambda kwargs: (
        None
    )  # it refuses inputs that a processor makes and forward takes
    with torch.no_grad():
        made = family.model.generate(
            **own_inputs(family, [ids], waveforms),
            do_sample=False,
            num_beams=1,
            max_new_tokens=TOKENS,
            eos_token_id=sorted(stop_ids(family)),
            pad_token_id=family.pad_token_id,
            suppress_tokens=[family.audio_token_id],
        )
    new = made[0, len(ids) :].tolist()
    return new[:-1] if new[-1] in stop_ids(family) else new


@pytest.mark.parametrize("prompt_name", ["audio_transcript", "transcript"])
def test_answers_are_those_of_the_model_itself(
    family, prompts, label_set, inputs, own_inputs, prompt_name, monkeypatch
):
    # it refuses some of what a processor makes and forward takes
    monkeypatch.setattr(family.model, "_validate_model_kwargs", lambda kwargs: None)
    prompt, chosen = prompts[prompt_name], inputs[:3]
    expected = [own_answer(family, prompt, label_set, each, own_inputs) for each in chosen]
    assert answers(family, prompt, label_set, chosen) == expected
    assert any(len(set(ids)) > 1 for ids in expected)


def test_a_batch_of_eight_gives_the_answers_of_eight_batches_of_one(family, prompts, label_set, inputs):
    if family.batch_tolerance > 1e-4:
        pytest.skip("its recipe takes batches of one")
    prompt = prompts["audio_transcript"]
    together = answers(family, prompt, label_set, inputs)
    assert together == [answers(family, prompt, label_set, [each])[0] for each in inputs]
    assert len(set(map(tuple, together))) > 1
