from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from lalm_mer.core.audio import Waveform
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.encoders.settings import ScratchSettings
from lalm_mer.recognizers.baselines.learnt_text import train_tokenizer

LABELS = ("happy", "sad")


@pytest.fixture
def examples() -> list[Example]:
    """Synthetic: pitch and the last word depend on the label; durations differ."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(16):
        label = LABELS[number % 2]
        time = np.arange(3200 + 800 * number) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * (300 if label == "happy" else 150) * time)
        samples = (tone + 0.01 * generator.standard_normal(len(time))).astype(np.float32)
        word = "lovely" if label == "happy" else "dreadful"
        transcript = "it was " + "very " * (number % 5) + word
        given = Input(
            f"u{number:02d}", transcript, Waveform(samples, 16_000), f"s{number % 4}", audio_sha256=f"a{number:02d}"
        )
        made.append(Example(given, label))
    return made


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
