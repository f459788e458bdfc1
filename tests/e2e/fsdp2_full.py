"""Run by torchrun in two processes: training in full under the shipped fsdp2.yaml has the losses of one process, and
the complete model is saved, with the tower that is not trained and with an output layer that is tied to the embeddings.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from closeness import assert_close
from fsdp2_round_trip import shard
from fsdp2_training import EACH, LABELS, PROMPT, spoken, summed, train
from safetensors.torch import load_file

from lalm_mer.core.processes import leave
from lalm_mer.models.families import family_class
from lalm_mer.models.full_training import train_in_full
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.sharding import full_parameters, load_full

STEPS = 3


def recognizer_of(name, base):
    family = family_class(name).load(base, revision=None, dtype="float32", attn_implementation="sdpa")
    train_in_full(family, ["language_model", "projector"])
    return LanguageRecognizer(family, PromptSetup((PROMPT,), LABELS, (LABELS.labels,)))


def main(name: str, base: str, out: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    steps = [[spoken(2 * EACH * step + index) for index in range(2 * EACH)] for step in range(STEPS)]
    alone = recognizer_of(name, base)
    expected = train(alone, steps, lambda value: value)
    assert max(expected[0]) - min(expected[0]) > 1e-2

    model = recognizer_of(name, base)
    shard(model)
    own = [step[rank * EACH : (rank + 1) * EACH] for step in steps]
    found = train(model, own, summed)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    with full_parameters(model, frozen=True):
        if rank == 0:
            model.save_trained(out)
    if rank == 0:
        alone.save_trained(out / "alone")
        saved, whole = (load_file(folder / "model.safetensors") for folder in (out, out / "alone"))
        assert saved.keys() == whole.keys()
        for tensor, value in whole.items():
            assert_close(saved[tensor], value, 1e-4, tensor)

    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert found[1].keys() == trained.keys()
    load_full(model, {name: value + 1 for name, value in found[1].items()})  # as a checkpoint is
    for name, share in trained.items():
        torch.testing.assert_close(share.full_tensor(), found[1][name] + 1, rtol=0, atol=0)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    leave(0)
