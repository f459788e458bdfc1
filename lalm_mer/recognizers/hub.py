"""Adapters on the Hugging Face Hub: a finished run becomes a folder, the folder a commit, an id a local folder again.

What leaves the machine is what ``assemble`` writes: no checkpoint, no prediction, no transcript, no local path.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import httpx2
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError, safe_open

from lalm_mer.core.errors import AdapterError, ConfigError, ModelError, SplitLeakError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.provenance import write_json
from lalm_mer.corpora import load_tasks
from lalm_mer.evaluation.runs import ADAPTERS, read_run
from lalm_mer.models.adapter_kinds import check_saved_config
from lalm_mer.models.clap import Clap
from lalm_mer.models.families import family_class
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.protocols.protocol import Protocol, load_protocol
from lalm_mer.recognizers.model_card import CardFacts, check_licence, dev_rule, read_fairness, render_model_card

__all__ = [
    "MERGED_FROM",
    "assemble",
    "check_repo_id",
    "load_adapter_from",
    "push",
    "push_run",
    "read_trained_run",
    "require_empty",
    "require_fit",
]

MERGED_FROM = "merged_from.json"
"""In the folder of a merged model: what a run.json says of an adapter, as far as ``require_fit`` reads it."""

_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_NAME = r"[a-zA-Z0-9_][\w.-]{0,95}(?<![.-])"
_REPO_ID = re.compile(rf"(?!.*(?:--|\.\.)){_NAME}/{_NAME}(?<!\.git)", re.ASCII)
_KINDS = ("*.safetensors", "*.json", "*.yaml", "*.md")
_PROCESSOR_KINDS = (".json", ".jinja", ".txt", ".model")
_HUB_OWN = {".gitattributes", "README.md"}
_LEFT_OUT = re.compile(r"(\d+ utterances of \w+ (?:unscored, counted as errors|left out)): .*", re.DOTALL)
_PATH_WITHIN = re.compile(r"(?<![\w./:])~?/(?:[^\s/'\"]+/)+([^\s/'\"]*)")


def check_repo_id(repo_id: str, key: str) -> None:
    """Refuse what is not ``user/name``.

    Raises:
        ConfigError: naming the key
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise ConfigError(f"{key} {repo_id!r}: expected user/name or organisation/name, of letters, digits, - _ and .")


