"""Models that ``recipes/compose_model.py`` writes: a Whisper encoder, Qwen2-Audio's projector, any language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.models.families.base import SPEECH_CORPORA
from lalm_mer.models.families.parts.composing import WHISPERS_DATA, composed_model, composed_processor, layers_of
from lalm_mer.models.families.parts.templates import rendered_probe, stop_token_of
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes, whisper_sizes
from lalm_mer.models.families.qwen2_audio import Qwen2Audio

__all__ = ["Composed"]

_UNKNOWN = f"{WHISPERS_DATA}, nor that of most language models, so that no corpus can be ruled out."
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Composed(Qwen2Audio):
    """Qwen2-Audio's class over parts of other models; the stop token is that of the language model's chat template."""

    name = "composed"
    published = ()
    licence = "those of its parts"
    contamination = dict.fromkeys(SPEECH_CORPORA, _UNKNOWN)

    def __init__(self, model: Any, processor: Any) -> None:  # noqa: ANN401 transformers is not followed
        try:
            rendered = rendered_probe(processor)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise ModelError(f"{self.name}: its chat template takes no conversation ({one_line(error)})") from error
        decoder = model.get_submodule(self.towers["language_model"])
        # of each object, since language models differ
        self.stop_token = stop_token_of(processor.tokenizer, rendered, self.name)  # type: ignore[misc]
        self.fsdp_layers = (  # type: ignore[misc]
            "Qwen2AudioEncoderLayer", type(layers_of(decoder)[1][0]).__name__,
        )  # fmt: skip
        self.alike_layers = len(set(getattr(decoder.config, "layer_types", None) or [])) <= 1  # type: ignore[misc]
        super().__init__(model, processor)

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A Whisper encoder of 64 mel bands and a Llama, composed."""
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        tokenizer = byte_level_bpe(shape, special, eos="<|im_end|>", pad="<|endoftext|>")
        tokenizer.chat_template = _TEMPLATE
        extractor = WhisperFeatureExtractor(feature_size=64, chunk_length=shape.window_s)
        sizes = whisper_sizes(shape, num_mel_bins=64, max_source_positions=shape.window_s * 50, vocab_size=8,
                              decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=8, pad_token_id=0,
                              bos_token_id=0, eos_token_id=0, decoder_start_token_id=0)  # fmt: skip
        encoder = WhisperModel(WhisperConfig(**sizes, init_std=shape.initializer_range)).encoder
        language_model = LlamaForCausalLM(LlamaConfig(**language_sizes(shape, tokenizer)))
        processor = composed_processor(extractor, tokenizer)
        origin = {"audio_tower": "whisper, random weights", "language_model": "llama, random weights"}
        seed = int(torch.randint(2**31, ()))
        model = composed_model(encoder, language_model, processor, origin=origin, seed=seed)
        model.config.randomly_initialised = True
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
