"""Implementations of attention: scores and losses are those of sdpa, and a tower has what transformers declares."""

from functools import partialmethod

import pytest
import torch
from a_gpu import a_gpu
from closeness import assert_close
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import flex_attention as flex
from transformers import PreTrainedModel
from transformers import modeling_flash_attention_utils as flash
from transformers.integrations.flex_attention import WrappedFlexAttention

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.models import attention
from lalm_mer.recognizers.language import collator
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

EXACT = 1e-6
DEFAULT, FLASH, FLEX = attention.DEFAULT, attention.FLASH, attention.FLEX


@pytest.fixture(autouse=True)
def any_device(monkeypatch):
    """FlexAttention also without a GPU, not compiled: see ``plain_flex``."""
    monkeypatch.setattr(attention, "_has_gpu", lambda: True)


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
    monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda _: flex.flex_attention)
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.fixture
def rows(monkeypatch):
    """The rows of every batch of eight with packing; two of them are padded."""
    monkeypatch.setattr(collator, "rows_of", lambda *_: [[1, 4, 6], [0, 3], [2, 5, 7]])


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
    monkeypatch.setattr(flash, "_lazy_imports", lambda *_, **__: functions)
    monkeypatch.setattr(flash, "_loaded_implementation", None)
    monkeypatch.setitem(flash.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2], "general_availability_check", lambda: True)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    return calls


def recognizers(families, prompt, label_set, shots=(), *, packing=False):
    setup = PromptSetup((prompt,), label_set, (label_set.labels,), tuple(shots))
    return [LanguageRecognizer(family, setup, packing=packing).eval() for family in families]


def scores(recognizer, inputs):
    with torch.no_grad():
        return recognizer(**recognizer.scoring_collators[0](inputs))["log_probs"]


def test_flex_attention_scores_as_sdpa(with_attention, plain_flex, rows, prompts, label_set, inputs, trait):
    families = with_attention(DEFAULT), with_attention(FLEX)
    if not trait("SINGLE_PRECISION"):  # a rounded activation may be on the other side of a threshold
        for each in families:
            each.model.double()
    plain, blocks = recognizers(families, prompts["audio_transcript"], label_set, packing=True)
    assert f"language_model {FLEX}" in blocks.speed()
    assert_close(scores(blocks, inputs), scores(plain, inputs), EXACT)
    with pytest.raises(ModelError, match="flex_attention has no backward pass on the CPU; train with sdpa there"):
        blocks(**blocks.scoring_collators[0](inputs))


def test_flex_attention_after_answered_examples(family, with_attention, plain_flex, prompts, label_set, examples):
    if family.single_turn_reason:
        pytest.skip(family.single_turn_reason)
    chosen = [example.input for example in examples[3:6]]
    families = (family, with_attention(FLEX))
    plain, blocks = recognizers(families, prompts["audio_transcript"], label_set, examples[:2])
    assert_close(scores(blocks, chosen), scores(plain, chosen), EXACT)


@pytest.mark.parametrize("packing", [False, True], ids=["rows_of_one", "packed"])
def test_flash_attention_takes_each_utterance_as_a_sequence(
    with_attention, varlen, rows, prompts, label_set, examples, training_batch, packing
):
    """With a reference of its function: losses and gradients are those of sdpa."""
    families = with_attention(DEFAULT), with_attention(FLASH)
    pair = recognizers(families, prompts["audio_transcript"], label_set, packing=packing)
    batch = training_batch(pair[0], examples)
    count, width = batch["input_ids"].shape
    losses = [recognizer(**batch)["losses"] for recognizer in pair]
    assert_close(losses[1], losses[0], EXACT)
    gradients = []
    for family, loss in zip(families, losses, strict=True):
        layers = family.submodule("language_model").parameters()
        first = next(
            each for each in layers if each.requires_grad and each.shape == (each.shape[0], family.hidden_size)
        )
        gradients.append(torch.autograd.grad(loss.sum(), first)[0])
    assert_close(gradients[1], gradients[0], 1e-5)
    starts = varlen[0].tolist()
    assert len(starts) == len(examples) + 1
    assert starts[-1] == count * width
    assert set(starts) >= set(range(0, count * width, width))
    assert packing or set(starts) == set(range(0, count * width + 1, width))


def test_flash_attention_scores_answers_that_share_a_prompt_by_sdpa(
    family, with_attention, varlen, prompts, label_set, inputs
):
    fast = with_attention(FLASH)
    plain, switched = recognizers((family, fast), prompts["audio_transcript"], label_set)
    assert torch.equal(scores(switched, inputs[:3]), scores(plain, inputs[:3]))
    assert not varlen
    assert fast.attention("language_model").used == FLASH
    assert "sdpa where answers share a prompt" in switched.speed()


def test_flash_attention_is_refused_on_a_gpu_that_its_kernels_do_not_know(fresh_family, varlen, monkeypatch):
    if FLASH not in fresh_family.attention("language_model").supported:
        pytest.skip("it has no FlashAttention")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    a_gpu(monkeypatch, "Tesla T4", (7, 5))
    expected = rf"{FLASH}; it needs a GPU of compute capability 8\.0 or more, found Tesla T4 \(7\.5\); use sdpa$"
    with pytest.raises(ConfigError, match=expected):
        fresh_family.set_attention({"language_model": FLASH})
    a_gpu(monkeypatch, "NVIDIA L4", (8, 9))
    fresh_family.set_attention({"language_model": FLASH})
    assert fresh_family.attention("language_model").used == FLASH


def test_a_tower_has_the_attention_that_transformers_declares(fresh_family, monkeypatch):
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: False)
    for tower in fresh_family.towers:
        found = fresh_family.attention(tower)
        if found is None:
            continue
        for name in ("eager", FLEX, FLASH):
            if found.exchangeable and name in found.supported and name != FLASH:
                fresh_family.set_attention({tower: name})
                assert fresh_family.attention(tower).used == name
                continue
            with pytest.raises(ConfigError, match=rf"argument 'attn_implementation': {name}; ") as refused:
                fresh_family.set_attention({tower: name})
            lacks = not found.exchangeable or name not in found.supported
            expected = f"the {tower} of {fresh_family.name}" if lacks else "flash-attn"
            assert expected in str(refused.value)


def test_layers_are_compiled_only_if_they_are_alike(fresh_family):
    if fresh_family.alike_layers:
        fresh_family.compile_language_model()
        assert len(fresh_family.compiled) >= 1
        return
    expected = f"argument 'torch_compile': true; the layers of {fresh_family.name} are not known, or not alike; set it"
    with pytest.raises(ConfigError, match=expected):
        fresh_family.compile_language_model()


@pytest.mark.slow
def test_one_compiled_graph_is_right_for_all_layers(load_family, family, prompts, label_set, inputs, monkeypatch):
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=counter))
    setup = PromptSetup((prompts["audio_transcript"],), label_set, (label_set.labels,))
    if not family.alike_layers:
        pytest.skip("its layers are not alike")
    compiled = LanguageRecognizer(load_family(), setup, torch_compile=True).eval()
    plain = LanguageRecognizer(family, setup).eval()
    for count in (8, 5):
        assert_close(scores(compiled, inputs[:count]), scores(plain, inputs[:count]))
    assert counter.frame_count == 1
    torch._dynamo.reset()
