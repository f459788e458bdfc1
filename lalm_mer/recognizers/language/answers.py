"""All answers to a prompt as one tree of tokens: answers that begin alike share tokens, and each token is run once.

The tree of ``sad``, ``unhappy`` and ``unsure``, with the stop token ``.`` of each, in brackets what is not run::

    prompt -- sad [.]
           -- un -- happy [.]
                 -- sure [.]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lalm_mer.core.labels import LabelSet

__all__ = ["AnswerTree", "answer_forms", "answer_tree"]


def answer_forms(label_set: LabelSet) -> list[tuple[int, str]]:
    """All surface forms with the index of their label; the first form of a label precedes its others."""
    return [(index, form) for index, label in enumerate(label_set.labels) for form in label_set.forms_of(label)]


@dataclass(frozen=True)
class AnswerTree:
    """N tokens that follow a prompt, depth first.

    Args:
        answers: token ids of each answer with its stop token
        tokens: token ids
        depths: number of ancestors of each token
        ends: index after the last descendant of each token
        sources: for each token of each answer, what predicts it: 0 for the prompt, n + 1 for token n
    """

    answers: Sequence[Sequence[int]]
    tokens: list[int]
    depths: list[int]
    ends: list[int]
    sources: list[list[int]]

    @property
    def source_count(self) -> int:
        """Number of hidden states that predict something: that of the prompt, and those of the first tokens."""
        return 1 + max(max(sources) for sources in self.sources)


def answer_tree(answers: Sequence[Sequence[int]], *, complete: bool = False) -> AnswerTree:
    """The tree of answers, given by token ids with the stop token.

    Args:
        answers: different answers
        complete: whether the last token, which predicts nothing, is contained too; for a single answer

    Example:
        >>> tree = answer_tree([[5, 0], [7, 8, 0], [7, 9, 0]])
        >>> tree.tokens, tree.depths, tree.ends
        ([5, 7, 8, 9], [0, 0, 1, 1], [1, 4, 3, 4])
        >>> tree.sources
        [[0, 1], [0, 2, 3], [0, 2, 4]]
    """
    tokens: list[int] = []
    depths: list[int] = []
    sources: list[list[int]] = [[] for _ in answers]
    path: list[int] = []  # indices of the tokens of the answer before
    for number in sorted(range(len(answers)), key=lambda number: list(answers[number])):
        answer = answers[number]
        contained = answer if complete else answer[:-1]
        shared = 0
        while shared < min(len(path), len(contained)) and tokens[path[shared]] == contained[shared]:
            shared += 1
        path = [*path[:shared], *range(len(tokens), len(tokens) + len(contained) - shared)]
        depths += range(shared, len(contained))
        tokens += contained[shared:]
        sources[number] = [0, *(index + 1 for index in path)][: len(answer)]
    count = len(tokens)
    ends = [
        next((later for later in range(index + 1, count) if depths[later] <= depths[index]), count)
        for index in range(count)
    ]
    return AnswerTree(answers, tokens, depths, ends, sources)
