"""Audio-only processors of models that also take images: the published processors need torchvision."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin

from lalm_mer.models.families.base import Family
from lalm_mer.models.families.parts.templates import load_template
from lalm_mer.models.loading import from_pretrained

__all__ = ["AudioOnlyProcessor", "open_processor_parts"]


class AudioOnlyProcessor(ProcessorMixin):  # type: ignore[misc]
    """First base class of a processor; the second is the published one, whose constructor needs torchvision."""

    audio_token: str
    image_token = video_token = None

    def __init__(
        self,
        feature_extractor: Any = None,  # noqa: ANN401 transformers builds it by name
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        ProcessorMixin.__init__(self, feature_extractor, tokenizer, chat_template=chat_template)
        self.audio_token_id = self.tokenizer.convert_tokens_to_ids(self.audio_token)


def open_processor_parts(
    family: type[Family], extractor_class: type[Any], source: str, revision: str | None
) -> tuple[Any, Any, str]:
    """Feature extractor, tokenizer and chat template, for a processor that needs torchvision or another template.

    The chat template is the family's if none is published with the tokenizer.
    """
    tokenizer = from_pretrained(AutoTokenizer, source, revision)
    extractor = from_pretrained(extractor_class, source, revision)
    return extractor, tokenizer, getattr(tokenizer, "chat_template", None) or load_template(family.name)
