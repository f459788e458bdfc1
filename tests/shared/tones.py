"""Synthetic utterances whose label the pitch and the last word show."""

from __future__ import annotations

import numpy as np

from lalm_mer.core.audio import Waveform
from lalm_mer.core.schema import Example, Input

LABELS = ("happy", "sad")


def tone_examples() -> list[Example]:
    """Synthetic: pitch and the last word depend on the label; durations differ."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(16):
        label = LABELS[number % 2]
        time = np.arange(3200 + 800 * number) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * (300 if label == "happy" else 150) * time)
        samples = (tone + 0.01 * generator.standard_normal(len(time))).astype(np.float32)
        word = "lovely" if label == "happy" else "dreadful"
        transcript = "it was " + "very " * (number % 5) + word
        given = Input(
            f"u{number:02d}", transcript, Waveform(samples, 16_000), f"s{number % 4}", audio_sha256=f"a{number:02d}"
        )
        made.append(Example(given, label))
    return made
