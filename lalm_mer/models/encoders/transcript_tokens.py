"""Token ids of transcripts, as plain text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.schema import Input

__all__ = ["TOKENIZER_FILES", "TranscriptTokenizer", "transcript_of"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
"""Files that ``TranscriptTokenizer.save`` writes"""

_MOST_KNOWN = 100_000
"""Transcripts whose ids are kept"""


def transcript_of(given: Input) -> str:
    """The transcript of an input.

    Raises:
        CorpusError: naming the utterance, if it has none
    """
    if given.transcript is None:
        raise CorpusError(
            f"utterance {given.utterance_id}: no transcript, which modality 'transcript' needs; add transcripts to "
            "the corpus or choose modalities: audio"
        )
    return given.transcript


class TranscriptTokenizer:
    """Token ids of a transcript; "[SEP]" in a transcript does not become a special token.

    Args:
        tokenizer: a fast tokenizer
        max_tokens: largest number of tokens that the model takes, special ones included
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:  # noqa: ANN401 transformers is untyped here
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._known: dict[str, list[int]] = {}  # a transcript is read once in every epoch

    def settings(self) -> dict[str, Any]:
        """What a saved model records of it: nothing, since all is in the files of ``save``."""
        return {}

    def ids(self, given: Input) -> list[int]:
        """T token ids, with the special tokens at both ends.

        Raises:
            CorpusError: naming the utterance, if it has no transcript, or one that is too long
        """
        transcript = transcript_of(given)
        if transcript not in self._known:
            if len(self._known) == _MOST_KNOWN:
                self._known.clear()
            self._known[transcript] = self.tokenizer(transcript, split_special_tokens=True).input_ids
        ids = self._known[transcript]
        if len(ids) > self.max_tokens:
            raise CorpusError(
                f"utterance {given.utterance_id}: its transcript has {len(ids)} tokens, the model takes "
                f"{self.max_tokens}; cut the utterance into shorter ones"
            )
        return ids

    def save(self, folder: Path) -> None:
        """Write the tokenizer to a folder."""
        # the padding of the last call would be saved too
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.save_pretrained(str(folder))
