"""Adapters on the Hugging Face Hub: a folder becomes a commit, an id a local folder again.

A server that refuses, stalls, drops the line or answers nonsense ends in one line that says at which step.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download

from lalm_mer.core.errors import AdapterError, ConfigError
from lalm_mer.models.adapter_files import CONFIG, check_adapter_folder
from lalm_mer.sharing.hub_client import TIMEOUT_S, check_commit, reaching
from lalm_mer.sharing.hub_folder import assemble, check_repo_id, written_here

__all__ = ["load_adapter_from", "push", "push_run"]

_KINDS = ("*.safetensors", "*.json", "*.yaml", "*.md")
_HUB_OWN = {".gitattributes", "README.md"}


def push(folder: Path, repo_id: str, *, private: bool = False, timeout_s: float = TIMEOUT_S) -> str:
    """Upload an assembled folder as one commit; the repository is made where there is none.

    Files of an earlier push that this one does not have are removed in the same commit; a repository that holds
    something else than an adapter is left alone. Nothing local is changed, and a push that failed can be repeated: what
    has arrived is not sent again.

    Args:
        folder: what ``assemble`` wrote
        repo_id: ``user/name``
        private: make it private; one that is public already is an error, for nothing would be hidden
        timeout_s: longest wait for an answer, in seconds

    Returns:
        address of the commit

    Raises:
        AdapterError: if the Hub refuses, cannot be reached, or the repository is not one to push to
    """
    check_repo_id(repo_id, "--repo")
    what = f"{repo_id}: cannot be pushed to the Hub"
    api = HfApi(library_name="lalm-mer")
    with reaching(f"{what}, making the repository failed", timeout_s):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
    with reaching(f"{what}, looking into the repository failed", timeout_s):
        info = api.model_info(repo_id)
        found = {sibling.rfilename for sibling in info.siblings or ()}
    if private and not info.private:
        raise AdapterError(
            f"{repo_id}: is public already; make it private on the Hub first, or leave out --private "
            "(output.push_private)"
        )
    if not found <= _HUB_OWN and CONFIG not in found:
        raise AdapterError(f"{repo_id}: holds {min(found - _HUB_OWN)} and no {CONFIG}; choose a repository of its own")
    files = sorted(folder.iterdir())
    new = {path.name for path in files}
    stale = sorted(name for name in found - new - _HUB_OWN if "/" not in name and written_here(name))
    additions = [CommitOperationAdd(path.name, path) for path in files]
    with reaching(f"{what}, sending the files failed", timeout_s):
        api.preupload_lfs_files(repo_id, additions, free_memory=False)
    with reaching(f"{what}, the commit failed", timeout_s):
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
    timeout_s: float = TIMEOUT_S,
) -> str:
    """Assemble a finished run in a temporary folder and push it; arguments as of ``assemble`` and ``push``."""
    with tempfile.TemporaryDirectory() as folder:
        assemble(run_folder, Path(folder), repo_id=repo_id, licence=licence, base_model=base_model)
        return push(Path(folder), repo_id, private=private, timeout_s=timeout_s)


def load_adapter_from(
    source: str, revision: str | None = None, *, key: str = "adapter", timeout_s: float = TIMEOUT_S
) -> Path:
    """A local folder with the adapter: of a run, of ``assemble``, or downloaded from the Hub.

    Only safetensors, JSON, YAML and Markdown at the top of the repository are downloaded, so nothing can run. What was
    downloaded once is taken where the Hub cannot be reached.

    Args:
        source: a folder, or a Hub id; a folder of that name wins
        revision: branch, tag or commit on the Hub; None for main
        key: what names the source in errors
        timeout_s: longest wait for an answer, in seconds; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, 10 s where
            nothing is set, hold for files

    Raises:
        AdapterError: if there is neither, the Hub cannot be reached, or what is there is no adapter in safetensors
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
    with reaching(f"{key}: {source}: cannot be loaded from the Hub", timeout_s):
        commit = HfApi().resolve_revision(source, revision=revision)
        check_commit(commit.resolved)
        downloaded = snapshot_download(source, revision=commit, allow_patterns=list(_KINDS), ignore_patterns=["*/*"])
    folder = Path(str(downloaded))
    check_adapter_folder(folder, named=source)
    return folder
