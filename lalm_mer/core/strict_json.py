"""Strict reading of JSON into frozen dataclasses: a key that is unknown, missing or of the wrong type is an error."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lalm_mer.core.errors import PredictionError, one_line

__all__ = ["parse", "parse_object", "read_object"]

T = TypeVar("T")
_LARGEST = 64 * 2**20
_DEEPEST = 64


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file of a run.

    Raises:
        PredictionError: naming the file, if it cannot be read, is not JSON, is not an object, or has more than 64 MiB,
            64 levels, a number that is not finite, or text that is not Unicode
    """
    if file.exists() and not file.is_file():
        raise PredictionError(f"{file}: is no file; expected a JSON file")
    try:
        if (size := file.stat().st_size) > _LARGEST:
            raise PredictionError(f"{file}: {size:,} bytes; expected {_LARGEST:,} at most")
        content = file.read_bytes()
    except OSError as error:
        raise PredictionError(f"{file}: cannot be read ({error.strerror}); has the run finished?") from error
    return parse_object(content, str(file))


def parse_object(text: bytes, source: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8, such as a line of a file or the answer of a server.

    Raises:
        PredictionError: naming ``source``, as ``read_object`` without the limit of its size
    """
    try:
        content = json.loads(text.decode(), parse_constant=_refuse_number, parse_float=_finite)
        _check_content(content)
    except (ValueError, RecursionError) as error:
        raise PredictionError(f"{source}: not valid JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise PredictionError(f"{source}: expected a JSON object, found {type(content).__name__}")
    return content


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"the number {text}")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text)


def _check_content(content: object) -> None:
    """Check depth and text, level by level: the code that uses the content may be recursive."""
    level = [content]
    for _ in range(_DEEPEST):
        for text in (item for item in level if isinstance(item, str)):
            text.encode()  # a UnicodeEncodeError, which is a ValueError, for half of a surrogate pair
        items = [item for value in level if isinstance(value, dict | list) for item in value]
        level = items + [item for value in level if isinstance(value, dict) for item in value.values()]
        if not level:
            return
    raise ValueError(f"more than {_DEEPEST} levels")


@cache  # it takes several milliseconds to build
def _adapter(kind: type, ignore_unknown: bool) -> TypeAdapter[Any]:
    """A parser of a list of one such object: pydantic takes the config of a plain dataclass from its container."""
    config = ConfigDict(extra="ignore" if ignore_unknown else "forbid")
    return TypeAdapter(tuple[kind], config=config)  # type: ignore


def parse(kind: type[T], content: Any, source: str, *, ignore_unknown: bool = False) -> T:  # noqa: ANN401 any JSON
    """Create a dataclass from plain data, without coercion; fields may be dataclasses, tuples and mappings.

    Raises:
        PredictionError: naming ``source`` and the key; an unknown key is one, unless ``ignore_unknown``
    """
    if not isinstance(content, dict):
        raise PredictionError(f"{source}: expected a JSON object, found {type(content).__name__}")
    try:
        parsed: T = _adapter(cast(Any, kind), ignore_unknown).validate_json(json.dumps([content]), strict=True)[0]
        return parsed
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = list(map(str, first["loc"][1:]))
    if len(place) > 1 and place[-1] in ("str", "int") and first["type"].endswith("_type"):
        place.pop()  # the member of a union that did not match
    key, found = ".".join(place), first["input"]
    if first["type"] == "missing":
        raise PredictionError(f"{source}: key {key!r} is missing; found {sorted(content)}")
    if first["type"] == "unexpected_keyword_argument":
        raise PredictionError(f"{source}: unknown key {key!r}; was it written by another version?")
    raise PredictionError(
        f"{source}: key {key!r}: {one_line(first['msg'])}, found {type(found).__name__} {one_line(repr(found))}"
    )
