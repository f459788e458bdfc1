"""Gemma 3n (Google 2025): a conformer like that of the Universal Speech Model, a projector, Gemma 3n."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3nAudioEncoder,
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nModel,
    Gemma3nPreTrainedModel,
    Gemma3nProcessor,
    Gemma3nTextModel,
)
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nMultimodalEmbedder, Gemma3nTextAltUp

from lalm_mer.models.families.base import Family
from lalm_mer.models.families.parts.audio_only import AudioOnlyProcessor, open_processor_parts
from lalm_mer.models.families.parts.gemma import CONTAMINATION, TARGETS, TOWERS, GemmaDecoder
from lalm_mer.models.families.parts.own_length import OwnLength, OwnLengthEncoder
from lalm_mer.models.families.parts.templates import join_parts_before, load_template
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["Gemma3n"]

_BEFORE_AUDIO, _AFTER_AUDIO = "<start_of_audio>", "<end_of_audio>"
_IMAGE_TOKENS = ("<image_soft_token>", "<end_of_image>")


class _Processor(AudioOnlyProcessor, Gemma3nProcessor):  # type: ignore[misc]
    return_mm_token_type_ids = False
    audio_token, boa_token, eoa_token = "<audio_soft_token>", _BEFORE_AUDIO, _AFTER_AUDIO
    full_audio_sequence: str


class _WithoutVision(Gemma3nModel):  # type: ignore[misc]
    """transformers' model without its vision tower, which needs timm and with it torchvision."""

    def __init__(self, config: Gemma3nConfig) -> None:
        Gemma3nPreTrainedModel.__init__(self, config)
        self.vocab_size = config.text_config.vocab_size
        self.language_model = Gemma3nTextModel(config.text_config)
        self.vocab_size_per_layer_input = config.text_config.vocab_size_per_layer_input
        self.audio_tower = Gemma3nAudioEncoder(config.audio_config)
        self.embed_vision = Gemma3nMultimodalEmbedder(config.vision_config, config.text_config)
        self.embed_audio = Gemma3nMultimodalEmbedder(config.audio_config, config.text_config)
        self.post_init()


