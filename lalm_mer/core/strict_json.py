"""JSON files read strictly into frozen dataclasses: an unknown, missing or wrongly typed key is an error."""

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
    """Content of a JSON file of a run.

    Raises:
        PredictionError: naming the file, if it cannot be read, is not JSON, or is not an object
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PredictionError(f"{file}: cannot be read ({error.strerror}); did the run end?") from error
    except (ValueError, RecursionError) as error:
        raise PredictionError(f"{file}: not valid JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise PredictionError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def parse(kind: type[T], content: dict[str, Any], source: str, *, ignore_unknown: bool = False) -> T:
    """A dataclass from plain data, without coercion; fields may be dataclasses, tuples and mappings.

    Args:
        kind: dataclass whose fields and types say what there may be
        content: the data
        source: what to call it in errors
        ignore_unknown: leave out keys that are not fields of the dataclass

    Raises:
        PredictionError: naming source and key
    """
    try:
        adapter: TypeAdapter[tuple[T]] = _adapter(kind, ignore_unknown)  # type: ignore[arg-type]  # classes are hashable
        return adapter.validate_json(json.dumps([content]), strict=True)[0]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = list(map(str, first["loc"][1:]))
        if len(place) > 1 and place[-1] in ("str", "int") and first["type"].endswith("_type"):
            place.pop()  # which type of several it is not
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
    """Wrapped in a tuple, since pydantic takes the config of a plain dataclass from what contains it."""
    return TypeAdapter(tuple[kind], config=ConfigDict(extra="ignore" if ignore_unknown else "forbid"))  # type: ignore
