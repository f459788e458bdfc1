"""Gemma 3n's processor fills 188 placeholders for any length, and its tower attends to padding."""

OWN_BATCHES_LEAK = True  # in a padded batch, the transformers model scores an utterance differently than alone
PADS_SHORT_AUDIO = True  # with silence, so that none is too short
ROUNDING = 5e-5  # of logits: AltUp adds up predictions of four streams, which reaches 1e-5 with kernels for AVX2
FILLS_WINDOWS = True  # every utterance fills as many placeholders as a full window
