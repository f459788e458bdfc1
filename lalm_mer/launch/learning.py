"""What every recipe that trains does with its recognizer: learn, choose by dev, score the test set, keep both."""

from __future__ import annotations

from torch import nn

from lalm_mer.launch.data import RunData, spread
from lalm_mer.launch.engine import Engine
from lalm_mer.launch.run_folder import RunFolder
from lalm_mer.launch.settings import BaselineSettings, FinetuneSettings
from lalm_mer.launch.trainers import make_trainer
from lalm_mer.recognizers.training import Collator, last_whole_checkpoint

__all__ = ["learn_and_score"]


def learn_and_score(
    model: nn.Module,
    settings: FinetuneSettings | BaselineSettings,
    engine: Engine,
    run: RunFolder,
    data: RunData,
    collators: tuple[Collator, Collator],
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
        collators: of a training batch and of a batch to be scored
        saved_as: folder in the run folder for what was trained
    """
    trainer = make_trainer(
        model,
        settings.train,
        engine,
        folder=run.checkpoints,
        history=run.history,
        collators=collators,
        label_set=data.folded.label_set,
        seed=settings.seed,
        train=data.train,
        dev=data.dev,
        class_weights=data.class_weights,
        best_by=data.folded.folds.protocol.primary_metric,
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(run.checkpoints, removes=run.writes))
    log_probs = trainer.score(data.test.select(data.scored))
    trainer.save_trained(run.path / saved_as)
    run.finish(data, spread(data, log_probs))
    trainer.close()
