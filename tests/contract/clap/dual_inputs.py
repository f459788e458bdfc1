"""Kinds of dual encoders, labels, synthetic audio and scores that their tests share."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.models.clap import Clap
from lalm_mer.models.composed_clap import ComposedClap
from lalm_mer.models.dual_encoder import DualEncoder
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.recognizers.clap import ClapSetup

RATE = 48_000
LABELS = LabelSet(("happy", "angry", "sad"), {"happy": ("happy", "full of joy")})
ENSEMBLE = Ensemble("two", ("The speaker sounds {{ label }}.", "{{ label }} speech"), {}, "digest")
SETUP = ClapSetup(ENSEMBLE, LABELS)
RANK = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
TOWERS = tuple(DualEncoder.towers)


@dataclass(frozen=True)
class Kind:
    """A model to be tested.

    Args:
        model: its class
        rate: of its audio, in Hz
        seconds: durations that it takes with a window of 2 s
        options: of its ``build_tiny``
    """

    model: type[Any]
    rate: int
    seconds: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)


_ANY = (1.0, 2.0, 0.3, 2.001, 2.5, 5.0, 0.01, 9.3)
KINDS = {
    "unfused": Kind(Clap, RATE, _ANY),
    "fused": Kind(Clap, RATE, _ANY, {"fuses": True}),
    "composed": Kind(ComposedClap, 16_000, (1.0, 2.0, 0.3, 1.999, 1.51, 0.77, 0.001, 1.8)),
}


def noise(seconds, seed=0, rate=RATE):
    values = np.random.default_rng(seed).normal(scale=0.1, size=round(seconds * rate))
    return Waveform(values.astype(np.float32), rate)


def score(recognizer, inputs):
    recognizer.eval()
    with torch.no_grad():
        return recognizer(**recognizer.scoring_collators[0](inputs))["log_probs"]


def training_batch(recognizer, examples):
    """The part of a training batch that the recognizer gets: the Trainer keeps ``labels``."""
    return {name: tensor for name, tensor in recognizer.training_collator(examples).items() if name != "labels"}


def shake(model):
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
