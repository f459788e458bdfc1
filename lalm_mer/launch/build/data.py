"""The data of a run: train, dev and test of a fold, without what the recognizer cannot take, which is listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import ASR, SIMULATED, UNCHANGED, uses_transcript
from lalm_mer.core.notes import Split
from lalm_mer.core.processes import is_first_process
from lalm_mer.core.settings import naming_keys
from lalm_mer.corpora import load
from lalm_mer.examples.augmentation import Augmentation, AugmentSettings
from lalm_mer.examples.augmented_examples import AugmentedExamples
from lalm_mer.examples.balancing import Balanced, balance, class_weights
from lalm_mer.examples.conditions import CHANGED_INPUTS
from lalm_mer.examples.dataset import ExampleDataset, ExampleSource, InputDataset
from lalm_mer.examples.transcripts import (
    Transcripts,
    asr_transcripts,
    load_transcripts,
    require_same_corpus,
    simulated_transcripts,
)
from lalm_mer.launch.config.settings import BalanceSettings, DataSettings, SplitSettings
from lalm_mer.protocols.folded_corpus import FoldedCorpus, fold_corpus
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS
from lalm_mer.recognizers.base import Scores
from lalm_mer.recognizers.training import Inputs

__all__ = [
    "RunData",
    "augmented",
    "balanced",
    "input_hashes",
    "inputs_under",
    "open_corpus",
    "open_data",
    "require_transcripts",
    "with_unscored",
]

Refuses = Callable[[float], str | None]
"""Duration in seconds -> why a recognizer cannot take it, or None."""


@dataclass(frozen=True)
class RunData:
    """The examples of a run.

    Args:
        source: the folded corpus, and what replaces or extends its rows
        train: what is trained on, without ``refused``; balanced and augmented where that is asked for
        dev: what chooses the checkpoint, without ``refused``
        test: all of the test set
        scored: positions in ``test`` that the recognizer takes; the others are unscored, and stay in the denominator
        refused: split -> utterance id -> why the recognizer cannot take it
        balance: how often there are train's classes and groups, before and after; None where nothing is trained
        class_weights: what the loss of each of the K classes is multiplied by; None weights all alike
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
    def test_inputs(self) -> InputDataset:
        """The test inputs that the recognizer takes."""
        return InputDataset(self.test.select(self.scored))


def open_corpus(data: DataSettings, split: SplitSettings) -> ExampleSource:
    """The prepared corpus of a run, under its protocol, with the transcripts that the run is to read.

    Raises:
        ConfigError: if protocol and corpus, or the settings of transcripts, do not belong together
        CorpusError: if the corpus or a table of transcripts cannot be read, or an utterance has no transcript in it
    """
    corpus = load(Path(data.dir))
    protocol = load_protocol(Path(split.protocol))
    if protocol.corpus not in (None, corpus.name):
        raise ConfigError(
            f"key 'split.protocol': {split.protocol} is for corpus {protocol.corpus}, "
            f"but {data.dir} holds {corpus.name}"
        )
    folded = fold_corpus(corpus, protocol)
    if is_first_process():
        print("\n".join(folded.folds.describe()), flush=True)  # noqa: T201 what a split proves belongs beside its figures
    with naming_keys("split"):
        folded.folds.ids(split.fold, "test")
    return ExampleSource(folded, transcripts=_transcripts(data, folded), without_audio=data.without_audio == "read")


def _transcripts(data: DataSettings, folded: FoldedCorpus) -> Transcripts | None:
    source = data.transcript_source
    if (source == ASR) != (data.transcripts is not None):
        raise ConfigError(
            f"key 'data.transcripts': {data.transcripts!r} with data.transcript_source={source}; give a file with asr, "
            "and with nothing else"
        )
    if data.transcripts is not None:
        table = load_transcripts(Path(data.transcripts))
        require_same_corpus(table, folded.corpus.name, folded.corpus.summary["root_hash"])
        return asr_transcripts(table, folded.with_audio)
    return simulated_transcripts(folded.truths, folded.label_set) if source == SIMULATED else None


