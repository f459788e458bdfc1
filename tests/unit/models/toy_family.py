"""A family without a network, for collating and scoring by hand."""

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import PreTrainedConfig

from lalm_mer.models.families.base import Family, TowerOutput

VOCABULARY = 160  # ASCII, and some special tokens
AUDIO, STOP, PAD, START = 129, 130, 0, 131


class Characters:
    """A tokenizer of ASCII characters."""

    pad_token_id = PAD
    unk_token_id = None
    all_special_ids = (AUDIO, STOP, START, PAD)
    special = {"<audio>": AUDIO, "<stop>": STOP, "<start>": START}  # noqa: RUF012
    added_tokens_decoder = {index: AddedToken(token, special=True) for token, index in special.items()}  # noqa: RUF012

    def convert_tokens_to_ids(self, token):
        return self.special.get(token)

    def __call__(self, words, add_special_tokens=False, split_special_tokens=False):
        ids, place = [], 0
        while place < len(words):
            token = next((t for t in self.special if words.startswith(t, place) and not split_special_tokens), None)
            ids.append(self.special[token] if token else ord(words[place]))
            place += len(token) if token else 1
        return {"input_ids": ids}


class Toy(Family):
    """Embeds and adds: the hidden state of a position is the mean over the positions that its mask allows."""

    name = "toy"
    stop_token = "<stop>"
    audio_token = "<audio>"
    towers = {"language_model": "lm", "projector": "projector", "audio_tower": "tower"}  # noqa: RUF012
    adapter_targets = {}  # noqa: RUF012
    fsdp_layers = ()
    sampling_rate = 100
    longest_audio_s = 2.0

    @classmethod
    def build_tiny(cls, folder, shape):
        raise NotImplementedError

    def audio_token_count(self, samples):
        return samples // 10

    def audio_inputs(self, waveforms):
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, self.name)
        means = [torch.tensor(waveform.samples[:190]).mean() for waveform in waveforms]
        return {
            "audio_features": torch.stack(means)[:, None],
            "audio_frames": torch.tensor([len(waveform.samples) // 10 for waveform in waveforms]),
        }

    def encode_audio(self, audio_features, audio_frames):
        states = audio_features[:, None, :].expand(-1, int(audio_frames.max()), 4)
        return TowerOutput(states, audio_frames)

    def hidden_states(self, inputs, audio, cache=None):
        mask = inputs.attention_mask
        if mask.dim() == 2:
            length = mask.shape[1]
            allowed = torch.ones(length, length).tril() * mask[:, None, :]
        else:
            allowed = (mask[:, 0] == 0).float()
        weights = allowed / allowed.sum(-1, keepdim=True).clamp(min=1)
        embedded = self.model.lm.embedding(inputs.input_ids) + self.model.lm.places(inputs.position_ids)
        return weights @ embedded

    def logits(self, hidden):
        return self.model.head(hidden)


def make_model(seed=0):
    torch.manual_seed(seed)
    model, language_model = nn.Module(), nn.Module()
    language_model.embedding = nn.Embedding(VOCABULARY, 8)
    language_model.places = nn.Embedding(500, 8)
    language_model.dtype = torch.float32
    model.lm, model.projector, model.tower = language_model, nn.Linear(4, 8), nn.Linear(4, 4)
    model.head = nn.Linear(8, VOCABULARY)
    model.config = PreTrainedConfig()
    return model


class Processor:
    tokenizer = Characters()

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        assert add_generation_prompt
        assert not tokenize
        turns = [
            "<start>" + message["role"][0] + ":" + "".join(
                "<audio>" if part["type"] == "audio" else part["text"] for part in message["content"]
            ) + "<stop>"
            for message in messages
        ]  # fmt: skip
        return "".join(turns) + "<start>"


def make_toy(processor=None, model=None, **attributes):
    """A toy family; processor and model may be given."""
    family_class = type("Toy", (Toy,), attributes)
    return family_class(model or make_model(), processor or Processor())


make_toy.processor, make_toy.tokenizer = Processor, Characters
