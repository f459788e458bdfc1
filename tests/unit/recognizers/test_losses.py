"""Losses of labels, votes, several labels and numbers, against torch and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Example, Input
from lalm_mer.recognizers.base import TargetCollator
from lalm_mer.recognizers.losses import Loss, concordance

LOGITS = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.1, -2.0], [0.0, 2.0, 0.5], [-1.0, 0.4, 0.9]])
TRUTH = torch.tensor([0, 2, 1, 1])
ONE_HOT = F.one_hot(TRUTH, 3).float()
VOTES = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6], [0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
OUTPUT = {"log_probs": LOGITS.log_softmax(dim=1)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_torch(smoothing):
    found = Loss("single", "cross_entropy", label_smoothing=smoothing)(OUTPUT, ONE_HOT)
    expected = F.cross_entropy(LOGITS, TRUTH, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        Loss("single", "cross_entropy", label_smoothing=smoothing).on_dev(OUTPUT, ONE_HOT),
        F.cross_entropy(LOGITS, TRUTH, reduction="none"),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_kl_is_that_of_torch_and_has_the_gradient_of_cross_entropy(smoothing):
    logits = LOGITS.clone().requires_grad_()
    output = {"log_probs": logits.log_softmax(dim=1)}
    loss = Loss("single", "kl", label_smoothing=smoothing)(output, VOTES)
    smoothed = (1 - smoothing) * VOTES + smoothing / 3
    expected = F.kl_div(output["log_probs"], smoothed, reduction="none").sum(dim=1)
    torch.testing.assert_close(loss, expected)
    (of_kl,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    entropy = Loss("single", "cross_entropy", label_smoothing=smoothing)(output, VOTES)
    (of_entropy,) = torch.autograd.grad(entropy.sum(), logits)
    torch.testing.assert_close(of_kl, of_entropy)


def test_focal_loss_weighs_what_is_learnt_less():
    probability = OUTPUT["log_probs"].exp().gather(1, TRUTH[:, None])[:, 0]
    expected = -((1 - probability) ** 2) * probability.log()
    torch.testing.assert_close(Loss("single", "focal", focal_gamma=2.0)(OUTPUT, ONE_HOT), expected)
    plain = Loss("single", "cross_entropy")(OUTPUT, VOTES)
    torch.testing.assert_close(Loss("single", "focal", focal_gamma=0.0)(OUTPUT, VOTES), plain)


def test_logit_adjustment_adds_the_log_priors_to_the_logits_in_training_only():
    log_priors = torch.tensor([0.7, 0.2, 0.1]).log()
    loss = Loss("single", "cross_entropy", log_priors=log_priors.tolist(), logit_adjustment=2.0)
    expected = F.cross_entropy(LOGITS + 2 * log_priors, TRUTH, reduction="none")
    torch.testing.assert_close(loss(OUTPUT, ONE_HOT), expected)
    torch.testing.assert_close(loss.on_dev(OUTPUT, ONE_HOT), F.cross_entropy(LOGITS, TRUTH, reduction="none"))


def test_class_weights_of_labels_and_of_votes():
    weights = [0.5, 1.0, 3.0]
    expected = F.cross_entropy(LOGITS, TRUTH, weight=torch.tensor(weights), reduction="none")
    torch.testing.assert_close(Loss("single", "cross_entropy", class_weights=weights)(OUTPUT, ONE_HOT), expected)
    of_votes = Loss("single", "cross_entropy", class_weights=weights)(OUTPUT, VOTES)
    plain = Loss("single", "cross_entropy")(OUTPUT, VOTES)
    torch.testing.assert_close(of_votes, plain * (VOTES @ torch.tensor(weights)))


def test_several_labels():
    target, output = (VOTES > 0).float(), {"scores": LOGITS}
    plain = F.binary_cross_entropy_with_logits(LOGITS, target, reduction="none")
    torch.testing.assert_close(Loss("multi", "binary_cross_entropy")(output, target), plain.mean(dim=1))
    weighted = F.binary_cross_entropy_with_logits(
        LOGITS, target, pos_weight=torch.tensor([2.0, 1.0, 5.0]), reduction="none"
    )
    found = Loss("multi", "binary_cross_entropy", class_weights=[2.0, 1.0, 5.0])(output, target)
    torch.testing.assert_close(found, weighted.mean(dim=1))
    p = torch.where(target > 0, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    focal = Loss("multi", "focal", focal_gamma=1.5)(output, target)
    torch.testing.assert_close(focal, ((1 - p) ** 1.5 * plain).mean(dim=1))


def test_concordance_is_one_for_equal_numbers_only_and_moves_towards_them():
    target = torch.tensor([[1.0, 2.0], [3.0, 2.5], [4.5, 1.0], [2.0, 5.0]])
    torch.testing.assert_close(concordance(target, target), torch.ones(2))
    assert (concordance(target + 1, target) < 0.9).all()
    torch.testing.assert_close(concordance(6 - target, target)[0], concordance(target, 6 - target)[0])
    scores = torch.zeros_like(target).requires_grad_()
    loss, ranges = Loss("scalar", "ccc", ranges=((1, 5), (1, 5))), ((1.0, 5.0), (1.0, 5.0))
    first = loss({"scores": scores}, target)
    assert first.shape == (4,)
    scores = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = loss({"scores": scores}, target).mean()
    (gradient,) = torch.autograd.grad(before, scores)
    assert loss({"scores": scores - 0.5 * gradient}, target).mean() < before
    mse = Loss("scalar", "mse", ranges=ranges)
    torch.testing.assert_close(mse({"scores": target + 2}, target), torch.ones(4))  # half the range
    torch.testing.assert_close(loss.on_dev({"scores": target + 2}, target), torch.ones(4))


def test_a_batch_of_one_has_no_gradient_from_ccc():
    scores = torch.tensor([[1.0]], requires_grad=True)
    Loss("scalar", "ccc", ranges=((1, 5),))({"scores": scores}, torch.tensor([[3.0]])).sum().backward()
    assert scores.grad is not None
    assert scores.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("arguments", "options", "what"),
    [
        (("single", "ccc"), {}, "'kind': 'ccc' for a single task; expected one of cross_entropy, kl, focal"),
        (("multi", "contrastive"), {}, "expected one of binary_cross_entropy, focal"),
        (("multi", "focal"), {"label_smoothing": 0.1}, "'label_smoothing': only for a task of one label"),
        (("scalar", "mse"), {"log_priors": [0.0]}, "'logit_adjustment': only for a task of one label"),
        (("scalar", "mse"), {"class_weights": [1.0]}, "a task on numbers has no classes"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(arguments, options, what):
    with pytest.raises(ConfigError, match=what):
        Loss(*arguments, **options)


def test_a_batch_has_its_targets_and_a_count():
    examples = [Example(Input(f"u{n}", None, None), "", target) for n, target in enumerate([(0.2, 0.8), (1.0, 0.0)])]
    batch = TargetCollator(lambda inputs: {"level": torch.zeros(len(inputs))})(examples)
    assert batch["target"].tolist() == [[pytest.approx(0.2), pytest.approx(0.8)], [1.0, 0.0]]
    assert batch["labels"].ne(-100).sum() == 2
