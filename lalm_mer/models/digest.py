"""Config and digest of a base model, without loading its weights; the digest is computed once on each machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PretrainedConfig

from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.core.output import write_json
from lalm_mer.core.provenance import hash_file, hash_json
from lalm_mer.models.hub_connection import require_hub

__all__ = ["base_digest", "read_model_config"]


def read_model_config(model_id: str, revision: str | None = None) -> dict[str, Any]:
    """Content of a model's ``config.json``.

    Raises:
        ModelError: if there is neither such a folder nor such a model on the Hub
    """
    require_hub(model_id, "config.json", revision)
    try:
        config: dict[str, Any] = PretrainedConfig.get_config_dict(model_id, revision=revision)[0]
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {model_id!r} cannot be found: {one_line(error)}; expected a Hub id or a local folder"
        ) from error
    return config


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
    return f"{model_id}@{read_model_config(model_id, revision).get('_commit_hash')}"


def _folder_digest(folder: Path) -> str:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in files.items() if not name.startswith(".")}  # such as .cache of a download
    stats = [(name, status.st_size, status.st_mtime_ns) for name, path in files.items() for status in [path.stat()]]
    key = hash_json([str(folder.resolve()), stats])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lalm_mer" / "model_digests.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_suffix(".lock")):  # the processes of a machine wait for the first one
        known: dict[str, str] = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
        if key not in known:
            known[key] = hash_json({name: hash_file(path) for name, path in files.items()})
            write_json(cache, known)
    return known[key]
