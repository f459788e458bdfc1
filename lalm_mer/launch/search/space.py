"""The space of a search: for each key of a config, values or a range of numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.suggestions import did_you_mean

__all__ = ["Range", "Space", "Values", "override_of", "read_space"]

_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Values:
    """The values of a key, of any type that YAML has.

    Args:
        values: two or more
    """

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """What a config must accept."""
        return self.values


@dataclass(frozen=True)
class Range:
    """Numbers between two; whole ones if both ends are.

    Args:
        low: smallest
        high: largest
        log: whether their logarithm is searched
        step: distance of neighbours; None for any number, of whole ones for each
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def ends(self) -> tuple[Any, ...]:
        """What a config must accept."""
        return self.low, self.high

    @property
    def is_whole(self) -> bool:
        """Whether all numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)


Space: TypeAlias = dict[str, Values | Range]


def read_space(content: Mapping[str, Any]) -> Space:
    """The space of a YAML.

    Raises:
        ConfigError: naming the key, if it has neither a list nor a range

    Example:
        >>> read_space({"train.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}})
        {'train.learning_rate': Range(low=1e-05, high=0.001, log=True, step=None)}
        >>> read_space({"baseline.head.dropout": [0.1, 0.3]})
        {'baseline.head.dropout': Values(values=(0.1, 0.3))}
    """
    return {key: _read(f"key 'space.{key}'", value) for key, value in content.items()}


def _read(where: str, value: Any) -> Values | Range:  # noqa: ANN401 of YAML
    if isinstance(value, list):
        texts = {json.dumps(each, sort_keys=True) for each in value}
        if len(value) < 2 or len(texts) < len(value):
            raise ConfigError(f"{where}: {value}; expected two or more different values")
        return Values(tuple(value))
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {value!r}; expected a list of values, or {{low: ..., high: ...}}")
    for name in value:
        if name not in _KEYS:
            raise ConfigError(f"{where}: unknown {name!r}; expected {', '.join(_KEYS)}{did_you_mean(name, _KEYS)}")
    low, high, log, step = (value.get(name) for name in _KEYS)
    for name, found in (("low", low), ("high", high), ("step", step)):
        given = found is not None or name != "step"
        if given and (isinstance(found, bool) or not isinstance(found, int | float)):
            raise ConfigError(f"{where}: {name} is {found!r}; expected a number")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if not isinstance(log, bool | None):
        raise ConfigError(f"{where}: log is {log!r}; expected true or false")
    if low >= high or (log and low <= 0):
        raise ConfigError(f"{where}: low is {low}, high is {high}; expected {'0 < ' if log else ''}low < high")
    if step is not None and (log or step <= 0):
        raise ConfigError(f"{where}: step is {step}; expected more than 0, and without log: true")
    return Range(low, high, bool(log), step)


def override_of(key: str, value: Any) -> str:  # noqa: ANN401 of YAML
    """The override that gives a key a value.

    Example:
        >>> override_of("adapter.towers", {"language_model": ["q_proj"]}), override_of("train.learning_rate", 1e-5)
        ('adapter.towers={"language_model": ["q_proj"]}', 'train.learning_rate=1e-05')
    """
    return f"{key}={json.dumps(value, ensure_ascii=False)}"
