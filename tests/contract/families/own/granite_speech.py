"""Granite Speech's extractor pads by reflection and fails on what is too short for it: that has no placeholder."""

import pytest
import torch

OWN_BATCHES_LEAK = True  # in a padded batch, the transformers model scores an utterance differently than alone


def own_audio(family, waveforms):
    def processed():
        return family.processor(
            text=[family.audio_token] * len(waveforms),
            audio=[waveform.samples for waveform in waveforms],
            padding=True,
            return_tensors="pt",
        )

    if min(len(waveform.samples) for waveform in waveforms) <= 256:
        with pytest.raises(RuntimeError, match=r"[Pp]adding size"):
            processed()
        return {"input_ids": torch.empty((len(waveforms), 0), dtype=torch.long)}
    return processed()
