"""Writing files and folders: under a temporary name, then renamed, with one error for a disk that cannot be written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lalm_mer.core.errors import ConfigError, OutputError

__all__ = ["atomic_folder", "atomic_path", "output_error", "require_empty", "write_json", "write_text", "writing"]

_FREE_SPACE = "free some space, or write to another folder, and run the same command again"
_BELOW = "choose a path below a folder"
_CHOOSE = "choose a path that this user may write"
_HINTS = {
    errno.ENOSPC: _FREE_SPACE, errno.EDQUOT: _FREE_SPACE, errno.EFBIG: _FREE_SPACE, errno.EIO: "check the disk",
    errno.EROFS: _CHOOSE, errno.EACCES: _CHOOSE, errno.EPERM: _CHOOSE, errno.ENOTDIR: _BELOW, errno.EEXIST: _BELOW,
    errno.ENOTEMPTY: "choose a new or empty folder",
    errno.ENAMETOOLONG: "choose a shorter name", errno.EISDIR: "choose the name of a file",
}  # fmt: skip
"""What to do about each error of the operating system when a file is written."""
_WRITING_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_CUT_SHORT = re.compile(r"inline_container\.cc.*unexpected pos|PytorchStreamWriter failed|requested and \d+ written")
"""Messages of torch and numpy after a write that wrote less than it should."""
_OPEN_FILES = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))
_OTHER_KINDS = {stat.S_ISDIR: "a folder", stat.S_ISBLK: "a block device", stat.S_ISSOCK: "a socket"}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; its file replaces ``path`` only if the block ends without an error.

    A device, a FIFO or an open file such as /dev/stdout is written through. Of a symbolic link, the target is replaced,
    never the link.

    Raises:
        OutputError: if ``path`` is a folder or another thing that is no file, or the disk cannot be written
    """
    with writing(path):
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or (path.exists() and path.absolute().parent in _OPEN_FILES):
            with tempfile.TemporaryDirectory() as folder:
                partial = Path(folder) / (path.name or "output")
                yield partial
                with partial.open("rb") as made, path.open("ab") as device:
                    shutil.copyfileobj(made, device)
            return
        for is_kind, kind in _OTHER_KINDS.items():
            if is_kind(mode):
                raise OutputError(f"{path}: is {kind}; expected the name of a file")
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder that becomes ``folder``, which must be new or empty, only if the block ends well.

    Raises:
        OutputError: if the disk cannot be written
    """
    target = folder.resolve()
    partial = target.with_name(f".{target.name}.partial")
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        try:
            yield partial
            if target.exists():
                target.rmdir()
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def require_empty(out: Path) -> None:
    """Check that ``out`` is a new or empty folder.

    Raises:
        ConfigError: naming the folder
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: is not an empty folder; choose a new one")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of a disk that cannot be written into an ``OutputError`` that names ``path``.

    Only errors that ``output_error`` recognises; others pass.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:  # safetensors, tokenizers and torch have errors of their own
        found = output_error(error, path)
        if found is None:
            raise
        raise found from error


def output_error(error: BaseException, path: Path | None = None) -> OutputError | None:
    """The error for a disk that cannot be written; None for any other error.

    Args:
        error: of the operating system, numpy, safetensors, tokenizers or ``torch.save``
        path: the file or folder that was written; None if the error may also be one of reading
    """
    number = _error_number(error)
    if number not in (_WRITING_ONLY if path is None else _HINTS):
        return None
    named = getattr(error, "filename", None)
    if isinstance(named, str):
        found = Path(named).absolute()
        place = found if path is None else path.absolute()
        if number not in _WRITING_ONLY and not (found.is_relative_to(place.parent) or place.is_relative_to(found)):
            return None  # another file, which was read
        if path is None or place.parent not in found.parents:
            path = Path(named)  # a folder above, or another file
    return OutputError(f"{path or 'the output'}: cannot be written: {os.strerror(number)}; {_HINTS[number]}")


def _error_number(error: BaseException) -> int:
    """Number of the error of the operating system, which packages hide in their messages; 0 without one."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if stated := re.search(r"\bos error (\d+)\b", str(error)):  # safetensors and tokenizers
        return int(stated[1])
    return errno.ENOSPC if _CUT_SHORT.search(str(error)) else 0


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write plain data as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
