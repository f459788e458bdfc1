"""Greedy answers through the two steps are those of the transformers model's own ``generate``."""

import pytest
import torch

from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families.base import LanguageInputs
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


def answers_by_full_passes(family, prompt, label_set, inputs, tokens):
    """The same, each token by a pass over prompts and answers, which precede the padding."""
    batch = PromptCollator(family, prompt, label_set)(inputs)
    ids, ends = batch.pop("input_ids"), batch.pop("prompt_lengths")
    with torch.no_grad():
        tower_output = family.encode_audio(**batch) if batch else None
        for _ in range(tokens):
            places = torch.arange(ids.shape[1])[None]
            inside = (places < ends[:, None]).long()
            hidden = family.hidden_states(LanguageInputs(ids, places * inside, inside), tower_output)
            logits = family.logits(hidden[torch.arange(len(ids)), ends - 1])
            logits[:, family.audio_token_id] = -torch.inf
            ids = torch.nn.functional.pad(ids, (0, 1), value=family.pad_token_id)
            ids[torch.arange(len(ids)), ends] = logits.argmax(dim=1)
            ends = ends + 1
    made = [row[end - tokens : end].tolist() for row, end in zip(ids, ends.tolist(), strict=True)]
    stops = stop_ids(family)
    return [row[: next((place for place, token in enumerate(row) if token in stops), tokens)] for row in made]


@pytest.mark.parametrize("adapted", [False, True])
def test_stored_keys_and_values_give_the_answers_of_full_passes(fresh_family, prompts, label_set, inputs, adapted):
    """Also beyond a sliding window of 16 tokens, after padding, and with an adapter."""
    family, prompt = fresh_family, prompts["audio_transcript"]
    chosen = inputs[:1] if family.batch_tolerance > 1e-4 else inputs
    if adapted:
        model, _ = add_adapter(family, family.adapter_targets, {"r": 4, "init_lora_weights": "gaussian"})
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        model.eval()
    expected = answers_by_full_passes(family, prompt, label_set, chosen, 20)
    assert answers(family, prompt, label_set, chosen, max_new_tokens=20) == expected
    assert max(len(set(ids)) for ids in expected) > 2


def test_a_pass_after_the_first_has_one_token(fresh_family, prompts, label_set, inputs, monkeypatch):
    passes, towers = [], []
    decoder, encoder = type(fresh_family.decoder), type(fresh_family.encoder)
    monkeypatch.setattr(decoder, "hidden_states", recorded(decoder.hidden_states, passes))
    monkeypatch.setattr(encoder, "encode", recorded(encoder.encode, towers))
    found = answers(fresh_family, prompts["audio_transcript"], label_set, inputs[:2])
    lengths = [call[2].input_ids.shape[1] for call in passes]
    assert len(towers) == 1
    assert lengths[0] > 1
    assert lengths[1:] == [1] * (len(lengths) - 1)
    assert max(map(len, found)) in (len(lengths), len(lengths) - 1)


def recorded(method, calls):
    def run(*args, **kwargs):
        calls.append(args)
        return method(*args, **kwargs)

    return run


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
