"""Pushes adapters to the Hugging Face Hub and downloads them; each failure is one line that names the step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download

from lalm_mer.core.errors import AdapterError, ConfigError, ModelError
from lalm_mer.models.adapter_files import CONFIG, check_adapter_folder
from lalm_mer.models.hub_connection import require_hub
from lalm_mer.sharing.hub_client import TIMEOUT_S, calling_hub, check_commit
from lalm_mer.sharing.hub_folder import assemble, check_repo_id, written_here

__all__ = ["load_adapter_from", "push", "push_run"]

_KINDS = ("*.safetensors", "*.json", "*.yaml", "*.md")
_HUB_OWN = {".gitattributes", "README.md"}


def push(folder: Path, repo_id: str, *, private: bool = False, timeout_s: float = TIMEOUT_S) -> str:
    """Upload an assembled folder as one commit, to a new repository or one that contains an adapter.

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
    if not found <= _HUB_OWN and CONFIG not in found:
        raise AdapterError(f"{repo_id}: contains {min(found - _HUB_OWN)} and no {CONFIG}; choose another repository")
    files = sorted(folder.iterdir())
    new = {path.name for path in files}
    stale = sorted(name for name in found - new - _HUB_OWN if "/" not in name and written_here(name))
    additions = [CommitOperationAdd(path.name, path) for path in files]
    with calling_hub(f"{what}, sending the files failed", timeout_s):
        api.preupload_lfs_files(repo_id, additions, free_memory=False)
    with calling_hub(f"{what}, the commit failed", timeout_s):
        deletions = [CommitOperationDelete(name) for name in stale]
        commit = api.create_commit(repo_id, [*additions, *deletions], commit_message="Adapter by lalm-mer")
    return str(commit.commit_url)


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
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise AdapterError(f"argument 'revision': {revision!r}, but {source} is a folder; set it to null")
        inner = folder if (folder / CONFIG).is_file() else folder / "adapter"
        check_adapter_folder(inner, named=source, root=folder)
        return inner
    try:
        check_repo_id(source, f"{key}:")
    except ConfigError as error:
        raise AdapterError(f"{error}; there is no such folder either") from error
    try:
        require_hub(source, CONFIG, revision)
    except ModelError as error:
        raise AdapterError(f"{key}: {error}") from error
    with calling_hub(f"{key}: {source}: cannot be loaded from the Hub", timeout_s):
        commit = HfApi().resolve_revision(source, revision=revision)
        check_commit(commit.resolved)
        downloaded = snapshot_download(source, revision=commit, allow_patterns=list(_KINDS), ignore_patterns=["*/*"])
    check_adapter_folder(Path(str(downloaded)), named=source)
    return Path(str(downloaded))
