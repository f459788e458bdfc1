"""A served model with its prompts: each input becomes label log-probabilities, or a generated answer, over the network.

It has no weights here and so is no ``nn.Module``: several threads send requests, and the server makes the batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import LalmMerError, ModelError
from lalm_mer.core.names import PROMPT_LOGPROBS
from lalm_mer.core.schema import Input
from lalm_mer.models.remote import Remote
from lalm_mer.prompting.conversation import Conversation
from lalm_mer.recognizers.base import Scores
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.remote.journal import Answer
from lalm_mer.recognizers.remote.label_scores import FirstTokenScorer, LabelScorer, Messages, PromptScorer, send
from lalm_mer.recognizers.remote.messages import messages_of, without_names
from lalm_mer.recognizers.remote.replies import Reply, Usage
from lalm_mer.recognizers.scoring import averaged_scores

__all__ = ["RemoteRecognizer"]


class RemoteRecognizer:
    """A served model and its prompts.

    Args:
        remote: the model
        setup: its prompts and the score of an answer
        label_scores: one of ``SERVED_SCORES``
        audio_part: kind of message part for audio
        max_new_tokens: longest generated answer; None to score labels

    Raises:
        ConfigError: if labels cannot be scored by their first token
    """

    def __init__(
        self,
        remote: Remote,
        setup: PromptSetup,
        *,
        label_scores: str = PROMPT_LOGPROBS,
        audio_part: str = "input_audio",
        max_new_tokens: int | None = None,
    ) -> None:
        self.client, self.setup, self.label_set, self.modalities = (
            remote.client,
            setup,
            setup.label_set,
            setup.modalities,
        )
        self.content_free = setup.content_free(remote.sampling_rate)
        self.prompts = setup.variants
        self._rate, self._audio_part, self._max_new_tokens = remote.sampling_rate, audio_part, max_new_tokens
        self._scorer: LabelScorer | None = None
        if max_new_tokens is None and label_scores == PROMPT_LOGPROBS:
            self._scorer = PromptScorer(setup.label_set, by_mean=setup.label_score == "mean")
        elif max_new_tokens is None:
            self._scorer = FirstTokenScorer(setup.label_set)

    def prepare(self, expected: str | None = None) -> str:
        """Send a second of silence with the prompt; the model's name as the server reports it.

        Args:
            expected: that name in earlier answers; None if there are none

        Raises:
            ConfigError: if the server does not support the way of scoring
            ModelError: if it cannot be reached, or reports another model
        """
        self.client.reported = expected
        silence = Waveform(np.zeros(self._rate, dtype=np.float32), self._rate)
        given = Input("<content-free>", "N/A", silence, descriptors="N/A")
        prompt, order = self.prompts[0]
        messages = self._messages(prompt.conversation(given, self.label_set, order=order))
        if self._scorer is None:
            return self._generate(messages(None)).model
        return self._scorer.prepare(self.client, messages).model

    def answer(self, given: Input) -> Answer:
        """Answer of the server to one input, by all prompts.

        Raises:
            ModelError: naming the utterance, if the server cannot be reached or refuses it
        """
        try:
            return self._answer(without_names(given))
        except LalmMerError as error:
            error.args = (f"utterance {given.utterance_id}: {error}", *error.args[1:])
            raise

    def _answer(self, given: Input) -> Answer:
        rows: list[tuple[float, ...] | None] = []
        text, usage = None, Usage()
        for prompt, order in self.prompts:
            conversation = prompt.conversation(given, self.label_set, shots=self.setup.shots, order=order)
            messages = self._messages(conversation)
            if self._scorer is None:
                reply = self._generate(messages(None))
                text, usage = reply.text, usage + reply.usage
            else:
                scored = self._scorer.score(self.client, messages)
                rows.append(scored.log_probs)
                usage += scored.usage
        complete = tuple(row for row in rows if row is not None)
        log_probs = complete if rows and len(complete) == len(rows) else None
        return Answer(given.utterance_id, str(self.client.reported), log_probs, text, usage)

    def _messages(self, conversation: Conversation) -> Messages:
        messages = messages_of(conversation, self._audio_part)

        def with_answer(answer: str | None) -> list[dict[str, Any]]:
            return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]

        return with_answer

    def _generate(self, messages: list[dict[str, Any]]) -> Reply:
        return send(self.client, messages, max_tokens=self._max_new_tokens)

    def answers(self, inputs: Iterable[Input], *, concurrency: int) -> Iterator[Answer]:
        """Answers in the order in which they arrive; inputs are read when there is room for their requests.

        After an error no further input is sent; the answers to those under way are still yielded, then it is raised.

        Args:
            inputs: to be sent
            concurrency: largest number of inputs under way

        Raises:
            LalmMerError: the first error of an input
        """
        remaining, under_way = iter(inputs), 0
        tasks: SimpleQueue[Input | None] = SimpleQueue()
        arrived: SimpleQueue[Answer | BaseException] = SimpleQueue()

        def work() -> None:
            while (given := tasks.get()) is not None:
                try:
                    arrived.put(self.answer(given))
                except BaseException as error:  # raised again below
                    arrived.put(error)

        for number in range(concurrency):  # daemons: an interrupted program does not wait for their requests
            Thread(target=work, name=f"request-{number}", daemon=True).start()
        failure: LalmMerError | None = None
        try:
            while True:
                while failure is None and under_way < concurrency:
                    try:
                        given = next(remaining)
                    except StopIteration:
                        break
                    except LalmMerError as error:  # audio that cannot be decoded
                        failure = error
                        break
                    tasks.put(given)
                    under_way += 1
                if not under_way:
                    break
                found = arrived.get()
                under_way -= 1
                if isinstance(found, Answer):
                    yield found
                elif isinstance(found, LalmMerError):
                    failure = failure or found
                else:
                    raise found
        finally:
            for _ in range(concurrency):
                tasks.put(None)
        if failure is not None:
            raise failure

    def average(self, answers: Sequence[Answer], content_free: Answer | None) -> Scores:
        """Scores of N answers, averaged over the prompts; NaN where no label is listed.

        Args:
            answers: of scored labels
            content_free: that to the input without content, for PMI

        Raises:
            ModelError: if the input without content has no scores
        """
        missing = ((np.nan,) * len(self.label_set),) * len(self.prompts)
        values = np.array([answer.log_probs or missing for answer in answers], dtype=np.float64)
        values = values.reshape(len(answers), len(self.prompts), len(self.label_set))
        empty = None
        if content_free is not None:
            if content_free.log_probs is None:
                raise ModelError("the server lists no label for the input without content; set prompt.label_score=sum")
            empty = list(np.array(content_free.log_probs)[:, None])
        return averaged_scores(self, list(values.transpose(1, 0, 2)), empty)
