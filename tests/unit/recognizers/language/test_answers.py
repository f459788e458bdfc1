"""Answers as a tree of tokens."""

import random

import pytest

from lalm_mer.recognizers.language.answers import answer_tree


def drawn_answers(seed):
    draw = random.Random(seed)
    return sorted({(*draw.choices((7, 8, 9), k=draw.randint(1, 4)), 0) for _ in range(draw.randint(1, 12))}, key=str)


@pytest.mark.parametrize("seed", range(20))
def test_each_answer_is_a_path_and_each_beginning_is_contained_once(seed):
    answers = drawn_answers(seed)
    tree = answer_tree(answers)
    beginnings = set()
    for answer, sources in zip(answers, tree.sources, strict=True):
        assert len(sources) == len(answer)
        path = [source - 1 for source in sources[1:]]
        assert [tree.tokens[index] for index in path] == list(answer[:-1])
        assert [tree.depths[index] for index in path] == list(range(len(path)))
        # a token is attended to by those from it up to ``ends``: of the path all before, and nothing else
        assert [index for index in range(max(path) + 1) if index <= path[-1] < tree.ends[index]] == path
        beginnings |= {answer[: length + 1] for length in range(len(answer) - 1)}
    assert len(tree.tokens) == len(beginnings)
    assert tree.source_count == 1 + len(beginnings)


def test_an_answer_may_begin_with_another():
    tree = answer_tree([[5, 6, 0], [5, 0]])
    assert tree.tokens == [5, 6]
    assert tree.sources == [[0, 1, 2], [0, 1]]


def test_a_complete_answer_contains_its_stop_token():
    tree = answer_tree([[5, 6, 0]], complete=True)
    assert (tree.tokens, tree.depths, tree.ends) == ([5, 6, 0], [0, 1, 2], [3, 3, 3])
    assert (tree.sources, tree.source_count) == ([[0, 1, 2]], 3)
