"""Recipes on one GPU, with a tiny model of random weights."""

import json

import pandas as pd
import pytest
import torch
from closeness import assert_close

from lalm_mer.models.devices import gpu_before_ampere

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch.cuda finds"),
]
ON_GPU = "accelerate_configs/single_gpu.yaml"


@pytest.fixture
def on_gpu(workplace, tmp_path):
    """A runner of a recipe on the GPU; its run folder."""

    def run(recipe, name, *overrides):
        done = workplace.launch(
            recipe,
            tmp_path / name,
            f"engine.accelerate_config={ON_GPU}",
            *overrides,
            launcher=workplace.accelerate_launch(ON_GPU),
        )
        assert "cuda" in done.stdout  # the preflight names the device
        return tmp_path / name

    return run


def scores(run):
    return pd.read_parquet(run / "predictions.parquet").filter(like="log_prob_")


def test_scores_are_those_of_the_cpu(on_gpu, prompted):
    assert_close(scores(on_gpu("zero_shot", "run")), scores(prompted), 1e-4)


def test_a_training_learns_what_it_learns_on_the_cpu(on_gpu, workplace, tmp_path):
    """Without dropout, whose random numbers differ between devices."""
    options = ["train.max_steps=6", "adapter.lora_dropout=0.0", "train.lr_scheduler_type=constant"]
    workplace.launch("finetune", tmp_path / "cpu", *options)
    assert_close(scores(on_gpu("finetune", "gpu", *options)), scores(tmp_path / "cpu"), 5e-3)


@pytest.mark.parametrize(
    "options",
    [
        ["train.bf16=true"],
        ["train.fp16=true"],
        ["model.dtype=bfloat16"],
        ["model.dtype=bfloat16", "model.quantization=nf4"],
        ["model.dtype=float16", "train.fp16=true"],
        ["model.dtype=float16", "train.fp16=true", "model.quantization=nf4", "train.gradient_checkpointing=true"],
        ["train.gradient_checkpointing=true"],
        ["train.bf16=true", "train.optim=adamw_torch_fused", "train.dataloader_num_workers=2"],
        ["model.attn_implementation={language_model: flex_attention}", "train.packing=true"],
        ["model.attn_implementation=flash_attention_2", "model.dtype=bfloat16", "train.packing=true"],
        pytest.param(["model.torch_compile=true", "train.packing=true"], marks=pytest.mark.slow),
    ],
    ids=lambda options: "-".join(option.partition("=")[0].rpartition(".")[2] for option in options),
)
def test_fine_tuning_trains_and_ends(on_gpu, options):
    if {"train.bf16=true", "model.dtype=bfloat16"} & {*options} and gpu_before_ampere(torch.device("cuda")):
        pytest.skip("this GPU has no bfloat16")
    if "model.quantization=nf4" in options:
        pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    if "model.attn_implementation=flash_attention_2" in options:
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    run = on_gpu("finetune", "run", *options)
    losses = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in losses if row["split"] == "train"]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert scores(run).notna().all().all()


def test_the_same_seed_gives_the_same_scores(on_gpu):
    first, second = (on_gpu("finetune", name, "train.max_steps=3") for name in ("first", "second"))
    assert_close(scores(first), scores(second), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["model.attn_implementation={language_model: flex_attention}"], ["model.torch_compile=true"]],
    ids=["flex_attention", "compiled"],
)
def test_faster_ways_give_the_same_scores(on_gpu, prompted, options):
    assert_close(scores(on_gpu("zero_shot", "run", *options)), scores(prompted), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["model.attn_implementation={language_model: flex_attention}"], ["model.torch_compile=true"]],
    ids=["flex_attention", "compiled"],
)
def test_faster_ways_learn_the_same(on_gpu, options):
    """Without dropout: of the same random numbers, other kernels make other masks."""
    same = ["train.max_steps=6", "adapter.lora_dropout=0.0", "train.lr_scheduler_type=constant", "train.packing=true"]
    assert_close(scores(on_gpu("finetune", "fast", *same, *options)), scores(on_gpu("finetune", "plain", *same)), 5e-3)
