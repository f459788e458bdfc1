"""Run by torchrun in two processes: training under the shipped fsdp2.yaml with packed rows and stored tower outputs has
the losses and weights of one process without either, also if a process has a batch without audio.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from closeness import assert_close
from fsdp2_round_trip import shard
from hashed_split import HashedSplit
from torch.distributed.tensor import DTensor

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.processes import leave
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families.qwen2_audio import Qwen2Audio
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.language.tower_cache import TowerCache

LABELS = LabelSet(("happy", "sad"))
PROMPT = Prompt("both", None, (("audio", ""), ("transcript", "")), {}, "")
AUDIO_OF = ((True, False), (False, True), (False, False), (True, True))  # of the processes, in each step
EACH = 3  # examples of a process in a step


def spoken(number):
    random = np.random.default_rng(number)
    noise = random.normal(scale=0.1, size=random.integers(6_000, 20_000)).astype(np.float32)
    return Example(
        Input(f"u{number}", "so it is " * (1 + number % 3), Waveform(noise, 16_000)), LABELS.labels[number % 2]
    )


def recognizer_of(base, *, packing):
    torch.manual_seed(0)
    family = Qwen2Audio.load(base, revision=None, dtype="float32", attn_implementation="sdpa")
    targets = {"language_model": ["q_proj", "up_proj"], "projector": ["linear"]}
    adapted, _ = add_adapter(family, targets, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0})
    return LanguageRecognizer(family, PromptSetup((PROMPT,), LABELS, (LABELS.labels,)), adapted, packing=packing)


def train(model, steps, total):
    """Losses of the steps, and the trained weights; ``total`` adds a number over the processes."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for examples in steps:
        batch = model.training_collator(examples)
        del batch["labels"]
        output = model.train()(**batch)
        items = total(output["items"].sum())
        loss = output["losses"].sum() / items
        (loss * total(torch.tensor(1))).backward()  # gradients are averaged over the processes
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total(loss.detach())))
    full = {name: weight.full_tensor() if isinstance(weight, DTensor) else weight for name, weight in trained.items()}
    return losses, {name: weight.detach() for name, weight in full.items()}


def summed(value):
    value = value.clone()
    dist.all_reduce(value)
    return value


def main(base: str, out: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    steps, number = [], 0
    for with_audio in AUDIO_OF:
        step = [spoken(number + index) for index in range(2 * EACH)]
        mute = [replace(each, input=replace(each.input, waveform=None, without_audio=True)) for each in step]
        steps.append([(step if with_audio[index // EACH] else mute)[index] for index in range(2 * EACH)])
        number += 2 * EACH
    expected = train(recognizer_of(base, packing=False), steps, lambda value: value)

    model = recognizer_of(base, packing=True)
    with_waveforms = [each for step in steps for each in step if each.input.waveform is not None]
    cache = TowerCache(out / "cache", model.family, ["digest"])
    cache.fill([HashedSplit(with_waveforms)], batch_size=2, process=rank, processes=2)
    model.family.silence = cache.silence()
    type(model.family.encoder).encode = refuse

    def stored(each):
        if each.input.waveform is None:
            return each
        return replace(
            each, input=replace(each.input, waveform=None, encoded=cache(f"hash of {each.input.utterance_id}"))
        )

    shard(model)
    own = [[stored(each) for each in step[rank * EACH : (rank + 1) * EACH]] for step in steps]
    found = train(model, own, summed)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert max(expected[0]) - min(expected[0]) > 1e-2
    for name, weight in expected[1].items():
        assert_close(found[1][name], weight, 1e-4, name)
    dist.barrier()
    dist.destroy_process_group()


def refuse(*_):
    raise AssertionError("the audio tower was run")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    leave(0)