class _WithoutVisionForGeneration(Gemma3nForConditionalGeneration):  # type: ignore[misc]
    _keys_to_ignore_on_load_unexpected = [r"model\.vision_tower\."]

    def __init__(self, config: Gemma3nConfig) -> None:
        Gemma3nPreTrainedModel.__init__(self, config)
        self.model = _WithoutVision(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


class _FrontEnd(OwnLength):
    def token_count(self, family: Family, samples: int) -> int:
        """The same for all audio."""
        return _placeholders(family.model) if samples > 0 else 0

    def features(self, family: Family, samples: npt.NDArray[np.float32]) -> Tensor:
        """A log-mel spectrogram, of one frame at least."""
        extractor: Any = family.processor.feature_extractor
        missing = max(0, int(extractor.frame_length) + 1 - len(samples))
        features: Tensor = extractor([np.pad(samples, (0, missing))], return_tensors="pt")["input_features"][0]
        return features


class _Decoder(GemmaDecoder):
    def project(self, family: Family, states: Tensor) -> Tensor:
        """The projector, and the embedding of padding for states of zero."""
        padding = torch.tensor([[family.model.config.text_config.vocab_size - 1]], device=states.device)
        silence = family.submodule("projector")(input_ids=padding)
        return torch.where(states.any(dim=-1, keepdim=True), super().project(family, states), silence)

    def embed(self, family: Family, ids: Tensor, is_audio: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Tokens of audio, such as the one after it, are embedded by the projector."""
        language_model = self.language_model(family)
        for module in language_model.modules():
            if isinstance(module, Gemma3nTextAltUp):
                module.eval()  # in training it would clip frozen weights in place, quantised ones too
        projector: Any = family.submodule("projector")
        own = ids >= projector.vocab_offset
        embeddings = language_model.get_input_embeddings()(ids)
        of_audio = projector(input_ids=ids.clamp(min=projector.vocab_offset)).to(embeddings.dtype)
        embeddings = torch.where(own[..., None], of_audio, embeddings)
        return embeddings, {"per_layer_inputs": language_model.get_per_layer_inputs(ids)}


class Gemma3n(Family):
    """Gemma 3n E2B and E4B on transformers' own classes, opened without the vision tower.

    Audio of any length fills 188 placeholders, as published: those beyond the tower's frames have an embedding that was
    trained as padding. Padding is excluded from the tower, so that scores do not depend on the batch; in the model's
    own forward, it changes the shorter ones. Audio shorter than one analysis window (32 ms) is padded with
    silence. The published template takes a turn as a string and strips white space from it.
    """

    name = "gemma3n"
    model_class = _WithoutVisionForGeneration
    published = ("google/gemma-3n-E2B-it", "google/gemma-3n-E4B-it")
    licence = "Gemma Terms of Use"
    contamination = CONTAMINATION
    stop_token = "<end_of_turn>"
    audio_token = "<audio_soft_token>"
    audio_marks = (f"\n\n{_BEFORE_AUDIO}", f"{_AFTER_AUDIO}\n\n")
    towers = TOWERS
    other_linear_modules = ("model.embed_vision",)
    front_end = _FrontEnd(longest_s=30.0)  # its processor cuts longer audio
    encoder = OwnLengthEncoder(
        lambda tower, features, mask: tower(features, ~mask).last_hidden_state,
        lambda family, frames: torch.full_like(frames, _placeholders(family.model)),
        width="hidden_size",
        subsampling="subsample_conv_projection",
    )
    decoder = _Decoder()
    alike_layers = False  # some use the keys of others
    adapter_targets = TARGETS
    fsdp_layers = ("Gemma3nAudioConformerBlock", "Gemma3nTextDecoderLayer")

    def __init__(self, model: Any, processor: Any) -> None:  # noqa: ANN401 transformers' own class
        super().__init__(model, processor)
        processor.full_audio_sequence = (self.audio_token * _placeholders(model)).join(self.audio_marks)

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A conformer of 128 mel bands and a Gemma of the same width; the upper half of its layers share keys."""
        special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", cls.stop_token, _BEFORE_AUDIO]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad="<pad>")
        tokenizer.bos_token = "<bos>"
        words = len(tokenizer)  # then, as published, tokens of images and of audio, with separate embedders
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [*special[3:], *_IMAGE_TOKENS, _AFTER_AUDIO, cls.audio_token]},
            replace_extra_special_tokens=True,
        )
        vocabulary = len(tokenizer) + 2
        token = tokenizer.convert_tokens_to_ids
        norms = {"rms_norm_eps": 1e-6, "hidden_size": shape.hidden_size}
        frames = (shape.window_s * 16000 - 513) // 160 + 1
        config = Gemma3nConfig(
            audio_config=dict(
                **norms,
                vocab_size=vocabulary - words - len(_IMAGE_TOKENS),
                vocab_offset=words + len(_IMAGE_TOKENS),
                conf_num_attention_heads=shape.heads,
                conf_num_hidden_layers=shape.layers,
                sscp_conv_channel_size=(16, 8),
            ),
            vision_config=dict(**norms, vocab_size=len(_IMAGE_TOKENS), vocab_offset=words),
            text_config=dict(
                **language_sizes(
                    shape,
                    tokenizer,
                    vocab_size=vocabulary,
                    num_hidden_layers=2 * shape.layers,
                    bos_token_id=token("<bos>"),
                    eos_token_id=[token("<eos>"), token(cls.stop_token)],
                ),
                vocab_size_per_layer_input=words,
                hidden_size_per_layer_input=16,
                head_dim=shape.hidden_size // shape.heads,
                layer_types=[f"{'full' if layer % 2 else 'sliding'}_attention" for layer in range(2 * shape.layers)],
                num_kv_shared_layers=shape.layers if shape.layers > 1 else 0,  # two kinds have to be below them
                activation_sparsity_pattern=[0.95] * shape.layers + [0.0] * shape.layers,
                laurel_rank=8,
                sliding_window=16,
            ),
            audio_soft_tokens_per_image=-(-frames // 16),
            boa_token_id=token(_BEFORE_AUDIO),
            eoa_token_id=token(_AFTER_AUDIO),
            audio_token_id=token(cls.audio_token),
            image_token_id=token(_IMAGE_TOKENS[0]),
            eoi_token_id=token(_IMAGE_TOKENS[1]),
            initializer_range=shape.initializer_range,
        )
        config.longest_audio_s = shape.window_s
        template = join_parts_before(load_template(cls.name), cls.audio_token)
        processor = _Processor(Gemma3nAudioFeatureExtractor(), tokenizer, chat_template=template)
        cls.save_tiny(folder, config, processor, ones="correct_output_scale")

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> _Processor:
        """The processor without images."""
        extractor, tokenizer, template = open_processor_parts(cls, Gemma3nAudioFeatureExtractor, source, revision)
        return _Processor(extractor, tokenizer, chat_template=join_parts_before(template, cls.audio_token))


def _placeholders(model: Any) -> int:  # noqa: ANN401 transformers' own
    return int(model.config.audio_soft_tokens_per_image)
