"""Run by torchrun in two processes: a recognizer under the shipped fsdp2.yaml is sharded by the layers of its family,
scores as before, and its adapter is saved whole and loaded into its shares.

``accelerate launch`` applies FSDP on GPUs alone. So its functions are called here one by one: the launcher's
environment for the shipped file, the plugin that is made from it, and the sharding of the model by that plugin.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.processes import leave
from lalm_mer.core.schema import Input
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families.qwen2_audio import Qwen2Audio
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.sharding import full_parameters, load_full

CONFIG = Path(__file__).resolve().parents[2] / "accelerate_configs/fsdp2.yaml"


def shard(model):
    """As ``accelerate launch --config_file accelerate_configs/fsdp2.yaml`` and the Trainer do it on GPUs."""
    arguments = launch_command_parser().parse_args(["--config_file", str(CONFIG), "a_recipe.py"])
    launched, _, _ = _validate_launch_command(arguments)
    environment = prepare_multi_gpu_env(launched)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert "FSDP_TRANSFORMER_CLS_TO_WRAP" not in environment  # the shipped file names no model
    os.environ.update({name: value for name, value in environment.items() if name.startswith("FSDP_")})
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin()),
        torch_device_mesh={("shares",): init_device_mesh("cpu", (2,))},
        parallelism_config=SimpleNamespace(fsdp_dim_names=["shares"]),
        device=torch.device("cpu"),
        mixed_precision="no",
        is_main_process=dist.get_rank() == 0,
    )
    assert fsdp2_prepare_model(accelerator, model) is model


def main(base: str, out: Path) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    family = Qwen2Audio.load(base, revision=None, dtype="float32", attn_implementation="sdpa")
    targets = {"language_model": ["q_proj", "up_proj"]}
    adapted, _ = add_adapter(family, targets, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0})
    labels = LabelSet(("happy", "sad"))
    prompt = Prompt("both", None, (("audio", ""), ("transcript", "")), {}, "")
    model = LanguageRecognizer(family, PromptSetup((prompt,), labels, (labels.labels,)), adapted)
    expected = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    layers = {name for name, module in model.named_modules() if type(module).__name__ in family.fsdp_layers}
    assert {name.rpartition(".layers.")[0].rpartition(".")[2] for name in layers} == {"audio_tower", "language_model"}
    noise = np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)
    batch = model.scoring_collators[0]([Input("a", text, Waveform(noise, 16_000)) for text in ("so it is", "x")])
    with torch.no_grad():
        scores = model.eval()(**batch)["log_probs"]
    shard(model)
    assert {name for name, module in model.named_modules() if isinstance(module, FSDPModule)} == layers | {""}
    with torch.no_grad():
        torch.testing.assert_close(model(**batch)["log_probs"], scores, rtol=1e-6, atol=0)
    shares = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert all(isinstance(share, DTensor) for share in shares.values())

    with full_parameters(model):
        if dist.get_rank() == 0:
            model.save_trained(out)
    dist.barrier()
    saved = load_file(out / "adapter_model.safetensors")
    assert len(saved) == len(expected)
    for name, value in saved.items():
        in_model = "model." + name.replace(".weight", ".default.weight")
        torch.testing.assert_close(value, expected[in_model], rtol=0, atol=0)

    assert dict(model.named_parameters())[in_model] is shares[in_model]
    load_full(model, {name: value + 1 for name, value in expected.items()})
    for name, share in shares.items():
        torch.testing.assert_close(share.full_tensor(), expected[name] + 1, rtol=0, atol=0)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    leave(0)
