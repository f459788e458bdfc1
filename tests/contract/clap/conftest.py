"""A CLAP with random weights, and inputs for it."""

import pytest
import torch
from clap_inputs import ENSEMBLE, LABELS, SECONDS, noise

from lalm_mer.core.schema import Example, Input
from lalm_mer.models.clap import Clap
from lalm_mer.models.families.parts.tiny_shape import TinyShape


@pytest.fixture(
    scope="module",
    params=[pytest.param(False, id="unfused"), pytest.param(True, id="fused", marks=pytest.mark.slow)],
)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    words = tuple(sentence for _, sentence in ENSEMBLE.descriptions(LABELS))
    Clap.build_tiny(path, TinyShape(words, 2, 32, 2, 320, 0.1), fuses=request.param)
    return path


@pytest.fixture
def clap(folder):
    return Clap.load(folder)


@pytest.fixture(scope="module")
def examples():
    return [
        Example(Input(f"u{number}", None, noise(seconds, number), "s"), LABELS.labels[number % 3])
        for number, seconds in enumerate(SECONDS)
    ]


@pytest.fixture(scope="module")
def inputs(examples):
    return [example.input for example in examples]
