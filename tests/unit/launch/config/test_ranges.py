"""Numbers that no run could take are refused by their key, before anything is loaded."""

from dataclasses import replace

import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.config.ranges import require_ranges
from lalm_mer.launch.config.settings import (
    AdapterSettings,
    DataSettings,
    EngineSettings,
    FinetuneOutputSettings,
    FinetuneSettings,
    ModelSettings,
    PromptSettings,
    SplitSettings,
    TrainSettings,
)

RUN = FinetuneSettings(
    DataSettings(""),
    SplitSettings(""),
    PromptSettings(""),
    ModelSettings("", ""),
    AdapterSettings({}),
    FinetuneOutputSettings(""),
)


def test_what_settings_say_by_default_is_in_range():
    require_ranges(RUN)
    require_ranges(replace(RUN, train=TrainSettings(max_steps=1, learning_rate=0.0, eval_steps=None)))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": -1}, "key 'seed': -1; expected 0 or more"),
        ({"seed": 2**32}, "key 'seed': 4294967296; expected at most 4294967295"),
        ({"prompt": PromptSettings("", context_turns=-2)}, "key 'prompt.context_turns': -2; expected 0 or more"),
        ({"engine": EngineSettings(num_processes=0)}, "key 'engine.num_processes': 0; expected 1 or more"),
        ({"train": TrainSettings(dataloader_num_workers=-1)}, "key 'train.dataloader_num_workers': -1; expected 0"),
        ({"train": TrainSettings(gradient_accumulation_steps=0)}, "'train.gradient_accumulation_steps': 0; expected 1"),
        ({"train": TrainSettings(learning_rate=-1.0)}, "key 'train.learning_rate': -1.0; expected 0 or more"),
        ({"train": TrainSettings(num_train_epochs=0.0)}, "key 'train.num_train_epochs': 0.0; expected more than 0"),
        ({"train": TrainSettings(max_steps=0)}, "key 'train.max_steps': 0; expected 1 or more, or -1"),
        ({"output": FinetuneOutputSettings("", push_timeout_s=-1.0)}, "key 'output.push_timeout_s': -1.0; expected"),
    ],
)
def test_a_number_out_of_range_is_named(changed, says):
    with pytest.raises(ConfigError) as refused:
        require_ranges(replace(RUN, **changed))
    assert says in str(refused.value)
