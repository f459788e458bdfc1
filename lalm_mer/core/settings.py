"""Settings declared once: type, default, range, choices, help, and whether a resumed run may change them.

A config is a frozen dataclass whose fields are declared by ``setting``. Loading a config, comparing it with that of an
earlier run, and ``--help`` all read these declarations.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

from lalm_mer.core.errors import ConfigError, LalmMerError
from lalm_mer.core.suggestions import did_you_mean

__all__ = [
    "Declared", "Setting", "changeable_keys", "describe_settings", "naming_keys", "require_declared", "setting",
    "settings_of", "values_of_base",
]  # fmt: skip

SettingsT = TypeVar("SettingsT")
PathKind: TypeAlias = Literal["", "file", "folder", "new", "source"]
Choices: TypeAlias = Sequence[str | int] | Callable[[], Sequence[str | int]]


@dataclass(frozen=True)
class Setting:
    """A key of a config, as its field declares it.

    Range and choices hold for each item of a list and each value of a mapping. Null is allowed where the type has None.

    Args:
        type: of the value
        default: ``dataclasses.MISSING`` where the key must be given
        help: what the key means
        at_least: smallest value
        above: every value is greater
        at_most: largest value
        below: every value is smaller
        also_allowed: a value outside that range with a special meaning
        choices: all allowed values, or a callable that returns them, for a registry that is filled later
        may_change: whether a resumed run may have another value; for a section, whether all of its keys may
        path: ``file`` or ``folder`` that must exist, ``new`` for a path that is written or checked later, ``source``
            for a folder or Hub id; empty if the value is no path
        among: folder whose YAML files are the usual values of a path
        replaces: keys of the same section that must not be given together with this one, except as null
    """

    type: Any
    default: Any
    help: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    also_allowed: float | str | None = None
    choices: Choices | None = None
    may_change: bool = False
    path: PathKind = ""
    among: str = ""
    replaces: tuple[str, ...] = ()

    @property
    def section(self) -> type | None:
        """The dataclass of a section; None if the key is not a section."""
        return self.type if isinstance(self.type, type) and dataclasses.is_dataclass(self.type) else None

    @property
    def allowed(self) -> Sequence[str | int]:
        """The choices; empty if there are none."""
        return self.choices() if callable(self.choices) else self.choices or ()

    def require(self, value: Any, where: str) -> None:  # noqa: ANN401 of any type
        """Check a value of the declared type against range and choices.

        Raises:
            ConfigError: naming ``where``, what was found and what was expected
        """
        if isinstance(value, list | dict):
            for item in value.values() if isinstance(value, dict) else value:
                self.require(item, where)
        elif value is not None and value != self.also_allowed and not self._allows(value):
            null = type(None) in typing.get_args(self.type)
            if self.choices is None:
                expected = (self._range() or "a finite number") + (", or null" if null else "")
            else:
                words = [*map(str, self.allowed), *(["null"] if null else [])]
                expected = " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"
                expected += did_you_mean(value, words)
            raise ConfigError(f"{where}: {value!r}; expected {expected}")

    def _allows(self, value: Any) -> bool:  # noqa: ANN401 of any type
        return (
            (not isinstance(value, float) or math.isfinite(value))
            and (self.choices is None or value in self.allowed)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def _range(self) -> str:
        """The range of a number, such as ``0 or more``; empty if it has no bounds."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least} to {self.at_most}"
        bounds = ("{} or more", self.at_least), ("more than {}", self.above), ("at most {}", self.at_most)
        words = [words.format(bound) for words, bound in (*bounds, ("less than {}", self.below)) if bound is not None]
        also = [] if self.also_allowed is None else [f"or {self.also_allowed}"]
        return ", ".join(filter(None, [" and ".join(words), *also]))

    @property
    def values(self) -> str:
        """Choices, or type and range, such as ``float, 0 or more``."""
        kind = self.type.__name__ if isinstance(self.type, type) else re.sub(r"(\w+\.)+", "", str(self.type))
        if self.choices is not None:
            null = ["null"] if type(None) in typing.get_args(self.type) else []
            kind = f"{'list of ' if kind.startswith('list') else ''}{' | '.join([*map(str, self.allowed), *null])}"
        return ", ".join(filter(None, [kind.replace("None", "null"), self._range()]))

    @property
    def default_text(self) -> str:
        """The default in YAML; ``required`` if there is none."""
        if self.default is MISSING:
            return "required"
        return self.default if isinstance(self.default, str) and self.default else json.dumps(self.default)

    def describe(self, key: str) -> str:
        """Key, type or choices, default and meaning on one line."""
        default = self.default_text if self.default is MISSING else f"default {self.default_text}"
        return f"{key}  {self.values}, {default}: {self.help}"


