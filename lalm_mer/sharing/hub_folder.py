"""The folder that is pushed: a finished run's adapter with all that is needed to use it and to judge it.

What leaves the machine is what ``assemble`` writes: no checkpoint, no prediction, no transcript, no local path.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lalm_mer.core.errors import AdapterError, ConfigError, ModelError, one_line
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import SIMULATED
from lalm_mer.core.provenance import write_json
from lalm_mer.corpora import load_tasks
from lalm_mer.evaluation.runs import ADAPTERS, read_run
from lalm_mer.models.adapter_files import CONFIG, WEIGHTS, check_adapter_folder, read_json
from lalm_mer.models.registry import PretrainedModel, model_class
from lalm_mer.protocols.protocol import Protocol, load_protocol
from lalm_mer.sharing.model_card import CardFacts, check_licence, dev_rule, read_fairness, render_model_card

__all__ = ["LABELS", "PROMPT", "assemble", "check_repo_id", "published_id", "require_empty", "written_here"]

PROMPT = "prompt.yaml"
LABELS = "labels.json"
_NAME = r"[a-zA-Z0-9_][\w.-]{0,95}(?<![.-])"
_REPO_ID = re.compile(rf"(?!.*(?:--|\.\.)){_NAME}/{_NAME}(?<!\.git)", re.ASCII)
_PROCESSOR_KINDS = (".json", ".jinja", ".txt", ".model")
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

    ``prompt.yaml`` is the prompt, or for a CLAP its ensemble of descriptions: what ``prompt.file`` takes.

    Args:
        run_folder: as finetune.py left it; ``fairness.json`` in it, if there is one, goes into the card
        out: a new or empty folder
        repo_id: where it goes, for the card
        licence: of the adapter; without one the card says that it is not stated
        base_model: Hub id of the base model, where the run used a local copy; such a copy's path is never written

    Raises:
        AdapterError: if the run is unfinished, trained no adapter, or read simulated transcripts, or its adapter is no
            safetensors
        ConfigError: if the prompt has changed since, a name is wrong, or ``out`` holds files
        PredictionError: if the run folder is malformed
    """
    check_repo_id(repo_id, "--repo")
    check_licence(licence)
    if base_model is not None:
        check_repo_id(base_model, "--base-model")
    description = _finished(run_folder)
    model = description["config"]["model"]
    family = model_class(model["family"])
    check_adapter_folder(run_folder / "adapter", root=run_folder, towers=family.towers.values())
    published = base_model or published_id(model["id"])
    protocol = load_protocol(Path(description["config"]["split"]["protocol"]))
    label_set = _label_set(description, protocol)
    fairness = run_folder / "fairness.json"
    rows = read_fairness(read_json(fairness), str(fairness)) if fairness.is_file() else None
    require_empty(out)
    out.mkdir(parents=True, exist_ok=True)
    _write_processor(family, model, out)
    revision = model["revision"] if base_model is None else None
    _write_adapter(run_folder / "adapter", out, published=published, revision=revision)
    shutil.copyfile(description["config"]["prompt"]["file"], out / PROMPT)
    forms = {label: list(label_set.forms_of(label)) for label in label_set.labels}
    write_json(out / LABELS, {"task": description["task"], "labels": list(label_set.labels), "forms": forms})
    public = _public(description, published)
    write_json(out / "run.json", public)
    metrics = read_json(run_folder / "metrics.json")
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


def require_empty(out: Path) -> None:
    """Refuse to write among other files.

    Raises:
        ConfigError: naming the folder
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: is not an empty folder; choose a new one")


def _finished(folder: Path) -> dict[str, Any]:
    """Content of run.json of a run that may be pushed."""
    run = read_run(folder)
    if run.metrics is None:
        raise AdapterError(f"{folder}: no metrics.json, the run is not finished; start it again to end it")
    if run.method not in ADAPTERS:
        raise AdapterError(f"{folder}: method {run.method}; only a run that trained an adapter has one to push")
    if run.transcript_source == SIMULATED:
        raise AdapterError(f"{folder}: its transcripts are simulated and name the label; such an adapter is not shared")
    description: dict[str, Any] = read_json(folder / "run.json")
    for section, key in (("model", "family"), ("model", "id"), ("prompt", "file"), ("split", "protocol")):
        if not isinstance(description["config"].get(section, {}).get(key), str):
            raise AdapterError(f"{folder / 'run.json'}: key 'config.{section}.{key}' is missing; run finetune.py again")
    return description


def _label_set(description: Mapping[str, Any], protocol: Protocol) -> LabelSet:
    """The labels with the forms that the run was trained with, as prompt and protocol give them."""
    file = Path(description["config"]["prompt"]["file"])
    family = model_class(description["config"]["model"]["family"])
    prompt = family.load_prompt(file)
    if prompt.digest != description["hashes"]["prompt"]:
        raise ConfigError(f"{file}: is not the prompt of the run any more; restore it, or train again")
    task = protocol.resolve_task(load_tasks(description["corpus"]))
    label_set: LabelSet = prompt.label_set(task.labels)
    if task.name != description["task"] or list(label_set.labels) != description["labels"]:
        raise ConfigError(
            f"{description['config']['split']['protocol']}: labels {list(label_set.labels)} of task {task.name}, but "
            f"the run has {description['labels']} of {description['task']}; restore the protocol"
        )
    return label_set


def _write_adapter(folder: Path, out: Path, *, published: str | None, revision: str | None) -> None:
    """Weights and config, which names the base model by its id: by any other name peft would ask the Hub for it."""
    shutil.copyfile(folder / WEIGHTS, out / WEIGHTS)
    config = read_json(folder / CONFIG) | {"base_model_name_or_path": published}
    if config.get("revision") is None:
        config["revision"] = revision
    write_json(out / CONFIG, config)


def _public(description: Mapping[str, Any], published: str | None) -> dict[str, Any]:
    """Content of run.json without local paths, and without ids of utterances, which may name people."""
    public: dict[str, Any] = _without_paths(description)
    public["base_model"] = public["config"]["model"]["id"] = published or Path(public["config"]["model"]["id"]).name
    public["notes"] = [_LEFT_OUT.sub(r"\1.", note) for note in public["notes"]]
    return public


def _write_processor(family: type[PretrainedModel], model: Mapping[str, Any], out: Path) -> None:
    """What turns audio and words into the model's inputs, without weights and without the local path it came from."""
    try:
        processor = family.load_processor(model["id"], model["revision"])
    except (OSError, ValueError) as error:
        raise ModelError(f"model {model['id']!r}: its processor cannot be loaded: {one_line(error)}") from error
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            if path.is_file() and path.suffix in _PROCESSOR_KINDS:
                shutil.copyfile(path, out / path.name)
    for name in ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        if (out / name).is_file():
            content = read_json(out / name)
            write_json(out / name, {key: value for key, value in content.items() if not _is_local(value)})


def published_id(model_id: str) -> str | None:
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


def written_here(name: str) -> bool:
    """Whether ``assemble`` may have written a file of that name."""
    return Path(name).suffix in (".safetensors", ".yaml", *_PROCESSOR_KINDS)
