"""Words as plain characters, where a tokenizer has added tokens that it does not call special."""

from __future__ import annotations

import re
from typing import Any

from lalm_mer.core.errors import ModelError

__all__ = ["plain_word_ids"]


def plain_word_ids(tokenizer: Any, words: str, name: str) -> list[int]:  # noqa: ANN401 transformers' own
    """Token ids of words, none of which is an added token.

    ``split_special_tokens`` does not split tokens such as ``<asr_text>`` or ``<tool_call>``, which are added to the
    vocabulary but not marked as special. Text is therefore split inside each of them, and their ids are concatenated.

    Args:
        tokenizer: a byte-level one, so that the concatenated ids of parts are the ids of the complete text
        words: any string
        name: of the family, for the error

    Raises:
        ModelError: if an added token remains all the same
    """
    added = tokenizer.added_tokens_decoder
    spelled = [re.escape(token.content) for token in added.values() if not token.special and len(token.content) > 1]
    cuts = [match.start() + 1 for match in re.finditer(f"(?={'|'.join(spelled)})", words)] if spelled else []
    ids: list[int] = []
    for start, end in zip([0, *cuts], [*cuts, len(words)], strict=True):
        ids += tokenizer(words[start:end], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if not set(added).isdisjoint(ids):
        raise ModelError(f"{name}: its tokenizer reads added tokens in plain words: {words[:60]!r}")
    return ids
