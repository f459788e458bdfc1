from __future__ import annotations

import pytest
import torch
from tones import tone_examples
from transformers import BertConfig, BertModel

from lalm_mer.core.schema import Example, Input
from lalm_mer.models.encoders.settings import ScratchSettings
from lalm_mer.recognizers.baselines.learnt_text import train_tokenizer


@pytest.fixture
def examples() -> list[Example]:
    """Sixteen synthetic utterances."""
    return tone_examples()


@pytest.fixture
def inputs(examples: list[Example]) -> list[Input]:
    """The same without their labels."""
    return [example.input for example in examples]


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A random BERT: synthetic weights, real format."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = train_tokenizer(["it was lovely", "it was dreadful", "very very lovely", "sep mask"], ScratchSettings())
    tokenizer.save(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer.tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=40,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)
