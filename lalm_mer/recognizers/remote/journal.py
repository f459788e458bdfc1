"""The journal of a run: a line of JSON for each answered utterance, written as soon as its answer is there.

A process that is killed in the middle of a line leaves a line without its end, which the resumed run removes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path

from lalm_mer.core.appended_lines import AppendedLines
from lalm_mer.core.errors import PredictionError
from lalm_mer.core.strict_json import parse, parse_object
from lalm_mer.recognizers.remote.replies import Usage

__all__ = ["JOURNAL", "Answer", "Journal"]

JOURNAL = "answers.jsonl"
"""Name of the file in a run folder"""


@dataclass(frozen=True)
class Answer:
    """What the server gave for one utterance.

    Args:
        utterance_id: of the utterance
        model: name of the model, as the server reports it
        log_probs: label log-probabilities of each prompt, P x K; None if answers are generated, or no label is among
            the tokens that the server lists
        text: the generated answer; None if labels are scored
        usage: counts of all its requests
    """

    utterance_id: str
    model: str
    log_probs: tuple[tuple[float, ...], ...] | None
    text: str | None
    usage: Usage


class Journal:
    """The answers of a run so far.

    Args:
        path: the file, which may not exist yet
        prompts: P
        labels: K

    Raises:
        PredictionError: naming file and line, if a complete line is malformed, an utterance was answered twice, or two
            models have answered
    """

    def __init__(self, path: Path, *, prompts: int, labels: int) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {}
        self.model: str | None = None  # that has answered
        self._lines = AppendedLines(path)
        for number, line in enumerate(self._lines.lines, start=1):
            source = f"{path}: line {number}"
            answer = parse(Answer, parse_object(line, source), source)
            rows = answer.log_probs
            if answer.utterance_id in self.answers:
                raise PredictionError(f"{source}: utterance {answer.utterance_id} again; remove the file to start anew")
            if rows is not None and (len(rows) != prompts or any(len(row) != labels for row in rows)):
                raise PredictionError(
                    f"{source}: log_probs are not {prompts} x {labels}; remove the file to start anew"
                )
            if self.model not in (None, answer.model):
                raise PredictionError(f"{source}: model {answer.model!r}, before {self.model!r}; remove the file")
            self.answers[answer.utterance_id], self.model = answer, answer.model

    def add(self, answer: Answer) -> None:
        """Append an answer; it is on disk when this returns."""
        self._lines.append(dumps(asdict(answer), ensure_ascii=False, allow_nan=False).encode())
        self.answers[answer.utterance_id] = answer

    def usage(self) -> Usage:
        """Counts of all answers."""
        return sum((answer.usage for answer in self.answers.values()), Usage())
