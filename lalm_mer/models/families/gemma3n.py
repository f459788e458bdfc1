"""Gemma 3n (Google 2025): a conformer like that of the Universal Speech Model, a projector, Gemma 3n behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3nAudioConfig,
    Gemma3nAudioEncoder,
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nModel,
    Gemma3nPreTrainedModel,
    Gemma3nProcessor,
    Gemma3nTextConfig,
    Gemma3nTextModel,
    Gemma3nVisionConfig,
)
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nMultimodalEmbedder, Gemma3nTextAltUp

from lalm_mer.models.families.base import TowerOutput
from lalm_mer.models.families.parts.audio_only import AudioOnlyProcessor, opened_parts
from lalm_mer.models.families.parts.chat_templates import for_parts
from lalm_mer.models.families.parts.gemma import GemmaFamily
from lalm_mer.models.families.parts.own_length import at_own_length
from lalm_mer.models.families.parts.tiny_shape import TinyShape, byte_level_bpe, language_sizes

__all__ = ["Gemma3n"]

_TEMPLATE = (
    "{{ bos_token }}"
    "{% set loop_messages = messages %}{% set first_user_prefix = '' %}"
    "{% if messages[0]['role'] == 'system' %}"
    "{% set first_user_prefix = messages[0]['content'] + '\\n\\n' %}{% set loop_messages = messages[1:] %}"
    "{% endif %}"
    "{% for message in loop_messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    "{{ first_user_prefix if loop.first else '' }}"
    "{{ message['content'] | trim }}"
    "{{ '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_BEFORE_AUDIO, _AFTER_AUDIO = "<start_of_audio>", "<end_of_audio>"
_EYES = ("<image_soft_token>", "<end_of_image>")


class _Processor(AudioOnlyProcessor, Gemma3nProcessor):  # type: ignore[misc]
    return_mm_token_type_ids = False
    audio_token, boa_token, eoa_token = "<audio_soft_token>", _BEFORE_AUDIO, _AFTER_AUDIO
    full_audio_sequence: str


class _Hearing(Gemma3nModel):  # type: ignore[misc]
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


class _HearingForGeneration(Gemma3nForConditionalGeneration):  # type: ignore[misc]
    _keys_to_ignore_on_load_unexpected = [r"model\.vision_tower\."]  # noqa: RUF012 transformers' own name

    def __init__(self, config: Gemma3nConfig) -> None:
        Gemma3nPreTrainedModel.__init__(self, config)
        self.model = _Hearing(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


class Gemma3n(GemmaFamily):
    """Gemma 3n E2B and E4B on transformers' own classes, opened without the vision tower.

    Audio fills 188 placeholders whatever its length, as published: those beyond the tower's frames hold an embedding
    that was learnt as padding. Each waveform is encoded at its own length, so that scores do not depend on the batch;
    the model's own forward lets padding leak into the shorter ones. Audio shorter than one analysis window (32 ms)
    is filled with silence. The published template takes a turn as a string, and cuts white space at both its ends.
    """

    name = "gemma3n"
    stop_token = "<end_of_turn>"
    audio_token = "<audio_soft_token>"
    model_class = _HearingForGeneration
    published = ("google/gemma-3n-E2B-it", "google/gemma-3n-E4B-it")
    licence = "Gemma Terms of Use"
    longest_s = 30.0
    """After which its processor cuts audio off"""
    audio_marks = (f"\n\n{_BEFORE_AUDIO}", f"{_AFTER_AUDIO}\n\n")
    beside = ("model.embed_vision",)
    own_batches_agree = False
    pads_short_audio = True
    fills_windows = True

    def __init__(self, model: nn.Module, processor: Any) -> None:  # noqa: ANN401 transformers' own class
        super().__init__(model, processor)
        processor.full_audio_sequence = (self.audio_token * self._placeholders).join(self.audio_marks)

    @classmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """A conformer of 128 mel bands over a Gemma of the same width; the upper half of its layers share keys."""
        special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", cls.stop_token, _BEFORE_AUDIO]
        tokenizer = byte_level_bpe(shape, special, eos=cls.stop_token, pad="<pad>")
        tokenizer.bos_token = "<bos>"
        words = len(tokenizer)  # then, as published, tokens of pictures and of audio, with embedders of their own
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [*special[3:], *_EYES, _AFTER_AUDIO, cls.audio_token]},
            replace_extra_special_tokens=True,
        )
        vocabulary = len(tokenizer) + 2
        token = tokenizer.convert_tokens_to_ids
        norms = {"rms_norm_eps": 1e-6, "hidden_size": shape.hidden_size}
        frames = (shape.window_s * 16000 - 513) // 160 + 1
        config = Gemma3nConfig(
            audio_config=Gemma3nAudioConfig(
                **norms,
                vocab_size=vocabulary - words - len(_EYES),
                vocab_offset=words + len(_EYES),
                conf_num_attention_heads=shape.heads,
                conf_num_hidden_layers=shape.layers,
                sscp_conv_channel_size=(16, 8),
            ).to_dict(),
            vision_config=Gemma3nVisionConfig(**norms, vocab_size=len(_EYES), vocab_offset=words).to_dict(),
            text_config=Gemma3nTextConfig(
                **language_sizes(shape, vocabulary) | {"num_hidden_layers": 2 * shape.layers},
                vocab_size_per_layer_input=words,
                hidden_size_per_layer_input=16,
                head_dim=shape.hidden_size // shape.heads,
                layer_types=[f"{'full' if layer % 2 else 'sliding'}_attention" for layer in range(2 * shape.layers)],
                num_kv_shared_layers=shape.layers if shape.layers > 1 else 0,  # two kinds have to be there below
                activation_sparsity_pattern=[0.95] * shape.layers + [0.0] * shape.layers,
                laurel_rank=8,
                sliding_window=16,
                bos_token_id=token("<bos>"),
                eos_token_id=[token("<eos>"), token(cls.stop_token)],
                pad_token_id=token("<pad>"),
            ).to_dict(),
            audio_soft_tokens_per_image=-(-frames // 16),
            boa_token_id=token(_BEFORE_AUDIO),
            eoa_token_id=token(_AFTER_AUDIO),
            audio_token_id=token(cls.audio_token),
            image_token_id=token(_EYES[0]),
            eoi_token_id=token(_EYES[1]),
            initializer_range=shape.initializer_range,
        )
        config.longest_audio_s = shape.window_s
        template = for_parts(_TEMPLATE, cls.audio_token)
        processor = _Processor(Gemma3nAudioFeatureExtractor(), tokenizer, chat_template=template)
        cls.save_tiny(folder, config, processor, stirred="correct_output_scale")

    @classmethod
    def load_processor(cls, source: str, revision: str | None) -> _Processor:
        """The processor without images."""
        extractor, tokenizer, template = opened_parts(Gemma3nAudioFeatureExtractor, source, revision, _TEMPLATE)
        return _Processor(extractor, tokenizer, chat_template=for_parts(template, cls.audio_token))

    def audio_token_count(self, samples: int) -> int:
        """As many for any audio."""
        return self._placeholders if samples > 0 else 0

    def features_of(self, samples: npt.NDArray[np.float32]) -> Tensor:
        """A log-mel spectrogram, of one frame at least."""
        extractor: Any = self.processor.feature_extractor
        missing = max(0, int(extractor.frame_length) + 1 - len(samples))
        features: Tensor = extractor([np.pad(samples, (0, missing))], return_tensors="pt")["input_features"][0]
        return features

    def encode_audio(self, audio_features: Tensor, audio_frames: Tensor) -> TowerOutput:  # type: ignore[override]
        """Step one, each waveform at its own length; states are zero where the tower has nothing to say."""
        tower: Any = self.submodule("audio_tower")

        def encode(features: Tensor) -> Tensor:
            padding = torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
            states: Tensor = tower(features, padding).last_hidden_state
            return states

        shape = (self._placeholders, int(tower.config.hidden_size))
        states = at_own_length(encode, audio_features, audio_frames, shape, tower.dtype)
        return TowerOutput(states, torch.full_like(audio_frames, self._placeholders))

    def project(self, states: Tensor) -> Tensor:
        """The projector, and the embedding of padding where states are zero, as the tower leaves them."""
        config: Any = self.model.config
        padding = torch.tensor([[config.text_config.vocab_size - 1]], device=states.device)
        silence = self.submodule("projector")(input_ids=padding)
        return torch.where(states.any(dim=-1, keepdim=True), super().project(states), silence)

    def embedded(self, ids: Tensor, is_audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens of audio, such as the mark after it, have an embedder of their own: the projector's."""
        for module in self.decoder().modules():
            if isinstance(module, Gemma3nTextAltUp):
                module.eval()  # in training it would clip frozen weights in place, quantised ones too
        projector: Any = self.submodule("projector")
        own = ids >= projector.vocab_offset
        embeddings = self.decoder().get_input_embeddings()(ids)
        of_audio = projector(input_ids=ids.clamp(min=projector.vocab_offset)).to(embeddings.dtype)
        return torch.where(own[..., None], of_audio, embeddings), self.decoder().get_per_layer_inputs(ids)

    @property
    def _placeholders(self) -> int:
        config: Any = self.model.config
        return int(config.audio_soft_tokens_per_image)
