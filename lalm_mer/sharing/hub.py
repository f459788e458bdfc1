"""Pushes adapters and baselines to the Hugging Face Hub and downloads them; an error is one line with the step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    snapshot_download,
    try_to_load_from_cache,
)

from lalm_mer.core.errors import AdapterError, ConfigError, ModelError
from lalm_mer.core.run_record import MODEL_FOLDER, RUN_FILE
from lalm_mer.models.adapter_files import CONFIG, check_adapter_folder
from lalm_mer.models.hub_connection import require_hub
from lalm_mer.recognizers.baselines.saved import NETWORK, SAVED_FILES
from lalm_mer.sharing.adapter_context import MERGED_FROM
from lalm_mer.sharing.baseline_files import check_baseline
from lalm_mer.sharing.hub_client import TIMEOUT_S, calling_hub, check_commit
from lalm_mer.sharing.hub_folder import assemble, written_here
from lalm_mer.sharing.hub_ids import check_repo_id

__all__ = ["load_adapter_from", "load_from", "push", "push_run"]

_KINDS = ("*.safetensors", "*.json", "*.yaml", "*.md")
_HUB_OWN = {".gitattributes", "README.md"}
_IN_FOLDERS = [name for name in SAVED_FILES if "/" in name]


def push(folder: Path, repo_id: str, *, private: bool = False, timeout_s: float = TIMEOUT_S) -> str:
    """Upload an assembled folder as one commit, to a new repository or one with an earlier push of the same kind.

    Files of an earlier push that are not in the folder are removed in the same commit. A push that failed can be
    repeated; files that were received are not sent again.

    Args:
        folder: result of ``assemble``
        repo_id: ``user/name``
        private: create a private repository; an existing public one is an error
        timeout_s: longest wait for an answer, in seconds

    Returns:
        URL of the commit

    Raises:
        AdapterError: if the Hub refuses or cannot be reached, or the repository is public or contains something else
    """
    check_repo_id(repo_id, "--repo")
    what = f"{repo_id}: cannot be pushed to the Hub"
    api = HfApi(library_name="lalm-mer")
    with calling_hub(f"{what}, creating the repository failed", timeout_s):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
    with calling_hub(f"{what}, reading the repository failed", timeout_s):
        info = api.model_info(repo_id)
        found = {sibling.rfilename for sibling in info.siblings or ()}
    if private and not info.private:
        raise AdapterError(
            f"{repo_id}: is public; make it private on the Hub first, or omit --private (output.push_private)"
        )
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    kind = "Baseline" if NETWORK in files else "Adapter"
    _require_same_kind(repo_id, found - _HUB_OWN, kind)
    additions = [CommitOperationAdd(name, path) for name, path in files.items()]
    with calling_hub(f"{what}, sending the files failed", timeout_s):
        api.preupload_lfs_files(repo_id, additions, free_memory=False)
    with calling_hub(f"{what}, the commit failed", timeout_s):
        deletions = [CommitOperationDelete(name) for name in sorted(_ours(found, kind) - files.keys() - _HUB_OWN)]
        commit = api.create_commit(repo_id, [*additions, *deletions], commit_message=f"{kind} by lalm-mer")
    return str(commit.commit_url)


def _require_same_kind(repo_id: str, found: set[str], kind: str) -> None:
    """Refuse a repository with files, unless they are of an earlier push of the same kind."""
    needed, others = ((NETWORK, RUN_FILE), CONFIG) if kind == "Baseline" else ((CONFIG,), NETWORK)
    missing = [name for name in needed if name not in found]
    if found and others in found:
        other = "an adapter" if kind == "Baseline" else "a baseline"
        raise AdapterError(f"{repo_id}: contains {others} of {other}; choose another repository")
    if found and missing:
        raise AdapterError(f"{repo_id}: contains {min(found)} and no {missing[0]}; choose another repository")


def _ours(found: set[str], kind: str) -> set[str]:
    """The files of a repository that an earlier push may have written."""
    if kind == "Baseline":
        return found & set(SAVED_FILES)
    return {name for name in found if "/" not in name and written_here(name)}


def push_run(
    run_folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    licence: str | None = None,
    base_model: str | None = None,
    push_vocabulary: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """Assemble a finished run in a temporary folder and push it; arguments as for ``assemble`` and ``push``."""
    with tempfile.TemporaryDirectory() as folder:
        assemble(
            run_folder,
            Path(folder),
            repo_id=repo_id,
            licence=licence,
            base_model=base_model,
            push_vocabulary=push_vocabulary,
        )
        return push(Path(folder), repo_id, private=private, timeout_s=timeout_s)


def load_adapter_from(
    source: str, revision: str | None = None, *, key: str = "adapter", timeout_s: float = TIMEOUT_S
) -> Path:
    """A local folder with an adapter: of a run, of ``assemble``, or downloaded from the Hub or found in its cache.

    Only safetensors, JSON, YAML and Markdown at the top of the repository are downloaded, so that no code can run.

    Args:
        source: a folder, or a Hub id; a folder of that name takes precedence
        revision: branch, tag or commit on the Hub; None for main
        key: name of the source in errors
        timeout_s: longest wait for an answer, in seconds; for files HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT
            (10 s by default) may shorten it

    Raises:
        AdapterError: if there is neither, the Hub cannot be reached, or the folder has no adapter in safetensors
    """
    folder, root = _find(source, revision, key, timeout_s)
    return _adapter_in(folder, source, root)


def load_from(source: str, revision: str | None = None, *, key: str = "run", timeout_s: float = TIMEOUT_S) -> Path:
    """A local folder with an adapter or a baseline, which has ``NETWORK``; arguments as of ``load_adapter_from``.

    Of a baseline, ``SAVED_FILES`` are downloaded as well.

    Raises:
        AdapterError: as ``load_adapter_from``
        ModelError: if it is a malformed baseline, or one that names a path
    """
    folder, root = _find(source, revision, key, timeout_s)
    if not (folder / NETWORK).is_file() or (folder / CONFIG).is_file():
        return _adapter_in(folder, source, root)
    check_baseline(folder, named=source, root=root)
    return folder


def _adapter_in(folder: Path, source: str, root: Path | None) -> Path:
    """The folder of the adapter, which is checked."""
    for model in (folder, folder / MODEL_FOLDER):
        if root is not None and (model / MERGED_FROM).is_file():
            raise AdapterError(f"{source}: has no adapter, but a complete model; use {model} as model.id")
    inner = folder if root is None or (folder / CONFIG).is_file() else folder / "adapter"
    check_adapter_folder(inner, named=source, root=root)
    return inner


def _find(source: str, revision: str | None, key: str, timeout_s: float) -> tuple[Path, Path | None]:
    """A folder, and itself as the one that no link may leave; or a download, whose links are those of the cache."""
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise AdapterError(f"argument 'revision': {revision!r}, but {source} is a folder; set it to null")
        return folder, folder
    try:
        check_repo_id(source, f"{key}:")
    except ConfigError as error:
        raise AdapterError(f"{error}; there is no such folder either") from error
    try:
        cached = isinstance(try_to_load_from_cache(source, NETWORK, revision=revision), str)
        require_hub(source, NETWORK if cached else CONFIG, revision)
    except ModelError as error:
        raise AdapterError(f"{key}: {error}") from error
    with calling_hub(f"{key}: {source}: cannot be loaded from the Hub", timeout_s):
        commit = HfApi().resolve_revision(source, revision=revision)
        check_commit(commit.resolved)
        downloaded = snapshot_download(source, revision=commit, allow_patterns=list(_KINDS), ignore_patterns=["*/*"])
        if (Path(str(downloaded)) / NETWORK).is_file():
            snapshot_download(source, revision=commit, allow_patterns=_IN_FOLDERS)
    return Path(str(downloaded)), None
