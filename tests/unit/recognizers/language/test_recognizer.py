import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.families.base import LanguageInputs
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.answers import answer_forms
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer, label_log_probs

LABELS = LabelSet(("hap", "sad", "ang"), {"hap": ("joy", "ok"), "ang": ("cross", "angry", "hot")})
PROMPT = Prompt("reads", None, (("transcript", ""),), {}, "")
SETUP = PromptSetup((PROMPT,), LABELS, (LABELS.labels,))
EXAMPLES = [
    Example(Input(f"u{number}", transcript, Waveform(np.zeros(20, np.float32), 100), "s"), label)
    for number, (label, transcript) in enumerate([("hap", "hi"), ("ang", "go away"), ("sad", "")])
]
INPUTS = [example.input for example in EXAMPLES]
TRUTH = torch.tensor([0, 2, 1])


def training_batch(model, examples=EXAMPLES):
    """What reaches the model of a batch: the Trainer keeps ``labels``."""
    return {name: tensor for name, tensor in model.training_collator(examples).items() if name != "labels"}


def test_label_log_probs_by_hand():
    answers = torch.log(torch.tensor([[0.02, 0.03, 0.10, 0.35], [0.5, 0.25, 0.125, 0.125]]))
    scores = label_log_probs(answers, torch.tensor([0, 0, 1, 2]))
    torch.testing.assert_close(scores.exp(), torch.tensor([[0.1, 0.2, 0.7], [0.75, 0.125, 0.125]]))


def test_forms_may_have_any_order_and_small_scores_stay_finite():
    answers = torch.tensor([[-1000.0, -1001.0, -1000.0]])
    scores = label_log_probs(answers, torch.tensor([1, 0, 1]))
    odds = 2 * math.e  # two forms, each e times as likely
    torch.testing.assert_close(scores.exp(), torch.tensor([[1 / (1 + odds), odds / (1 + odds)]]))


def full_sequence(toy, example, form):
    """Sum of the log-probabilities of an answer and the stop token, the sequence alone."""
    prompt = toy.prompt_ids(PROMPT.conversation(example.input, LABELS), [])
    answer = toy.answer_ids(form)
    ids = torch.tensor([prompt + answer])
    inputs = LanguageInputs(ids, torch.arange(ids.shape[1])[None], torch.ones_like(ids))
    log_probs = toy.logits(toy.hidden_states(inputs, None))[0].log_softmax(-1)
    return sum(log_probs[len(prompt) + i - 1, token] for i, token in enumerate(answer))


def test_scores_are_those_of_full_sequences(toy):
    model = LanguageRecognizer(toy, SETUP)
    batch = model.scoring_collators[0](INPUTS)
    assert set(model(**batch)) == {"log_probs"}  # an input has no truth, so there is no loss
    output = model(**batch, truth=TRUTH)
    assert torch.equal(output["log_probs"], model(**batch)["log_probs"])
    for row, example in enumerate(EXAMPLES):
        scores = torch.stack([full_sequence(toy, example, form) for _, form in answer_forms(LABELS)])
        by_label = torch.stack([scores[:2].logsumexp(0), scores[2], scores[3:].logsumexp(0)])
        torch.testing.assert_close(output["log_probs"][row], by_label.log_softmax(0))
        form = LABELS.forms_of(example.label)[0]
        torch.testing.assert_close(output["losses"][row], -full_sequence(toy, example, form))
        assert int(output["items"][row]) == len(form) + 1


def test_training_and_scoring_count_the_same_loss(toy):
    model = LanguageRecognizer(toy, SETUP)
    trained = model(**training_batch(model))
    scored = model(**model.scoring_collators[0](INPUTS), truth=TRUTH)
    assert set(trained) == {"losses", "items"}
    torch.testing.assert_close(trained["losses"], scored["losses"])
    assert trained["items"].tolist() == scored["items"].tolist() == [4, 6, 4]


def test_padding_changes_nothing(toy):
    model = LanguageRecognizer(toy, SETUP)
    trained = model(**training_batch(model))["losses"]
    alone = [model(**training_batch(model, [example]))["losses"] for example in EXAMPLES]
    torch.testing.assert_close(trained, torch.cat(alone))
    collate = model.scoring_collators[0]
    scored = model(**collate(INPUTS), truth=TRUTH)
    alone = [model(**collate([given]), truth=truth[None]) for given, truth in zip(INPUTS, TRUTH, strict=True)]
    for name in ("losses", "log_probs"):
        torch.testing.assert_close(scored[name], torch.cat([output[name] for output in alone]))


def test_logits_are_computed_only_where_an_answer_is_predicted(toy, monkeypatch):
    """Of T positions, those that predict a token: logits of all would need gigabytes for a real vocabulary."""
    shapes = []
    logits = type(toy).logits
    monkeypatch.setattr(type(toy), "logits", lambda self, hidden: shapes.append(hidden.shape) or logits(self, hidden))
    model = LanguageRecognizer(toy, SETUP)
    for batch in (training_batch(model), model.scoring_collators[0](INPUTS)):
        model(**batch)
        assert shapes.pop()[:2] == batch["sources"].shape
        assert batch["sources"].shape[1] < batch["input_ids"].shape[1]


def test_only_the_true_answer_has_a_gradient(toy):
    model = LanguageRecognizer(toy, SETUP)
    model(**training_batch(model, EXAMPLES[:1]))["losses"].sum().backward()
    moved = toy.model.head.bias.grad < 0  # gradient descent raises these tokens
    assert set(moved.nonzero()[:, 0].tolist()) == {*map(ord, "joy"), 130}


def test_trained_weights_are_saved_by_their_library(toy, tmp_path):
    class Saves(torch.nn.Module):
        peft_config: ClassVar = {}

        def save_pretrained(self, folder):
            folder.mkdir()
            (folder / "saved").touch()

    LanguageRecognizer(toy, SETUP, Saves()).save_trained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "saved").is_file()


@pytest.mark.parametrize("given", [None, "wrapped"])
def test_the_model_is_the_familys_unless_peft_wrapped_it(toy, given):
    wrapped = torch.nn.Identity() if given else None
    assert LanguageRecognizer(toy, SETUP, wrapped).model is (wrapped or toy.model)


def test_prompts_with_different_numbers_of_audio_slots_are_refused():
    once, twice = (Prompt(name, None, (("audio", ""),) * count, {}, "") for name, count in (("one", 1), ("two", 2)))
    with pytest.raises(ConfigError, match="one has 1, two has 2 audio slots; expected the same number in all prompts"):
        PromptSetup((once, twice), LABELS, (LABELS.labels,))
