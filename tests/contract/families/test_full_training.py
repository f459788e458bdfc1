"""Training in full: what it changes, and that others can load it."""

import re

import pytest
import torch
from closeness import assert_close
from torch import nn

from lalm_mer.core.errors import AdapterError, ModelError
from lalm_mer.models.adapters import add_adapter, tower_of
from lalm_mer.models.full_training import train_in_full

TOWERS = ("language_model", "projector", "audio_tower")


def trained(family):
    return {name: each for name, each in family.model.named_parameters() if each.requires_grad}


def in_other_parts(family, name):
    """Whether a parameter is of images, or a projection that speech alone does not use."""
    return any(name.startswith(f"{path}.") for path in family.other_linear_modules) or "vision" in name


def shake(family):
    """Move what is trained, as a training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(trained(family).items()):
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def test_all_towers_together_are_all_that_a_prompt_with_audio_uses(fresh_family):
    family = fresh_family
    every = {name: each.numel() for name, each in family.model.named_parameters()}
    report = train_in_full(family, list(family.towers))
    frozen = every.keys() - trained(family).keys()
    constant = {name for name in frozen if not in_other_parts(family, name)}
    assert all(name.endswith("embed_positions.weight") for name in constant)  # sinusoids of a Whisper encoder
    assert sum(row.full_parameters for row in report) == sum(every[name] for name in trained(family))
    assert {row.tower for row in report} == set(TOWERS)
    assert {(row.modules, row.adapter_parameters) for row in report} == {(0, 0)}
    assert family.trained_in_full == tuple(family.towers)


@pytest.mark.parametrize("tower", TOWERS)
def test_one_tower_alone_is_trained(fresh_family, tower):
    family = fresh_family
    rows = {row.tower: row for row in train_in_full(family, [tower])}
    own = trained(family)
    outside = {name for name in own if tower_of(family, name) != tower}
    if tower == "language_model":  # with its output layer, tied or not
        parts = tuple(f"{path}." for path in family.language_model_parts)
        head = {id(each) for each in family.model.get_output_embeddings().parameters()}
        assert head <= set(map(id, own.values()))
        outside = {name for name in outside if id(own[name]) not in head and not name.startswith(parts)}
    assert outside == set()
    assert rows[tower].full_parameters == sum(each.numel() for each in own.values()) > 0
    assert [row.full_parameters for row in rows.values() if row.tower != tower] == [0, 0]
    assert all(row.base_parameters for row in rows.values() if row.tower != tower)


def test_a_loss_reaches_every_trained_weight(fresh_family, prompts, examples, recognizer_of, training_batch):
    train_in_full(fresh_family, list(fresh_family.towers))
    recognizer = recognizer_of(fresh_family, prompts["audio_transcript"]).train()
    recognizer(**training_batch(recognizer, examples[:4]))["losses"].sum().backward()
    without = {name for name, each in trained(fresh_family).items() if each.grad is None}
    unused = {
        name for name in without if in_other_parts(fresh_family, name) or "audio_bos_eos" in name
    }  # of no forward
    assert without - unused == set()
    frozen = [each for each in fresh_family.model.parameters() if not each.requires_grad]
    assert all(each.grad is None for each in frozen)


@pytest.fixture(scope="module")
def saved(load_family, prompts, inputs, score, recognizer_of, tmp_path_factory):
    """A model whose weights have moved, saved by its recognizer, and its scores."""
    family, prompt = load_family(), prompts["audio_transcript"]
    before = score(family, prompt, inputs[:2])
    train_in_full(family, ["language_model", "audio_tower"])
    assert_close(score(family, prompt, inputs[:2]), before)  # nothing has moved yet
    shake(family)
    scores = score(family, prompt, inputs[:2])
    assert (scores - before).abs().max() > 1e-2
    folder = tmp_path_factory.mktemp("full")
    family.require_savable()
    recognizer = recognizer_of(family, prompt)
    assert recognizer.saves_every_weight
    recognizer.save_trained(folder)
    return folder, scores, {name: each.detach().clone() for name, each in family.model.state_dict().items()}


def test_the_checkpoint_is_complete_and_of_transformers(saved, family, prompts, inputs, own_scores):
    folder, scores, state = saved
    assert list(folder.glob("*.safetensors"))
    assert not [*folder.glob("*.bin"), *folder.glob("adapter*")]
    plain = type(family.model).from_pretrained(folder, dtype=torch.float32).eval()
    found = plain.state_dict()
    assert found.keys() == state.keys()
    assert [name for name in state if not torch.equal(found[name], state[name])] == []
    assert_close(scores.double(), own_scores(family, prompts["audio_transcript"], inputs[:2], plain))


def test_the_checkpoint_loads_as_its_family_with_its_own_processor(saved, family, prompts, inputs, score):
    folder, scores, _ = saved
    again = type(family).load(folder, revision=None, dtype="float32", attn_implementation="sdpa")
    again.model.eval()
    assert again.trained_in_full == ()
    assert_close(score(again, prompts["audio_transcript"], inputs[:2]), scores)


# Errors


@pytest.mark.parametrize("family_name", ["qwen2_audio"], indirect=True, scope="session")
@pytest.mark.parametrize(
    ("towers", "expected"),
    [
        ([], "argument 'full': no tower; name at least one of audio_tower, projector, language_model"),
        (["decoder"], "argument 'full': unknown tower 'decoder'; expected audio_tower, projector, language_model"),
    ],
)
def test_a_wrong_tower_is_refused(fresh_family, towers, expected):
    with pytest.raises(AdapterError, match=re.escape(expected)):
        train_in_full(fresh_family, towers)
    assert fresh_family.trained_in_full == ()


@pytest.mark.parametrize("family_name", ["qwen2_audio"], indirect=True, scope="session")
def test_weights_that_lose_small_steps_are_refused(load_family):
    family = load_family()
    family.model.to(torch.bfloat16)
    with pytest.raises(AdapterError, match=r"the projector of qwen2_audio is in bfloat16, .* load it in float32"):
        train_in_full(family, ["projector"])
    weight = nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False)
    family.model.get_submodule(family.towers["projector"]).linear.weight = weight
    with pytest.raises(AdapterError, match="the projector of qwen2_audio is quantised and cannot be trained in full"):
        train_in_full(family, ["projector"])


@pytest.mark.parametrize("family_name", ["qwen2_audio"], indirect=True, scope="session")
def test_an_adapted_model_is_refused(fresh_family):
    add_adapter(fresh_family, {"projector": ["linear"]}, {"r": 2})
    with pytest.raises(AdapterError, match="this qwen2_audio model has an adapter already"):
        train_in_full(fresh_family, ["projector"])


@pytest.mark.parametrize("family_name", ["qwen2_audio"], indirect=True, scope="session")
def test_a_weight_of_a_frozen_tower_is_refused(fresh_family):
    layers = {tower: fresh_family.model.get_submodule(path) for tower, path in fresh_family.towers.items()}
    layers["projector"].linear.weight = layers["audio_tower"].layers[0].fc1.weight
    with pytest.raises(AdapterError, match=r"the projector of qwen2_audio shares .* with the audio_tower; train both"):
        train_in_full(fresh_family, ["projector"])
    train_in_full(fresh_family, ["projector", "audio_tower"])


@pytest.mark.parametrize("family_name", ["qwen2_audio"], indirect=True, scope="session")
def test_a_model_that_cannot_be_saved_is_refused_before_training(fresh_family):
    fresh_family.model.generation_config.temperature = 0.5  # without sampling, as some published files say
    fresh_family.model.generation_config.do_sample = False
    with pytest.raises(ModelError, match=r"transformers cannot save it after training \(.*temperature"):
        fresh_family.require_savable()
