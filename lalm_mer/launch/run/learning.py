"""What every recipe that trains does with its recognizer: learn, choose by dev, score the test set, keep both."""

from __future__ import annotations

from torch import nn

from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings
from lalm_mer.launch.run.engine import Engine
from lalm_mer.launch.run.run_folder import RunFolder
from lalm_mer.launch.run.trainers import make_trainer
from lalm_mer.recognizers.scoring import score_by_trainer
from lalm_mer.recognizers.training import last_complete_checkpoint

__all__ = ["learn_and_score"]


def learn_and_score(
    model: nn.Module,
    settings: FinetuneSettings | BaselineSettings,
    engine: Engine,
    run: RunFolder,
    data: RunData,
    *,
    saved_as: str,
) -> None:
    """Train from where an earlier process was stopped, if it was, and finish the run.

    Args:
        model: the recognizer
        settings: its ``train`` and ``seed``
        engine: what the run was launched with
        run: the run folder
        data: the three sides of the fold
        saved_as: folder in the run folder for what was trained
    """
    trainer = make_trainer(
        model,
        settings.train,
        engine,
        folder=run.checkpoints,
        history=run.history,
        seed=settings.seed,
        train=data.train,
        dev=data.dev,
        class_weights=data.class_weights,
        best_by=data.folded.folds.protocol.primary_metric,
    )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(run.checkpoints, removes=run.writes))
    scores = score_by_trainer(trainer, data.test_inputs)
    trainer.save_trained(run.path / saved_as)
    run.finish(data, scores)
    trainer.close()
