"""Audio-only processors of models that take images too: the published processors need torchvision."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin

__all__ = ["AudioOnlyProcessor", "opened_parts"]


class AudioOnlyProcessor(ProcessorMixin):  # type: ignore[misc]
    """A base class to put before that of a published processor, whose constructor needs torchvision for images.

    Args:
        feature_extractor: transformers' own
        tokenizer: with the audio token among its special tokens
        chat_template: as published
    """

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


def opened_parts(extractor_class: Any, source: str, revision: str | None, template: str) -> tuple[Any, Any, str]:  # noqa: ANN401 transformers' own
    """Feature extractor, tokenizer and chat template of a processor that cannot be opened completely.

    Args:
        extractor_class: of the feature extractor
        source: Hub id or folder
        revision: branch, tag or commit
        template: where none is published with the tokenizer
    """
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    extractor = extractor_class.from_pretrained(source, revision=revision)
    return extractor, tokenizer, getattr(tokenizer, "chat_template", None) or template
