"""A family's declarations, and the interfaces of its parts.

Every model is cut into two steps. Step one, audio encoding: waveforms -> the audio tower's output before the projector,
one sequence per utterance. Step two, language modelling: token ids, positions, an attention pattern and tower outputs
-> hidden states. Caching a frozen tower, sharing a prompt between many answers and packing sequences only use these two
steps, so they work for all families.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.core.schema import Audio, EncodedAudio
from lalm_mer.models.attention import taking
from lalm_mer.models.families.parts.compiling import compile_layers, not_compiled
from lalm_mer.models.families.parts.keys_values import KeysValues
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.models.pretrained import PretrainedModel
from lalm_mer.prompting.conversation import Conversation, mark_parts, split_marked
from lalm_mer.prompting.prompts import Prompt, load_prompt

__all__ = ["SPEECH_CORPORA", "AudioEncoder", "Decoder", "Family", "FrontEnd", "LanguageInputs", "TowerOutput"]

SPEECH_CORPORA = ("ravdess", "crema_d", "iemocap", "msp_podcast", "meld", "mosei", "emodb")
"""Corpora of human speech that this library reads, for families whose training data is not known"""

_KEPT_WORDS = 1000  # the words of prompts recur in every input, those of most transcripts do not


@dataclass(frozen=True)
class TowerOutput:
    """Output of the audio tower for A waveforms, before the projector.

    Args:
        states: (A, F, D), padded at the end
        lengths: (A,), frames of each waveform; the prompt has as many placeholders
    """

    states: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class LanguageInputs:
    """Inputs of the language model without audio, right-padded.

    Args:
        input_ids: (B, T) token ids
        position_ids: (B, T)
        attention_mask: (B, T) of ones and zeros, or (B, 1, T, T), additive or a block mask of FlexAttention, if answers
            share a prompt; with a cache of S earlier tokens, (B, S + T) or (B, 1, T, S + T)
        sequence_starts: for FlashAttention without a mask: (N + 1,) int32, where each of the N sequences of all rows
            begins, counted over the rows one after another, and the number of tokens
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | BlockMask | None
    sequence_starts: Tensor | None = None


