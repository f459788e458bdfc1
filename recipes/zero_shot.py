"""Zero-shot prompting: score every label of every test utterance by its likelihood, without training or parsing.

Example:
  accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/zero_shot.py \\
      --config recipes/qwen2_audio/ravdess_zero_shot.yaml prompt.file=prompts/audio.yaml output.dir=outputs/my_run

The run folder receives run.json, predictions.parquet and metrics.json. With model.adapter=user/name (or a folder) the
model is scored under an adapter that finetune.py trained; the run's method is then lora. With
scoring.condition=audio_swapped each test utterance is heard with the audio of another: what is left is no hearing.
"""

from pathlib import Path

from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.data import spread, tested
from lalm_mer.launch.engine import expected_engine, is_first_process
from lalm_mer.launch.identity import run_identity
from lalm_mer.launch.language import base_digest, load_adapted, recognizer_name
from lalm_mer.launch.opening import open_model_run
from lalm_mer.launch.run_folder import open_run
from lalm_mer.launch.settings import ZeroShotSettings
from lalm_mer.launch.trainers import make_trainer, seed_everything


def zero_shot(settings: ZeroShotSettings) -> None:
    """Score the test set by the model as it is."""
    engine = expected_engine(settings.engine)
    seed_everything(settings.seed)
    language = open_model_run(settings)
    digests: dict[str, str | None] = {
        "prompt": language.prompt.digest,
        "base_model": base_digest(settings.model, language.family),
    }
    examples = tested(language.data, settings.scoring.condition, settings.seed)
    notes = language.notes()
    if settings.model.adapter is None:
        model = language.answer_model()
    else:
        model, digests["adapter"], fit = load_adapted(language, settings.model, settings.split.fold)
        notes += fit
    identity = run_identity(
        settings,
        language.data,
        recognizer=recognizer_name(settings.model),
        base_model=settings.model.id,
        modalities=language.prompt.modalities,
        method="zero_shot" if settings.model.adapter is None else "lora",
        digests=digests,
        notes=notes,
        condition=settings.scoring.condition,
    )
    run = open_run(Path(settings.output.dir), identity, writes=is_first_process())
    if run.finished:
        print(f"{run.path} is finished; nothing to do")
        return
    trainer = make_trainer(
        model,
        settings.scoring,
        engine,
        folder=run.checkpoints,
        history=run.history,
        collators=language.collators,
        label_set=language.label_set,
        seed=settings.seed,
    )
    log_probs = trainer.score(examples)
    run.finish(language.data, spread(language.data, log_probs))
    trainer.close()


if __name__ == "__main__":
    run_recipe(__doc__, ZeroShotSettings, zero_shot)
