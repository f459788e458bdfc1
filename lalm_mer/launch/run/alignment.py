"""The run of an alignment: questions about audio are trained on, and the aligned model is written with its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lalm_mer.core.config import recorded, to_dict
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO, FULL, UNCHANGED
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.provenance import git_commit, package_versions
from lalm_mer.core.run_record import MODEL_FOLDER, RunRecord
from lalm_mer.evaluation.predictions import EvaluatedSplit, Predictions
from lalm_mer.examples.questions import ANSWERS, QuestionDataset
from lalm_mer.launch.build.adapting import add_trained_parts
from lalm_mer.launch.build.alignment import (
    Speech,
    alignment_hashes,
    open_question_prompts,
    open_speech,
    questions_about,
)
from lalm_mer.launch.build.defaults import with_model_id, with_towers
from lalm_mer.launch.build.language import LanguageBuilder
from lalm_mer.launch.config.alignment import AlignSettings
from lalm_mer.launch.run.encoded_data import filled_cache
from lalm_mer.launch.run.engine import Engine
from lalm_mer.launch.run.preflight import CheckedRun, check_run
from lalm_mer.launch.run.run_folder import RunFolder
from lalm_mer.launch.run.trainers import trained
from lalm_mer.models.digest import base_digest, read_model_config
from lalm_mer.models.families import DUAL_ENCODERS, REMOTE
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.questions import QuestionRecognizer
from lalm_mer.sharing.adapter_context import AdapterContext, origin_of, with_contexts

__all__ = ["OpenedAlignment", "open_alignment", "train_alignment"]

_SELECTS = "weighted_accuracy"


@dataclass(frozen=True)
class OpenedAlignment:
    """An opened alignment, before its model is loaded."""

    settings: AlignSettings
    prompts: Mapping[str, Prompt]
    speech: Sequence[Speech]
    hashes: Mapping[str, str | None]

    @property
    def record(self) -> RunRecord:
        """The record of a run that begins now; its labels are the two answers."""
        settings, names = self.settings, [each.source.folded.corpus.name for each in self.speech]
        folds = [each.source.folded.folds for each in self.speech]
        random = read_model_config(settings.model.id, settings.model.revision).get("randomly_initialised")
        return RunRecord(
            recognizer=f"{settings.model.family} ({Path(settings.model.id).name})",
            base_model=recorded(settings).model.id,
            modalities=AUDIO,
            transcript_source=None,
            method=settings.adapter.kind,
            condition=UNCHANGED,
            corpus="+".join(names),
            synthetic=all(each.source.folded.corpus.summary["synthetic"] for each in self.speech),
            protocol="+".join(each.protocol.name for each in folds),
            protocol_version=folds[0].protocol.version,
            fold=self.speech[0].split.fold,
            seed=settings.seed,
            task="alignment",
            labels=ANSWERS,
            unmapped=0,
            left_out=0,
            disjoint_in=tuple(folds[0].protocol.disjoint_in),
            shared_in=tuple(folds[0].protocol.shared_in),
            primary_metric=_SELECTS,
            hashes=dict(self.hashes),
            balance=None,
            class_weights=None,
            notes=(Note(NoteCode.RANDOMLY_INITIALISED),) if random else (),
            config=to_dict(settings),
            versions=package_versions(),
            git=git_commit(),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=None,
        )

    @property
    def contexts(self) -> list[AdapterContext]:
        """What the model was trained on, a context for each corpus."""
        return [
            AdapterContext(
                corpus=each.source.folded.corpus.name,
                protocol=each.source.folded.folds.protocol.name,
                fold=each.split.fold,
                labels=ANSWERS,
                folds_digest=each.hashes[1],
                prompt_digest=self.hashes["prompt"],
                base_digest=self.hashes["base_model"],
                quantization=self.settings.model.quantization,
            )
            for each in self.speech
        ]


def open_alignment(settings: AlignSettings) -> OpenedAlignment:
    """Open corpora and prompts, and hash what the run depends on; no weights are loaded.

    Raises:
        ConfigError: if the settings do not fit each other or the corpora
    """
    if settings.model.family in (*DUAL_ENCODERS, REMOTE):
        raise ConfigError(
            f"key 'model.family': {settings.model.family}; questions are answered by the tokens of a language model "
            "that can be trained here; choose another family, such as composed"
        )
    if settings.model.adapter is not None:
        raise ConfigError("key 'model.adapter': align.py trains a new adapter; merge that one first (merge_adapter.py)")
    settings = replace(
        settings,
        model=with_model_id(settings.model),
        adapter=with_towers(settings.adapter, settings.model),
    )
    prompts, speech = open_question_prompts(settings.prompts), open_speech(settings)
    hashes = alignment_hashes(speech, prompts, base_digest(settings.model.id, settings.model.revision))
    return OpenedAlignment(settings, prompts, speech, hashes)


def train_alignment(opened: OpenedAlignment, engine: Engine, run: RunFolder) -> None:
    """Train from the last complete checkpoint, if there is one, score the questions of dev, and finish the run."""
    settings = opened.settings
    family = LanguageBuilder().load(settings.model)
    LanguageBuilder().check(family, settings)
    adapted = add_trained_parts(family, settings.adapter, shown=run.writes)
    recognizer = QuestionRecognizer(
        family, opened.prompts, adapted, packing=settings.train.packing, torch_compile=settings.model.torch_compile
    )
    splits = [each.splits(family) for each in opened.speech]
    described = [each.described for each in opened.speech]
    questions = partial(questions_about, described=described, prompts=opened.prompts, settings=settings)
    corpora = [each.source.folded.corpus for each in opened.speech]
    checked = CheckedRun(family, recognizer, recognizer.setup, questions(splits)[0], corpora, settings.train)
    check_run(checked, engine, skipped=not settings.preflight)
    every = [examples for of_corpus in splits for examples in of_corpus]
    digests = (opened.hashes["base_model"], None)
    cache = filled_cache(family, recognizer, every, digests, settings.model, settings.train, engine, trains=True)
    if cache is not None:
        splits = [[examples.with_encoded(cache) for examples in of_corpus] for of_corpus in splits]
    train, dev = questions(splits)
    trainer = trained(
        recognizer, settings.train, engine, run, seed=settings.seed, train=train, dev=dev, best_by=_SELECTS
    )
    scores = trainer.score([example.input for example in dev], recognizer.joint_collator)
    in_full = run.record.method == FULL
    if run.writes and in_full:  # before the weights, which would otherwise be used without its checks
        with_contexts(origin_of(run.record), opened.contexts).write(run.path / MODEL_FOLDER)
    trainer.save_trained(run.path / (MODEL_FOLDER if in_full else "adapter"))
    if run.writes:
        run.finish_dev_table(_predictions(dev, scores, opened.record))
    trainer.close()


def _predictions(dev: QuestionDataset, scores: Any, record: RunRecord) -> Predictions:  # noqa: ANN401 (N, 2)
    """The table of the questions of dev, whose ids have the kind of the question."""
    examples, kinds = list(dev), dev.kinds()
    split = EvaluatedSplit(
        [f"{example.input.utterance_id}/{kind}" for example, kind in zip(examples, kinds, strict=True)],
        [example.input.speaker for example in examples],
        [example.label for example in examples],
        ANSWERS,
        record.corpus,
        record.fold,
        record.seed,
    )
    return Predictions.from_scores(split, scores)
