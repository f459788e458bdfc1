"""Audio encoded at its own length gives the outputs and gradients of the full window."""

import pytest
import torch
from closeness import assert_close

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families import FAMILIES, family_class, is_supported

RATE = 16_000
SAMPLES = (
    *(6_000, 159, 160, 161, 320, 321, 479, 481, 16_000, 15_999, 16_001),
    *(31_840, 31_841, 31_999, 32_000),  # the window of the tiny models has 32,000
)
"""Around the edges of a frame of 160 samples, of two, of the convolutions' reach, and of the window"""


CHOOSING = ("audioflamingo3", "composed", "musicflamingo", "qwen2_audio")


@pytest.fixture(scope="module", params=CHOOSING)
def choosing(request, tiny_folder):
    """A model whose audio can be padded to the full window."""
    if not is_supported(request.param):
        pytest.skip(f"{request.param} needs a newer transformers")
    return family_class(request.param).load(tiny_folder(request.param))


def test_all_families_with_the_choice_are_tested_here():
    known = [name for name in sorted(FAMILIES) if is_supported(name)]
    assert [name for name in known if family_class(name).takes_full_window] == [
        name for name in CHOOSING if name in known
    ]


@pytest.fixture
def encode(choosing):
    """An encoder of noise of given lengths, in samples, at its own length or with the full window."""
    generator = torch.Generator().manual_seed(0)
    noise = [0.1 * torch.randn(samples, generator=generator).numpy() for samples in SAMPLES]

    def run(rows, *, full_window):
        choosing.full_window = full_window
        try:
            inputs = choosing.audio_inputs([Waveform(noise[row], RATE) for row in rows])
            return inputs["audio_features"].shape[-1], choosing.encode_audio(**inputs)
        finally:
            choosing.full_window = False

    return run


def test_outputs_equal_those_of_the_full_window(choosing, encode):
    choosing.model.eval()
    with torch.no_grad():
        for rows in ([row] for row in range(len(SAMPLES))):
            frames, own = encode(rows, full_window=False)
            window, full = encode(rows, full_window=True)
            assert window == 200
            assert frames == min(window, -(-(SAMPLES[rows[0]] + 400) // 160))
            assert own.lengths.tolist() == full.lengths.tolist()
            count = int(own.lengths[0])
            assert_close(own.states[0, :count], full.states[0, :count], 1e-6)


def test_a_batch_of_different_lengths_equals_the_full_window(choosing, encode):
    choosing.model.eval()
    rows = list(range(len(SAMPLES) - 4))
    with torch.no_grad():
        (frames, own), (_, full) = encode(rows, full_window=False), encode(rows, full_window=True)
    assert frames == -(-(16_001 + 400) // 160)
    for row in rows:
        count = int(own.lengths[row])
        assert_close(own.states[row, :count], full.states[row, :count], 1e-6)


def test_gradients_of_the_tower_equal_those_of_the_full_window(choosing, encode):
    tower = choosing.submodule("audio_tower").train()
    gradients = {}
    for full_window in (False, True):
        tower.zero_grad()
        _, output = encode([0, 8, 10], full_window=full_window)
        used = [states[:count] for states, count in zip(output.states, output.lengths, strict=True)]
        states = torch.cat(used)
        (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        gradients[full_window] = {
            name: weight.grad for name, weight in tower.named_parameters() if weight.requires_grad
        }
    assert set(gradients[False]) == set(gradients[True])
    assert len(gradients[False]) > 20
    for name, gradient in gradients[False].items():
        assert_close(gradient, gradients[True][name], 1e-5)
