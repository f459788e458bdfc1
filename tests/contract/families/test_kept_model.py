"""A base model that follows runs use again: bit-equal after any adapter has been trained on it, or loaded anew."""

import pytest
import torch

from lalm_mer.launch.build.kept_model import KeptModel
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter
from lalm_mer.models.full_training import train_in_full

OPTIONS = {"vera": {"r": 8}, "ia3": {"feedforward_modules": ["down_proj"]}, "oft": {"oft_block_size": 4}}
TOWERS = {"language_model": [ALL_LINEAR], "audio_tower": [ALL_LINEAR]}


class Recognizer:
    """What a run makes of a model."""

    def __init__(self, model):
        self.model = model


def state(family):
    """A copy of weights and buffers, and what is trainable."""
    weights = {name: value.clone() for name, value in family.model.state_dict().items()}
    return weights, {name: each.requires_grad for name, each in family.model.named_parameters()}


def assert_same(found, known):
    assert found[1] == known[1]
    assert found[0].keys() == known[0].keys()
    assert all(torch.equal(found[0][name], value) for name, value in known[0].items())


def train(model):
    """Move everything that is trained."""
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)


def never():
    raise AssertionError("it is loaded anew")


@pytest.mark.parametrize("family_name", ["phi4_multimodal", "qwen2_audio"], indirect=True, scope="session")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_base_is_bit_equal_after_any_adapter(load_family, kind):
    kept = KeptModel()
    family = kept.open("same", load_family)
    known = state(family)
    for _ in range(2):
        adapted, _ = add_adapter(family, TOWERS, OPTIONS.get(kind, {"r": 2}), kind=kind)
        train(adapted)
        kept.keep(family, Recognizer(adapted))
        again = kept.open("same", never)
        assert again.model is family.model
        assert again is not family
        assert not again.model.training
        assert_same(state(again), known)
        family = again


@pytest.mark.parametrize("family_name", ["qwen2_audio"], indirect=True, scope="session")
def test_what_an_adapter_may_have_changed_is_loaded_anew(load_family):
    cases = {
        "a tower in full": lambda family: add_adapter(family, {"language_model": ["o_proj"]}, {}, full=["projector"])[
            0
        ],
        "in full": lambda family: train_in_full(family, ["projector"]) and family.model,
        "checkpointing": lambda family: family.model.gradient_checkpointing_enable() or family.model,
        "renamed": lambda family: setattr(family.model, "added", torch.nn.Linear(1, 1)) or family.model,
    }
    for change in cases.values():
        kept = KeptModel()
        family = kept.open("same", load_family)
        kept.keep(family, Recognizer(change(family)))
        assert kept.open("same", load_family).model is not family.model


@pytest.mark.parametrize("family_name", ["qwen2_audio"], indirect=True, scope="session")
def test_another_model_and_a_failed_run_are_loaded_anew(load_family):
    kept = KeptModel()
    first = kept.open("a", load_family)
    kept.keep(first, Recognizer(first.model))
    second = kept.open("b", load_family)
    assert second.model is not first.model
    assert kept.open("b", load_family).model is not second.model  # the run with it did not end
