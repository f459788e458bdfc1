"""A tiny language model with random weights, whose tokenizer has a chat template."""

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe

TEMPLATE = "{% for m in messages %}{{ '<turn>' + m['role'] + ': ' + m['content'] + '<end>' }}{% endfor %}"
KINDS = {
    "llama": lambda vocabulary, layers: LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
                    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                    bos_token_id=None, eos_token_id=2)
    ),
    "gpt2": lambda vocabulary, layers: GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=layers, n_head=4, bos_token_id=None, eos_token_id=2)
    ),
    "gemma2": lambda vocabulary, layers: Gemma2ForCausalLM(
        Gemma2Config(vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
                     num_attention_heads=4, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.01,
                     bos_token_id=None, eos_token_id=2, pad_token_id=0)
    ),
}  # fmt: skip


def build_tiny_language_model(folder, kind="llama", *, template=TEMPLATE, layers=3):
    """A language model of three layers, saved with its tokenizer."""
    shape = TinyShape(("one two three", "what was said", "user: assistant:"), 1, vocabulary=300)
    tokenizer = byte_level_bpe(shape, ["<pad>", "<turn>", "<end>"], eos="<end>", pad="<pad>")
    tokenizer.chat_template = template
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KINDS[kind](len(tokenizer), layers)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
