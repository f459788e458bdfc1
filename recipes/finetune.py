"""Fine-tuning by LoRA or another adapter: learn the answer alone, choose the checkpoint by dev UAR, score the test set.

Example:
  accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/finetune.py \\
      --config recipes/qwen2_audio/ravdess_lora.yaml split.fold=3 adapter.r=16 train.learning_rate=2e-5

The run folder receives run.json, adapter/, history.jsonl, predictions.parquet and metrics.json. Killed and started
again with the same command, it goes on from its last whole checkpoint. output.push_to=user/name pushes the adapter of
the finished run to the Hub, as recipes/push_adapter.py does.
"""

from pathlib import Path

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.adapting import adapt, merged_notes
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.engine import expected_engine, is_first_process
from lalm_mer.launch.identity import run_identity
from lalm_mer.launch.language import base_digest, recognizer_name
from lalm_mer.launch.learning import learn_and_score
from lalm_mer.launch.opening import open_model_run
from lalm_mer.launch.preflight import dump_labels, preflight
from lalm_mer.launch.run_folder import RunFolder, open_run
from lalm_mer.launch.settings import FinetuneSettings
from lalm_mer.launch.trainers import seed_everything
from lalm_mer.recognizers.hub import push_run
from lalm_mer.recognizers.hub_folder import check_repo_id


def finetune(settings: FinetuneSettings) -> None:
    """Train an adapter and score the test set."""
    if settings.model.adapter is not None:
        raise ConfigError("key 'model.adapter': finetune.py trains a new adapter; zero_shot.py scores with one")
    if settings.output.push_to is not None:
        check_repo_id(settings.output.push_to, "key 'output.push_to':")
    engine = expected_engine(settings.engine)
    seed_everything(settings.seed)
    language = open_model_run(settings)
    identity = run_identity(
        settings,
        language.data,
        recognizer=recognizer_name(settings.model),
        base_model=settings.model.id,
        modalities=language.prompt.modalities,
        method=settings.adapter.kind,
        digests={**language.digests, "base_model": base_digest(settings.model, language.family)},
        notes=language.notes() + merged_notes(language, settings.model, settings.split.fold),
    )
    run = open_run(Path(settings.output.dir), identity, writes=is_first_process())
    if run.finished:
        print(f"{run.path} is finished; nothing to do")
        share(settings, run)
        return
    model = adapt(language, settings.adapter, shown=run.writes)
    preflight(language, model, settings, engine)
    learn_and_score(model, settings, engine, run, language.data, language.collators, saved_as="adapter")
    share(settings, run)


def share(settings: FinetuneSettings, run: RunFolder) -> None:
    """Push the finished run's adapter where the config says; what is there already is not sent again."""
    output = settings.output
    if output.push_to is not None and run.writes:
        address = push_run(run.path, output.push_to, private=output.push_private, timeout_s=output.push_timeout_s)
        print(f"pushed: {address}")


if __name__ == "__main__":
    dumps = {
        "--dump-labels": (dump_labels, "print every token of three examples, supervised or not; nothing is learnt")
    }
    run_recipe(__doc__, FinetuneSettings, finetune, dumps)
