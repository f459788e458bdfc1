"""Towers that need their own masks give each waveform of a padded batch the output and gradients that it has alone."""

import pytest
import torch
from closeness import assert_close
from torch import nn

from lalm_mer.core.audio import Waveform
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter
from lalm_mer.models.families import FAMILIES, family_class, is_supported
from lalm_mer.models.families.parts import own_length
from lalm_mer.models.families.parts.own_length import OwnLengthEncoder

RATE = 16_000
MEL_FRAMES = (*range(36, 53), 8, 1, 79, 80, 81, 82, 95, 96, 97, 98, 161, 199)
"""All remainders of the subsampling (4, 8 or 16), and the edges of blocks of the tiny models (40 and 48)"""
PADDED = ("gemma3n", "gemma4", "granite_speech", "phi4_multimodal")


@pytest.fixture(scope="module", params=[*((name, "sdpa") for name in PADDED), ("phi4_multimodal", "eager")])
def load(request, tiny_folder):
    """A maker of models of a family, in evaluation mode, whose tower has no parameter of zero."""
    name, attention = request.param
    if not is_supported(name):
        pytest.skip(f"{name} needs a newer transformers")

    def make():
        family = family_class(name).load(tiny_folder(name), dtype="float32", attn_implementation=attention)
        family.model.eval()
        tower, generator = family.submodule("audio_tower"), torch.Generator().manual_seed(3)
        means = [buffer for path, buffer in tower.named_buffers() if path.endswith(("mean", "running_mean"))]
        with torch.no_grad():
            for each in (*tower.parameters(), *means):
                if not each.any() or each.ndim < 2:  # such as biases, which make values of padding
                    each += 0.3 * torch.randn(each.shape, generator=generator)
        return family

    return make


@pytest.fixture(scope="module")
def padded(load):
    """A model that tests may not change."""
    return load()


@pytest.fixture(scope="module")
def outputs_alone(padded):
    """Outputs of one waveform at a time."""
    with torch.no_grad():
        return alone(padded, waveforms(MEL_FRAMES))


@pytest.fixture(params=["groups", "one group"])
def grouping(request, monkeypatch):
    """Batches of similar lengths, as always, or a single one of very different lengths."""
    if request.param == "one group":
        monkeypatch.setattr(own_length, "_MOST_PADDED", float("inf"))


def waveforms(frames):
    generator = torch.Generator().manual_seed(0)
    return [Waveform(0.1 * torch.randn(160 * count + 400, generator=generator).numpy(), RATE) for count in frames]


def together(family, audio):
    output = family.encode_audio(**family.audio_inputs(audio))
    for row, length in zip(output.states, output.lengths, strict=True):
        assert not row[int(length) :].any()
    return [row[: int(length)] for row, length in zip(output.states, output.lengths, strict=True)]


def alone(family, audio):
    return [together(family, [each])[0] for each in audio]


def test_all_families_that_pad_such_towers_are_tested_here():
    known = [name for name in sorted(FAMILIES) if is_supported(name)]
    assert [name for name in known if isinstance(family_class(name).encoder, OwnLengthEncoder)] == [
        name for name in PADDED if name in known
    ]


@pytest.mark.usefixtures("grouping")
def test_an_output_in_a_batch_equals_that_alone(padded, outputs_alone):
    with torch.no_grad():
        found = together(padded, waveforms(MEL_FRAMES))
    assert max(each.abs().max() for each in outputs_alone) > 1
    for row, (one, other) in enumerate(zip(found, outputs_alone, strict=True)):
        assert_close(one, other, 1e-6, f"mel frames {MEL_FRAMES[row]}")


@pytest.mark.usefixtures("grouping")
@pytest.mark.parametrize("adapted", [False, True])
def test_gradients_of_the_tower_equal_those_of_each_alone(load, adapted):
    family = load()
    if adapted:
        torch.manual_seed(0)
        settings = {"r": 2, "lora_alpha": 1, "lora_dropout": 0.0, "init_lora_weights": False}
        model, _ = add_adapter(family, {"audio_tower": [ALL_LINEAR]}, settings)
        model.train()
    else:
        family.submodule("audio_tower").train()
    audio = waveforms((47, 48, 12, 49, 97, 41, 40))
    gradients = []
    for encode in (together, alone):
        family.model.zero_grad()
        states = torch.cat(encode(family, audio))
        (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        weights = family.submodule("audio_tower").named_parameters()
        gradients.append({name: weight.grad for name, weight in weights if weight.grad is not None})
    assert len(gradients[0]) > 20
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        assert_close(gradient, gradients[1][name], 1e-5, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_padding_makes_nothing_infinite_in_half_precision(load, dtype, monkeypatch):
    monkeypatch.setattr(own_length, "_MOST_PADDED", float("inf"))
    family = load()
    tower = family.submodule("audio_tower").to(dtype)
    states = torch.cat(together(family, waveforms((199, 12, 41))))
    states.float().square().mean().backward()
    assert states.isfinite().all()
    for name, weight in tower.named_parameters():
        assert weight.grad is None or weight.grad.isfinite().all(), name


@pytest.fixture
def layer_calls(padded):
    """Calls of the first layer of the tower's transformer."""
    layers = next(each for each in padded.submodule("audio_tower").children() if isinstance(each, nn.ModuleList))
    calls = []
    hook = layers[0].register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def test_a_tower_that_processes_share_is_called_once_for_a_batch(padded, layer_calls, monkeypatch):
    audio = waveforms((199, 48, 8))
    with torch.no_grad():
        together(padded, audio)
        assert len(layer_calls) == 3
        weight = next(padded.submodule("audio_tower").parameters())
        monkeypatch.setattr(weight, "ds_id", 0, raising=False)  # as DeepSpeed marks them
        together(padded, audio)
    assert len(layer_calls) == 4


def test_similar_lengths_are_one_call_that_leaves_the_tower_unchanged(padded, layer_calls):
    tower = padded.submodule("audio_tower")
    before = [(name, sorted(vars(module)), len(module._forward_pre_hooks)) for name, module in tower.named_modules()]
    with torch.no_grad():
        together(padded, waveforms((44, 45, 46, 47, 48, 49, 50)))
    assert len(layer_calls) == 1
    assert before == [
        (name, sorted(vars(module)), len(module._forward_pre_hooks)) for name, module in tower.named_modules()
    ]


@pytest.mark.parametrize(
    ("frames", "groups"),
    [
        ([], []),
        ([0], []),
        ([7], [[0]]),
        ([300, 0, 300], [[0, 2]]),
        ([100, 110, 109], [[1, 2, 0]]),  # 330 for 319
        ([100, 400], [[1], [0]]),
        ([300, 340, 390, 420, 480, 510, 570, 600], [[7, 6, 5, 4], [3, 2, 1], [0]]),
    ],
)
def test_groups_have_similar_lengths(frames, groups):
    assert own_length._groups(frames, 1.125) == groups
    for group in groups:
        assert max(frames[row] for row in group) * len(group) <= 1.125 * sum(frames[row] for row in group)
