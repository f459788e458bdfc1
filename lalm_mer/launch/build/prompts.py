"""Builder of prompts: their files, label orders, answered examples, and what the examples need for their slots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.settings import naming_keys
from lalm_mer.examples.augmented_examples import AugmentedExamples
from lalm_mer.examples.context import dialogue_context
from lalm_mer.examples.dataset import ExampleSource
from lalm_mer.examples.descriptors import describe_corpus
from lalm_mer.examples.shots import choose_shots
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.config.settings import AnsweringSettings, FinetuneSettings, PromptSettings, ZeroShotSettings
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.parsing import load_synonyms
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.recognizers.base import Setup
from lalm_mer.recognizers.language.prompt_setup import PromptSetup, label_rotations

__all__ = ["open_prompts", "read_synonyms", "source_for_prompts", "take_shots"]


def open_prompts(settings: ZeroShotSettings | FinetuneSettings, label_set: LabelSet) -> PromptSetup:
    """Read the prompt files and check them against the settings.

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
    if wanted.label_orders > len(label_set):
        raise ConfigError(f"key 'prompt.label_orders': {wanted.label_orders}; expected 1 to {len(label_set)}")
    if isinstance(settings, FinetuneSettings) and (
        wanted.also or wanted.label_orders > 1 or wanted.label_score == "pmi"
    ):
        raise ConfigError(
            "section 'prompt': also, label_orders and label_score=pmi are ways of scoring; finetune.py learns one "
            "prompt: score its adapter with zero_shot.py model.adapter=..."
        )
    listed = [prompt.has_slot("labels") for prompt in prompts]
    if wanted.label_orders > 1 and not all(listed):
        raise ConfigError(
            f"key 'prompt.label_orders': {wanted.label_orders}, but a prompt lists no labels; it needs {{{{ labels }}}}"
        )
    uses_context = any(prompt.has_slot("context") for prompt in prompts)
    if uses_context != (wanted.context_turns > 0):
        raise ConfigError(
            f"key 'prompt.context_turns': {wanted.context_turns}, and the prompt has "
            f"{'a' if uses_context else 'no'} slot {{{{ context }}}}; the one needs the other"
        )
    if settings.data.without_audio == "read" and not all(prompt.uses_transcript for prompt in prompts):
        raise ConfigError(
            f"key 'data.without_audio': read, but prompt {first.name} uses no transcript, so nothing would be left of "
            "such an utterance; set it to refuse"
        )
    orders = label_rotations(label_set.labels, wanted.label_orders)
    return PromptSetup(prompts, sets[0], orders, label_score=wanted.label_score)


def source_for_prompts(
    source: ExampleSource, setup: Setup, settings: PromptSettings, fold: int
) -> tuple[ExampleSource, dict[str, str | None]]:
    """The source with what the slots of the prompts need: preceding turns, descriptors of voices.

    Returns:
        the source, and hashes of what was measured for it, for run.json

    Raises:
        ConfigError: if the corpus does not have it
    """
    digests: dict[str, str | None] = {}
    if settings.context_turns:
        table = source.transcripts
        transcript_of = None if table is None else lambda name, _: table.by_id.get(name)
        with naming_keys("prompt", turns="context_turns"):
            context = dialogue_context(source.folded.corpus, settings.context_turns, transcript_of)
        source = replace(source, context=context)
    if setup.uses("descriptors"):
        described = describe_corpus(source, source.folded.folds.ids(fold, "train"), Path(settings.cache_dir))
        source = replace(source, descriptors=described.by_id)
        digests["terciles"] = described.digest
    return source, digests


def read_synonyms(settings: AnsweringSettings) -> dict[str, tuple[str, ...]]:
    """Other words by which a generated answer may name a surface form.

    Raises:
        ConfigError: if the file cannot be read
    """
    return {} if settings.synonyms is None else load_synonyms(Path(settings.synonyms))


def take_shots(
    setup: PromptSetup, data: RunData, settings: PromptSettings, family: Family, seed: int
) -> tuple[PromptSetup, RunData]:
    """Draw the answered examples from train, and remove them from it: nothing learns from its own answer.

    Raises:
        ConfigError: if the family takes one turn alone, or train has too few examples
    """
    if settings.shots == 0:
        return setup, data
    if family.single_turn_reason is not None:
        raise ConfigError(
            f"key 'prompt.shots': {settings.shots}; {family.name} {family.single_turn_reason}; set it to 0"
        )
    if isinstance(data.train, AugmentedExamples):
        raise TypeError("draw shots before augmenting")
    with naming_keys("prompt", count="shots"):
        chosen = choose_shots(data.train.truths(), setup.label_set.labels, settings.shots, seed=seed)
    shots = tuple(data.train[index] for index in chosen)
    left = data.train.select(sorted(set(range(len(data.train))) - set(chosen)))
    return replace(setup, shots=shots), replace(data, train=left)
