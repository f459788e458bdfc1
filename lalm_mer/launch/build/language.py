"""Builder of audio-language recognizers."""

from __future__ import annotations

from typing import Any

from peft import PeftModel

from lalm_mer.core.config import recorded
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import GENERATION
from lalm_mer.core.settings import naming_keys
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.build.packing import refuse_packing
from lalm_mer.launch.build.prompts import open_prompts, open_target_prompts, take_shots
from lalm_mer.launch.config.alignment import AlignSettings
from lalm_mer.launch.config.sections import ModelSettings, ScoringSettings
from lalm_mer.launch.config.settings import FinetuneSettings, ZeroShotSettings
from lalm_mer.models.attention import FLASH, implementation_of
from lalm_mer.models.families import family_class
from lalm_mer.models.families.base import Family
from lalm_mer.protocols.folded_corpus import FoldedCorpus
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

__all__ = ["LanguageBuilder"]

_EXACT = 1e-4


class LanguageBuilder:
    """Makes the parts of a run of an audio-language model."""

    def prompts(self, settings: ZeroShotSettings | FinetuneSettings, label_set: LabelSet) -> PromptSetup:
        """The prompts, without answered examples.

        Raises:
            ConfigError: if settings and prompts do not fit
        """
        return open_prompts(settings, label_set)

    def target_prompts(self, settings: ZeroShotSettings | FinetuneSettings, folded: FoldedCorpus) -> PromptSetup:
        """The prompts about the targets of a task of several labels or of numbers.

        Raises:
            ConfigError: if settings, task and prompt do not fit
        """
        return open_target_prompts(settings, folded.task, folded.ranges)

    def load(self, settings: ModelSettings) -> Family:
        """Load the model.

        Raises:
            ConfigError: if it cannot be quantized, or a package that it needs is not installed
            ModelError: if there is no such model
        """
        with naming_keys("model"):
            family = family_class(settings.family).load(
                recorded(settings).id,  # peft writes it into adapter_config.json
                revision=settings.revision,
                dtype=settings.dtype,
                attn_implementation=settings.attn_implementation,
                quantization=settings.quantization,
            )
        family.full_window = settings.full_window
        return family

    def check(self, family: Family, settings: ZeroShotSettings | FinetuneSettings | AlignSettings) -> None:
        """Refuse what the model does not support.

        These are batches and packing if scores depend on the other utterances of a batch, checkpointing, and ways to be
        fast that would have no effect.

        Raises:
            ConfigError: naming the key
        """
        if not isinstance(settings, ZeroShotSettings) and settings.train.gradient_checkpointing:
            model: Any = family.model
            if not model.supports_gradient_checkpointing:
                raise ConfigError(
                    f"key 'train.gradient_checkpointing': {type(model).__name__} has none; set it to false"
                )
        _check_speed(settings)
        if isinstance(settings, ZeroShotSettings) and settings.answering.mode == GENERATION:
            refuse_packing(settings, "answers are generated in rows of their own")
        if family.batch_tolerance <= _EXACT:
            return
        if family.single_pass_reason is not None:
            why = f"{family.name} takes one utterance at a time"
        else:
            why = f"scores of {family.name} differ by up to {family.batch_tolerance:g} with the rest of the batch"
        refuse_packing(settings, why)
        section, sizes = (
            ("scoring", settings.scoring) if isinstance(settings, ZeroShotSettings) else ("train", settings.train)
        )
        for key in ("per_device_eval_batch_size", "per_device_train_batch_size"):
            size = getattr(sizes, key, 1)
            if size != 1:
                raise ConfigError(f"key '{section}.{key}': {size}; {why}: set it to 1")

    def with_shots(
        self, setup: PromptSetup, data: RunData, family: Family, settings: ZeroShotSettings | FinetuneSettings
    ) -> tuple[PromptSetup, RunData]:
        """The prompts with their answered examples, which are removed from train.

        Raises:
            ConfigError: if the family cannot use answered examples, or train has too few
        """
        setup, data = take_shots(setup, data, settings.prompt, family, settings.seed)
        if isinstance(settings, FinetuneSettings) and not len(data.train):
            raise ConfigError(
                f"key 'prompt.shots': {settings.prompt.shots} are all training examples; lower it, so that some remain"
            )
        return setup, data

    def recognizer(
        self,
        family: Family,
        setup: PromptSetup,
        settings: ZeroShotSettings | FinetuneSettings,
        adapted: PeftModel | None = None,
    ) -> LanguageRecognizer:
        """The recognizer of the model, or of the model with an adapter."""
        sizes: ScoringSettings = settings.train if isinstance(settings, FinetuneSettings) else settings.scoring
        with naming_keys("model"):
            return LanguageRecognizer(
                family, setup, adapted, packing=sizes.packing, torch_compile=settings.model.torch_compile
            )


def _check_speed(settings: ZeroShotSettings | FinetuneSettings | AlignSettings) -> None:
    model = settings.model
    sizes: ScoringSettings = settings.scoring if isinstance(settings, ZeroShotSettings) else settings.train
    uses_flash = implementation_of(model.attn_implementation, "language_model") == FLASH
    if uses_flash and model.dtype == "float32" and not (sizes.bf16 or sizes.fp16):
        raise ConfigError(
            f"key 'model.attn_implementation': {FLASH}; it computes in bfloat16 or float16, and model.dtype is "
            "float32; set model.dtype=bfloat16, or bf16=true"
        )
    if (
        isinstance(settings, ZeroShotSettings)
        and model.torch_compile
        and (settings.prompt.shots or settings.answering.mode == GENERATION)
    ):
        raise ConfigError(
            "key 'model.torch_compile': true; passes after stored keys and values, of generated answers and of "
            "answered examples, are not compiled; set it to false"
        )
