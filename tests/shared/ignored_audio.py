"""A Qwen2-Audio that does not use its audio."""

import torch

from lalm_mer.models.families.base import TowerOutput
from lalm_mer.models.families.qwen2_audio import Qwen2Audio


def ignore_audio(monkeypatch):
    """Give its language model zeros in place of what the audio tower computes."""
    encode = Qwen2Audio.encode_audio

    def silent(self, **inputs):
        encoded = encode(self, **inputs)
        return TowerOutput(torch.zeros_like(encoded.states), encoded.lengths)

    monkeypatch.setattr(Qwen2Audio, "encode_audio", silent)
