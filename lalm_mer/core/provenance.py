"""Provenance of results: hashes, versions and the git commit."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = [
    "PACKAGES", "Commit", "git_commit", "hash_bytes", "hash_file", "hash_json", "package_versions"
]  # fmt: skip

PACKAGES = ("lalm-mer", "torch", "transformers", "peft", "accelerate", "datasets", "numpy", "scikit-learn", "scipy",
             "deepspeed", "bitsandbytes", "opensmile", "espeakng-loader")  # fmt: skip
"""Packages whose versions are recorded."""


@dataclass(frozen=True)
class Commit:
    """The commit of the code.

    Args:
        commit: its hash; None outside a checkout
        modified: whether files differ from it; None outside a checkout
    """

    commit: str | None
    modified: bool | None

    def __str__(self) -> str:
        return f"{self.commit or 'unknown'}{', with files changed since' if self.modified else ''}"


def hash_bytes(content: bytes) -> str:
    """SHA-256 of ``content``, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of the content of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: object) -> str:
    """SHA-256 of plain data in canonical JSON: sorted keys, no spaces.

    Example:
        >>> hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1})
        True
    """
    return hash_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Installed version of each package; None if it is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_commit() -> Commit:
    """The commit of this package's checkout, and whether files differ from it."""
    folder = Path(__file__).parent

    def run(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = run("status", "--porcelain", "--untracked-files=no")
    return Commit(run("rev-parse", "HEAD"), None if status is None else bool(status))
