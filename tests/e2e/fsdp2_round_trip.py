"""Run by torchrun in two processes: an adapter under PyTorch's FSDP2 is saved whole, and loaded into its shares.

accelerate applies FSDP on GPUs alone, so the two functions that touch the shares are shown here on torch's own FSDP2.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lalm_mer.core.labels import LabelSet
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families.qwen2_audio import Qwen2Audio
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.sharding import load_whole, whole_parameters


def main(base: str, out: Path) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    family = Qwen2Audio.load(base, revision=None, dtype="float32", attn_implementation="sdpa")
    targets = {"language_model": ["q_proj", "up_proj"]}
    adapted, _ = add_adapter(family, targets, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0})
    labels = LabelSet(("happy", "sad"))
    prompt = Prompt("reads", None, (("transcript", ""),), {}, "")
    model = LanguageRecognizer(family, PromptSetup((prompt,), labels, (labels.labels,)), adapted)
    expected = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    mesh = init_device_mesh("cpu", (2,))
    for layer in family.submodule("language_model").layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    shares = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert all(isinstance(share, DTensor) for share in shares.values())

    with whole_parameters(model):
        if dist.get_rank() == 0:
            model.save_trained(out)
    dist.barrier()
    saved = load_file(out / "adapter_model.safetensors")
    assert len(saved) == len(expected)
    for name, value in saved.items():
        in_model = "model." + name.replace(".weight", ".default.weight")
        torch.testing.assert_close(value, expected[in_model], rtol=0, atol=0)

    assert dict(model.named_parameters())[in_model] is shares[in_model]
    load_whole(model, {name: value + 1 for name, value in expected.items()})
    for name, share in shares.items():
        torch.testing.assert_close(share.full_tensor(), expected[name] + 1, rtol=0, atol=0)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
