"""Config and digest of a base model, without loading its weights; the digest is computed once on each machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers.utils.hub import extract_commit_hash

from lalm_mer.core.errors import ModelError, PredictionError, one_line
from lalm_mer.core.output import write_json
from lalm_mer.core.provenance import hash_file, hash_json
from lalm_mer.core.strict_json import read_object
from lalm_mer.models.loading import find_file

__all__ = ["base_digest", "read_model_config"]


def read_model_config(model_id: str, revision: str | None = None) -> dict[str, Any]:
    """Content of a model's ``config.json``; empty if it has none.

    Raises:
        ModelError: if there is neither such a folder nor such a model on the Hub, or the file contains no object
    """
    file = _config_file(model_id, revision)
    try:
        return {} if file is None else read_object(file)
    except PredictionError as error:
        raise ModelError(str(error)) from error


def _config_file(model_id: str, revision: str | None) -> Path | None:
    try:
        return find_file(model_id, "config.json", revision)
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {model_id!r} cannot be found: {one_line(error)}; expected a Hub id or a local folder"
        ) from error


def base_digest(model_id: str, revision: str | None = None) -> str:
    """Hash of the files of a local folder and its subfolders, or ``id@commit`` of a model on the Hub.

    The hash of a folder is cached for the user under the names, sizes and times of its files, so that several processes
    and later runs do not read gigabytes again.

    Args:
        model_id: Hub id or folder
        revision: branch, tag or commit on the Hub

    Raises:
        ModelError: if there is neither such a folder nor such a model on the Hub
    """
    folder = Path(model_id)
    if folder.is_dir():
        return _folder_digest(folder)
    file = _config_file(model_id, revision)
    commit = None if file is None else extract_commit_hash(file.as_posix(), None)
    if commit is None:
        raise ModelError(f"model {model_id!r}: has no config.json on the Hub; expected a model of transformers")
    return f"{model_id}@{commit}"


def _folder_digest(folder: Path) -> str:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in files.items() if not name.startswith(".")}  # such as .cache of a download
    stats = [
        (name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for name, path in files.items()
        for status in [path.stat()]
    ]
    key = hash_json([str(folder.resolve()), stats])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lalm_mer" / "model_digests.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_suffix(".lock")):  # the processes of a machine wait for the first one
        known = _known(cache)
        if key not in known:
            known[key] = hash_json({name: hash_file(path) for name, path in files.items()})
            write_json(cache, known)
    return known[key]


def _known(cache: Path) -> dict[str, str]:
    """The hashes in the cache; none if it is damaged, since it is then written again."""
    try:
        known = read_object(cache)
    except PredictionError:
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)}
