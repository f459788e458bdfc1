"""Training of models in float16, as on a GPU without bfloat16: adapters in float32, the loss scaled."""

import pytest
import torch
from closeness import assert_close
from float16 import scaled_in_float16
from transformers import TrainerCallback, TrainingArguments

from lalm_mer.core.errors import ModelError
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter
from lalm_mer.models.families import family_class
from lalm_mer.recognizers.preflight import label_scores
from lalm_mer.recognizers.training import RecognizerTrainer

ROUNDED = {None: 0.02, "nf4": 0.1}
"""Quantization -> largest part of the gradients that rounding explains; scales of 4 bits are rounded too."""


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step, which are no longer scaled."""

    found = None

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        if self.found is None:
            self.found = torch.cat([each.grad.flatten() for each in model.parameters() if each.requires_grad])


@pytest.fixture
def load(family_name, tiny_folder):
    """A maker of models in a data type."""

    def make(dtype, quantization=None):
        return family_class(family_name).load(
            tiny_folder(family_name), dtype=dtype, attn_implementation="sdpa", quantization=quantization
        )

    return make


@pytest.fixture
def learn(load, prompts, examples, recognizer_of, tmp_path):
    """Trains adapters everywhere for two steps; gradients of the first, and both losses."""

    def run(dtype, quantization):
        family = load(dtype, quantization)
        torch.manual_seed(0)
        towers = {tower: [ALL_LINEAR] for tower in family.towers}
        model, _ = add_adapter(family, towers, {"r": 4, "init_lora_weights": False, "lora_dropout": 0.0})
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, gradient_checkpointing=True,
            save_strategy="no", use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True,
            dataloader_pin_memory=False, logging_steps=1, learning_rate=1e-4,
        )  # fmt: skip
        recognizer, gradients = recognizer_of(family, prompts["audio_transcript"], model), Gradients()
        trainer = RecognizerTrainer(recognizer, arguments, train_examples=examples[:4], callbacks=[gradients])
        if dtype == "float16":
            scaled_in_float16(trainer, 2.0**10)
        super(RecognizerTrainer, trainer).train()  # no checkpoint is kept to choose from
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        return gradients.found, torch.tensor(losses)

    return run


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_a_scaled_loss_has_the_gradients_of_float32(learn, quantization):
    if quantization is not None:
        pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    (exact, expected), (rounded, losses) = (learn(dtype, quantization) for dtype in ("float32", "float16"))
    assert (exact - rounded).norm() < ROUNDED[quantization] * exact.norm()
    assert_close(losses, expected, 1e-2)
    assert losses[1] < losses[0]


def test_values_that_float16_does_not_have_are_refused_as_such(load, prompts, inputs, recognizer_of, monkeypatch):
    family = load("float16")
    hidden_states = family.hidden_states
    recognizer = recognizer_of(family, prompts["audio_transcript"]).eval()
    with torch.no_grad():
        label_scores(recognizer, recognizer.scoring_collators[0], inputs[:2])
        monkeypatch.setattr(family, "hidden_states", lambda *given: hidden_states(*given) * 1e6)
        with pytest.raises(ModelError, match=r"preflight: the model gives NaN .* or float16 overflows"):
            label_scores(recognizer, recognizer.scoring_collators[0], inputs[:2])
