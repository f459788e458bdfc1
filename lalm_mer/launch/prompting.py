"""Builder of what is asked: prompts, the orders their labels are listed in, answered examples, the turns before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Example
from lalm_mer.launch.data import RunData
from lalm_mer.launch.settings import FinetuneSettings, PromptSettings, ZeroShotSettings
from lalm_mer.models.collator import AnswerCollator
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.prompts import Prompt, load_prompt
from lalm_mer.protocols.augmented_examples import AugmentedExamples
from lalm_mer.protocols.context import dialogue_context
from lalm_mer.protocols.dataset import FoldedCorpus
from lalm_mer.protocols.descriptors import describe_corpus
from lalm_mer.protocols.shots import choose_shots

__all__ = ["Asked", "content_free", "open_prompts", "surrounded", "take_shots"]

_LABEL_SCORES = ("sum", "mean", "pmi")


@dataclass(frozen=True)
class Asked:
    """All ways in which a run asks; a run that learns has one.

    Args:
        prompts: the first is the run's, the others are averaged with it
        label_set: the K labels with the prompts' surface forms
        orders: of the labels in the prompt
        shots: examples that stand answered in every prompt
        terciles: digest of what is low and high among the training voices, where voices are put in words
    """

    prompts: tuple[Prompt, ...]
    label_set: LabelSet
    orders: tuple[tuple[str, ...], ...]
    shots: tuple[Example, ...] = ()
    terciles: str | None = None

    def collators(self, family: Family, *, every_answer: bool) -> tuple[AnswerCollator, ...]:
        """One for each way of asking."""
        return tuple(
            AnswerCollator(family, prompt, self.label_set, every_answer=every_answer, shots=self.shots, order=order)
            for prompt, order in product(self.prompts, self.orders)
        )

    def digests(self) -> dict[str, str | None]:
        """What the run's figures depend on, for run.json."""
        also = {"also": hash_json([prompt.digest for prompt in self.prompts[1:]])} if self.prompts[1:] else {}
        shots = {"shots": hash_json([shot.utterance_id for shot in self.shots])} if self.shots else {}
        terciles = {"terciles": self.terciles} if self.terciles else {}
        return {"prompt": self.prompts[0].digest, **also, **shots, **terciles}

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        if not self.shots:
            return []
        return [f"Every prompt holds {len(self.shots)} answered training utterances."]


def open_prompts(settings: ZeroShotSettings | FinetuneSettings, label_set: LabelSet) -> Asked:
    """Read the prompt files and check what is asked of them.

    Raises:
        ConfigError: if settings and prompts do not belong together, or a run that learns is to ask in several ways
    """
    wanted = settings.prompt
    prompts = tuple(load_prompt(Path(file)) for file in (wanted.file, *wanted.also))
    first = prompts[0]
    sets = [prompt.label_set(label_set) for prompt in prompts]
    for file, prompt, forms in zip(wanted.also, prompts[1:], sets[1:], strict=True):
        if prompt.modalities != first.modalities or forms != sets[0]:
            raise ConfigError(
                f"key 'prompt.also': {file} takes {prompt.modalities}, or other answers than {wanted.file} "
                f"({first.modalities}); only prompts of the same modalities and answers are averaged"
            )
    if wanted.label_score not in _LABEL_SCORES:
        raise ConfigError(f"key 'prompt.label_score': {wanted.label_score!r}; expected one of sum, mean, pmi")
    if not 1 <= wanted.label_orders <= len(label_set):
        raise ConfigError(f"key 'prompt.label_orders': {wanted.label_orders}; expected 1 to {len(label_set)}")
    if isinstance(settings, FinetuneSettings) and (
        wanted.also or wanted.label_orders > 1 or wanted.label_score == "pmi"
    ):
        raise ConfigError(
            "section 'prompt': also, label_orders and label_score=pmi are ways of scoring; finetune.py learns one "
            "prompt: score its adapter with zero_shot.py model.adapter=..."
        )
    listed = [prompt.asks_for("labels") for prompt in prompts]
    if wanted.label_orders > 1 and not all(listed):
        raise ConfigError(
            f"key 'prompt.label_orders': {wanted.label_orders}, but a prompt lists no labels; it needs {{{{ labels }}}}"
        )
    if wanted.context_turns < 0:
        raise ConfigError(f"key 'prompt.context_turns': {wanted.context_turns}; expected 0 or more")
    uses_context = any(prompt.asks_for("context") for prompt in prompts)
    if uses_context != (wanted.context_turns > 0):
        raise ConfigError(
            f"key 'prompt.context_turns': {wanted.context_turns}, and the prompt has "
            f"{'a' if uses_context else 'no'} slot {{{{ context }}}}; the one needs the other"
        )
    labels = label_set.labels
    steps = [round(number * len(labels) / wanted.label_orders) for number in range(wanted.label_orders)]
    return Asked(prompts, sets[0], tuple(labels[step:] + labels[:step] for step in steps))


def surrounded(folded: FoldedCorpus, asked: Asked, settings: PromptSettings, fold: int) -> tuple[FoldedCorpus, Asked]:
    """The corpus with what the prompts ask for beside an utterance's own row: turns before, voices in words.

    Raises:
        ConfigError: if the corpus cannot give it
    """
    beside = folded.beside
    if settings.context_turns:
        table = beside.transcripts
        transcript_of = None if table is None else lambda name, _: table.by_id.get(name)
        beside = replace(beside, context=dialogue_context(folded.corpus, settings.context_turns, transcript_of))
    if beside.without_audio and not all(prompt.reads for prompt in asked.prompts):
        raise ConfigError(
            f"key 'data.without_audio': read, but prompt {asked.prompts[0].name} reads no transcript, so nothing would "
            "be left of such an utterance; set it to refuse"
        )
    if any(prompt.asks_for("descriptors") for prompt in asked.prompts):
        described = describe_corpus(folded, folded.folds.ids(fold, "train"), Path(settings.cache_dir))
        beside = replace(beside, descriptors=described.by_id)
        asked = replace(asked, terciles=described.digest)
    return replace(folded, beside=beside), asked


def take_shots(
    asked: Asked, data: RunData, settings: PromptSettings, family: Family, seed: int
) -> tuple[Asked, RunData]:
    """Draw the answered examples from train, and leave them out of it: nothing learns from its own answer.

    Raises:
        ConfigError: if the family takes one turn alone, or train has too few examples
    """
    if settings.shots == 0:
        return asked, data
    if settings.shots < 0:
        raise ConfigError(f"key 'prompt.shots': {settings.shots}; expected 0 or more")
    if family.one_turn is not None:
        raise ConfigError(f"key 'prompt.shots': {settings.shots}; {family.name} {family.one_turn}; set it to 0")
    if isinstance(data.train, AugmentedExamples):
        raise TypeError("draw shots before augmenting")
    chosen = choose_shots(data.train.truths(), asked.label_set.labels, settings.shots, seed=seed)
    shots = tuple(data.train[index] for index in chosen)
    left = data.train.select(sorted(set(range(len(data.train))) - set(chosen)))
    return replace(asked, shots=shots), replace(data, train=left)


def content_free(family: Family, labels: Sequence[str]) -> Example:
    """An example that says nothing: a second of silence, and N/A for all words.

    References:
        Zhao et al. 2021, Calibrate Before Use, ICML; Holtzman et al. 2021, Surface Form Competition, EMNLP.
    """
    silence = Waveform(np.zeros(family.sampling_rate, dtype=np.float32), family.sampling_rate)
    return Example("<content-free>", None, labels[0], "N/A", silence, descriptors="N/A")