def open_data(
    source: ExampleSource, fold: int, *, sampling_rate: int | None, refuses: Refuses | None = None
) -> RunData:
    """The three sides of a fold.

    Args:
        source: the folded corpus, and what replaces or extends its rows
        fold: from 1
        sampling_rate: in Hz; None for recognizers that do not use audio
        refuses: tells what the recognizer cannot take; None where it takes all
    """
    sides = {split: source.examples(fold, split, sampling_rate) for split in SPLITS}
    uses_audio = sampling_rate is not None and not source.without_audio
    needs_audio = uses_audio or bool(source.descriptors) or source.transcript_source == ASR
    kept: dict[str, list[int]] = {}
    refused: dict[Split, dict[str, str]] = {}
    for split, examples in sides.items():
        reasons = [_reason(duration_s, refuses, needs_audio=needs_audio) for duration_s in examples.durations_s()]
        names = examples.utterances()["utterance_id"]
        kept[split] = [index for index, reason in enumerate(reasons) if reason is None]
        refused[split] = {name: reason for name, reason in zip(names, reasons, strict=True) if reason}
        if not kept[split]:
            without = "; choose a prompt without audio, or data.without_audio=read" if uses_audio else ""
            name, reason = next(iter(refused[split].items()))
            raise ConfigError(
                f"fold {fold}: no utterance of {split} can be taken, for example {name}: {reason}{without}"
            )
    return RunData(
        source,
        sides["train"].select(kept["train"]),
        sides["dev"].select(kept["dev"]),
        sides["test"],
        kept["test"],
        {split: reasons for split, reasons in refused.items() if reasons},
    )


def input_hashes(source: ExampleSource, modalities: str, augment: AugmentSettings | None) -> dict[str, str | None]:
    """Hashes of what a run is given: corpus, folds, and where there are any, other transcripts and augmentation.

    Args:
        source: the folded corpus, and what replaces or extends its rows
        modalities: one of ``MODALITIES``
        augment: of the training examples; None where nothing is trained
    """
    folded = source.folded
    hashes: dict[str, str | None] = {"data": folded.corpus.summary["root_hash"], "folds": folded.folds.digest}
    if source.transcripts is not None and uses_transcript(modalities):
        hashes["transcripts"] = source.transcripts.digest
    if augment is not None and augment.active:
        hashes["augmentation"] = Augmentation(augment).digest()
    return hashes


def balanced(data: RunData, settings: BalanceSettings, seed: int) -> RunData:
    """The run with its train side balanced, and its class weights.

    Raises:
        ConfigError: if a name is unknown, an utterance has no group, or a label to be weighted has no training example
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
    weighted = settings.class_weights == "balanced"
    weights = class_weights(train.truths(), data.folded.label_set.labels) if weighted else None
    return replace(data, train=train, balance=chosen, class_weights=weights)


def augmented(data: RunData, settings: AugmentSettings, seed: int, *, refuses: Refuses | None = None) -> RunData:
    """The run with its train side augmented; itself where nothing is to be done.

    Raises:
        ConfigError: if the settings cannot be done, or the run does not hear
    """
    with naming_keys("augment"):
        augmentation = Augmentation(settings)
    if not settings.active or isinstance(data.train, AugmentedExamples):
        return data
    if not data.train.uses_audio:
        raise ConfigError(
            f"key 'augment.{settings.active[0]}.p': the run reads transcripts alone, so there is nothing to augment; "
            f"set augment.{settings.active[0]}.p=0"
        )
    return replace(data, train=AugmentedExamples(data.train, augmentation, seed=seed, refuses=refuses))


def _reason(duration_s: float | None, refuses: Refuses | None, *, needs_audio: bool) -> str | None:
    """Why a recognizer cannot take an utterance; None where it can."""
    if duration_s is None:
        return "it has no audio" if needs_audio else None
    return refuses(duration_s) if refuses else None


def require_transcripts(data: RunData, folder: str) -> None:
    """Check that every utterance of the run has a transcript.

    Raises:
        ConfigError: naming an utterance without one
    """
    table = pd.concat([examples.utterances() for examples in (data.train, data.dev, data.test.select(data.scored))])
    missing = table.loc[table["transcript"].isna(), "utterance_id"]
    if len(missing):
        raise ConfigError(
            f"{folder}: {len(missing)} utterances have no transcript, for example {min(missing)}, but the run reads "
            "transcripts; choose modalities without them, or prepare the corpus with its transcript column"
        )


def inputs_under(data: RunData, condition: str, seed: int) -> Inputs:
    """The test inputs that the recognizer takes, changed as the condition says.

    Raises:
        ConfigError: if the run uses no audio that could be changed, or scores too few utterances
    """
    if condition == UNCHANGED:
        return data.test_inputs
    with naming_keys("scoring", examples="condition", count="condition"):
        return CHANGED_INPUTS[condition](data.test.select(data.scored), seed)


def with_unscored(data: RunData, scores: Scores) -> Scores:
    """Scores of the whole test set from those of the scored utterances: a row of NaN for each other one."""
    values = np.full((len(data.test), len(scores.targets)), np.nan)
    values[data.scored] = scores.values
    return replace(scores, values=values)
