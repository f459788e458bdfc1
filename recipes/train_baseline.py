"""The BERT + acoustic fusion baseline after Pepino et al. (2020); audio only and transcript only from the same class.

Example:
  accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/train_baseline.py \\
      --config recipes/baseline/ravdess.yaml baseline.modalities=audio output.dir=outputs/baseline_audio

The run folder receives run.json, model/, history.jsonl, predictions.parquet and metrics.json. Killed and started again
with the same command, it goes on from its last whole checkpoint.
"""

from pathlib import Path

from lalm_mer.core.processes import is_first_process
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.settings import BaselineSettings


def train_baseline(settings: BaselineSettings) -> None:
    """Train the network and score the test set."""
    # imported here, because torch takes seconds that --help and a mistake in the config need not take
    from lalm_mer.launch.build.baseline import baseline_notes, open_baseline_run, recognizer_name
    from lalm_mer.launch.run.engine import expected_engine
    from lalm_mer.launch.run.identity import run_identity
    from lalm_mer.launch.run.learning import learn_and_score
    from lalm_mer.launch.run.run_folder import open_run
    from lalm_mer.launch.run.trainers import seed_everything

    engine = expected_engine(settings.engine)
    seed_everything(settings.seed)
    baseline = open_baseline_run(settings)
    fusion = settings.baseline
    identity = run_identity(
        settings,
        baseline.data,
        recognizer=recognizer_name(fusion),
        base_model=fusion.bert,
        modalities=fusion.modalities,
        method="baseline",
        digests={"prompt": None, "base_model": None},
        notes=baseline_notes(fusion),
    )
    run = open_run(Path(settings.output.dir), identity, BaselineSettings, writes=is_first_process())
    if run.finished:
        print(f"{run.path} is finished; nothing to do")
        return
    learn_and_score(baseline.network, settings, engine, run, baseline.data, saved_as="model")


if __name__ == "__main__":
    run_recipe(__doc__, BaselineSettings, train_baseline)
