"""Each waveform separately: in a batch the last mel frame of the longest depends on the others."""

import torch

PADS_SHORT_AUDIO = True  # with silence, so that none is too short


def own_audio(family, waveforms):
    alone = [
        family.processor(
            text=[family.audio_token],
            audio=[waveform.samples],
            sampling_rate=family.sampling_rate,
            return_tensors="pt",
        )
        for waveform in waveforms
    ]
    width = max(each["input_features"].shape[-1] for each in alone)
    audio = {
        name: torch.cat([torch.nn.functional.pad(each[name], (0, width - each[name].shape[-1])) for each in alone])
        for name in ("input_features", "input_features_mask")
    }
    longest = max(each["input_ids"].shape[1] for each in alone)
    ids = [torch.nn.functional.pad(each["input_ids"], (0, longest - each["input_ids"].shape[1])) for each in alone]
    return audio | {"input_ids": torch.cat(ids)}
