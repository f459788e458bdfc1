"""Adapters on the Hugging Face Hub: a folder becomes a commit, an id a local folder again.

A server that refuses, stalls, drops the line or answers nonsense ends in one line that says at which step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download

from lalm_mer.core.errors import AdapterError, ConfigError, SplitLeakError
from lalm_mer.models.adapter_files import CONFIG, check_adapter_folder, read_json
from lalm_mer.sharing.hub_client import TIMEOUT_S, check_commit, reaching
from lalm_mer.sharing.hub_folder import assemble, check_repo_id, published_id, written_here

__all__ = ["MERGED_FROM", "load_adapter_from", "push", "push_run", "read_trained_run", "require_fit", "surely_differ"]

MERGED_FROM = "merged_from.json"
"""In the folder of a merged model: what a run.json says of an adapter, as far as ``require_fit`` reads it."""

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


def read_trained_run(folder: Path) -> dict[str, Any] | None:
    """What is written of the run that trained an adapter, or what was merged into a model; None where nothing is."""
    files = (folder / MERGED_FROM, folder / "run.json", folder.parent / "run.json")
    file = next((file for file in files if file.is_file()), None)
    return None if file is None else dict(read_json(file))


def require_fit(folder: Path, *, now: Mapping[str, Any]) -> list[str]:
    """Compare a run that is to use an adapter with the run that trained it, as the ``run.json`` beside it tells.

    Args:
        folder: what ``load_adapter_from`` gave, or the folder of a merged model
        now: ``corpus``, ``fold``, ``labels``, ``hashes``, ``base_model`` as in run.json, and ``quantization`` as in its
            config.model; a base model of None is not compared

    Returns:
        notes for a reader of the figures

    Raises:
        SplitLeakError: if this is another fold of the same folds: its test set was trained on
        AdapterError: if the adapter was trained on another base model
    """
    if now["base_model"] is not None:
        _require_same_base(folder, str(now["base_model"]))
    then = read_trained_run(folder)
    if then is None:
        return ["Nothing tells what the adapter was trained on: its training data may hold the test set."]
    where = f"adapter {then.get('corpus')}, {then.get('protocol')}, fold {then.get('fold')}"
    hashes, other = now["hashes"], then.get("hashes", {})
    notes = []
    if hashes["folds"] == other.get("folds"):
        if now["fold"] != then.get("fold"):
            raise SplitLeakError(
                f"argument 'fold': {now['fold']}, but the adapter was trained on fold {then.get('fold')} of the same "
                f"folds and may know these test utterances; set it to {then.get('fold')}"
            )
    elif now["corpus"] == then.get("corpus"):
        notes.append(f"The {where} was trained on other folds of this corpus: it may know test utterances.")
    else:
        notes.append(f"The {where} was trained on another corpus.")
    trained = other.get("base_model")
    base = hashes["base_model"] or trained
    if surely_differ(base, trained):
        raise AdapterError(f"{folder}: the adapter was trained on another base model; set model.id to the same one")
    if base != trained:
        notes.append("The adapter was trained on another copy or revision of the base model, as far as can be told.")
    bits = then.get("config", {}).get("model", {}).get("quantization")
    if now["quantization"] != bits:
        notes.append(
            f"The adapter was trained with quantization {bits or 'none'}, this is {now['quantization'] or 'none'}."
        )
    if hashes["prompt"] != other.get("prompt"):
        notes.append("The adapter was trained with another prompt.")
    if list(now["labels"]) != then.get("labels"):
        notes.append("The adapter was trained on other labels.")
    return notes


def surely_differ(one: object, another: object) -> bool:
    """Whether two digests of base models are of two models: a commit of the Hub tells nothing of a folder's content.

    Example:
        >>> surely_differ("sha-of-one", "sha-of-another"), surely_differ("sha-of-one", "user/name@commit")
        (True, False)
    """
    return one != another and all("@" not in str(digest) for digest in (one, another))


def _require_same_base(folder: Path, model_id: str) -> None:
    """Two ids of the Hub that differ are two models; of a folder nothing can be said by its name."""
    trained = str(read_json(folder / CONFIG).get("base_model_name_or_path"))
    if published_id(trained) and published_id(model_id) and trained.lower() != model_id.lower():
        raise AdapterError(
            f"{folder}: the adapter was trained on {trained}, and model.id is {model_id}; set model.id={trained}, or "
            "to a folder that holds a copy of it"
        )
