"""Align a composed model: train its projector and an adapter to answer questions about words and voice.

The questions follow from prepared corpora: what is said, which of two sentences is said, the gender of the speaker, and
pitch, energy and rate of the voice. The best checkpoint by accuracy of the choice between two answers on dev is
kept, where chance is 50%. Rerun the same command to resume.

Example:
  python recipes/align.py --config recipes/alignment/readings.yaml model.id=outputs/models/whisper_smollm2

The run folder receives run.json, history.jsonl, adapter/, dev_predictions.parquet and dev_metrics.json, and model/, the
aligned model with its card, for use as model.id of every other recipe.
"""

from pathlib import Path

from lalm_mer.core.imports import quick_imports
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.processes import is_first_process
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.alignment import AlignSettings


def align(settings: AlignSettings) -> None:
    """Train on the questions, score those of dev, and write the aligned model."""
    with quick_imports():  # imported here, so that --help and errors in the config do not wait for torch
        from lalm_mer.launch.run.alignment import open_alignment, train_alignment
        from lalm_mer.launch.run.engine import expected_engine
        from lalm_mer.launch.run.run_folder import is_finished, open_run, run_lock
        from lalm_mer.launch.run.trainers import seed_everything
        from lalm_mer.sharing.aligned import write_aligned

    engine = expected_engine(settings.engine, settings.train, settings.model.dtype)
    seed_everything(settings.seed)
    opened = open_alignment(settings)
    settings, folder = opened.settings, Path(opened.settings.output.dir)
    with run_lock(folder, writes=is_first_process()):
        if is_finished(folder, settings, opened.hashes):
            print(f"{as_recorded(folder)} is finished; nothing to do")
        else:
            run = open_run(folder, opened.record, AlignSettings, writes=is_first_process())
            train_alignment(opened, engine, run)
        if is_first_process():
            write_aligned(folder, opened.contexts)


if __name__ == "__main__":
    run_recipe(__doc__, AlignSettings, align)
