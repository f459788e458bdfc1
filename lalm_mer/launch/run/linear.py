"""A run of a linear model: fitted by scikit-learn, then scored like any other recognizer."""

from __future__ import annotations

import numpy as np

from lalm_mer.core.run_record import MODEL_FOLDER, Parameters
from lalm_mer.core.settings import naming_keys
from lalm_mer.evaluation.metrics import METRICS
from lalm_mer.examples.dataset import ExampleDataset, InputDataset
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.build.linear import model_settings
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.run.run_folder import RunFolder
from lalm_mer.recognizers.base import Scores
from lalm_mer.recognizers.linear.features import Vectors
from lalm_mer.recognizers.linear.fitting import Split, fit_linear, refit
from lalm_mer.recognizers.linear.model import LinearRecognizer
from lalm_mer.recognizers.scoring import score_inputs

__all__ = ["fit_and_score"]

_BATCH = 64


def fit_and_score(vectors: Vectors, settings: LinearSettings, run: RunFolder, data: RunData) -> None:
    """Fit on train, choose c on dev, score test, and finish the run.

    Args:
        vectors: of all splits
        settings: resolved config
        run: the run folder
        data: train, dev and test of the fold, without waveforms

    Raises:
        ConfigError: if no fit converges
    """
    parts, labels = model_settings(settings), data.folded.label_set.labels
    metric = METRICS[data.folded.folds.protocol.primary_metric]
    assert isinstance(data.train, ExampleDataset)  # nothing augments it
    train, dev = (
        Split(vectors.blocks(InputDataset(examples)), examples.truths()) for examples in (data.train, data.dev)
    )

    def report(c: float, value: float | None) -> None:
        found = "does not converge" if value is None else f"dev {metric.short_title} {value:.3f}"
        print(f"c {c:g}: {found}", flush=True)  # noqa: T201 for the user

    with naming_keys("linear"):
        fit = fit_linear(parts, train, dev, labels, metric, report)
    on_dev = fit.log_probs(dev.blocks)
    if parts.refit_with_dev:
        fit = refit(parts, fit, train, dev)
    run.count(Parameters(fit.size, fit.size))
    recognizer = LinearRecognizer(parts, fit, vectors).eval()
    recognizer.save_trained(run.path / MODEL_FOLDER)
    if not settings.split.score_test:
        run.finish_dev(data, on_dev)
        return
    scores = np.stack(list(score_inputs(recognizer, InputDataset(data.scored_test), batch_size=_BATCH)))
    run.finish(data, Scores("single", labels, scores), on_dev)
