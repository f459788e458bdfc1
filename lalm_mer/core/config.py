"""Strict configuration: YAML into frozen dataclasses.

OmegaConf alone would convert the string "16" to a number and resolve ``${oc.env:...}``, so files are read as plain safe
YAML, checked, and only then merged.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lalm_mer.core.errors import ConfigError, one_line
from lalm_mer.core.paths import absolute, as_recorded, path_or_id
from lalm_mer.core.settings import Setting, settings_of
from lalm_mer.core.suggestions import did_you_mean, no_such_path

__all__ = ["build_config", "load_config", "override_key", "read_yaml", "recorded", "require_paths", "to_dict"]

ConfigT = TypeVar("ConfigT")
_MISSING = "???"  # OmegaConf's placeholder for a required value
_DEEPEST = 32  # levels of lists and mappings in a YAML file


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without duplicate keys; as in YAML 1.2, ``2e-5`` is a number, ``no`` and ``010`` are strings.

    Aliases are refused: a few lines with them can stand for gigabytes.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 as in the base class
        first: [item for item in resolvers if not item[0].endswith((":bool", ":int", ":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        place = f"line {self.peek_event().start_mark.line + 1}"  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise ConfigError(f"{place}: an alias (*name) is not supported; write the value itself")
        if self._depth == _DEEPEST:
            raise ConfigError(f"{place}: more than {_DEEPEST} levels of lists and mappings; expected a few")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:  # noqa: ANN401 as in the base class
        value = super().construct_scalar(node)
        try:
            str(value).encode()
        except UnicodeEncodeError:
            place = f"line {node.start_mark.line + 1}"
            raise ConfigError(
                f"{place}: half of a surrogate pair is no character; write the character itself"
            ) from None
        return value


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9]\d*)", "-+0123456789"),
    ("float", r"[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)", "-+0123456789."),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"line {key_node.start_mark.line + 1}: a key is a list or a mapping; expected a string")
        key = loader.construct_object(key_node)
        if key in seen:
            raise ConfigError(
                f"duplicate key {one_line(repr(key))}, again in line {key_node.start_mark.line + 1}; keep one"
            )
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file as plain data, without interpolation.

    Raises:
        ConfigError: naming the file, if it is missing, not UTF-8, not YAML or not a mapping, or has a duplicate key
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: {no_such_path(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({one_line(error)}); expected a YAML file in UTF-8") from error
    content = _load(text, str(path))
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: expected a mapping of keys to values")
    return content


def _load(text: str, source: str) -> Any:  # noqa: ANN401 a YAML value
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: !!int x, a number of 5000 digits
        raise ConfigError(f"{source}: not valid YAML ({one_line(error)})") from error


def load_config(schema: type[ConfigT], path: Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a YAML file and overrides from the command line into a frozen dataclass; its paths become absolute.

    Args:
        schema: dataclass whose declarations define the allowed keys and values
        path: the YAML file
        overrides: ``section.key=value``, the value as YAML; later overrides take precedence

    Raises:
        ConfigError: naming file (or override) and key, if a key is unknown, duplicate or missing, or its value has the
            wrong type or is outside its range or choices
    """
    given = [(f"override {override!r}", _parse_override(override)) for override in overrides]
    layers = [(str(path), read_yaml(path)), *given]
    _drop_replaced(schema, layers)
    return _merged(schema, layers)


