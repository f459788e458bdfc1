"""The folder that is pushed: the adapter of a finished run with the files that its use and its evaluation need.

Except for weights, vocabulary and chat template, every file is written from an explicit list of its content: no
checkpoint, prediction, transcript, utterance id or local path is shared.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from lalm_mer.core.config import read_yaml
from lalm_mer.core.errors import AdapterError, ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.locks import only_writer
from lalm_mer.core.names import ADAPTERS, SIMULATED
from lalm_mer.core.output import atomic_folder, write_json, write_text, writing
from lalm_mer.core.run_record import RUN_FILE, ModelRecord, RunRecord
from lalm_mer.corpora import load_tasks
from lalm_mer.evaluation.runs import Run, read_run
from lalm_mer.evaluation.scores import score
from lalm_mer.models.adapter_files import CONFIG, WEIGHTS, check_adapter_folder
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.registry import model_class
from lalm_mer.protocols.protocol import Protocol, load_protocol
from lalm_mer.sharing.model_card import CardFacts, check_licence, dev_rule, render_model_card
from lalm_mer.sharing.processor_files import PROCESSOR_KINDS, write_processor
from lalm_mer.sharing.public_record import public_record

__all__ = [
    "ADAPTER", "LABELS", "PROMPT", "assemble", "check_repo_id", "complete_adapter", "published_id", "require_empty",
    "write_prompt", "written_here",
]  # fmt: skip

ADAPTER = "adapter"
"""Folder of the adapter in a run folder."""
PROMPT = "prompt.yaml"
LABELS = "labels.json"
_NAME = r"[a-zA-Z0-9_][\w.-]{0,95}(?<![.-])"
_REPO_ID = re.compile(rf"(?!.*(?:--|\.\.)){_NAME}/{_NAME}(?<!\.git)", re.ASCII)


def check_repo_id(repo_id: str, key: str) -> None:
    """Check that an id has the form ``user/name``.

    Raises:
        ConfigError: naming the key
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise ConfigError(f"{key} {repo_id!r}: expected user/name or organisation/name, of letters, digits, - _ and .")


def assemble(
    run_folder: Path, out: Path, *, repo_id: str, licence: str | None = None, base_model: str | None = None
) -> Path:
    """Write the folder that is pushed, from a finished run: adapter, processor, prompt, labels, metrics, card.

    ``prompt.yaml`` is the content of ``prompt.file``: a prompt, or for a CLAP an ensemble of descriptions.

    Args:
        run_folder: a run folder of finetune.py
        out: a new or empty folder
        repo_id: id of the repository, for the card
        licence: licence of the adapter; None is shown as not stated
        base_model: Hub id of the base model, if the run used a local copy; otherwise the name of its folder is written

    Raises:
        AdapterError: if the run is unfinished, trained no adapter, or used simulated transcripts, or its adapter is not
            in safetensors
        ConfigError: if the prompt has changed since, a name is wrong, or ``out`` is not empty
        PredictionError: if the run folder is malformed
    """
    check_repo_id(repo_id, "--repo")
    check_licence(licence)
    if base_model is not None:
        check_repo_id(base_model, "--base-model")
    run = _finished(run_folder)
    if run.record.transcript_source == SIMULATED:
        raise AdapterError(
            f"{run_folder}: its transcripts are simulated and name the label; such an adapter is not shared"
        )
    files = _description(run, run_folder, base_model, repo_id=repo_id, licence=licence)
    config = check_adapter_folder(run_folder / ADAPTER, root=run_folder, towers=files.family.towers.values())
    public = {
        "base_model_name_or_path": files.card.base_model,
        "revision": files.card.record.config["model"]["revision"],
    }
    require_empty(out)
    with only_writer(out), atomic_folder(out) as partial:
        _write_adapter(run_folder / ADAPTER, partial, config | public)
        files.write(partial)
    return out


def complete_adapter(run_folder: Path) -> Path:
    """Add processor, prompt, labels and card to ``adapter/`` of a finished run; returns that folder.

    Its config still names the base model as the run did, by a path if it was a local folder.

    Raises:
        AdapterError: if the run is unfinished, or trained no adapter
        ConfigError: if the prompt or the protocol has changed since
        PredictionError: if the run folder is malformed
    """
    folder = run_folder / ADAPTER
    if not (folder / LABELS).is_file():  # the file that is written last
        with writing(folder):
            _description(_finished(run_folder), run_folder).write(folder)
    return folder


