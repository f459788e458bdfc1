"""Answers of a server, checked: whatever has another shape than the chat API's is an error of one line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lalm_mer.core.errors import PredictionError, shown
from lalm_mer.core.strict_json import parse

__all__ = ["Reply", "TokenLogProb", "Usage", "parse_reply", "prompt_tokens"]

_LONGEST_TEXT = 20_000  # characters of a generated answer
_LONGEST_NAME = 200
_MOST_LISTED = 1024
_CLAMPED = -9999.0  # vLLM's -inf
_ROUNDING = 1e-3  # by which a log-probability may be above 0
_ID = re.compile(r"\d{1,9}")


@dataclass(frozen=True)
class Usage:
    """Numbers that a server counted.

    Args:
        requests: of this library, repeats not included
        prompt_tokens: 0 from a server that counts none
        completion_tokens: the same
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True)
class TokenLogProb:
    """A token, as text, and its log-probability."""

    token: str
    logprob: float


@dataclass(frozen=True)
class Reply:
    """One answer.

    Args:
        model: name of the model, as the server reports it
        text: the generated answer; empty if it refused
        first: the most probable tokens at its first position; None if the server gives none
        usage: counts of this request
        prompt: the server's ``prompt_logprobs``, unchecked; None if it gives none
    """

    model: str
    text: str
    first: tuple[TokenLogProb, ...] | None
    usage: Usage
    prompt: Sequence[Any] | None


@dataclass(frozen=True)
class _Message:
    content: str | None = None


@dataclass(frozen=True)
class _Position:
    top_logprobs: tuple[TokenLogProb, ...] = ()


@dataclass(frozen=True)
class _LogProbs:
    content: tuple[_Position, ...] | None = None


@dataclass(frozen=True)
class _Choice:
    message: _Message
    logprobs: _LogProbs | None = None


@dataclass(frozen=True)
class _Counts:
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


@dataclass(frozen=True)
class _Completion:
    model: str
    choices: tuple[_Choice, ...]
    usage: _Counts | None = None


def parse_reply(content: Mapping[str, Any], source: str) -> Reply:
    """Check the answer to a chat request.

    Raises:
        PredictionError: naming ``source`` and the key
    """
    known = {key: content[key] for key in ("model", "choices", "usage") if key in content}
    completion = parse(_Completion, known, source, ignore_unknown=True)
    if len(completion.choices) != 1:
        raise PredictionError(f"{source}: {len(completion.choices)} choices; expected 1")
    if not 0 < len(completion.model) <= _LONGEST_NAME or not completion.model.isprintable():
        raise PredictionError(f"{source}: key 'model': {shown(completion.model)}; expected a name")
    choice = completion.choices[0]
    text = choice.message.content or ""
    if len(text) > _LONGEST_TEXT:
        raise PredictionError(f"{source}: an answer of {len(text):,} characters; expected {_LONGEST_TEXT:,} at most")
    counts = completion.usage or _Counts()
    numbers = counts.prompt_tokens, counts.completion_tokens or 0
    if min(numbers) < 0 or max(numbers) >= 2**40:
        raise PredictionError(f"{source}: key 'usage': {numbers}; expected numbers of tokens")
    prompt = content.get("prompt_logprobs")
    if prompt is not None and not isinstance(prompt, list):
        raise PredictionError(f"{source}: key 'prompt_logprobs': {shown(prompt)}; expected a list")
    return Reply(completion.model, text, _first(choice, source), Usage(1, *numbers), prompt)


def _first(choice: _Choice, source: str) -> tuple[TokenLogProb, ...] | None:
    positions = choice.logprobs.content if choice.logprobs is not None else None
    if not positions:
        return None
    listed = positions[0].top_logprobs
    if len(listed) > _MOST_LISTED:
        raise PredictionError(f"{source}: {len(listed):,} tokens at one position; expected {_MOST_LISTED:,} at most")
    for each in listed:
        _require_log_prob(each.logprob, source)
    return listed or None


def prompt_tokens(positions: Sequence[Any], source: str) -> list[tuple[int, float]]:
    """Id and log-probability of the token at each of some positions of a prompt.

    Raises:
        PredictionError: if a position does not have exactly its own token
    """
    tokens = []
    for position in positions:
        if not isinstance(position, dict) or len(position) != 1:
            raise PredictionError(
                f"{source}: prompt_logprobs has {shown(position)}; expected one token at each position"
            )
        ((name, value),) = position.items()
        log_prob = value.get("logprob") if isinstance(value, dict) else None
        if not _ID.fullmatch(name) or isinstance(log_prob, bool) or not isinstance(log_prob, int | float):
            raise PredictionError(f"{source}: prompt_logprobs has {shown(position)}; expected an id and its logprob")
        tokens.append((int(name), _require_log_prob(float(log_prob), source)))
    return tokens


def _require_log_prob(value: float, source: str) -> float:
    if not math.isfinite(value) or not _CLAMPED <= value <= _ROUNDING:
        raise PredictionError(f"{source}: a log-probability of {value}; expected {_CLAMPED:g} to 0")
    return value
