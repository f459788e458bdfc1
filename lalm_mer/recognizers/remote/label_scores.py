"""Label log-probabilities by a server, in two ways.

``prompt_logprobs`` is exact: the score of an answer is the sum of the log-probabilities of its tokens and of the stop
token, as in ``recognizers.language``. For each answer the conversation is sent with the answer as its last message, and
the server gives the log-probability of every token of that prompt (``prompt_logprobs`` of vLLM). Which of them are the
answer's is found once, without an utterance::

    A, with generation prompt      ... assistant
    B, with the answer             ... assistant  happy  <stop>  newline
    C, with the answer, left open  ... assistant  happy
                                                  ^^^^^^^^^^^^^ scored: from the end of A to the token after C

``first_token`` sends one request, and the score of a label is the log-probability of the first token of its answer,
among the most probable tokens that the server lists (``top_logprobs``). A listed token counts for a label if it begins
one of the label's forms and no form of another label; a label without one has the log-probability of the last listed
token. It is not the exact score, and a run is refused if tokens that begin forms of several labels have more than a
hundredth of the probability: then the first token does not decide between the labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.models.chat_client import ChatClient
from lalm_mer.recognizers.language.answers import answer_forms
from lalm_mer.recognizers.language.recognizer import label_log_probs
from lalm_mer.recognizers.remote.replies import Reply, TokenLogProb, Usage, parse_reply, prompt_tokens

__all__ = ["LISTED", "FirstTokenScorer", "LabelScorer", "Messages", "PromptScorer", "Scored", "send"]

LISTED = 20
"""Number of tokens that are requested at a position, the largest that OpenAI and vLLM allow by default"""
_SHARED = 0.01
_OTHERWISE = "set remote.label_scores=first_token, or answering.mode=generation"

Messages = Callable[[str | None], list[dict[str, Any]]]
"""Makes the messages of an input: with an answer at the end, or None"""


@dataclass(frozen=True)
class Scored:
    """Label log-probabilities (K,) of one prompt of one utterance; None if no label is listed."""

    log_probs: tuple[float, ...] | None
    usage: Usage


class LabelScorer(Protocol):
    """A way of scoring labels."""

    def prepare(self, client: ChatClient, messages: Messages) -> Reply:
        """Find out with an input without content whether the server supports it.

        Raises:
            ConfigError: if it does not, with what to set instead
        """

    def score(self, client: ChatClient, messages: Messages) -> Scored:
        """Score the labels of one input."""


def send(client: ChatClient, messages: list[dict[str, Any]], **options: Any) -> Reply:  # noqa: ANN401 JSON
    """Send a request and check its answer.

    Raises:
        ModelError: if the server cannot be reached, refuses, or answers by another model than before
        PredictionError: if the answer is malformed
    """
    reply = parse_reply(client.chat(messages, **options), f"answer of {client.address.host}")
    if client.reported not in (None, reply.model):
        raise ModelError(
            f"answer of {client.address.host}: by model {reply.model!r}, before by {client.reported!r}; serve the same"
        )
    client.reported = reply.model
    return reply


class PromptScorer:
    """Exact scores by ``prompt_logprobs``.

    Args:
        label_set: the K labels with their surface forms
        by_mean: whether the score is the mean over an answer's tokens instead of their sum
    """

    def __init__(self, label_set: LabelSet, *, by_mean: bool) -> None:
        forms = answer_forms(label_set)
        self._forms = [form for _, form in forms]
        self._label_of_answer = torch.tensor([label for label, _ in forms])
        self._by_mean = by_mean
        self._answers: list[list[int]] = []  # token ids, with the stop token
        self._tails: list[list[int]] = []  # the same, with what the template writes after it

    def prepare(self, client: ChatClient, messages: Messages) -> Reply:
        """Find the tokens of every answer."""
        first = self._send(client, messages(None), add_generation_prompt=True)
        if first.prompt is None:
            raise ConfigError(
                f"key 'remote.label_scores': prompt_logprobs, but {client.address.host} gives none in its chat API; "
                f"{_OTHERWISE}"
            )
        prompt = _ids(first, client)
        opened = self._send(client, messages(self._forms[0]), add_generation_prompt=False, continue_final_message=True)
        length = len(_ids(opened, client))
        self._answers, self._tails = [], []
        stop = None
        for form in self._forms:
            ids = _ids(self._send(client, messages(form), add_generation_prompt=False), client)
            tail = ids[len(prompt) :]
            if stop is None and len(prompt) < length < len(ids) and ids[:length] == _ids(opened, client):
                stop = ids[length]
            if ids[: len(prompt)] != prompt or stop not in tail[1:]:
                raise ConfigError(
                    f"key 'remote.label_scores': prompt_logprobs, but the chat template of {client.model} does not "
                    f"render an answer such as {form!r} as its generation prompt, the answer and a stop token; "
                    f"{_OTHERWISE}"
                )
            self._answers.append(tail[: tail.index(stop) + 1])
            self._tails.append(tail)
        if len({tuple(ids) for ids in self._answers}) < len(self._answers):
            raise ConfigError(
                f"two of the answers {self._forms} have the same tokens on the server; change one of them"
            )
        return first

    def score(self, client: ChatClient, messages: Messages) -> Scored:
        """Score the labels of one input by one request for each answer."""
        scores, usage = [], Usage()
        for form, answer, tail in zip(self._forms, self._answers, self._tails, strict=True):
            reply = self._send(client, messages(form), add_generation_prompt=False)
            usage += reply.usage
            source = f"answer of {client.address.host}"
            found = prompt_tokens((reply.prompt or [])[-len(tail) :], source)
            if [token for token, _ in found] != tail:
                raise ModelError(
                    f"{source}: the prompt does not end with the tokens of {form!r} as it did at the start of the run; "
                    "was the model or its chat template exchanged?"
                )
            log_probs = [log_prob for _, log_prob in found[: len(answer)]]
            scores.append(math.fsum(log_probs) / (len(log_probs) if self._by_mean else 1))
        values = label_log_probs(torch.tensor([scores], dtype=torch.float64), self._label_of_answer)
        return Scored(tuple(values[0].tolist()), usage)

    @staticmethod
    def _send(client: ChatClient, messages: list[dict[str, Any]], **options: bool) -> Reply:
        return send(client, messages, max_tokens=1, prompt_logprobs=0, **options)


class FirstTokenScorer:
    """Scores by the first token of the answers, by ``top_logprobs``.

    Args:
        label_set: the K labels with their surface forms

    Raises:
        ConfigError: if a form of one label begins with a form of another
    """

    def __init__(self, label_set: LabelSet) -> None:
        self._labels = label_set.labels
        self._forms = [(label, form.strip()) for label, form in answer_forms(label_set)]
        for label, form in self._forms:
            for other, begun in self._forms:
                if label != other and begun.startswith(form):
                    raise ConfigError(
                        f"key 'remote.label_scores': first_token, but the answer {begun!r} begins with {form!r} of "
                        "another label; set answering.mode=generation"
                    )

    def prepare(self, client: ChatClient, messages: Messages) -> Reply:
        """Check that the server lists tokens."""
        reply = self._send(client, messages)
        if reply.first is None:
            raise ConfigError(
                f"key 'remote.label_scores': first_token, but {client.address.host} gives no top_logprobs; set "
                "answering.mode=generation"
            )
        return reply

    def score(self, client: ChatClient, messages: Messages) -> Scored:
        """Score the labels of one input by one request."""
        reply = self._send(client, messages)
        if reply.first is None:
            raise ModelError(f"answer of {client.address.host}: no top_logprobs, which it gave at the start of the run")
        return Scored(self._log_probs(reply.first), reply.usage)

    def _log_probs(self, listed: Sequence[TokenLogProb]) -> tuple[float, ...] | None:
        mass = np.zeros(len(self._labels))
        shared: dict[str, float] = {}
        for each in listed:
            token = each.token.strip()
            begun = {label for label, form in self._forms if token and form.startswith(token)}
            if len(begun) == 1:
                mass[begun.pop()] += math.exp(each.logprob)
            elif begun:
                shared[token] = shared.get(token, 0.0) + math.exp(each.logprob)
        if not mass.any() and not shared:
            return None
        if sum(shared.values()) > _SHARED * (mass.sum() + sum(shared.values())):
            token = max(shared, key=shared.__getitem__)
            labels = [self._labels[label] for label, form in self._forms if form.startswith(token)]
            raise ConfigError(
                f"key 'remote.label_scores': first_token, but answers of {', '.join(labels)} begin with the same token "
                f"{token!r}; set answering.mode=generation"
            )
        lowest = math.exp(min(each.logprob for each in listed))
        values = np.log(np.where(mass > 0, mass, lowest))
        return tuple((values - np.logaddexp.reduce(values)).tolist())

    @staticmethod
    def _send(client: ChatClient, messages: Messages) -> Reply:
        return send(client, messages(None), max_tokens=1, logprobs=True, top_logprobs=LISTED)


def _ids(reply: Reply, client: ChatClient) -> list[int]:
    """Token ids of a prompt; its first position has no log-probability, and no token."""
    return [token for token, _ in prompt_tokens((reply.prompt or [])[1:], f"answer of {client.address.host}")]
