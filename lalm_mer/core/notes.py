"""Notes on the results of a run: codes with facts in run.json, sentences where they are shown."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

__all__ = ["SENTENCES", "Note", "NoteCode", "Split", "needed_facts", "sentence"]

Split: TypeAlias = Literal["train", "dev", "test"]


class NoteCode(StrEnum):
    """What a reader of the results has to know."""

    RANDOMLY_INITIALISED = "randomly_initialised"
    CONTAMINATION = "contamination"
    LEFT_OUT = "left_out"
    UNSCORED = "unscored"
    UNCHANGED_SPEED = "unchanged_speed"
    ANSWERED_EXAMPLES = "answered_examples"
    SIMULATED_TRANSCRIPTS = "simulated_transcripts"
    SWAPPED_AUDIO = "swapped_audio"
    GENERATED_ANSWERS = "generated_answers"
    MERGED_BASE_MODEL = "merged_base_model"
    TRAINED_BASE_MODEL = "trained_base_model"
    UNKNOWN_TRAINING_DATA = "unknown_training_data"
    OTHER_FOLDS = "other_folds"
    OTHER_CORPUS = "other_corpus"
    OTHER_BASE_MODEL = "other_base_model"
    OTHER_QUANTIZATION = "other_quantization"
    OTHER_PROMPT = "other_prompt"
    OTHER_LABELS = "other_labels"
    SCRATCH_BERT = "scratch_bert"
    OPENSMILE_LICENCE = "opensmile_licence"
    SPEAKER_STATISTICS = "speaker_statistics"
    FOLD_SIZE = "fold_size"
    FOLD_UTTERANCES = "fold_utterances"
    MISSING_CLASSES = "missing_classes"
    FEW_UTTERANCES = "few_utterances"
    SERVED_MODEL = "served_model"
    FIRST_TOKEN = "first_token"
    PARITY = "parity"
    SERVER_TOKENS = "server_tokens"
    FOUND_BATCH_SIZE = "found_batch_size"
    FITTED_ON_DEV = "fitted_on_dev"


@dataclass(frozen=True)
class Note:
    """One note.

    Args:
        code: subject of the note
        split: split of the fold that it refers to
        n: number of utterances, or of classes, that it refers to
        ids: ids of some of these utterances; they may contain names of people and are never shared
        reasons: the reason for each of ``ids``; empty if the code states it
        facts: other values that the sentence needs
    """

    code: NoteCode
    split: Split | None = None
    n: int | None = None
    ids: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    facts: Mapping[str, str | int] = field(default_factory=dict)


SENTENCES: Mapping[NoteCode, str] = {
    NoteCode.RANDOMLY_INITIALISED: "The base model is randomly initialised: its results say nothing about the "
    "published model.",
    NoteCode.CONTAMINATION: "Contamination of {model}: {known}",
    NoteCode.LEFT_OUT: "{n} utterances of {split} left out.",
    NoteCode.UNSCORED: "{n} utterances of {split} unscored, counted as errors.",
    NoteCode.UNCHANGED_SPEED: "{n} training utterances keep their speed, because the model could not take them slower "
    "or faster.",
    NoteCode.ANSWERED_EXAMPLES: "Every prompt includes {n} training utterances with their answers.",
    NoteCode.SIMULATED_TRANSCRIPTS: "The transcripts name the label: each is a sentence made from the truth, so the "
    "results say nothing about recognising emotion.",
    NoteCode.SWAPPED_AUDIO: "Each test utterance has the audio of another one; accuracy that remains above chance does "
    "not come from the audio.",
    NoteCode.GENERATED_ANSWERS: "Answers were generated greedily, {max_new_tokens} tokens at most, and parsed "
    "strictly; an unparsed answer counts as an error of its true class.",
    NoteCode.MERGED_BASE_MODEL: "The base model contains a merged adapter; notes on an adapter are about that one.",
    NoteCode.TRAINED_BASE_MODEL: "The base model was trained in full by an earlier run; notes on an adapter are about "
    "that training.",
    NoteCode.UNKNOWN_TRAINING_DATA: "It is not known what the adapter was trained on: its training data may contain "
    "the test set.",
    NoteCode.OTHER_FOLDS: "The adapter ({corpus}, {protocol}, fold {fold}) was trained on other folds of this corpus: "
    "its training data may contain test utterances.",
    NoteCode.OTHER_CORPUS: "The adapter ({corpus}, {protocol}, fold {fold}) was trained on another corpus.",
    NoteCode.OTHER_BASE_MODEL: "The adapter was trained on another copy or revision of the base model, as far as is "
    "known.",
    NoteCode.OTHER_QUANTIZATION: "The adapter was trained with quantization {trained}, this run uses {used}.",
    NoteCode.OTHER_PROMPT: "The adapter was trained with another prompt.",
    NoteCode.OTHER_LABELS: "The adapter was trained on other labels.",
    NoteCode.SCRATCH_BERT: "The transcript branch is a small BERT trained jointly from scratch; nothing is pretrained.",
    NoteCode.OPENSMILE_LICENCE: "Acoustic features by openSMILE, whose licence is for research.",
    NoteCode.SPEAKER_STATISTICS: "Features of {modalities} are normalised by mean and standard deviation of each "
    "speaker over all of the speaker's utterances in the split: in dev and test these are statistics of dev and test "
    "speakers.",
    NoteCode.FOLD_SIZE: "Fold {fold}, {split}: {n} utterances here, {expected} in the protocol.",
    NoteCode.FOLD_UTTERANCES: "Fold {fold}, {split}: {n} utterances, but not those of the protocol.",
    NoteCode.MISSING_CLASSES: "{n} classes have no utterance in {split}: {classes}.",
    NoteCode.FEW_UTTERANCES: "{n} classes have few utterances in {split}: {classes}.",
    NoteCode.SERVED_MODEL: "The model ran on a server, {url}, as {model}; the server reports {reported}. Its weights "
    "cannot be hashed, so nothing proves which they were.",
    NoteCode.FIRST_TOKEN: "Labels were scored by the first token of their answers alone, among the {listed} tokens "
    "that the server lists; a label that is not listed has the log-probability of the last token of the list.",
    NoteCode.PARITY: "Compared with the exact scores of {model} on this machine for the same text: {same} of {n} "
    "{split} utterances have the same prediction, and label log-probabilities differ by {difference} at most; in runs "
    "on this machine, which tokenise the slots of a prompt separately, {same_here} are the same, and the difference is "
    "{difference_here}.",
    NoteCode.SERVER_TOKENS: "The server counted {prompt_tokens} tokens of prompts and {completion_tokens} of answers "
    "in {requests} requests; cost: {cost}.",
    NoteCode.FOUND_BATCH_SIZE: "Batches of {found} utterances fit into memory, of at most {largest}; {accumulated} are "
    "accumulated per optimiser step, so that it has as many utterances as before.",
    NoteCode.FITTED_ON_DEV: "The rule {rule} of the fusion was fitted on dev, so its results on dev say nothing about "
    "new utterances.",
}
"""The sentence of each code, for display only: no code parses it."""


def needed_facts(code: NoteCode) -> set[str]:
    """Names of the facts that the sentence of ``code`` needs.

    Example:
        >>> needed_facts(NoteCode.GENERATED_ANSWERS)
        {'max_new_tokens'}
    """
    return {name for _, name, _, _ in string.Formatter().parse(SENTENCES[code]) if name} - {"split", "n"}


def sentence(note: Note) -> str:
    """The sentence of a note.

    Example:
        >>> sentence(Note(NoteCode.LEFT_OUT, split="train", n=7, ids=("u1",), reasons=("40.00 s long",)))
        '7 utterances of train left out; for example u1: 40.00 s long.'
    """
    words = SENTENCES[note.code].format(split=note.split, n=note.n, **note.facts)
    if not note.ids:
        return words
    reasons = [f": {reason}" for reason in note.reasons] or [""] * len(note.ids)
    examples = "; ".join(f"{name}{reason}" for name, reason in zip(note.ids, reasons, strict=True))
    return f"{words.removesuffix('.')}; for example {examples}."
