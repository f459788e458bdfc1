"""The data of a run: train, dev and test of a fold, and the utterances that the recognizer cannot use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from lalm_mer.core.config import recorded
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import ASR, SIMULATED, UNCHANGED, uses_transcript
from lalm_mer.core.notes import Split
from lalm_mer.core.processes import is_first_process
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import EncodedAudio
from lalm_mer.core.settings import naming_keys
from lalm_mer.corpora import load
from lalm_mer.examples.augmentation import Augmentation, AugmentSettings
from lalm_mer.examples.augmented_examples import AugmentedExamples
from lalm_mer.examples.balancing import Balanced, balance, class_weights
from lalm_mer.examples.conditions import CHANGED_INPUTS
from lalm_mer.examples.context import dialogue_context
from lalm_mer.examples.dataset import ExampleDataset, ExampleSource, InputDataset
from lalm_mer.examples.subsets import choose_subset
from lalm_mer.examples.transcripts import (
    Transcripts,
    asr_transcripts,
    load_transcripts,
    require_same_corpus,
    simulated_transcripts,
)
from lalm_mer.launch.config.sections import BalanceSettings, DataSettings, SplitSettings, TrainingSplitSettings
from lalm_mer.protocols.folded_corpus import FoldedCorpus, fold_corpus
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS
from lalm_mer.recognizers.base import Scores
from lalm_mer.recognizers.training import Inputs

__all__ = [
    "RunData",
    "augmented",
    "balanced",
    "encoded",
    "input_hashes",
    "inputs_under",
    "open_corpus",
    "open_data",
    "require_training",
    "require_transcripts",
    "with_unscored",
]

_NO_VOTES = "it has no vote for a label of the task"
Refuses = Callable[[float], str | None]
"""Duration in seconds -> why a recognizer cannot use it, or None."""


@dataclass(frozen=True)
class RunData:
    """The examples of a run.

    Args:
        source: the folded corpus, with what replaces or extends its rows
        train: training examples without ``refused``, balanced and augmented as the settings say
        dev: examples without ``refused`` that select the checkpoint
        test: the complete test set; empty if the run does not score it
        scored: positions in ``test`` that the recognizer can use; the others are unscored and count as errors
        refused: split -> utterance id -> why the recognizer cannot use it
        balance: counts of training examples before and after balancing; None without training
        class_weights: factor of the training loss of each of the K classes; None for equal weights
    """

    source: ExampleSource
    train: ExampleDataset | AugmentedExamples
    dev: ExampleDataset
    test: ExampleDataset
    scored: list[int]
    refused: dict[Split, dict[str, str]]
    balance: Balanced | None = None
    class_weights: tuple[float, ...] | None = None

    @property
    def folded(self) -> FoldedCorpus:
        """Corpus, task and folds."""
        return self.source.folded

    @property
    def scored_test(self) -> ExampleDataset:
        """The test examples that the recognizer can use."""
        return self.test.select(self.scored)


def open_corpus(data: DataSettings, split: SplitSettings, *, soft_labels: bool = False) -> ExampleSource:
    """Open the prepared corpus of a run, with the folds of its protocol and the transcripts that the run uses.

    Args:
        data: the corpus and its transcripts
        split: the protocol and the fold
        soft_labels: whether training uses the votes of raters, also of utterances without consensus

    Raises:
        ConfigError: if protocol and corpus, or the settings of transcripts, do not fit
        CorpusError: if the corpus or a table of transcripts cannot be read, or has no transcript of an utterance
    """
    corpus = load(Path(data.dir))
    protocol = load_protocol(Path(split.protocol))
    if protocol.corpus not in (None, corpus.name):
        raise ConfigError(
            f"key 'split.protocol': {split.protocol} is for corpus {protocol.corpus}, but {data.dir} has {corpus.name}"
        )
    with naming_keys("loss"):
        folded = fold_corpus(corpus, protocol, soft_labels=soft_labels)
    if is_first_process():
        print("\n".join(folded.describe()), flush=True)  # noqa: T201 what the splits share is part of the results
    with naming_keys("split"):
        folded.folds.ids(split.fold, "test")
    transcripts, without_audio = _transcripts(data, folded), data.without_audio == "read"
    return ExampleSource(folded, transcripts=transcripts, without_audio=without_audio, soft_labels=soft_labels)


def with_context(source: ExampleSource, turns: int, section: str) -> ExampleSource:
    """Add the turns before each utterance to the examples, with the transcripts that the run uses; 0 adds nothing.

    Args:
        source: the examples
        turns: largest number of turns
        section: where the setting of ``turns`` is, for an error

    Raises:
        ConfigError: if the corpus has no dialogues
    """
    if not turns:
        return source
    table = source.transcripts
    transcript_of = None if table is None else lambda name, _: table.by_id.get(name)
    with naming_keys(section, turns="context_turns"):
        return replace(source, context=dialogue_context(source.folded.corpus, turns, transcript_of))


def require_training(source: ExampleSource, split: SplitSettings) -> None:
    """Check that the folds have train and dev, for a run that uses training examples.

    Raises:
        ConfigError: if they have test alone
    """
    if not source.folded.folds.has_training:
        raise ConfigError(
            f"key 'split.protocol': {split.protocol} has test alone, for zero-shot runs without answered examples and "
            "descriptors; choose a protocol with train and dev"
        )


def _transcripts(data: DataSettings, folded: FoldedCorpus) -> Transcripts | None:
    source = data.transcript_source
    if (source == ASR) != (data.transcripts is not None):
        raise ConfigError(
            f"key 'data.transcripts': {data.transcripts!r} with data.transcript_source={source}; only asr needs a file"
        )
    if data.transcripts is not None:
        table = load_transcripts(Path(data.transcripts))
        require_same_corpus(table, folded.corpus.name, folded.corpus.summary["root_hash"])
        return asr_transcripts(table, folded.with_audio)
    if source == SIMULATED and folded.task.kind != "single":
        raise ConfigError(
            f"key 'data.transcript_source': simulated; its sentences name one label, and task {folded.task.name} is "
            f"{folded.task.kind}; choose corpus or asr"
        )
    return simulated_transcripts(folded.truths, folded.label_set) if source == SIMULATED else None


def open_data(
    source: ExampleSource,
    split: SplitSettings,
    *,
    sampling_rate: int | None,
    refuses: Refuses | None = None,
    seed: int = 0,
) -> RunData:
    """Open train, dev and test of a fold; a run that does not score the test set gets an empty one.

    Args:
        source: the folded corpus, with what replaces or extends its rows
        split: fold, and what of it is used
        sampling_rate: in Hz; None for recognizers that do not use audio
        refuses: None if the recognizer can use any duration
        seed: of the draw of training utterances

    Raises:
        ConfigError: if the recognizer can use no utterance of a split, or train has fewer than are to be drawn
    """
    fold, training = split.fold, split if isinstance(split, TrainingSplitSettings) else None
    opened = [name for name in SPLITS if name != "test" or training is None or training.score_test]
    splits = {name: source.examples(fold, name, sampling_rate) for name in opened}
    uses_audio = sampling_rate is not None and not source.without_audio
    needs_audio = uses_audio or bool(source.descriptors) or source.transcript_source == ASR
    kept: dict[str, list[int]] = {}
    refused: dict[Split, dict[str, str]] = {}
    for name, examples in splits.items():
        reasons = [_reason(duration_s, refuses, needs_audio=needs_audio) for duration_s in examples.durations_s()]
        ids = examples.utterances()["utterance_id"]
        if name == "train" and source.soft_labels:
            voteless = set(examples.without_votes())
            reasons = [_NO_VOTES if each in voteless else reason for each, reason in zip(ids, reasons, strict=True)]
        kept[name] = [index for index, reason in enumerate(reasons) if reason is None]
        found = {each: reason for each, reason in zip(ids, reasons, strict=True) if reason}
        if found:
            refused[name] = found
        if not kept[name] and (name == "test" or source.folded.folds.has_training):
            without = "; choose a prompt without audio, or data.without_audio=read" if uses_audio else ""
            each, reason = next(iter(found.items()))
            raise ConfigError(f"fold {fold}: no utterance of {name} can be used, for example {each}: {reason}{without}")
    train, dev = splits["train"].select(kept["train"]), splits["dev"].select(kept["dev"])
    if training is not None and training.train_utterances is not None:
        truths, speakers = train.truths(), train.column("speaker")
        with naming_keys("split", count="train_utterances"):
            train = train.select(choose_subset(truths, speakers, training.train_utterances, seed=seed))
    test = splits.get("test", source.examples_of([], sampling_rate))
    return RunData(source, train, dev, test, kept.get("test", []), refused)


def _reason(duration_s: float | None, refuses: Refuses | None, *, needs_audio: bool) -> str | None:
    """Why a recognizer cannot use an utterance; None if it can."""
    if duration_s is None:
        return "it has no audio" if needs_audio else None
    return refuses(duration_s) if refuses else None


def input_hashes(source: ExampleSource, modalities: str, augment: AugmentSettings | None) -> dict[str, str | None]:
    """Hashes of the inputs of a run: corpus, folds and, if there are any, other transcripts and augmentation.

    Args:
        source: the folded corpus, with what replaces or extends its rows
        modalities: one of ``MODALITIES``
        augment: augmentation of the training examples; None without training
    """
    folded = source.folded
    hashes: dict[str, str | None] = {"data": folded.corpus.summary["root_hash"], "folds": folded.folds.digest}
    if source.soft_labels:
        hashes["extra_train"] = hash_json({str(fold): ids for fold, ids in folded.folds.extra_train.items()})
    if source.transcripts is not None and uses_transcript(modalities):
        hashes["transcripts"] = source.transcripts.digest
    if augment is not None and augment.active:
        hashes["augmentation"] = Augmentation(recorded(augment)).digest()
    return hashes


def balanced(data: RunData, settings: BalanceSettings, seed: int) -> RunData:
    """Balance the training examples and compute the class weights.

    Raises:
        ConfigError: if the column is unknown, an utterance has no group, or a weighted label has no training example
    """
    if isinstance(data.train, AugmentedExamples):
        raise TypeError("balance before augmenting")
    table = data.train.utterances()
    grouped = "group" in settings.sampling or settings.max_per_group is not None
    chosen = balance(
        list(table["truth"]),
        data.train.column(settings.by) if grouped else None,
        list(table["utterance_id"]),
        sampling=settings.sampling,
        direction=settings.direction,
        max_per_class=settings.max_per_class,
        max_per_group=settings.max_per_group,
        seed=seed,
    )
    train = data.train.select(chosen.indices)
    weights = _class_weights(train) if settings.class_weights == "balanced" else None
    return replace(data, train=train, balance=chosen, class_weights=weights)


def _class_weights(train: ExampleDataset) -> tuple[float, ...]:
    """Weights of the labels; of a task of several labels the number of absences for one presence."""
    task = train.task
    if task.kind == "single":
        return class_weights(train.truths(), task.targets)
    present = train.targets().sum(axis=0)
    absent = len(train) - present
    # a label that is never present has no term that could be weighted
    return tuple(float(without / n) if n else 1.0 for without, n in zip(absent, present, strict=True))


def augmented(data: RunData, settings: AugmentSettings, seed: int, *, refuses: Refuses | None = None) -> RunData:
    """Augment the training examples, if any augmentation is active.

    Raises:
        ConfigError: if the settings are invalid, or the run does not use audio
    """
    with naming_keys("augment"):
        augmentation = Augmentation(settings)
    if not settings.active or isinstance(data.train, AugmentedExamples):
        return data
    if not data.train.uses_audio:
        key = f"augment.{settings.active[0]}.p"
        raise ConfigError(f"key '{key}': the run uses no audio, so nothing can be augmented; set {key}=0")
    return replace(data, train=AugmentedExamples(data.train, augmentation, seed=seed, refuses=refuses))


def encoded(data: RunData, stored: Callable[[str], EncodedAudio]) -> RunData:
    """The data with stored outputs of the audio tower in place of waveforms.

    Args:
        data: not augmented
        stored: hash of the audio -> its tower output
    """
    if isinstance(data.train, AugmentedExamples):
        raise TypeError("augmented audio has no stored tower output")
    train, dev, test = (examples.with_encoded(stored) for examples in (data.train, data.dev, data.test))
    return replace(data, train=train, dev=dev, test=test)


def require_transcripts(data: RunData, folder: str) -> None:
    """Check that every utterance of the run has a transcript.

    Raises:
        ConfigError: naming an utterance without one, and how many of all folds have none
    """
    table = pd.concat([examples.utterances() for examples in (data.train, data.dev, data.scored_test)])
    missing = table.loc[table["transcript"].isna(), "utterance_id"]
    if len(missing):  # the run may use only a part of the folds, for example after balancing
        in_folds = data.source.examples_of(data.folded.folds.frame["utterance_id"].unique(), None).utterances()
        raise ConfigError(
            f"{folder}: {in_folds['transcript'].isna().sum()} of {len(in_folds)} utterances have no transcript, for "
            f"example {min(missing)}, but the run uses transcripts; choose modalities without them, or prepare the "
            "corpus with its transcript column"
        )


def inputs_under(examples: ExampleDataset, condition: str, seed: int) -> Inputs:
    """The inputs of examples that the recognizer can use, under a condition.

    Raises:
        ConfigError: if the run uses no audio that could be swapped, or scores too few utterances
    """
    if condition == UNCHANGED:
        return InputDataset(examples)
    with naming_keys("scoring", examples="condition", count="condition"):
        return CHANGED_INPUTS[condition](examples, seed)


def with_unscored(data: RunData, scores: Scores) -> Scores:
    """Extend the scores of the scored utterances to the complete test set: NaN for unscored utterances."""
    by_prompt = tuple(replace(each, values=_with_nan(data, each.values)) for each in scores.by_prompt)
    return replace(scores, values=_with_nan(data, scores.values), by_prompt=by_prompt)


def _with_nan(data: RunData, scored: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values = np.full((len(data.test), scored.shape[1]), np.nan)
    values[data.scored] = scored
    return values
