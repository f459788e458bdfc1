"""Zero-shot prompting: score every label of every test utterance by its likelihood, without training or parsing.

With answering.mode=generation, the model generates an answer instead, greedily, and a strict parser finds the label; an
answer that does not name exactly one label is unparsed, which counts as an error.

Example:
  accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/zero_shot.py \\
      --config recipes/ravdess/zero_shot.yaml prompt.file=prompts/audio.yaml output.dir=outputs/my_run

The run folder receives run.json, predictions.parquet and metrics.json. model.adapter=user/name (or a folder) adds an
adapter trained by finetune.py; the method of the run is then the adapter's kind, such as lora. With
scoring.condition=audio_swapped, each test utterance gets the audio of another: accuracy that remains does not come from
the audio. With model.family=remote, the model is on a server; a line says what is sent before anything is.
"""

from collections.abc import Sequence
from pathlib import Path

from lalm_mer.core.imports import quick_imports
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.processes import is_first_process
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.build.kept_model import KeptModel
from lalm_mer.launch.config.settings import ZeroShotSettings
from lalm_mer.models.families import REMOTE


def zero_shot(settings: ZeroShotSettings, kept: KeptModel | None = None, known: Sequence[Path] = ()) -> None:
    """Score the test set; ``kept`` has the model of an earlier run, ``known`` are folders of runs with known scores."""
    with quick_imports():  # imported here, so that --help and errors in the config do not wait for torch
        from lalm_mer.launch.build.adapting import recognizer_to_score
        from lalm_mer.launch.build.data import inputs_under
        from lalm_mer.launch.build.model_run import open_model_run
        from lalm_mer.launch.run.answering import generates_answers, open_answering
        from lalm_mer.launch.run.encoded_data import encoded_data
        from lalm_mer.launch.run.engine import expected_engine
        from lalm_mer.launch.run.identity import loaded_identity
        from lalm_mer.launch.run.known_scores import add_known
        from lalm_mer.launch.run.preflight import preflight
        from lalm_mer.launch.run.remote import score_remotely
        from lalm_mer.launch.run.resources import parameters_of
        from lalm_mer.launch.run.run_folder import is_finished, open_run, run_lock
        from lalm_mer.launch.run.trainers import make_trainer, score_dev, score_test, seed_everything

    remote = settings.model.family == REMOTE
    engine = expected_engine(settings.engine, settings.scoring, None if remote else settings.model.dtype)
    generated = generates_answers(settings, engine)
    seed_everything(settings.seed)
    opened = open_model_run(settings)
    settings = opened.settings
    with run_lock(opened.folder, writes=is_first_process()):
        if is_finished(opened.folder, settings, opened.hashes):
            print(f"{as_recorded(opened.folder)} is finished; nothing to do")
            return
        kept = kept or KeptModel()
        loaded = opened.load(kept)
        if remote:
            inputs = inputs_under(loaded.data.scored_test, settings.scoring.condition, settings.seed)
            score_remotely(loaded, opened.folder, opened.method, inputs, engine)
            return
        recognizer, notes = recognizer_to_score(loaded, opened.adapter)
        answering = open_answering(recognizer, loaded.data, settings.answering) if generated else None
        if answering is not None:
            notes += answering.notes()
        identity = loaded_identity(loaded, opened.method, notes, settings.scoring.condition)
        run = open_run(opened.folder, identity, ZeroShotSettings, writes=is_first_process())
        run.count(parameters_of(recognizer, training=False))
        preflight(loaded, recognizer, settings, engine)
        data = encoded_data(loaded, recognizer, settings, engine)
        inputs = inputs_under(data.scored_test, settings.scoring.condition, settings.seed)
        journal = run.journal("test", data.scored_test)
        add_known(journal, run.record, data.scored_test, known)
        if answering is not None:
            run.finish_answers(data, *answering.answer(inputs, settings.scoring, engine, journal))
            kept.keep(loaded.model, recognizer)
            return
        trainer = make_trainer(
            recognizer, settings.scoring, engine, folder=run.checkpoints, history=run.history, seed=settings.seed
        )
        scores = score_test(trainer, inputs, journal)
        run.finish(data, scores, score_dev(trainer, run, data, settings) if settings.scoring.dev else None)
        trainer.close()
        kept.keep(loaded.model, recognizer)


if __name__ == "__main__":
    run_recipe(__doc__, ZeroShotSettings, zero_shot)
