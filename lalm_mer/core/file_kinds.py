"""What a file is by its first bytes."""

from __future__ import annotations

__all__ = ["FIRST_BYTES", "needs_ffmpeg", "placeholder"]

FIRST_BYTES = 64
"""Number of bytes from the start of a file that the functions here need."""

_WEB_PAGE = "a web page, not the file itself; download the file again, signed in where its site needs it"
_PLACEHOLDERS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository",
    b"/annex/objects/": "a pointer of git-annex, not the file itself; run `git annex get` in its repository",
    b"<!doctype html": _WEB_PAGE,
    b"<html": _WEB_PAGE,
}
_FOR_FFMPEG = (
    *((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (8, b"AVI "), (0, b"FLV\x01")),  # MP4 and M4A, Matroska and WebM, AVI, FLV
    *((0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), (0, b"\xff\xf1"), (0, b"\xff\xf9")),  # ASF and WMA; AAC alone
)  # fmt: skip
"""Places of bytes, and the bytes, by which formats are recognised that FFmpeg reads and libsndfile does not."""


def placeholder(head: bytes) -> str | None:
    """What a file is that was left in the place of another, and how to get that one; None for any other file.

    Example:
        >>> placeholder(b"version https://git-lfs.github.com/spec/v1")
        'a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository'
    """
    start = head[:FIRST_BYTES].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return next((what for first, what in _PLACEHOLDERS.items() if start.startswith(first)), None)


def needs_ffmpeg(head: bytes) -> bool:
    """Whether the format of a file, by its first bytes, is one that FFmpeg reads and libsndfile does not.

    Example:
        >>> needs_ffmpeg(b"\\0\\0\\0 ftypM4A "), needs_ffmpeg(b"RIFF....WAVE")
        (True, False)
    """
    return any(head[place:].startswith(found) for place, found in _FOR_FFMPEG)
