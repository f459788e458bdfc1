"""Operations, by hand for a tiny Qwen2-Audio of width 32 with two layers."""

import pytest
from torch import nn

from lalm_mer.models.families import family_class
from lalm_mer.recognizers.cost import TowerCost, Work, model_flops, tower_costs, tower_positions

WIDTH, FFN, LAYERS = 32, 4 * 32, 2


@pytest.fixture(scope="module")
def family(tiny_folder):
    return family_class("qwen2_audio").load(tiny_folder("qwen2_audio"))


def test_weights_of_every_tower(family):
    costs = tower_costs(family)
    block = 4 * WIDTH * WIDTH + 2 * WIDTH * FFN  # queries, keys, values, output; two layers of the feed-forward network
    convolutions = 64 * WIDTH * 3 + WIDTH * WIDTH * 3
    assert costs["audio_tower"] == TowerCost(LAYERS * block + convolutions, LAYERS * WIDTH)
    assert costs["projector"] == TowerCost(WIDTH * WIDTH, 0)
    of_queries, of_keys = WIDTH * WIDTH, WIDTH * WIDTH // 2  # one of two heads has keys and values
    assert costs["language_model"] == TowerCost(
        LAYERS * (2 * of_queries + 2 * of_keys + 3 * WIDTH * FFN), LAYERS * WIDTH
    )
    assert costs["output"] == TowerCost(WIDTH * len(family.tokenizer), 0)


def test_a_token_uses_a_share_of_the_experts(tiny_folder):
    moe = family_class("qwen3_omni_moe").load(tiny_folder("qwen3_omni_moe"))
    tower = moe.submodule("language_model")
    linear = sum(each.weight.numel() for each in tower.modules() if isinstance(each, nn.Linear))
    experts = [each for name, each in tower.named_parameters() if ".experts." in name]
    assert experts
    share = tower.config.num_experts_per_tok / tower.config.num_experts
    assert share < 1
    assert tower_costs(moe)["language_model"].weights == linear + share * sum(each.numel() for each in experts)


def test_operations_of_one_pass():
    """Two for each weight and position; attention: two matrix products over all pairs of positions."""
    assert TowerCost(10, 3).flops(5) == 2 * 10 * 5 + 4 * 3 * 25


def test_training_counts_the_gradients_of_the_inputs_from_the_first_trained_tower_on():
    costs = {name: TowerCost(1, 0) for name in ("audio_tower", "projector", "language_model", "output")}
    work = Work(audio_positions=1000, audio_tokens=100, tokens=10, predicted=1)
    assert model_flops(costs, work) == 2 * 1111
    frozen = {"audio_tower": False, "projector": False, "language_model": True}
    assert model_flops(costs, work, frozen) == 2 * (1000 + 100 + 20 + 2)
    assert model_flops(costs, work, dict.fromkeys(frozen, True)) == 4 * 1111


@pytest.mark.parametrize(
    ("name", "per_token"), [("qwen2_audio", 2.0), ("glmasr", 4.0), ("qwen3_asr", 1.0), ("audioflamingo3", 2.0)]
)
def test_positions_of_the_tower_for_each_placeholder(name, per_token):
    assert tower_positions(name).per_token == per_token
