"""Fine-tuning with LoRA, another adapter or in full: train on the answers, select the checkpoint on dev, score test.

Example:
  accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/finetune.py \\
      --config recipes/ravdess/lora.yaml split.fold=3 adapter.r=16 train.learning_rate=2e-5

The run folder receives run.json, adapter/ (with adapter.kind=full model/, for use as model.id), history.jsonl,
predictions.parquet, dev_predictions.parquet and metrics.json. Rerun the same command to resume from the last complete
checkpoint. output.push_to=user/name pushes the adapter of the finished run to the Hub, as recipes/push_adapter.py does.
"""

from pathlib import Path

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.imports import quick_imports
from lalm_mer.core.names import FULL
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.processes import is_first_process
from lalm_mer.core.run_record import MODEL_FOLDER
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.build.kept_model import KeptModel
from lalm_mer.launch.config.settings import FinetuneSettings


def finetune(settings: FinetuneSettings, kept: KeptModel | None = None) -> None:
    """Train an adapter, or a model in full, and score the test set.

    Args:
        settings: of the YAML
        kept: has the base model of an earlier run of this process
    """
    with quick_imports():  # imported here, so that --help and errors in the config do not wait for torch
        from lalm_mer.launch.build.adapting import adapt, merged_notes
        from lalm_mer.launch.build.model_run import open_model_run
        from lalm_mer.launch.run.encoded_data import encoded_data
        from lalm_mer.launch.run.engine import expected_engine
        from lalm_mer.launch.run.identity import loaded_identity
        from lalm_mer.launch.run.preflight import preflight
        from lalm_mer.launch.run.run_folder import is_finished, open_run, run_lock
        from lalm_mer.launch.run.trainers import seed_everything, train_and_score
        from lalm_mer.sharing.hub_ids import check_repo_id
        from lalm_mer.sharing.processor_files import check_vocabulary

    if settings.model.adapter is not None:
        raise ConfigError("key 'model.adapter': finetune.py trains a new adapter; zero_shot.py scores with one")
    if settings.output.push_to is not None:
        if not settings.split.score_test:
            raise ConfigError("key 'output.push_to': the model card has figures of test; set split.score_test=true")
        check_repo_id(settings.output.push_to, "key 'output.push_to':")
    engine = expected_engine(settings.engine, settings.train, settings.model.dtype)
    seed_everything(settings.seed)
    opened = open_model_run(settings)
    settings, folder = opened.settings, opened.folder
    if settings.output.push_to is not None:
        check_vocabulary(settings.model.id, copy_of=None, push_vocabulary=settings.hub.push_vocabulary)
    with run_lock(folder, writes=is_first_process()):
        if is_finished(folder, settings, opened.hashes):
            print(f"{as_recorded(folder)} is finished; nothing to do")
            finish(settings, folder)
            return
        kept = kept or KeptModel()
        loaded = opened.load(kept)
        identity = loaded_identity(loaded, opened.method, merged_notes(loaded))
        run = open_run(folder, identity, FinetuneSettings, writes=is_first_process())
        recognizer = adapt(loaded, settings.adapter, shown=run.writes)
        preflight(loaded, recognizer, settings, engine)
        data = encoded_data(loaded, recognizer, settings, engine)
        saved_as = MODEL_FOLDER if opened.method == FULL else "adapter"
        train_and_score(recognizer, settings, engine, run, data, saved_as=saved_as)
        kept.keep(loaded.model, recognizer)
        finish(settings, folder)


def finish(settings: FinetuneSettings, folder: Path) -> None:
    """Complete the adapter of the finished run, and push it if the config says so; files already there are not sent."""
    from lalm_mer.sharing.hub import push_run
    from lalm_mer.sharing.hub_folder import complete_adapter

    if not is_first_process() or not settings.split.score_test or settings.adapter.kind == FULL:
        return
    complete_adapter(folder)
    output = settings.output
    if output.push_to is not None:
        address = push_run(
            folder,
            output.push_to,
            private=output.push_private,
            push_vocabulary=settings.hub.push_vocabulary,
            timeout_s=output.push_timeout_s,
        )
        print(f"pushed: {address}")


def show_labels(settings: FinetuneSettings) -> None:
    """Print the tokens of a few training examples, and whether the loss counts them."""
    from lalm_mer.launch.run.preflight import dump_labels

    dump_labels(settings)


if __name__ == "__main__":
    dumps = {
        "--dump-labels": (show_labels, "print every token of three examples, supervised or not; nothing is trained")
    }
    run_recipe(__doc__, FinetuneSettings, finetune, dumps)