def setting(
    default: Any = MISSING,  # noqa: ANN401 of the field's type
    *,
    help: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    also_allowed: float | str | None = None,
    choices: Choices | None = None,
    may_change: bool = False,
    path: PathKind = "",
    among: str = "",
    replaces: tuple[str, ...] = (),
) -> Any:  # noqa: ANN401 as of dataclasses.field
    """Declare a key of a config as a dataclass field; the arguments are those of ``Setting``.

    Example:
        >>> @dataclass(frozen=True)
        ... class Sizes:
        ...     "Sizes of batches."
        ...     batch_size: int = setting(8, at_least=1, help="utterances at a time")
        >>> require_declared(Sizes(batch_size=0))
        Traceback (most recent call last):
            ...
        lalm_mer.core.errors.ConfigError: argument 'batch_size': 0; expected 1 or more
        >>> print(describe_settings(Sizes, "train"))
        train: Sizes of batches.
          train.batch_size  int, 1 or more, default 8: utterances at a time
    """
    declared = Setting(
        None, MISSING, help, at_least, above, at_most, below, also_allowed, choices, may_change, path, among, replaces
    )
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata={"setting": declared})
    return dataclasses.field(default=default, metadata={"setting": declared})


def settings_of(schema: type) -> Mapping[str, Setting]:
    """Name -> declaration of every key of a dataclass, sections included."""
    return _declarations(schema)


@functools.cache  # used for each nested dataclass that is created
def _declarations(schema: type) -> Mapping[str, Setting]:
    types = typing.get_type_hints(schema)
    return {
        field.name: replace(
            field.metadata.get("setting", Setting(None, MISSING)),
            type=types[field.name],
            default=field.default if field.default_factory is MISSING else field.default_factory(),
        )
        for field in dataclasses.fields(schema)
    }


def require_declared(settings: Any, section: str = "") -> None:  # noqa: ANN401 any dataclass of settings
    """Check settings created in Python against their declarations; ``load_config`` does the same for a file.

    Raises:
        ConfigError: naming the argument, the value and what was expected
    """
    for name, declared in settings_of(type(settings)).items():
        value = getattr(settings, name)
        if isinstance(value, Declared):
            continue  # checked when it was created
        if dataclasses.is_dataclass(value):
            require_declared(value, f"{section}{name}.")
        else:
            declared.require(value, f"argument '{section}{name}'")


class Declared:
    """Base of settings that are checked against their declarations when they are created.

    Raises:
        ConfigError: naming an argument outside its range
    """

    def __post_init__(self) -> None:
        require_declared(self)


def values_of_base(base: type[SettingsT], settings: SettingsT) -> SettingsT:
    """Settings of a base class, without those that the class of ``settings`` adds to it."""
    fields = dataclasses.fields(typing.cast(typing.Any, base))
    return base(**{field.name: getattr(settings, field.name) for field in fields})


def changeable_keys(schema: type, section: str = "") -> frozenset[str]:
    """Keys and sections, as ``section.key``, that may differ when a run is resumed."""
    keys: frozenset[str] = frozenset()
    for name, declared in settings_of(schema).items():
        if declared.may_change:
            keys |= {f"{section}{name}"}
        elif declared.section is not None:
            keys |= changeable_keys(declared.section, f"{section}{name}.")
    return keys


def describe_settings(schema: type, section: str = "") -> str:
    """The keys of a config for ``--help``: one key per line, by section, keys outside of sections first."""
    declared = settings_of(schema)
    sections = {name: each.section for name, each in declared.items() if each.section is not None}
    dot = f"{section}." if section else ""
    lines = [f"  {each.describe(f'{dot}{name}')}" for name, each in declared.items() if name not in sections]
    heading = [f"{section}: {(schema.__doc__ or '').partition(chr(10))[0]}"] if section else []
    inner = (describe_settings(kind, f"{dot}{name}") for name, kind in sections.items())
    return "\n".join([*heading, *lines, *inner])


@contextmanager
def naming_keys(section: str, **keys: str) -> Iterator[None]:
    """Replace the argument that an error names by its key in ``section``; ``keys`` are those whose names differ.

    Example:
        >>> with naming_keys("prompt", count="shots"):
        ...     raise ConfigError("argument 'count': 40, but there are 36 utterances")
        Traceback (most recent call last):
            ...
        lalm_mer.core.errors.ConfigError: key 'prompt.shots': 40, but there are 36 utterances
    """
    try:
        yield
    except LalmMerError as error:
        if found := re.match(r"argument '(\w+)", str(error)):
            key = keys.get(found[1], found[1])
            error.args = (f"key '{section}.{key}{str(error)[found.end() :]}",)
        raise
