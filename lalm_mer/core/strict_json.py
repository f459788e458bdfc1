"""Strict reading of JSON into frozen dataclasses: a key that is unknown, missing or of the wrong type is an error."""

from __future__ import annotations

import json
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lalm_mer.core.errors import PredictionError, one_line

__all__ = ["parse", "read_object"]

T = TypeVar("T")


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file of a run.

    Raises:
        PredictionError: naming the file, if it cannot be read, is not JSON, or is not an object
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PredictionError(f"{file}: cannot be read ({error.strerror}); has the run finished?") from error
    except (ValueError, RecursionError) as error:
        raise PredictionError(f"{file}: not valid JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise PredictionError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def parse(kind: type[T], content: dict[str, Any], source: str, *, ignore_unknown: bool = False) -> T:
    """Create a dataclass from plain data, without coercion; fields may be dataclasses, tuples and mappings.

    Args:
        kind: dataclass whose fields define the allowed keys and their types
        content: the data
        source: name of the data in errors
        ignore_unknown: ignore keys that are not fields of the dataclass

    Raises:
        PredictionError: naming source and key
    """
    try:
        adapter: TypeAdapter[tuple[T]] = _adapter(kind, ignore_unknown)  # type: ignore[arg-type]
        return adapter.validate_json(json.dumps([content]), strict=True)[0]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = list(map(str, first["loc"][1:]))
        if len(place) > 1 and place[-1] in ("str", "int") and first["type"].endswith("_type"):
            place.pop()  # the member of a union that did not match
        key = ".".join(place)
        if first["type"] == "missing":
            raise PredictionError(f"{source}: key {key!r} is missing; found {sorted(content)}") from None
        if first["type"] == "unexpected_keyword_argument":
            raise PredictionError(f"{source}: unknown key {key!r}; was it written by another version?") from None
        found = first["input"]
        raise PredictionError(
            f"{source}: key {key!r}: {one_line(first['msg'])}, found {type(found).__name__} {one_line(repr(found))}"
        ) from None


@cache
def _adapter(kind: Hashable, ignore_unknown: bool) -> TypeAdapter[Any]:
    """An adapter of one-element tuples, since pydantic takes the config of a plain dataclass from its container."""
    return TypeAdapter(tuple[kind], config=ConfigDict(extra="ignore" if ignore_unknown else "forbid"))  # type: ignore
