"""Dual encoders with random weights, and inputs for them."""

import pytest
import torch
from dual_inputs import ENSEMBLE, KINDS, LABELS, noise
from representatives import slow_except

from lalm_mer.core.schema import Example, Input
from lalm_mer.models.families.parts.tiny_shape import TinyShape


@pytest.fixture(scope="module", params=slow_except(list(KINDS), ["unfused", "composed"]))
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    words = tuple(sentence for _, sentence in ENSEMBLE.descriptions(LABELS))
    kind.model.build_tiny(path, TinyShape(words, 2, 32, 2, 320, 0.1), **kind.options)
    return path


@pytest.fixture
def opened(kind, folder):
    """A maker of freshly loaded models."""
    return lambda: kind.model.load(folder)


@pytest.fixture
def clap(opened):
    return opened()


@pytest.fixture(scope="module")
def examples(kind):
    return [
        Example(Input(f"u{number}", None, noise(seconds, number, kind.rate), "s"), LABELS.labels[number % 3])
        for number, seconds in enumerate(kind.seconds)
    ]


@pytest.fixture(scope="module")
def inputs(examples):
    return [example.input for example in examples]
