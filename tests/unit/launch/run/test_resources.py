"""Numbers of parameters and peak memory of a run."""

import platform

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from lalm_mer.core.run_record import Parameters
from lalm_mer.launch.run.resources import parameters_of, peak_memory, restart_peak
from lalm_mer.models.adapter_kinds import KINDS

LARGE = 2**28


class Adapted(nn.Module):
    """A recognizer over a model, as those of language and CLAP models are."""

    def __init__(self, model):
        super().__init__()
        self.model = model


def base():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 4))


def test_trained_parameters_are_those_with_a_gradient_and_shared_ones_count_once():
    network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False))
    network[2].weight = network[0].weight
    network[1].requires_grad_(False)
    assert parameters_of(network, training=True) == Parameters(trained=40, all=60)
    assert parameters_of(network, training=False) == Parameters(trained=0, all=60)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_has_the_same_parameters_when_it_is_trained_and_when_it_is_scored(kind, tmp_path):
    of_kind = {"ia3": {"feedforward_modules": []}, "oft": {"oft_block_size": 4}}.get(kind, {"r": 2})
    if kind == "oft":
        of_kind["r"] = 0
    config = KINDS[kind].config(target_modules=["0", "2"], modules_to_save=["3"], **of_kind)
    trained = get_peft_model(base(), config)
    found = parameters_of(Adapted(trained), training=True)
    assert found == Parameters(*trained.get_nb_trainable_parameters())
    assert 0 < found.trained < found.all
    trained.save_pretrained(tmp_path)
    scored = Adapted(PeftModel.from_pretrained(base(), tmp_path))
    assert not any(each.requires_grad for each in scored.parameters())
    assert parameters_of(scored, training=False) == found


def test_a_weight_in_four_bits_counts_in_full():
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    layer = bitsandbytes.nn.Linear4bit(64, 32, bias=False, quant_type="nf4").to("cpu")
    layer(torch.ones(1, 64))  # quantises it
    assert layer.weight.numel() < 64 * 32
    assert parameters_of(layer, training=False).all == 64 * 32


def test_a_weight_that_an_engine_shards_counts_in_full():
    layer = nn.Linear(8, 4, bias=False)
    layer.weight.data = torch.empty(0)
    layer.weight.ds_numel = 32  # as DeepSpeed sets it
    assert parameters_of(layer, training=True) == Parameters(32, 32)


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere the peak of a process cannot start anew")
def test_the_peak_is_that_since_it_was_restarted():
    restart_peak()
    before = peak_memory().bytes
    block = bytearray(LARGE)
    block[::4096] = b"x" * len(block[::4096])  # or the system gives it no memory
    del block
    after = peak_memory()
    assert after.of == "process"
    assert after.bytes - before > 0.9 * LARGE
    restart_peak()
    assert peak_memory().bytes < after.bytes - 0.9 * LARGE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch.cuda finds")
def test_the_peak_is_that_of_the_gpu_if_it_was_used():
    block = torch.ones(LARGE, dtype=torch.uint8, device="cuda")
    restart_peak()
    assert (peak_memory().of, peak_memory().bytes >= LARGE) == ("gpu", True)
    del block
    restart_peak()
    assert peak_memory().bytes < LARGE