def _drop_replaced(schema: type, layers: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Refuse keys that another given key replaces; where the last layer that has them says null, remove them."""
    for section, outer in settings_of(schema).items():
        contents = [(source, content.get(section)) for source, content in layers]
        given = [(source, content) for source, content in contents if isinstance(content, dict)]
        for name, declared in settings_of(outer.section).items() if outer.section is not None else ():
            last = [content[name] for _, content in given if name in content]
            if not declared.replaces or not last or last[-1] is None:
                continue
            for key in declared.replaces:
                holders = [(source, content) for source, content in given if key in content]
                if holders and holders[-1][1][key] is not None:
                    source, content = holders[-1]
                    raise ConfigError(
                        f"{source}: key '{section}.{key}': {content[key]}, but {section}.{name}={last[-1]} is given, "
                        f"which replaces it; remove it, or give {section}.{key}=null"
                    )
                for _, content in holders:
                    del content[key]


def build_config(
    schema: type[ConfigT], content: Mapping[str, Any], source: str, **changes: Mapping[str, Any]
) -> ConfigT:
    """Build a config from plain data, such as that of run.json; paths and errors as in ``load_config``.

    Args:
        schema: dataclass whose declarations define the allowed keys and values
        content: keys and values
        source: name of the content in errors
        changes: name in errors -> further keys and values, which take precedence; of mappings, those that are named
    """
    return _merged(schema, [(source, dict(content)), *((name, dict(each)) for name, each in changes.items())])


@functools.cache
def _structured(schema: type) -> Any:  # noqa: ANN401 of OmegaConf
    """The keys, types and defaults of a schema for OmegaConf, which copies them before it merges."""
    return OmegaConf.structured(schema)


def _merged(schema: type[ConfigT], layers: Sequence[tuple[str, dict[str, Any]]]) -> ConfigT:
    """Check and merge the layers, each with its name in errors; later ones take precedence."""
    for source, content in layers:
        _check(schema, content, source, "")
    path = layers[0][0]
    try:
        merged = OmegaConf.merge(
            _structured(typing.cast(type, schema)), *(OmegaConf.create(content) for _, content in layers)
        )
        return _with_paths(typing.cast(ConfigT, OmegaConf.to_object(merged)), _absolute)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{path}: key {error.full_key!r} is missing; give it there or as an override") from error
    except OmegaConfBaseException as error:
        key = f"key {error.full_key!r}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{path}: {key}{one_line(error)}") from error
    except TypeError as error:  # OmegaConf's, where the type of a key is Any
        raise ConfigError(f"{path}: an override has a list where the file has a mapping, or vice versa") from error
    except ConfigError as error:  # a section checks combinations of its values
        raise ConfigError(f"{path}: {error}") from None


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401 any dataclass
    """Convert a resolved config to plain data, for run.json, with paths as in ``recorded``."""
    return dataclasses.asdict(recorded(config))


def recorded(config: ConfigT) -> ConfigT:
    """The config with paths as they are recorded and hashed: relative to the working directory, if they are in it."""
    return _with_paths(config, lambda path, _, __: as_recorded(path))


def require_paths(config: Any) -> None:  # noqa: ANN401 any dataclass of settings
    """Check that the files and folders exist that the config reads.

    Raises:
        ConfigError: naming the key, with the nearest name that exists
    """
    _with_paths(config, _existing)


def _with_paths(config: ConfigT, change: Callable[[str, str, Setting], str], section: str = "") -> ConfigT:
    """The config with each path replaced by the result for it, its key and its declaration."""
    changes: dict[str, Any] = {}
    for name, declared in settings_of(type(config)).items():
        value, key = getattr(config, name), f"{section}{name}"
        if dataclasses.is_dataclass(value):
            if (changed := _with_paths(value, change, f"{key}.")) is not value:
                changes[name] = changed
        elif declared.path and isinstance(value, list):
            changes[name] = [change(path, key, declared) for path in value]
        elif declared.path and value and value not in (_MISSING, declared.also_allowed):
            changes[name] = change(value, key, declared)
    return dataclasses.replace(typing.cast(Any, config), **changes) if changes else config


def _absolute(path: str, key: str, declared: Setting) -> str:
    try:
        return path_or_id(path) if declared.path == "source" else absolute(path)
    except ConfigError as error:
        raise ConfigError(f"key {key!r}: {error}") from error


def _existing(path: str, key: str, declared: Setting) -> str:
    given, kind = Path(path), "file" if declared.path == "file" else "folder"
    read = declared.path in ("file", "folder") or (declared.path == "source" and given.is_absolute())
    if read and not given.exists():
        among = Path(declared.among) if declared.among else None
        raise ConfigError(f"key {key!r}: {as_recorded(path)}: {no_such_path(given, kind, among=among)}")
    return path


def override_key(override: str) -> str:
    """The key of an override ``section.key=value``.

    Example:
        >>> override_key("train.learning_rate=1e-4")
        'train.learning_rate'
    """
    return override.partition("=")[0].strip()


def _parse_override(override: str) -> dict[str, Any]:
    key, (_, equals, text) = override_key(override), override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected section.key=value")
    value = _load(text, f"override {override!r}")
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def _check(expected: Any, value: Any, source: str, key: str) -> None:  # noqa: ANN401 a type and a YAML value
    """Check a YAML value against the type of its field, without coercion."""
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{source}: key {key!r}: interpolation (${{...}}) is not supported; write the value itself")
    origin = typing.get_origin(expected)
    if dataclasses.is_dataclass(expected):
        _check_section(expected, value, source, key)
    elif origin in (typing.Union, types.UnionType):
        options = typing.get_args(expected)
        if value is not None or type(None) not in options:
            _check(next(option for option in options if option is not type(None)), value, source, key)
    elif origin in (list, Sequence):
        if not isinstance(value, list):
            raise _wrong_type(source, key, "a list", value)
        for number, item in enumerate(value):
            _check(typing.get_args(expected)[0], item, source, f"{key}[{number}]")
    elif origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _wrong_type(source, key, "a mapping", value)
        for entry in value.items():
            for kind, part in zip(typing.get_args(expected), entry, strict=True):
                _check(kind, part, source, f"{key}.{entry[0]}")
    elif expected is not Any:
        allowed = (int, float) if expected is float else (expected,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and expected is not bool):
            raise _wrong_type(source, key, expected.__name__, value)


def _check_section(expected: Any, value: Any, source: str, key: str) -> None:  # noqa: ANN401
    if not isinstance(value, dict):
        raise _wrong_type(source, key or "the file", "a mapping", value)
    declared = settings_of(expected)
    for name, item in value.items():
        full = f"{key}.{name}" if key else str(name)
        if name not in declared:
            near = did_you_mean(name, declared)
            raise ConfigError(
                f"{source}: unknown key {one_line(repr(full))}; expected one of {', '.join(declared)}{near}"
            )
        _check(declared[name].type, item, source, full)
        if item != _MISSING:
            declared[name].require(item, f"{source}: key {full!r}")


def _wrong_type(source: str, key: str, expected: str, value: object) -> ConfigError:
    return ConfigError(
        f"{source}: key {key!r}: expected {expected}, found {type(value).__name__} {one_line(repr(value))}"
    )
