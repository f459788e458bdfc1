"""Checks that hold for any input of a preparation, and files that are damaged in many ways."""

import json
import random
import resource
import struct
import time
from contextlib import contextmanager
from pathlib import Path

from lalm_mer.core.errors import LalmMerError
from lalm_mer.corpora import load, write_corpus

SLOWEST_S = 5.0
MOST_MEMORY_MB = 500
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 0x7FFFF024, 0x80000024, 2**63 - 1, 2**63, 2**64 - 1)


def files_below(folder, *, but=()):
    """Path, size and time of modification of every file below a folder."""
    return sorted(
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in Path(folder).rglob("*")
        if not any(path.is_relative_to(other) for other in but)
    )


@contextmanager
def bounded():
    """Checks that the block ends in time and uses little memory."""
    start_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - start_s < SLOWEST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY_MB * 1024


def prepared(rows, root, out, around):
    """Prepares rows and checks what holds for any; returns the summary, or the message of the error."""
    before = files_below(around, but=(out,))
    with bounded():
        try:
            summary = write_corpus(rows(), corpus="m", root=root, out_dir=out, loader_version="1", processes=1)
        except LalmMerError as error:
            summary = str(error)
    assert files_below(around, but=(out,)) == before
    if isinstance(summary, str):
        assert summary
        assert len(summary.splitlines()) == 1
        return summary
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert summary["n_found"] == summary["n_utterances"] + summary["n_rejected"]
    assert summary["n_rejected"] == len(rejected)
    assert all(row["path"] and row["reason"] and len(row["detail"].splitlines()) == 1 for row in rejected)
    opened = load(out)
    assert len(opened.columns(["utterance_id"])) == summary["n_utterances"]
    return summary


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The bytes of a file with one to four damages: of the header mostly, cut, extended, shifted, or overwritten."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(min(len(changed), chance.choice((120, 120, len(changed)))))
        match chance.randrange(8):
            case 0:
                changed[place] = chance.randrange(256)
            case 1:
                del changed[chance.randrange(1, len(changed)) :]
            case 2:
                changed[place : place + 4] = struct.pack(chance.choice("<>") + "I", chance.choice(NUMBERS) % 2**32)
            case 3:
                changed[place : place + 8] = struct.pack(chance.choice("<>") + "Q", chance.choice(NUMBERS))
            case 4:
                changed[place:place] = chance.randbytes(chance.randrange(1, 40))
            case 5:
                del changed[place : place + chance.randrange(1, 40)]
            case 6:
                changed += chance.randbytes(chance.randrange(1, 4000))
            case 7:
                changed[place : place + 400] = chance.choice((b"\0", b"\xff", b"\x7f")) * 400
        if len(changed) < 16:
            break
    return bytes(changed)
