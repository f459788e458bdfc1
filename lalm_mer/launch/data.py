"""The data of a run: the three sides of a fold, less what the recognizer cannot take, which is listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from lalm_mer.core.errors import ConfigError
from lalm_mer.corpora import load
from lalm_mer.launch.engine import is_first_process
from lalm_mer.launch.settings import BalanceSettings, DataSettings, SplitSettings
from lalm_mer.protocols.augmentation import Augmentation, AugmentSettings
from lalm_mer.protocols.augmented_examples import AugmentedExamples
from lalm_mer.protocols.balancing import Balanced, balance, class_weights
from lalm_mer.protocols.conditions import CONDITIONS, SwappedAudio
from lalm_mer.protocols.dataset import Beside, ExampleDataset, FoldedCorpus, fold_corpus
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.transcripts import (
    SOURCES,
    Transcripts,
    asr_transcripts,
    load_transcripts,
    require_same_corpus,
    simulated_transcripts,
)

__all__ = ["RunData", "augmented", "balanced", "open_corpus", "open_data", "require_transcripts", "spread", "tested"]

Refuses = Callable[[float], str | None]
"""Duration in seconds -> why a recognizer cannot take it, or None."""


@dataclass(frozen=True)
class RunData:
    """The examples of a run.

    Args:
        folded: corpus, task and folds
        train: what is trained on, without ``refused``; balanced and augmented where that is asked for
        dev: what chooses the checkpoint, without ``refused``
        test: all of the test set
        scored: positions in ``test`` that the recognizer takes; the others are unscored, and stay in the denominator
        refused: split -> one line for each utterance that the recognizer cannot take
        balance: how often there are train's classes and groups, before and after; None where nothing is trained
        class_weights: what the loss of each of the K classes is multiplied by; None weights all alike
    """

    folded: FoldedCorpus
    train: ExampleDataset | AugmentedExamples
    dev: ExampleDataset
    test: ExampleDataset
    scored: list[int]
    refused: dict[str, list[str]]
    balance: Balanced | None = None
    class_weights: tuple[float, ...] | None = None


def open_corpus(data: DataSettings, split: SplitSettings) -> FoldedCorpus:
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
    if data.without_audio not in ("refuse", "read"):
        raise ConfigError(f"key 'data.without_audio': {data.without_audio!r}; expected refuse or read")
    beside = Beside(transcripts=_transcripts(data, folded), without_audio=data.without_audio == "read")
    return replace(folded, beside=beside)


def _transcripts(data: DataSettings, folded: FoldedCorpus) -> Transcripts | None:
    source = data.transcript_source
    if source not in SOURCES:
        raise ConfigError(f"key 'data.transcript_source': {source!r}; expected one of {', '.join(SOURCES)}")
    if (source == "asr") != (data.transcripts is not None):
        raise ConfigError(
            f"key 'data.transcripts': {data.transcripts!r} with data.transcript_source={source}; give a file with asr, "
            "and with nothing else"
        )
    if data.transcripts is not None:
        table = load_transcripts(Path(data.transcripts))
        require_same_corpus(table, folded.corpus.name, folded.corpus.summary["root_hash"])
        return asr_transcripts(table, folded.heard)
    return simulated_transcripts(folded.truths, folded.label_set) if source == "simulated" else None


def open_data(folded: FoldedCorpus, fold: int, *, sampling_rate: int | None, refuses: Refuses | None = None) -> RunData:
    """The three sides of a fold.

    Args:
        folded: corpus, task and folds
        fold: from 1
        sampling_rate: in Hz; None for recognizers that do not hear
        refuses: tells what the recognizer cannot take; None where it takes all
    """
    sides = {split: folded.examples(fold, split, sampling_rate) for split in ("train", "dev", "test")}
    hears = sampling_rate is not None and not folded.beside.without_audio
    needs_audio = hears or bool(folded.beside.descriptors) or folded.transcript_source == "asr"
    kept: dict[str, list[int]] = {}
    refused: dict[str, list[str]] = {}
    for split, examples in sides.items():
        reasons = [_reason(duration_s, refuses, needs_audio=needs_audio) for duration_s in examples.durations_s()]
        names = examples.utterances()["utterance_id"]
        kept[split] = [index for index, reason in enumerate(reasons) if reason is None]
        refused[split] = [f"{name}: {reason}" for name, reason in zip(names, reasons, strict=True) if reason]
        if not kept[split]:
            without = "; choose a prompt without audio, or data.without_audio=read" if hears else ""
            raise ConfigError(
                f"fold {fold}: no utterance of {split} can be taken, for example {refused[split][0]}{without}"
            )
    return RunData(
        folded,
        sides["train"].select(kept["train"]),
        sides["dev"].select(kept["dev"]),
        sides["test"],
        kept["test"],
        {split: lines for split, lines in refused.items() if lines},
    )


def balanced(data: RunData, settings: BalanceSettings, seed: int) -> RunData:
    """The run with its train side balanced, and its class weights.

    Raises:
        ConfigError: if a name is unknown, an utterance has no group, or a label to be weighted has no training example
    """
    if settings.class_weights not in ("none", "balanced"):
        raise ConfigError(f"key 'balance.class_weights': {settings.class_weights!r}; expected none or balanced")
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
    augmentation = Augmentation(settings)
    if not settings.active or isinstance(data.train, AugmentedExamples):
        return data
    if not data.train.hears:
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


def tested(data: RunData, condition: str, seed: int) -> ExampleDataset | SwappedAudio:
    """The test utterances that the recognizer takes, with the audio that the condition gives them.

    Raises:
        ConfigError: if the condition is unknown, or the run hears nothing that could be changed
    """
    if condition not in CONDITIONS:
        raise ConfigError(f"key 'scoring.condition': {condition!r}; expected one of {', '.join(CONDITIONS)}")
    scored = data.test.select(data.scored)
    return SwappedAudio(scored, seed) if condition == "audio_swapped" else scored


def spread(data: RunData, log_probs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows of scored utterances among all of the test set: (N, K), NaN for each unscored one."""
    result = np.full((len(data.test), log_probs.shape[1]), np.nan)
    result[data.scored] = log_probs
    return result
