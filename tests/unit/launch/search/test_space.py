"""The space of a search: what a YAML may say, and what is refused in one line."""

import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.search.space import Range, Values, override_of, read_space


def test_lists_have_values_of_any_type_and_ranges_know_whole_numbers():
    space = read_space(
        {"a": [None, [1], {"b": 2}], "b": {"low": 8, "high": 64, "step": 8}, "c": {"low": 0, "high": 1.5}}
    )
    assert space["a"] == Values((None, [1], {"b": 2}))
    assert space["a"].ends == (None, [1], {"b": 2})
    assert space["b"] == Range(8, 64, step=8)
    assert (space["b"].is_whole, space["c"].is_whole) == (True, False)
    assert override_of("a", [None, True, "x"]) == 'a=[null, true, "x"]'


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1], r"\[1\]; expected two or more different values"),
        ([1, 1], r"\[1, 1\]; expected two or more different values"),
        (3, r"3; expected a list of values, or \{low: ..., high: ...\}"),
        ({"low": 1, "hihg": 2}, r"unknown 'hihg'; expected low, high, log, step; did you mean high"),
        ({"low": 1}, "high is None; expected a number"),
        ({"low": True, "high": 2}, "low is True; expected a number"),
        ({"low": 2, "high": 2}, "low is 2, high is 2; expected low < high"),
        ({"low": 0, "high": 2, "log": True}, "low is 0, high is 2; expected 0 < low < high"),
        ({"low": 1, "high": 2, "log": "yes"}, "log is 'yes'; expected true or false"),
        ({"low": 1, "high": 8, "log": True, "step": 2}, "step is 2; expected more than 0, and without log: true"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(value, says):
    with pytest.raises(ConfigError, match=f"^key 'space.train.x': .*{says}"):
        read_space({"train.x": value})
