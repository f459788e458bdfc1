"""A baseline of the parts that its config names, by default after Pepino et al. (2020): audio, transcript or both.

Example:
  accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/train_baseline.py \\
      --config recipes/ravdess/baseline.yaml baseline.modalities=audio output.dir=outputs/baseline_audio

The run folder receives run.json, model/, history.jsonl, predictions.parquet, dev_predictions.parquet and metrics.json.
Rerun the same command to resume from the last complete checkpoint.
"""

from lalm_mer.core.imports import quick_imports
from lalm_mer.core.names import BASELINE
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.processes import is_first_process
from lalm_mer.core.run_record import MODEL_FOLDER
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.settings import BaselineSettings


def train_baseline(settings: BaselineSettings) -> None:
    """Train the network and score the test set."""
    with quick_imports():  # imported here, so that --help and errors in the config do not wait for torch
        from lalm_mer.launch.build.baseline import open_baseline_run
        from lalm_mer.launch.run.engine import expected_engine
        from lalm_mer.launch.run.identity import feature_identity
        from lalm_mer.launch.run.run_folder import is_finished, open_run, run_lock
        from lalm_mer.launch.run.trainers import seed_everything, train_and_score

    engine = expected_engine(settings.engine, settings.train)
    seed_everything(settings.seed)
    opened = open_baseline_run(settings)
    settings = opened.settings
    with run_lock(opened.folder, writes=is_first_process()):
        if is_finished(opened.folder, settings, opened.hashes):
            print(f"{as_recorded(opened.folder)} is finished; nothing to do")
            return
        network, data = opened.load()
        identity = feature_identity(settings, data, opened.hashes, BASELINE)
        run = open_run(opened.folder, identity, BaselineSettings, writes=is_first_process())
        train_and_score(network, settings, engine, run, data, saved_as=MODEL_FOLDER)


if __name__ == "__main__":
    run_recipe(__doc__, BaselineSettings, train_baseline)
