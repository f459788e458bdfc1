"""Padded as for the other Qwen Omni, and in full chunks; otherwise both would depend on the longest clip of a batch."""

import copy

import torch

PADS_SHORT_AUDIO = True  # with silence, so that none is too short


def own_audio(family, waveforms):
    processor = copy.copy(family.processor)
    processor.audio_kwargs = processor.audio_kwargs | {"padding": "max_length"}
    inputs = processor(
        text=[family.audio_token] * len(waveforms),
        audio=[waveform.samples for waveform in waveforms],
        text_kwargs={"padding": True},
        return_tensors="pt",
    )
    chunks = [
        chunk
        for features, frames in zip(inputs["input_features"], inputs["feature_attention_mask"].sum(-1), strict=True)
        for chunk in features[:, :frames].split(100, dim=1)
    ]
    inputs["audio_chunk_lengths"] = torch.tensor([chunk.shape[1] for chunk in chunks])
    inputs["audio_padded_feature"] = torch.stack(
        [torch.nn.functional.pad(chunk, (0, 100 - chunk.shape[1])) for chunk in chunks]
    )
    return inputs


SINGLE_PRECISION = True  # torch multiplies by experts in float32 or less
