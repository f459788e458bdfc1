"""Unweighted average recall for ``evaluate.load("eval/metrics/unweighted_average_recall")``; needs no network."""

import datasets
import evaluate

from lalm_mer.evaluation.metrics import unweighted_average_recall

_DESCRIPTION = """Mean of the per-class recalls (UAR), also called unweighted accuracy (UA).
A prediction outside the label set is an error of its true class.
A class without a reference is left out of the mean."""

_INPUTS = """
Args:
    predictions: predicted labels, N strings
    references: true labels, N strings, each one of ``labels``
    labels: label set of the task, K strings
Returns:
    {"unweighted_average_recall": fraction in [0, 1]}
Examples:
    >>> metric = evaluate.load("eval/metrics/unweighted_average_recall")
    >>> metric.compute(predictions=["ang", "hm", "sad"], references=["ang", "ang", "sad"], labels=["ang", "sad"])
    {'unweighted_average_recall': 0.75}
"""

_CITATION = """@inproceedings{schuller2009emotion, title={The INTERSPEECH 2009 Emotion Challenge},
author={Schuller, Bj{\\"o}rn and Steidl, Stefan and Batliner, Anton}, booktitle={INTERSPEECH}, year={2009}}"""


class UnweightedAverageRecall(evaluate.Metric):
    """The metric of lalm_mer.evaluation.metrics behind the interface of ``evaluate``."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str], labels: list[str]) -> dict[str, float]:
        return {"unweighted_average_recall": unweighted_average_recall(references, predictions, labels)}