class FrontEnd(ABC):
    """Waveforms -> inputs of the audio tower; without state, one object for all models of a family."""

    @abstractmethod
    def longest_audio_s(self, family: Family) -> float:
        """Longest audio it takes, in seconds."""

    @abstractmethod
    def token_count(self, family: Family, samples: int) -> int:
        """Number of placeholders for a waveform of ``samples`` samples."""

    @abstractmethod
    def inputs(self, family: Family, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        """Arguments of the encoder for A waveforms at the family's rate: ``audio_...``, first axis A."""


class AudioEncoder(ABC):
    """Step one: the audio tower without the projector."""

    @abstractmethod
    def encode(self, family: Family, *args: Any, **inputs: Any) -> TowerOutput:  # noqa: ANN401 those of the front end
        """Tower output of A waveforms, from the inputs that the front end made."""


class Decoder(ABC):
    """Step two: projector, language model and output layer."""

    @abstractmethod
    def hidden_states(
        self, family: Family, inputs: LanguageInputs, audio: TowerOutput | None, cache: KeysValues | None = None
    ) -> Tensor:
        """Hidden states (B, T, H); ``audio`` fills placeholders in order, keys and values are added to ``cache``."""

    @abstractmethod
    def logits(self, family: Family, hidden: Tensor) -> Tensor:
        """The output layer: (..., H) -> (..., vocabulary)."""


class Family(PretrainedModel):
    """One architecture of audio-language models: its tokens, towers and parts.

    Raises:
        ModelError: if a tower of ``towers`` is not in the model, or a token not in the vocabulary
    """

    stop_token: ClassVar[str]
    audio_token: ClassVar[str]
    audio_marks: ClassVar[tuple[str, str]] = ("", "")
    """Text that the processor, not the chat template, adds before and after an audio slot"""
    single_turn_reason: ClassVar[str | None] = None
    """Why a conversation cannot contain an earlier user turn with audio and its answer; None if it can"""
    front_end: ClassVar[FrontEnd]
    encoder: ClassVar[AudioEncoder]
    decoder: ClassVar[Decoder]
    alike_layers: ClassVar[bool] = True
    """Whether the layers of the language model are alike, so that a graph compiled for one is right for all"""
    single_pass_reason: ClassVar[str | None] = None
    """Why the model has one step, so that neither tower output nor keys and values can be cached; None if it has two"""

    def __init__(self, model: Any, processor: Any) -> None:  # noqa: ANN401 each family's own class
        super().__init__(model, processor)
        self.full_window = False
        """Whether audio is padded to the tower's window, not to the longest of a batch (``takes_full_window``)"""
        self.silence: EncodedAudio | None = None
        """Tower output of a batch without audio in a run with stored outputs, in which no process runs the tower"""
        self._known_templates: dict[str, list[list[int] | int]] = {}
        self._known_words: dict[str, list[int]] = {}
        self.compiled: Sequence[nn.Module] = ()
        """Layers of the language model that ``compile_language_model`` compiled"""
        modules = dict(model.named_modules())
        for tower, path in self.towers.items():
            if path not in modules:
                raise ModelError(f"{self.name}: no module {path!r} for the {tower} in {type(model).__name__}")
        self.stop_token_id = self._token_id(self.stop_token)
        self.audio_token_id = self._token_id(self.audio_token)
        self.pad_token_id: int = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    @classmethod
    @abstractmethod
    def build_tiny(cls, folder: Path, shape: TinyShape) -> None:
        """Save a randomly initialised model and its processor with ``save_tiny``."""

    @classmethod
    def save_tiny(cls, folder: Path, config: Any, processor: Any, *, ones: str | None = None) -> None:  # noqa: ANN401
        """Save random weights, marked as such, and a processor; the last step of every ``build_tiny``.

        Args:
            folder: where to write
            config: config of ``model_class``
            processor: the processor
            ones: last name of parameters to be set to one, because zeros would cancel other weights
        """
        config.randomly_initialised = True
        model = cls.model_class(config)
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] == ones:
                nn.init.ones_(parameter)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    @classmethod
    def default_prompt(cls, modalities: str) -> str:
        """The prompt for these modalities."""
        return f"prompts/{modalities.replace('+', '_')}.yaml"

    @classmethod
    def load_prompt(cls, path: Path) -> Prompt:
        """Read a prompt."""
        return load_prompt(path)

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        model: Any = self.model
        return int(model.config.get_text_config(decoder=True).hidden_size)

    @property
    def longest_audio_s(self) -> float:
        """Longest audio it takes, in seconds."""
        return self.front_end.longest_audio_s(self)

    def audio_token_count(self, samples: int) -> int:
        """Number of placeholders for a waveform of ``samples`` samples."""
        return self.front_end.token_count(self, samples)

    def placeholder_count(self, audio: Audio) -> int:
        """Number of placeholders for a waveform or a stored tower output."""
        return len(audio.states) if isinstance(audio, EncodedAudio) else self.audio_token_count(len(audio.samples))

    def audio_inputs(self, audio: Sequence[Audio]) -> dict[str, Tensor]:
        """Keyword arguments of ``encode_audio`` for A waveforms or stored tower outputs.

        Returns:
            what the front end makes of the waveforms, and of the stored outputs ``audio_states`` (S, F, D),
            ``audio_lengths`` (S,) and ``audio_places`` (S,), their places among all A

        Raises:
            AudioError: if a waveform is not at the family's rate
        """
        waveforms = [each for each in audio if not isinstance(each, EncodedAudio)]
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, self.name)
        inputs = self.front_end.inputs(self, waveforms) if waveforms else {}
        stored = [(place, each) for place, each in enumerate(audio) if isinstance(each, EncodedAudio)]
        if stored:
            states = [torch.tensor(each.states).view(getattr(torch, each.dtype)) for _, each in stored]
            inputs["audio_states"] = nn.utils.rnn.pad_sequence(states, batch_first=True)
            inputs["audio_lengths"] = torch.tensor([len(each) for each in states])
            inputs["audio_places"] = torch.tensor([place for place, _ in stored])
        return inputs

    def encode_audio(self, **inputs: Tensor) -> TowerOutput:
        """Step one: the audio tower without the projector; stored outputs are returned as they are.

        Padding ends with the longest, so that the projector does the same work, dropout included, with stored outputs,
        at true length and with the full window.
        """
        stored, places = None, inputs.pop("audio_places", None)
        if places is not None:
            stored = TowerOutput(inputs.pop("audio_states"), inputs.pop("audio_lengths"))
            if not inputs:
                return stored
        output = self.encoder.encode(self, **inputs)
        if self.single_pass_reason is not None:  # no tower output
            return output
        computed = TowerOutput(output.states[:, : int(output.lengths.max())], output.lengths)
        return computed if stored is None or places is None else _merged(computed, stored, places)

    def hidden_states(
        self, inputs: LanguageInputs, audio: TowerOutput | None, cache: KeysValues | None = None
    ) -> Tensor:
        """Step two: projector and language model, (B, T, H).

        Args:
            inputs: the tokens of this pass
            audio: tower output, which fills the placeholders in order
            cache: keys and values of the S tokens before them, to which those of this pass are added; None keeps none.
                Such a pass is not compiled, since each layer would need a graph of its own
        """
        compiled = () if cache is None else self.compiled
        with taking(self.attention("language_model"), inputs.attention_mask), not_compiled(compiled):
            hidden = self.decoder.hidden_states(self, inputs, audio, cache)
        if cache is not None:
            cache.position_ids = cache.positions_with(inputs.position_ids)
        return hidden

    def compile_language_model(self) -> None:
        """Compile the layers of the language model, after adapters are added.

        Raises:
            ConfigError: if they are not known, or not alike
        """
        alike = self.fsdp_layers if self.alike_layers else ()
        self.compiled = compile_layers(self.submodule("language_model"), alike, self.name)

    def keeps_keys(self, length: int, grown: int) -> bool:
        """Whether keys and values of a row of ``length`` tokens are still right when it has grown to ``grown`` tokens.

        A model of one step has none. Rotary embeddings of type longrope change for all tokens of a row once it is
        longer than those of pretraining, those of type dynamic with every token from there on.
        """
        if self.single_pass_reason is not None:
            return False
        model: Any = self.model
        config = model.config.get_text_config(decoder=True)
        rotary = getattr(config, "rope_parameters", None) or {}
        kind = rotary.get("rope_type")
        if kind not in ("longrope", "dynamic"):
            return True
        original = int(rotary.get("original_max_position_embeddings") or config.max_position_embeddings)
        return grown <= original or (kind == "longrope" and length > original)

    def logits(self, hidden: Tensor) -> Tensor:
        """The output layer: (..., H) -> (..., vocabulary)."""
        return self.decoder.logits(self, hidden)

    def refuses(self, duration_s: float) -> str | None:
        """Why the family cannot take audio of this duration, in seconds; None if it can."""
        if duration_s > self.longest_audio_s:
            return f"{duration_s:.2f} s long; {self.name} takes {self.longest_audio_s:g} s at most"
        if self.audio_token_count(round(duration_s * self.sampling_rate)) < 1:
            return f"{duration_s:.3f} s is too short for one audio token of {self.name}"
        return None

    def prompt_ids(self, conversation: Conversation, audio_tokens: Sequence[int]) -> list[int]:
        """Token ids of a conversation up to the answer, placeholders expanded.

        Only the text of the chat template can become a special token. Words are tokenised separately, as plain
        characters, so a transcript with ``<|im_end|>`` remains text.

        Args:
            conversation: the messages
            audio_tokens: number of placeholders of each audio slot, in order

        Raises:
            ModelError: if slots, placeholders and ``audio_tokens`` do not agree
        """
        messages, words = mark_parts(conversation)
        counts = iter(audio_tokens)
        ids: list[int] = []
        slots = 0
        for piece in self._template_ids(messages, len(words)):
            if isinstance(piece, int):
                ids += self.word_ids(words[piece])
                continue
            for token in piece:
                if token == self.audio_token_id:
                    slots += 1
                    ids += [token] * next(counts, 0)
                else:
                    ids.append(token)
        if not slots == conversation.audio_slots == len(audio_tokens):
            raise ModelError(
                f"{self.name}: {conversation.audio_slots} audio slots, {slots} placeholders from the chat template "
                f"and {len(audio_tokens)} waveforms; all three must agree"
            )
        return ids

    def _template_ids(self, messages: list[dict[str, object]], count: int) -> list[list[int] | int]:
        """The rendered template of marked messages: token ids, and between them the numbers of ``count`` marks.

        It is the same for all inputs of a prompt, so it is rendered and tokenised once.
        """
        key = json.dumps(messages)
        if key not in self._known_templates:
            rendered: str = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            pieces: list[list[int] | int] = []
            for kind, piece in split_marked(rendered, map(str, range(count))):
                if kind == "words":
                    pieces.append(int(piece))
                else:
                    marked = piece.replace(self.audio_token, self.audio_token.join(self.audio_marks))
                    pieces.append(self.tokenizer(marked, add_special_tokens=False)["input_ids"])
            self._known_templates[key] = pieces
        return self._known_templates[key]

    def answer_ids(self, form: str) -> list[int]:
        """Token ids of an answer: the surface form and the stop token."""
        return [*self.word_ids(form), self.stop_token_id]

    def word_ids(self, words: str) -> list[int]:
        """Token ids of words as plain characters, without any token that was added to the vocabulary.

        ``split_special_tokens`` does not split tokens such as ``<asr_text>`` or ``<tool_call>``, which are added but
        not marked as special. Text is therefore split within each of them, and the ids are concatenated; a byte-level
        tokenizer gives the ids of the complete text.

        Raises:
            ModelError: if an added token remains
        """
        known = self._known_words.get(words)
        if known is None:
            if len(self._known_words) >= _KEPT_WORDS:
                self._known_words.clear()
            known = self._known_words[words] = self._tokenised(words)
        return list(known)

    def _tokenised(self, words: str) -> list[int]:
        added = self.tokenizer.added_tokens_decoder
        spelled = [re.escape(token.content) for token in added.values() if not token.special and len(token.content) > 1]
        cuts = [match.start() + 1 for match in re.finditer(f"(?={'|'.join(spelled)})", words)] if spelled else []
        ids: list[int] = []
        for start, end in pairwise([0, *cuts, len(words)]):
            ids += self.tokenizer(words[start:end], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if not set(added).isdisjoint(ids):
            raise ModelError(f"{self.name}: its tokenizer reads added tokens in plain words: {words[:60]!r}")
        return ids

    def _token_id(self, token: str) -> int:
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or index == self.tokenizer.unk_token_id:
            raise ModelError(f"{self.name}: token {token!r} is not in the vocabulary; is this the right model?")
        return int(index)


def _merged(computed: TowerOutput, stored: TowerOutput, places: Tensor) -> TowerOutput:
    """Both outputs in one, the stored ones at their places and the others in order between them."""
    count = len(computed.lengths) + len(stored.lengths)
    is_stored = torch.zeros(count, dtype=torch.bool, device=places.device).index_fill(0, places, value=True)
    frames = max(computed.states.shape[1], stored.states.shape[1])
    states = computed.states.new_zeros((count, frames, computed.states.shape[2]))
    lengths = computed.lengths.new_zeros(count)
    for output, where in ((computed, ~is_stored), (stored, is_stored)):
        states[where, : output.states.shape[1]] = output.states.to(states.dtype)
        lengths[where] = output.lengths
    return TowerOutput(states, lengths)
