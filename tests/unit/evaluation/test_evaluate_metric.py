"""The metric with the interface of evaluate."""

from pathlib import Path

import pytest

from lalm_mer.core.errors import PredictionError

FOLDER = Path(__file__).parents[3] / "eval" / "metrics" / "unweighted_average_recall"


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    evaluate = pytest.importorskip("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        cache = str(tmp_path_factory.mktemp("cache"))
        yield evaluate.load(str(FOLDER), cache_dir=cache)


def test_it_equals_the_metric_of_the_library(metric):
    result = metric.compute(
        predictions=["ang", "<unparsed>", "sad"], references=["ang", "ang", "sad"], labels=["ang", "sad"]
    )
    assert result == {"unweighted_average_recall": 0.75}


def test_it_adds_up_over_batches(metric):
    metric.add_batch(predictions=["ang", "sad"], references=["ang", "ang"])
    metric.add(prediction="sad", reference="sad")
    assert metric.compute(labels=["ang", "sad"])["unweighted_average_recall"] == 0.75


def test_unknown_truths_are_refused(metric):
    with pytest.raises(PredictionError, match="not in the label set"):
        metric.compute(predictions=["ang"], references=["xxx"], labels=["ang", "sad"])
