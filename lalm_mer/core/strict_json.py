"""Strict reading of JSON into frozen dataclasses: a key that is unknown, missing or of the wrong type is an error."""

from __future__ import annotations

import json
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

    Raises:
        PredictionError: naming ``source`` and the key; an unknown key is one, unless ``ignore_unknown``
    """
    # a tuple, since pydantic takes the config of a plain dataclass from its container
    config = ConfigDict(extra="ignore" if ignore_unknown else "forbid")
    adapter: TypeAdapter[tuple[T]] = TypeAdapter(tuple[kind], config=config)  # type: ignore
    try:
        return adapter.validate_json(json.dumps([content]), strict=True)[0]
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
