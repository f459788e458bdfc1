"""Without ``padding``: it would apply to the audio too, and the tower needs full windows."""


def own_audio(family, waveforms):
    return family.processor(
        text=[family.audio_token] * len(waveforms),
        audio=[waveform.samples for waveform in waveforms],
        sampling_rate=family.sampling_rate,
        return_tensors="pt",
    )