@dataclass(frozen=True)
class _Description:
    """The files besides an adapter's weights and config."""

    family: type[Any]
    model: ModelRecord
    prompt: Path
    card: CardFacts

    def write(self, out: Path) -> None:
        record, metrics = self.card.record, self.card.metrics
        write_processor(self.family, self.model.id, self.model.revision, out)
        write_prompt(self.prompt, out)
        write_json(out / RUN_FILE, record.to_json())
        write_json(out / "metrics.json", metrics)
        write_text(out / "README.md", render_model_card(self.card))
        write_json(out / LABELS, {"task": record.task, "labels": list(record.labels), "forms": self.card.forms})


def _description(
    run: Run, folder: Path, base_model: str | None = None, *, repo_id: str | None = None, licence: str | None = None
) -> _Description:
    record, source = run.record, str(folder / RUN_FILE)
    model = record.model(source)
    published = base_model or published_id(model.id)
    revision = model.revision if published and base_model is None else None
    family = model_class(model.family)
    protocol = load_protocol(Path(_path(record, source, "split", "protocol")))
    prompt = Path(_path(record, source, "prompt", "file"))
    label_set = _label_set(record, family, prompt, protocol)
    card = CardFacts(
        repo_id=repo_id,
        record=public_record(record, model, published, revision),
        metrics=score(run.predictions.of_condition(record.condition)),
        forms={label: list(label_set.forms_of(label)) for label in label_set.labels},
        dev_rule=dev_rule(protocol),
        base_licence=family.licence,
        unknown_in=protocol.unknown_in,
        contamination=family.contamination.get(record.corpus),
        base_model=published,
        licence=licence,
    )
    return _Description(family, model, prompt, card)


def require_empty(out: Path) -> None:
    """Check that ``out`` is a new or empty folder.

    Raises:
        ConfigError: naming the folder
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: is not an empty folder; choose a new one")


def _finished(folder: Path) -> Run:
    """Read a finished run that trained an adapter."""
    run = read_run(folder)
    if run.metrics is None:
        raise AdapterError(f"{folder}: no metrics.json: the run is not finished; rerun its command to resume it")
    if run.record.method not in ADAPTERS:
        raise AdapterError(f"{folder}: method {run.record.method}; only a run that trained an adapter has one to push")
    return run


def _path(record: RunRecord, source: str, section: str, key: str) -> str:
    """A path in the config of a run."""
    path = record.config.get(section, {}).get(key)
    if not isinstance(path, str):
        raise AdapterError(f"{source}: key 'config.{section}.{key}' is missing; run finetune.py again")
    return path


def _label_set(record: RunRecord, family: type[Any], file: Path, protocol: Protocol) -> LabelSet:
    """The labels with their surface forms in training, from the prompt and the protocol."""
    prompt = family.load_prompt(file)
    if prompt.digest != record.hashes["prompt"]:
        raise ConfigError(f"{file}: the prompt has changed since the run; restore it, or train again")
    task = protocol.resolve_task(load_tasks(record.corpus))
    label_set: LabelSet = prompt.label_set(task.labels)
    if task.name != record.task or label_set.labels != record.labels:
        raise ConfigError(
            f"{record.config['split']['protocol']}: labels {list(label_set.labels)} of task {task.name}, but the run "
            f"has {list(record.labels)} of {record.task}; restore the protocol"
        )
    return label_set


def _write_adapter(folder: Path, out: Path, config: Mapping[str, Any]) -> None:
    """Write weights and config, of which only the fields of peft's config for its kind."""
    with safe_open(folder / WEIGHTS, framework="pt") as opened:
        metadata = opened.metadata() or {}
    if metadata.keys() - {"format"}:
        raise AdapterError(f"{folder / WEIGHTS}: has metadata {sorted(metadata)}; expected that of peft, only format")
    shutil.copyfile(folder / WEIGHTS, out / WEIGHTS)
    names = {field.name for field in fields(KINDS[config["peft_type"].lower()].config)}
    public = {key: value for key, value in config.items() if key in names}
    if public.get("auto_mapping") is not None:
        public["auto_mapping"] = {
            key: public["auto_mapping"].get(key) for key in ("base_model_class", "parent_library")
        }
    write_json(out / CONFIG, public)


def write_prompt(file: Path, out: Path) -> None:
    """Write a prompt, which must have been read before, without the comments of its file."""
    text = yaml.safe_dump(read_yaml(file), sort_keys=False, allow_unicode=True, default_style='"', width=2**31)
    write_text(out / PROMPT, text)


def published_id(model_id: str) -> str | None:
    """The id, if it has the form of a Hub id and is not a folder; else None."""
    return model_id if _REPO_ID.fullmatch(model_id) and not Path(model_id).exists() else None


def written_here(name: str) -> bool:
    """Whether ``assemble`` may have written a file with that name."""
    return Path(name).suffix in (".safetensors", ".yaml", *PROCESSOR_KINDS)
