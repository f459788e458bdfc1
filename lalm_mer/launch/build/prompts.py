"""Builder of prompts: prompt files, label orders, answered examples, and the content of further slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.settings import naming_keys
from lalm_mer.examples.augmented_examples import AugmentedExamples
from lalm_mer.examples.dataset import ExampleSource
from lalm_mer.examples.descriptors import describe_corpus
from lalm_mer.examples.shots import choose_shots
from lalm_mer.launch.build.data import RunData, with_context
from lalm_mer.launch.config.sections import AnsweringSettings, PromptSettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.parsing import load_synonyms
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.recognizers.base import Setup
from lalm_mer.recognizers.language.prompt_setup import PromptSetup, label_rotations, target_setup

__all__ = ["open_prompts", "open_target_prompts", "read_synonyms", "source_for_prompts", "take_shots"]


def open_prompts(settings: ZeroShotSettings | FinetuneSettings, label_set: LabelSet) -> PromptSetup:
    """Read the prompt files and compare them with the settings.

    Raises:
        ConfigError: if settings and prompts do not fit, or several prompts are set for training
    """
    chosen = settings.prompt
    prompts = tuple(load_prompt(Path(file)) for file in (chosen.file, *chosen.also))
    first = prompts[0]
    sets = [prompt.label_set(label_set) for prompt in prompts]
    for file, prompt, forms in zip(chosen.also, prompts[1:], sets[1:], strict=True):
        if prompt.modalities != first.modalities or forms != sets[0]:
            raise ConfigError(
                f"key 'prompt.also': {file} uses {prompt.modalities}, or has other answers than {chosen.file} "
                f"({first.modalities}); only prompts of the same modalities and answers are averaged"
            )
    if chosen.label_orders > len(label_set):
        raise ConfigError(f"key 'prompt.label_orders': {chosen.label_orders}; expected 1 to {len(label_set)}")
    if isinstance(settings, FinetuneSettings) and (
        chosen.also or chosen.label_orders > 1 or chosen.label_score == "pmi"
    ):
        raise ConfigError(
            "section 'prompt': also, label_orders and label_score=pmi are ways of scoring, but finetune.py trains with "
            "one prompt; score its adapter with zero_shot.py model.adapter=..."
        )
    if chosen.label_orders > 1 and not all(prompt.has_slot("labels") for prompt in prompts):
        raise ConfigError(
            f"key 'prompt.label_orders': {chosen.label_orders}, but a prompt lists no labels; it needs {{{{ labels }}}}"
        )
    uses_context = any(prompt.has_slot("context") for prompt in prompts)
    if uses_context != (chosen.context_turns > 0):
        raise ConfigError(
            f"key 'prompt.context_turns': {chosen.context_turns}, and the prompt has "
            f"{'a' if uses_context else 'no'} slot {{{{ context }}}}; each needs the other"
        )
    if settings.data.without_audio == "read" and not all(prompt.uses_transcript for prompt in prompts):
        raise ConfigError(
            f"key 'data.without_audio': read, but prompt {first.name} uses no transcript, so an utterance without "
            "audio has no input; set it to refuse"
        )
    orders = label_rotations(label_set.labels, chosen.label_orders)
    return PromptSetup(prompts, sets[0], orders, label_score=chosen.label_score)


def open_target_prompts(
    settings: ZeroShotSettings | FinetuneSettings, task: Task, ranges: Sequence[tuple[float, float]]
) -> PromptSetup:
    """Read the prompt about one target of a task of several labels or of numbers.

    Raises:
        ConfigError: if settings, prompt and task do not fit
    """
    chosen = settings.prompt
    default = PromptSettings()
    for key in ("also", "label_orders", "label_score", "shots", "context_turns"):
        if getattr(chosen, key) != getattr(default, key):
            raise ConfigError(
                f"key 'prompt.{key}': {getattr(chosen, key)}; only for a task of one label an utterance, and "
                f"{task.name} is {task.kind}; leave it out"
            )
    prompt = load_prompt(Path(chosen.file))
    if prompt.has_slot("context") or (settings.data.without_audio == "read" and not prompt.uses_transcript):
        raise ConfigError(f"key 'prompt.file': {chosen.file} has no input for every utterance; choose another prompt")
    return target_setup(prompt, task, ranges)


def source_for_prompts(
    source: ExampleSource, setup: Setup, settings: PromptSettings, fold: int
) -> tuple[ExampleSource, dict[str, str | None]]:
    """Add preceding turns and descriptors of voices to the source, if the prompts have slots for them.

    Returns:
        the source, and hashes of what was measured, for run.json

    Raises:
        ConfigError: if the corpus has no dialogues
    """
    digests: dict[str, str | None] = {}
    source = with_context(source, settings.context_turns, "prompt")
    if setup.uses("descriptors"):
        described = describe_corpus(source, source.folded.folds.ids(fold, "train"), Path(settings.cache_dir))
        source = replace(source, descriptors=described.by_id)
        digests["terciles"] = described.terciles.digest
    return source, digests


def read_synonyms(settings: AnsweringSettings) -> dict[str, tuple[str, ...]]:
    """Read the synonyms of surface forms for generated answers.

    Raises:
        ConfigError: if the file cannot be read
    """
    return {} if settings.synonyms is None else load_synonyms(Path(settings.synonyms))


def take_shots(
    setup: PromptSetup, data: RunData, settings: PromptSettings, family: Family, seed: int
) -> tuple[PromptSetup, RunData]:
    """Draw the answered examples from train and remove them from it, so that none is trained with its own answer.

    Raises:
        ConfigError: if the family supports a single turn only, or train has too few examples
    """
    if settings.shots == 0:
        return setup, data
    if family.single_turn_reason is not None:
        raise ConfigError(
            f"key 'prompt.shots': {settings.shots}; {family.name}: {family.single_turn_reason}; set it to 0"
        )
    if isinstance(data.train, AugmentedExamples):
        raise TypeError("draw shots before augmenting")
    with naming_keys("prompt", count="shots"):
        chosen = choose_shots(data.train.truths(), setup.label_set.labels, settings.shots, seed=seed)
    shots = tuple(data.train[index] for index in chosen)
    rest = data.train.select(sorted(set(range(len(data.train))) - set(chosen)))
    return replace(setup, shots=shots), replace(data, train=rest)
