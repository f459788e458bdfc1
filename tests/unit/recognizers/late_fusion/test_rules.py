"""Rules of late fusion against values computed by hand and by scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lalm_mer.core.errors import ConfigError, ModelError, PredictionError
from lalm_mer.evaluation.metrics import METRICS
from lalm_mer.recognizers.late_fusion.rules import FusionRule, fit_rule

LABELS = ("a", "b", "c")
NAN = (np.nan,) * 3


def log_probs(*members):
    """(M, N, K) of probabilities."""
    return np.log(np.array(members))


def probabilities(rule, *members):
    return np.exp(rule.combine(log_probs(*members)))


def random_scores(members, count, seed=0, labels=LABELS):
    """Log-probabilities of members that are better than chance, and the truth."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(len(labels), size=count)
    scores = generator.normal(size=(members, count, len(labels)))
    scores[:, np.arange(count), truth] += np.linspace(0.3, 1.5, members)[:, None]
    return log_softmax(scores, axis=2), [labels[index] for index in truth]


def test_means_are_those_of_probabilities_and_of_log_probabilities():
    first, second = (0.7, 0.2, 0.1), (0.1, 0.8, 0.1)
    mean = probabilities(FusionRule("mean", LABELS, 2), [first], [second])[0]
    assert mean == pytest.approx([0.4, 0.5, 0.1])
    weighted = FusionRule("weighted", LABELS, 2, weights=(0.75, 0.25))
    assert probabilities(weighted, [first], [second])[0] == pytest.approx([0.55, 0.35, 0.1])
    product = np.sqrt(np.multiply(first, second))
    logits = FusionRule("logits", LABELS, 2)
    assert probabilities(logits, [first], [second])[0] == pytest.approx(product / product.sum())


@pytest.mark.parametrize(("votes", "winner"), [("abb", "b"), ("abc", "a"), ("cb", "c"), ("abba", "a"), ("cabab", "a")])
def test_a_vote_is_won_by_the_most_votes_and_a_tie_by_the_first_member(votes, winner):
    members = [[np.where(np.array(LABELS) == vote, 0.8, 0.1)] for vote in votes]
    found = probabilities(FusionRule("vote", LABELS, len(votes)), *members)[0]
    assert LABELS[found.argmax()] == winner
    assert found.sum() == pytest.approx(1)
    assert found.min() > 0


@pytest.mark.parametrize("name", ["mean", "logits", "vote"])
def test_a_member_without_scores_is_left_out(name):
    two, three = FusionRule(name, LABELS, 2), FusionRule(name, LABELS, 3)
    first, second = (0.7, 0.2, 0.1), (0.1, 0.8, 0.1)
    assert probabilities(three, [first], [NAN], [second]) == pytest.approx(probabilities(two, [first], [second]), 0.1)
    if name != "vote":  # whose votes of later members count a little less
        assert probabilities(three, [first], [NAN], [second]) == pytest.approx(probabilities(two, [first], [second]))
    assert np.isnan(probabilities(two, [first, NAN], [second, NAN])[1]).all()


def test_weights_are_divided_among_the_members_with_scores():
    rule = FusionRule("weighted", LABELS, 3, weights=(0.5, 0.5, 0.0))
    second, third = (0.1, 0.8, 0.1), (0.2, 0.2, 0.6)
    found = probabilities(rule, [NAN, NAN], [second, NAN], [third, third])
    assert found[0] == pytest.approx(second)
    assert np.isnan(found[1]).all()  # only the member without a weight has scores


def test_stacking_needs_all_members_and_equals_scikit_learn(tmp_path):
    scores, truth = random_scores(2, 80)
    rule = fit_rule("stacking", scores, truth, LABELS, metric=METRICS["uar"], c=0.5)
    inputs = np.concatenate(list(scores), axis=1)
    scaler = StandardScaler().fit(inputs)
    model = LogisticRegression(C=0.5, max_iter=10_000).fit(scaler.transform(inputs), truth)
    assert np.exp(rule.combine(scores)) == pytest.approx(model.predict_proba(scaler.transform(inputs)), abs=1e-9)
    scores[0, 3] = np.nan
    assert np.isnan(rule.combine(scores)[3]).all()
    rule.save(tmp_path)
    assert FusionRule.load(tmp_path) == rule


def test_stacking_of_two_labels_equals_scikit_learn():
    scores, truth = random_scores(2, 60, labels=("b", "a"))
    rule = fit_rule("stacking", scores, truth, ("b", "a"), metric=METRICS["uar"])
    inputs = StandardScaler().fit_transform(np.concatenate(list(scores), axis=1))
    model = LogisticRegression().fit(inputs, truth)
    assert np.exp(rule.combine(scores)) == pytest.approx(model.predict_proba(inputs)[:, ::-1], abs=1e-6)


def test_weights_are_at_least_as_good_on_dev_as_any_member_and_as_equal_ones():
    scores, truth = random_scores(3, 200)
    metric = METRICS["uar"]

    def quality(rule):
        return metric.from_labels(truth, [LABELS[k] for k in rule.combine(scores).argmax(axis=1)], LABELS)

    rule = fit_rule("weighted", scores, truth, LABELS, metric=metric)
    assert sum(rule.weights) == pytest.approx(1)
    assert rule.weights[2] > rule.weights[0]  # the best and the worst member
    equal = FusionRule("mean", LABELS, 3)
    alone = [FusionRule("weighted", LABELS, 3, weights=tuple(map(float, one))) for one in np.eye(3)]
    assert quality(rule) >= max(map(quality, [equal, *alone]))


def test_what_does_not_fit_is_refused(tmp_path):
    scores, truth = random_scores(2, 30)
    with pytest.raises(ConfigError, match="dev has no utterance of c"):
        fit_rule("stacking", scores, ["a", "b"] * 15, LABELS, metric=METRICS["uar"])
    with pytest.raises(ConfigError, match="no dev utterance is scored by every member"):
        fit_rule("weighted", scores[:, :0], [], LABELS, metric=METRICS["uar"])
    rule = fit_rule("stacking", scores, truth, LABELS, metric=METRICS["uar"])
    for wrong in ({"members": 3}, {"name": "mean"}, {"name": "sum"}, {"intercepts": None}):
        with pytest.raises(PredictionError, match=r"^rule "):
            replace(rule, **wrong)
    (tmp_path / "late_fusion.json").write_text('{"name": "mean"}')
    with pytest.raises(ModelError, match=r"late_fusion\.json: key 'labels' is missing"):
        FusionRule.load(tmp_path)
