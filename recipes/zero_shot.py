"""Zero-shot prompting: score every label of every test utterance by its likelihood, without training or parsing.

With answering.mode=generation the model answers in words instead, greedily, and a strict parser finds the label in
them; an answer without exactly one label is unparsed, which counts as an error.

Example:
  accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/zero_shot.py \\
      --config recipes/qwen2_audio/ravdess_zero_shot.yaml prompt.file=prompts/audio.yaml output.dir=outputs/my_run

The run folder receives run.json, predictions.parquet and metrics.json. With model.adapter=user/name (or a folder) the
model is scored under an adapter that finetune.py trained; the run's method is then the adapter's kind, as lora. With
scoring.condition=audio_swapped each test utterance is heard with the audio of another: what is left is no hearing.
"""

from pathlib import Path

from lalm_mer.launch.adapting import load_adapted, merged_notes
from lalm_mer.launch.answering import asks_for_words, open_answering
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.data import spread, tested
from lalm_mer.launch.engine import expected_engine, is_first_process
from lalm_mer.launch.identity import run_identity
from lalm_mer.launch.language import base_digest, recognizer_name
from lalm_mer.launch.opening import open_model_run
from lalm_mer.launch.preflight import preflight
from lalm_mer.launch.run_folder import open_run
from lalm_mer.launch.settings import ZeroShotSettings
from lalm_mer.launch.trainers import make_trainer, seed_everything
from lalm_mer.recognizers.scoring import score_by_all


def zero_shot(settings: ZeroShotSettings) -> None:
    """Score the test set by the model as it is."""
    engine = expected_engine(settings.engine)
    in_words = asks_for_words(settings, engine)
    seed_everything(settings.seed)
    language = open_model_run(settings)
    digests: dict[str, str | None] = {
        **language.digests,
        "base_model": base_digest(settings.model, language.family),
    }
    examples = tested(language.data, settings.scoring.condition, settings.seed)
    notes = language.notes() + merged_notes(language, settings.model, settings.split.fold)
    if settings.model.adapter is None:
        model, method = language.answer_model(), "zero_shot"
    else:
        model, method, digests["adapter"], fit = load_adapted(language, settings.model, settings.split.fold)
        notes += fit
    answering = open_answering(language, settings.answering) if in_words else None
    if answering is not None:
        digests["synonyms"] = answering.digest
        notes += answering.notes()
    identity = run_identity(
        settings,
        language.data,
        recognizer=recognizer_name(settings.model, generated=in_words),
        base_model=settings.model.id,
        modalities=language.prompt.modalities,
        method=method,
        digests=digests,
        notes=notes,
        condition=settings.scoring.condition,
    )
    run = open_run(Path(settings.output.dir), identity, writes=is_first_process())
    if run.finished:
        print(f"{run.path} is finished; nothing to do")
        return
    preflight(language, model, settings, engine)
    if answering is not None:
        run.finish_answers(language.data, *answering.answer(model, examples, settings.scoring, engine))
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
    log_probs = score_by_all(trainer, examples, language.ways, language.content_free)
    run.finish(language.data, spread(language.data, log_probs))
    trainer.close()


if __name__ == "__main__":
    run_recipe(__doc__, ZeroShotSettings, zero_shot)
