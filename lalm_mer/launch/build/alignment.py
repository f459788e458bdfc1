"""Builder of an alignment: its corpora, the prompts of its questions, and the questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.settings import naming_keys
from lalm_mer.examples.dataset import ExampleDataset, ExampleSource
from lalm_mer.examples.descriptors import Descriptors, describe_corpus
from lalm_mer.examples.questions import TRANSCRIPTS, VOICE, QuestionDataset, described_utterances
from lalm_mer.launch.build.data import open_corpus, open_data, require_training
from lalm_mer.launch.config.alignment import AlignSettings, SpeechSettings
from lalm_mer.launch.config.sections import DataSettings, TrainingSplitSettings
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.prompts import Prompt, load_prompt

__all__ = ["Speech", "alignment_hashes", "open_question_prompts", "open_speech", "questions_about"]


@dataclass(frozen=True)
class Speech:
    """A corpus of an alignment, with the measures of its voices."""

    name: str
    source: ExampleSource
    split: TrainingSplitSettings
    described: Descriptors

    @property
    def hashes(self) -> tuple[str, str]:
        """Hashes of the corpus and of its folds."""
        return str(self.source.folded.corpus.summary["root_hash"]), self.source.folded.folds.digest

    def splits(self, family: Family) -> list[ExampleDataset]:
        """Train and dev of the fold, as far as the model can use them.

        Raises:
            ConfigError: if it can use no utterance of one
        """
        with naming_keys(f"speech.{self.name}"):
            data = open_data(self.source, self.split, sampling_rate=family.sampling_rate, refuses=family.refuses)
        return [examples for examples in (data.train, data.dev) if isinstance(examples, ExampleDataset)]


def open_question_prompts(files: list[str]) -> dict[str, Prompt]:
    """Kind of a question -> its prompt.

    Raises:
        ConfigError: naming the file, if its name is not a kind of question, its slots are not audio and labels, or a
            question about the voice has no answers
    """
    prompts: dict[str, Prompt] = {}
    for file in files:
        prompt = load_prompt(Path(file))
        kind = prompt.name
        if kind not in (*TRANSCRIPTS, *VOICE):
            expected = ", ".join((*TRANSCRIPTS, *VOICE))
            raise ConfigError(f"{file}: key 'name': {kind!r} is no kind of question; expected one of {expected}")
        if kind in prompts:
            raise ConfigError(f"key 'prompts': two prompts of the kind {kind}; give one")
        if not prompt.uses_audio or prompt.uses_transcript or prompt.has_slot("context"):
            raise ConfigError(f"{file}: key 'user': a question needs {{{{ audio }}}}, and no slot with a transcript")
        if kind in VOICE and len(prompt.answers) < 2:
            raise ConfigError(f"{file}: key 'answers': a question about the voice needs two answers or more")
        prompts[kind] = prompt
    if not prompts:
        raise ConfigError("key 'prompts': is empty; name at least one file of prompts/alignment")
    return prompts


def open_speech(settings: AlignSettings) -> list[Speech]:
    """Open the corpora and measure their voices.

    Raises:
        ConfigError: if corpus and protocol do not fit
        CorpusError: if a corpus cannot be read
    """
    return [_open(name, each, Path(settings.cache_dir)) for name, each in settings.speech.items()]


def _open(name: str, chosen: SpeechSettings, cache_dir: Path) -> Speech:
    split = TrainingSplitSettings(chosen.protocol, chosen.fold, score_test=False)
    with naming_keys(f"speech.{name}"):
        source = open_corpus(DataSettings(chosen.dir), split)
        require_training(source, split)
        described = describe_corpus(source, source.folded.folds.ids(chosen.fold, "train"), cache_dir)
    return Speech(name, source, split, described)


def questions_about(
    splits: Sequence[Sequence[ExampleDataset]],
    described: Sequence[Descriptors],
    prompts: Mapping[str, Prompt],
    settings: AlignSettings,
) -> tuple[QuestionDataset, QuestionDataset]:
    """Questions to train on, and those of dev.

    Args:
        splits: train and dev of each corpus
        described: measures of its voices
        prompts: kind of a question -> its prompt
        settings: seed, and number of the questions of dev

    Raises:
        ConfigError: if train or dev has no question of these kinds
    """
    choices = {
        kind: {value: forms[0] for value, forms in prompt.answers.items()}
        for kind, prompt in prompts.items()
        if kind in VOICE
    }
    train, dev = (
        [
            utterance
            for examples, known in zip(of_split, described, strict=True)
            for utterance in described_utterances(examples, known)
        ]
        for of_split in zip(*splits, strict=True)
    )
    kinds, seed = list(prompts), settings.seed
    return (
        QuestionDataset(train, kinds, choices, seed=seed, trains=True),
        QuestionDataset(dev, kinds, choices, seed=seed, most=settings.dev_questions),
    )


def alignment_hashes(
    speech: Sequence[Speech], prompts: Mapping[str, Prompt], base_model: str | None
) -> dict[str, str | None]:
    """Hashes of everything that an alignment depends on; of one corpus, its own."""
    columns = zip(*(each.hashes for each in speech), strict=True)
    data, folds = (found[0] if len(found) == 1 else hash_json(list(found)) for found in columns)
    return {
        "data": data,
        "folds": folds,
        "prompt": hash_json([prompt.digest for prompt in prompts.values()]),
        "terciles": hash_json([each.described.terciles.digest for each in speech]),
        "base_model": base_model,
    }
