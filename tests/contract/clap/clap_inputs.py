"""Labels, synthetic audio and scores that the tests of CLAP share."""

import numpy as np
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.models.clap import Clap
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.recognizers.clap import ClapSetup

RATE = 48_000
LABELS = LabelSet(("happy", "angry", "sad"), {"happy": ("happy", "full of joy")})
ENSEMBLE = Ensemble("two", ("The speaker sounds {{ label }}.", "{{ label }} speech"), {}, "digest")
SETUP = ClapSetup(ENSEMBLE, LABELS)
SECONDS = (1.0, 2.0, 0.3, 2.001, 2.5, 5.0, 0.01, 9.3)
RANK = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
TOWERS = tuple(Clap.towers)


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
