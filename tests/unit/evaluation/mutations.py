"""Harmful changes of files, drawn from a seeded generator, and a check that a command survives them."""

import json
import random
import shutil
import time
from pathlib import Path

DEEP = 100_000
WHOLE = (
    b"", b"null", b"[]", b"{}", b"3", b'"text"', b"true", b"NaN", b"[" * DEEP, b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"\xff\xfe\x00{", "{}".encode("utf-16"), b"\x00" * 64, b"{" + b"9" * 5000,
    b'{"a": ' + b"9" * 5000 + b"}", b"\n\n", b"PK\x03\x04", b'{"a": 1}{"b": 2}', b"'{}'", b"\xef\xbb\xbf[]",
)  # fmt: skip
"""Contents of a whole file."""


def deep(levels=400):
    """A list of that many levels."""
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


VALUES = (
    None, [], {}, "", " ", "x" * 2000, "../../../etc/passwd", "/etc/passwd", "~root", "\x1b[31mred\x1b[0m", "\ud800",
    "\u202e", "=1+1", "{{ 7*7 }}", "a\nb\tc", "NaN", "1", 0, -1, 1, 7, 2**31, 10**30, -(10**300), 10**400, 1.5, 1e308,
    float("inf"), float("nan"), True, False, [None], [[]], ["a", 1, None], ["a"] * 3000, {"a": {}}, {"": ""},
    {"a": None}, {"a": [1]}, deep(),
)  # fmt: skip
"""Values in place of one of a file."""


def paths(value, path=()):
    """Path of every value in plain data."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*path, key))


def another_value(generator: random.Random) -> object:
    """A copy, since a later change may be within it."""
    return json.loads(json.dumps(generator.choice(VALUES)))


def changed_json(content: bytes, generator: random.Random) -> bytes:
    """JSON with one to three changes; often still JSON."""
    kind = generator.random()
    if kind < 0.12:
        return generator.choice(WHOLE)
    if kind < 0.25:
        return changed_bytes(content, generator)
    data = json.loads(content)
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        found = list(paths(data))
        if not found:
            break
        *sections, key = generator.choice(found)
        holder = data
        for section in sections:
            holder = holder[section]
        change = generator.random()
        if change < 0.2 and isinstance(holder, dict):
            del holder[key]
        elif change < 0.3 and isinstance(holder, dict):
            holder[generator.choice(("new", "", "\x1b[2J", "__class__", "a.b"))] = another_value(generator)
        elif change < 0.4 and isinstance(holder, dict):
            holder[f"{key} "] = holder.pop(key)
        else:
            holder[key] = another_value(generator)
    return json.dumps(data).encode()


def changed_bytes(content: bytes, generator: random.Random) -> bytes:
    """A file that is cut, doubled, or has other bytes."""
    kind, place = generator.randrange(5), generator.randrange(len(content) + 1)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + generator.randbytes(generator.choice((1, 4, 64))) + content[place + 1 :]
    if kind == 2:
        return content + content
    if kind == 3:
        return content[:place] + content[place + generator.randrange(1, 50) :]
    return generator.randbytes(200)


def other_kind_of_file(file: Path, generator: random.Random) -> None:
    """Nothing, a folder, or a link that leads nowhere or to itself, in place of a file."""
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink()
    kind = generator.randrange(4)
    if kind == 1:
        file.mkdir()
    elif kind == 2:
        file.symlink_to(file.name)
    elif kind == 3:
        file.symlink_to("/nowhere/at/all")


def tree(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Every path in a folder, with size and time of change of files."""
    stats = {str(path.relative_to(folder)): path.lstat() for path in sorted(folder.rglob("*"))}
    return {
        name: (stat.st_size, stat.st_mtime_ns) if not (folder / name).is_dir() else None for name, stat in stats.items()
    }


def survives(command, capsys, *, longest_s: float = 5.0) -> int:
    """Run a command, which may only succeed or print one line; returns its exit status."""
    capsys.readouterr()
    started = time.perf_counter()
    status = command()
    duration = time.perf_counter() - started
    error = capsys.readouterr().err
    assert duration < longest_s
    assert status in (0, 1)
    assert "Traceback" not in error
    if status == 1:
        (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
        assert len(line) < 4000
    return status
