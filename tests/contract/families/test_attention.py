"""Implementations of attention: scores and losses are those of sdpa, and a tower has what transformers declares."""

import pytest
import torch
from closeness import assert_close
from torch.nn.attention.flex_attention import flex_attention
from transformers import modeling_flash_attention_utils as flash
from transformers.integrations.flex_attention import WrappedFlexAttention

from lalm_mer.core.errors import ConfigError
from lalm_mer.models import attention
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

EXACT = 1e-6
FLEX, FLASH = "flex_attention", "flash_attention_2"


@pytest.fixture
def with_attention(load_family):
    """A maker of a model whose language model has an implementation; skips those that have none."""

    def make(implementation):
        family = load_family()
        if implementation not in family.attention("language_model").supported:
            pytest.skip(f"transformers declares no {implementation} for {family.name}")
        family.set_attention({"language_model": implementation})
        return family

    return make


@pytest.fixture
def plain_flex(monkeypatch):
    """FlexAttention without compilation, which takes as long as many of these tests."""
    monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda _: flex_attention)


@pytest.fixture
def varlen(monkeypatch):
    """The function of flash-attn for sequences one after another, as a reference; what it was called with."""
    calls = []

    def attend(q, k, v, *, cu_seqlens_q, cu_seqlens_k, causal, softmax_scale, window_size=(-1, -1), **_):
        assert causal
        calls.append(cu_seqlens_q)
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert cu_seqlens_q.dtype == torch.int32
        parts = []
        for start, end in cu_seqlens_q.unfold(0, 2, 1).tolist():
            places = torch.arange(end - start)
            distance = places[:, None] - places
            seen = (distance >= 0) & ((distance <= window_size[0]) if window_size[0] >= 0 else True)
            one = [each[start:end].transpose(0, 1)[None] for each in (q, k, v)]
            parts.append(
                torch.nn.functional.scaled_dot_product_attention(
                    *one, attn_mask=seen, scale=softmax_scale, enable_gqa=True
                )
            )
        return torch.cat(parts, dim=2)[0].transpose(0, 1)

    def refuse(*_, **__):
        raise AssertionError("rows with padding or several utterances need the other function")

    functions = (refuse, attend, refuse, flash._pad_input, flash._unpad_input)
    kwargs = flash._lazy_define_process_function(attend), None
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: (functions, kwargs))
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    return calls


def recognizers(families, prompt, label_set, shots=(), *, packing=False):
    setup = PromptSetup((prompt,), label_set, (label_set.labels,), tuple(shots))
    return [LanguageRecognizer(family, setup, packing=packing).eval() for family in families]


def scores(recognizer, inputs):
    with torch.no_grad():
        return recognizer(**recognizer.scoring_collators[0](inputs))["log_probs"]


@pytest.mark.parametrize("packing", [False, True], ids=["rows_of_one", "packed"])
def test_flex_attention_scores_as_sdpa(family, with_attention, plain_flex, prompts, label_set, inputs, packing):
    families = (family, with_attention(FLEX))
    plain, flex = recognizers(families, prompts["audio_transcript"], label_set, packing=packing)
    assert flex.speed()[-1 - packing :] != plain.speed()
    assert_close(scores(flex, inputs[:4]), scores(plain, inputs[:4]), EXACT)


def test_flex_attention_after_answered_examples(family, with_attention, plain_flex, prompts, label_set, examples):
    if family.single_turn_reason:
        pytest.skip(family.single_turn_reason)
    chosen = [example.input for example in examples[3:6]]
    families = (family, with_attention(FLEX))
    plain, flex = recognizers(families, prompts["audio_transcript"], label_set, examples[:2])
    assert_close(scores(flex, chosen), scores(plain, chosen), EXACT)