def assemble(
    run_folder: Path, out: Path, *, repo_id: str, licence: str | None = None, base_model: str | None = None
) -> Path:
    """Write the folder that is pushed, from a finished run: adapter, processor, prompt, labels, figures, card.

    Args:
        run_folder: as finetune.py left it; ``fairness.json`` in it, if there is one, goes into the card
        out: a new or empty folder
        repo_id: where it goes, for the card
        licence: of the adapter; without one the card says that it is not stated
        base_model: Hub id of the base model, where the run used a local copy; such a copy's path is never written

    Raises:
        AdapterError: if the run is unfinished, trained no adapter or read simulated transcripts, or its adapter is no
            safetensors
        ConfigError: if the prompt has changed since, a name is wrong, or ``out`` holds files
        PredictionError: if the run folder is malformed
    """
    check_repo_id(repo_id, "--repo")
    check_licence(licence)
    if base_model is not None:
        check_repo_id(base_model, "--base-model")
    description = _finished(run_folder)
    _check_weights(run_folder / "adapter")
    model = description["config"]["model"]
    published = base_model or _published(model["id"])
    if model["family"] == Clap.name:
        raise AdapterError(f"{run_folder}: an adapter of a CLAP; only those of audio-language models are pushed so far")
    family = family_class(model["family"])
    protocol = load_protocol(Path(description["config"]["split"]["protocol"]))
    label_set = _label_set(description, protocol)
    fairness = run_folder / "fairness.json"
    rows = read_fairness(_read_json(fairness), str(fairness)) if fairness.is_file() else None
    require_empty(out)
    out.mkdir(parents=True, exist_ok=True)
    _write_processor(family, model, out)
    shutil.copyfile(run_folder / "adapter" / _WEIGHTS, out / _WEIGHTS)
    # a name that is no id would have peft ask the Hub for it
    adapter_config = _read_json(run_folder / "adapter" / _CONFIG) | {"base_model_name_or_path": published}
    if adapter_config.get("revision") is None and base_model is None:
        adapter_config["revision"] = model["revision"]
    write_json(out / _CONFIG, adapter_config)
    shutil.copyfile(description["config"]["prompt"]["file"], out / "prompt.yaml")
    forms = {label: list(label_set.forms_of(label)) for label in label_set.labels}
    write_json(out / "labels.json", {"task": description["task"], "labels": list(label_set.labels), "forms": forms})
    public = _without_paths(description)
    public["base_model"] = public["config"]["model"]["id"] = published or Path(model["id"]).name
    public["notes"] = [_LEFT_OUT.sub(r"\1.", note) for note in public["notes"]]  # ids may name people
    write_json(out / "run.json", public)
    metrics = _read_json(run_folder / "metrics.json")
    write_json(out / "metrics.json", metrics)
    card = render_model_card(
        CardFacts(
            repo_id=repo_id,
            description=public,
            metrics=metrics,
            forms=forms,
            dev_rule=dev_rule(protocol),
            base_licence=family.licence,
            unknown_in=protocol.unknown_in,
            contamination=family.contamination.get(description["corpus"]),
            base_model=published,
            licence=licence,
            fairness=rows,
        )
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    return out


def push(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload an assembled folder as one commit; the repository is made where there is none.

    Files of an earlier push that this one does not have are removed in the same commit; a repository that holds
    something else than an adapter is left alone.

    Args:
        folder: what ``assemble`` wrote
        repo_id: ``user/name``
        private: make it private; one that is public already is an error, for nothing would be hidden

    Returns:
        address of the commit

    Raises:
        AdapterError: if the Hub refuses, cannot be reached, or the repository is not one to push to
    """
    check_repo_id(repo_id, "--repo")
    api = HfApi(library_name="lalm-mer")
    with _told(f"{repo_id}: cannot be pushed to the Hub"):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        info = api.model_info(repo_id)
    found = {sibling.rfilename for sibling in info.siblings or ()}
    if private and not info.private:
        raise AdapterError(f"{repo_id}: is public already; make it private on the Hub first, or leave out --private")
    if not found <= _HUB_OWN and _CONFIG not in found:
        raise AdapterError(f"{repo_id}: holds {min(found - _HUB_OWN)} and no {_CONFIG}; choose a repository of its own")
    new = {path.name for path in folder.iterdir()}
    stale = sorted(name for name in found - new - _HUB_OWN if "/" not in name and _written_here(name))
    with _told(f"{repo_id}: cannot be pushed to the Hub"):
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="Adapter by lalm-mer",
            delete_patterns=stale or None,
        )
    return str(commit.commit_url)


def push_run(
    run_folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    licence: str | None = None,
    base_model: str | None = None,
) -> str:
    """Assemble a finished run in a temporary folder and push it; arguments as of ``assemble`` and ``push``."""
    with tempfile.TemporaryDirectory() as folder:
        assemble(run_folder, Path(folder), repo_id=repo_id, licence=licence, base_model=base_model)
        return push(Path(folder), repo_id, private=private)


def load_adapter_from(source: str, revision: str | None = None) -> Path:
    """A local folder with the adapter: of a run, of ``assemble``, or downloaded from the Hub.

    Only safetensors, JSON, YAML and Markdown at the top of the repository are downloaded, so nothing can run.

    Args:
        source: a folder, or a Hub id; a folder of that name wins
        revision: branch, tag or commit on the Hub; None for main

    Raises:
        AdapterError: if there is neither, the Hub cannot be reached, or what is there is no adapter in safetensors
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise AdapterError(f"key 'model.adapter_revision': {revision!r}, but {source} is a folder; set it to null")
        folder = folder if (folder / _CONFIG).is_file() else folder / "adapter"
    else:
        try:
            check_repo_id(source, "key 'model.adapter':")
        except ConfigError as error:
            raise AdapterError(f"{error}; there is no such folder either") from error
        with _told(f"key 'model.adapter': {source}: cannot be loaded from the Hub"):
            downloaded = snapshot_download(
                source, revision=revision, allow_patterns=list(_KINDS), ignore_patterns=["*/*"]
            )
        folder = Path(str(downloaded))
    _check_weights(folder, named=source)
    return folder


def require_empty(out: Path) -> None:
    """Refuse to write among other files.

    Raises:
        ConfigError: naming the folder
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: is not an empty folder; choose a new one")


def read_trained_run(folder: Path) -> dict[str, Any] | None:
    """What is written of the run that trained an adapter, or what was merged into a model; None where nothing is."""
    files = (folder / MERGED_FROM, folder / "run.json", folder.parent / "run.json")
    file = next((file for file in files if file.is_file()), None)
    return None if file is None else _read_json(file)


def require_fit(folder: Path, *, now: Mapping[str, Any]) -> list[str]:
    """Compare a run that is to use an adapter with the run that trained it, as the ``run.json`` beside it tells.

    Args:
        folder: what ``load_adapter_from`` gave, or the folder of a merged model
        now: ``corpus``, ``fold``, ``labels``, ``hashes`` as in run.json, and ``quantization`` as in its config.model;
            a ``base_model`` of None is not compared

    Returns:
        notes for a reader of the figures

    Raises:
        SplitLeakError: if this is another fold of the same folds: its test set was trained on
        AdapterError: if the adapter was trained on another local base model
    """
    then = read_trained_run(folder)
    if then is None:
        return ["Nothing tells what the adapter was trained on: its training data may hold the test set."]
    where = f"adapter {then.get('corpus')}, {then.get('protocol')}, fold {then.get('fold')}"
    hashes, other = now["hashes"], then.get("hashes", {})
    notes = []
    if hashes["folds"] == other.get("folds"):
        if now["fold"] != then.get("fold"):
            raise SplitLeakError(
                f"key 'split.fold': {now['fold']}, but the adapter was trained on fold {then.get('fold')} of the same "
                f"folds and may know these test utterances; set split.fold={then.get('fold')}"
            )
    elif now["corpus"] == then.get("corpus"):
        notes.append(f"The {where} was trained on other folds of this corpus: it may know test utterances.")
    else:
        notes.append(f"The {where} was trained on another corpus.")
    trained = other.get("base_model")
    base = hashes["base_model"] or trained
    if base != trained and all("@" not in str(digest) for digest in (base, trained)):
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


def _finished(folder: Path) -> dict[str, Any]:
    """Content of run.json of a run that may be pushed."""
    run = read_run(folder)
    if run.metrics is None:
        raise AdapterError(f"{folder}: no metrics.json, the run is not finished; start it again to end it")
    if run.method not in ADAPTERS:
        raise AdapterError(f"{folder}: method {run.method}; only a run that trained an adapter has one to push")
    if run.transcript_source == "simulated":
        raise AdapterError(f"{folder}: its transcripts are simulated and name the label; such an adapter is not shared")
    description: dict[str, Any] = _read_json(folder / "run.json")
    for section, key in (("model", "family"), ("model", "id"), ("prompt", "file"), ("split", "protocol")):
        if not isinstance(description["config"].get(section, {}).get(key), str):
            raise AdapterError(f"{folder / 'run.json'}: key 'config.{section}.{key}' is missing; run finetune.py again")
    return description


def _check_weights(folder: Path, named: str | None = None) -> None:
    """The adapter is of a kind offered, in safetensors that can be read, and holds what its config says and no more."""
    where = named or folder
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise AdapterError(f"{where}: no {name}; an adapter as peft saves it is needed, in safetensors")
        if not _stays(folder, name):
            raise AdapterError(f"{where}: {name} is a link that leaves its folder; copy the file itself there")
    content = _read_json(folder / _CONFIG)
    kind = check_saved_config(content, where)
    try:
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{where}: {_WEIGHTS} is not safetensors ({_one_line(error)})") from error
    copies = tuple(f"base_model.model.{path}." for path in content.get("modules_to_save") or ())
    odd = [name for name in names if f".{kind.prefix}" not in name and not name.startswith(copies)]
    if odd or not names:
        raise AdapterError(
            f"{where}: {_WEIGHTS} holds {odd[0] if odd else 'nothing'}; expected what its config names alone"
        )


def _stays(folder: Path, name: str) -> bool:
    """Whether a file lies in its folder; a download of the Hub's lies among the blobs beside it."""
    place = (folder / name).resolve().parent
    root = folder.resolve()
    return place == root or (root.parent.name == "snapshots" and place == root.parent.parent / "blobs")


def _label_set(description: Mapping[str, Any], protocol: Protocol) -> LabelSet:
    """The labels with the forms that the run was trained with, as prompt and protocol give them."""
    file = Path(description["config"]["prompt"]["file"])
    prompt = load_prompt(file)
    if prompt.digest != description["hashes"]["prompt"]:
        raise ConfigError(f"{file}: is not the prompt of the run any more; restore it, or train again")
    task = protocol.resolve_task(load_tasks(description["corpus"]))
    label_set = prompt.label_set(task.labels)
    if task.name != description["task"] or list(label_set.labels) != description["labels"]:
        raise ConfigError(
            f"{description['config']['split']['protocol']}: labels {list(label_set.labels)} of task {task.name}, but "
            f"the run has {description['labels']} of {description['task']}; restore the protocol"
        )
    return label_set


def _write_processor(family: type[Family], model: Mapping[str, Any], out: Path) -> None:
    """What turns audio and words into the model's inputs, without weights and without the local path it came from."""
    try:
        processor = family.load_processor(model["id"], model["revision"])
    except (OSError, ValueError) as error:
        raise ModelError(f"model {model['id']!r}: its processor cannot be loaded: {_one_line(error)}") from error
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            if path.is_file() and path.suffix in _PROCESSOR_KINDS:
                shutil.copyfile(path, out / path.name)
    for name in ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        if (out / name).is_file():
            content = _read_json(out / name)
            write_json(out / name, {key: value for key, value in content.items() if not _is_local(value)})


def _published(model_id: str) -> str | None:
    """The id, if it is one of the Hub and not a folder."""
    return model_id if _REPO_ID.fullmatch(model_id) and not Path(model_id).exists() else None


def _is_local(value: object) -> bool:
    """Whether it is the path of something on this machine, or could be one on another."""
    if not isinstance(value, str) or "\n" in value or len(value) > 4096:
        return False
    posix, windows = PurePosixPath(value), PureWindowsPath(value)
    return value.startswith("~") or ".." in posix.parts or (len(posix.parts) > 1 and posix.is_absolute()) or bool(
        windows.drive and len(windows.parts) > 1
    )  # fmt: skip


def _without_paths(value: Any) -> Any:  # noqa: ANN401 plain data
    """Plain data in which a path that leads about this machine is only its last name."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if _is_local(value):
        return (PureWindowsPath(value) if "\\" in value else PurePosixPath(value)).name
    return _PATH_WITHIN.sub(r"\1", value) if isinstance(value, str) else value


def _written_here(name: str) -> bool:
    return Path(name).suffix in (".safetensors", ".yaml", *_PROCESSOR_KINDS)


def _read_json(file: Path) -> Any:  # noqa: ANN401 what the file says
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file}: cannot be read as JSON ({_one_line(error)})") from error


@contextmanager
def _told(what: str) -> Iterator[None]:
    """An error of the Hub or of the way there, in one line."""
    try:
        yield
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        cause = f" ({_one_line(error.__cause__)})" if error.__cause__ is not None else ""
        raise AdapterError(f"{what}: {_one_line(error)}{cause}; is the id right, and HF_TOKEN set?") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
