"""Batches of eight and eight batches of one, accumulated, learn the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import TrainingArguments, set_seed

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families.qwen2_audio import Qwen2Audio
from lalm_mer.models.tiny import build_tiny
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.training import RecognizerTrainer

ROOT = Path(__file__).resolve().parents[2]
# answers of very different lengths: a mean of means would not be the mean
LABELS = LabelSet(("sad", "surprised"), {"sad": ("sad",), "surprised": ("most unexpectedly and pleasantly surprised",)})
STEPS = 6


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny("qwen2_audio", folder, words=["sad", "emotion"], window_s=1, hidden_size=32, layers=1, vocabulary=300)
    return folder


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """24 noises of different lengths."""
    random = np.random.default_rng(0)
    made = []
    for number in range(24):
        samples = 0.1 * random.standard_normal(int(random.integers(4_000, 14_000))).astype(np.float32)
        given = Input(f"u{number:02}", "words " * (number % 4 + 1), Waveform(samples, 16_000), "s")
        made.append(Example(given, LABELS.labels[number % 3 == 0]))
    return made


def learn(tiny: Path, examples: list[Example], folder: Path, batch: int, accumulated: int):
    """Losses, gradient norms and adapter after six steps of eight examples."""
    set_seed(0)
    family = Qwen2Audio.load(tiny, revision=None, dtype="float32", attn_implementation="sdpa")
    prompt = load_prompt(ROOT / "prompts" / "audio_transcript.yaml")
    towers = {"language_model": ["q_proj", "down_proj"], "projector": ["linear"], "audio_tower": ["fc1"]}
    adapted, _ = add_adapter(family, towers, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0})
    model = LanguageRecognizer(family, PromptSetup((prompt,), LABELS, (LABELS.labels,)), adapted)
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulated,
        max_steps=STEPS, learning_rate=2e-3, lr_scheduler_type="constant", logging_steps=1, save_strategy="no",
        use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True, seed=0, data_seed=0,
        dataloader_pin_memory=False, eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    trainer = RecognizerTrainer(model, arguments, train_examples=examples, dev_examples=examples[:8])
    super(RecognizerTrainer, trainer).train()  # no checkpoint is kept to choose from
    log = trainer.state.log_history
    curve = np.array([[entry["loss"], entry["grad_norm"]] for entry in log if "grad_norm" in entry])
    dev = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    trained = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    return curve, dev, trained


def test_eight_at_once_and_one_by_one_learn_the_same(tiny, examples, tmp_path):
    at_once, at_once_dev, at_once_adapter = learn(tiny, examples, tmp_path / "at_once", 8, 1)
    one_by_one, one_by_one_dev, one_by_one_adapter = learn(tiny, examples, tmp_path / "one_by_one", 1, 8)
    assert len(at_once) == STEPS
    np.testing.assert_allclose(one_by_one, at_once, rtol=1e-5)
    np.testing.assert_allclose(one_by_one_dev, at_once_dev, rtol=1e-5)
    moved = 0.0
    for name, value in at_once_adapter.items():
        assert_close(one_by_one_adapter[name], value, 2e-5, name=name)
        moved = max(moved, float(value.abs().max()) if "lora_B" in name else 0.0)
    assert moved > 0.002


def test_the_loss_is_that_of_every_answer_token_equally(tiny, examples, tmp_path):
    """The first step's loss, counted by hand over the eight examples that the sampler deals first."""
    curve, _, _ = learn(tiny, examples, tmp_path, 2, 4)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))[:8].tolist()
    family = Qwen2Audio.load(tiny, revision=None, dtype="float32", attn_implementation="sdpa")
    prompt = load_prompt(ROOT / "prompts" / "audio_transcript.yaml")
    model = LanguageRecognizer(family, PromptSetup((prompt,), LABELS, (LABELS.labels,))).eval()
    losses = items = 0.0
    for index in order:
        batch = model.training_collator([examples[index]])
        batch.pop("labels")
        with torch.no_grad():
            output = model(**batch)
        losses, items = losses + float(output["losses"].sum()), items + float(output["items"].sum())
    assert curve[0, 0] == pytest.approx(losses / items, rel=1e-5)
