"""FSDP shards the layers that a family declares: all of its audio tower and its language model, one by one."""

from collections import Counter

from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import nn


def test_accelerate_chooses_the_layers_of_the_family(family, prompts, recognizer_of):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    recognizer = recognizer_of(family, prompts["audio_transcript"])
    chosen_by_accelerate = fsdp2_prepare_auto_wrap_policy(plugin, recognizer)
    modules = dict(family.model.named_modules())
    layers = {name for name, module in modules.items() if chosen_by_accelerate(module)}
    assert {type(modules[name]).__name__ for name in layers} == set(family.fsdp_layers)
    assert {type(modules[name.rpartition(".")[0]]) for name in layers} == {nn.ModuleList}
    assert not [name for name in layers if any(name.startswith(f"{other}.") for other in layers)]
    in_tower = Counter(
        tower for tower in ("audio_tower", "language_model") for name in layers if name.startswith(family.towers[tower])
    )
    config = family.model.config
    assert in_tower["audio_tower"] == 2  # as every tiny model is built
    assert in_tower["language_model"] == getattr(config, "text_config", config).num_hidden_layers >= 2
