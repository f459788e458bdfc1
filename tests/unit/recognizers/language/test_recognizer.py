import math

import numpy as np
import pytest
import torch
from lalm_mer.recognizers.language.answer_model import AnswerModel, label_log_probs

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example
from lalm_mer.models.families.base import LanguageInputs
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.collator import AnswerCollator, answer_forms

LABELS = LabelSet(("hap", "sad", "ang"), {"hap": ("joy", "ok"), "ang": ("cross", "angry", "hot")})
PROMPT = Prompt("reads", None, (("transcript", ""),), {}, "")
OWNERS = [owner for owner, _ in answer_forms(LABELS)]
EXAMPLES = [
    Example(f"u{number}", "s", label, transcript, Waveform(np.zeros(20, np.float32), 100))
    for number, (label, transcript) in enumerate([("hap", "hi"), ("ang", "go away"), ("sad", "")])
]


def test_label_log_probs_by_hand():
    answers = torch.log(torch.tensor([[0.02, 0.03, 0.10, 0.35], [0.5, 0.25, 0.125, 0.125]]))
    scores = label_log_probs(answers, [0, 0, 1, 2], 3)
    torch.testing.assert_close(scores.exp(), torch.tensor([[0.1, 0.2, 0.7], [0.75, 0.125, 0.125]]))


def test_forms_may_stand_in_any_order_and_vanishing_scores_stay_finite():
    answers = torch.tensor([[-1000.0, -1001.0, -1000.0]])
    scores = label_log_probs(answers, [1, 0, 1], 2)
    odds = 2 * math.e  # two forms, each e times as likely
    torch.testing.assert_close(scores.exp(), torch.tensor([[1 / (1 + odds), odds / (1 + odds)]]))


def full_sequence(toy, example, form):
    """Sum of the log-probabilities of an answer and the stop token, the sequence alone."""
    prompt = toy.prompt_ids(PROMPT.conversation(example, LABELS), [])
    answer = toy.answer_ids(form)
    ids = torch.tensor([prompt + answer])
    inputs = LanguageInputs(ids, torch.arange(ids.shape[1])[None], torch.ones_like(ids))
    log_probs = toy.logits(toy.hidden_states(inputs, None))[0].log_softmax(-1)
    return sum(log_probs[len(prompt) + i - 1, token] for i, token in enumerate(answer))


def test_scores_are_those_of_full_sequences(toy):
    output = AnswerModel(toy, OWNERS, 3)(**AnswerCollator(toy, PROMPT, LABELS, every_answer=True)(EXAMPLES))
    for row, example in enumerate(EXAMPLES):
        scores = torch.stack([full_sequence(toy, example, form) for _, form in answer_forms(LABELS)])
        by_label = torch.stack([scores[:2].logsumexp(0), scores[2], scores[3:].logsumexp(0)])
        torch.testing.assert_close(output["log_probs"][row], by_label.log_softmax(0))
        form = LABELS.forms_of(example.label)[0]
        torch.testing.assert_close(output["losses"][row], -full_sequence(toy, example, form))
        assert int(output["items"][row]) == len(form) + 1


def test_training_and_scoring_count_the_same_loss(toy):
    model = AnswerModel(toy, OWNERS, 3)
    training = AnswerCollator(toy, PROMPT, LABELS, every_answer=False)(EXAMPLES)
    training.pop("labels")
    trained = model(**training)
    scored = model(**AnswerCollator(toy, PROMPT, LABELS, every_answer=True)(EXAMPLES))
    assert set(trained) == {"losses", "items"}
    torch.testing.assert_close(trained["losses"], scored["losses"])
    assert trained["items"].tolist() == scored["items"].tolist() == [4, 6, 4]


def test_padding_changes_nothing(toy):
    model = AnswerModel(toy, OWNERS, 3)
    for every_answer in (False, True):
        collator = AnswerCollator(toy, PROMPT, LABELS, every_answer=every_answer)

        def losses(examples, collator=collator):
            batch = collator(examples)
            batch.pop("labels", None)
            return model(**batch)["losses"]

        torch.testing.assert_close(losses(EXAMPLES), torch.cat([losses([example]) for example in EXAMPLES]))


def test_the_true_answer_carries_the_gradient(toy):
    model = AnswerModel(toy, OWNERS, 3)
    batch = AnswerCollator(toy, PROMPT, LABELS, every_answer=False)(EXAMPLES[:1])
    batch.pop("labels")
    model(**batch)["losses"].sum().backward()
    moved = toy.model.head.bias.grad < 0  # gradient descent raises these tokens
    assert set(moved.nonzero()[:, 0].tolist()) == {*map(ord, "joy"), 130}


def test_what_was_trained_is_saved_by_its_own_library(toy, tmp_path):
    class Saves(torch.nn.Module):
        def save_pretrained(self, folder):
            folder.mkdir()
            (folder / "saved").touch()

    AnswerModel(toy, OWNERS, 3, Saves()).save_trained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "saved").is_file()


@pytest.mark.parametrize("given", [None, "wrapped"])
def test_the_model_is_the_familys_unless_peft_wrapped_it(toy, given):
    wrapped = torch.nn.Identity() if given else None
    assert AnswerModel(toy, OWNERS, 3, wrapped).model is (wrapped or toy.model)
