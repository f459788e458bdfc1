"""The folder that is pushed: the adapter of a finished run with the files that its use and its evaluation need.

Every file is written anew from an explicit list of its content: no checkpoint, prediction, transcript, utterance id or
local path is shared. The vocabulary is that of a published model, or the user has agreed to publish it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lalm_mer.core.errors import AdapterError, ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.locks import only_writer
from lalm_mer.core.names import ADAPTERS, SIMULATED
from lalm_mer.core.output import atomic_folder, write_json, write_text, writing
from lalm_mer.core.run_record import RUN_FILE, ModelRecord, RunRecord, read_record
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.corpora import load_tasks
from lalm_mer.evaluation.runs import Run, read_run
from lalm_mer.evaluation.scores import score
from lalm_mer.models.adapter_files import CONFIG, WEIGHTS, check_adapter_folder
from lalm_mer.models.adapter_kinds import KINDS, PLAIN_STARTS
from lalm_mer.models.registry import model_class
from lalm_mer.protocols.protocol import Protocol, load_protocol
from lalm_mer.sharing.model_card import CardFacts, check_licence, dev_rule, render_model_card
from lalm_mer.sharing.processor_files import PROCESSOR_KINDS, check_vocabulary, write_processor
from lalm_mer.sharing.public_record import check_text, is_module_path, is_name, public_record

__all__ = [
    "ADAPTER", "LABELS", "PROMPT", "assemble", "check_repo_id", "complete_adapter", "published_id", "read_labels",
    "require_empty", "write_prompt", "written_here",
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
    run_folder: Path,
    out: Path,
    *,
    repo_id: str,
    licence: str | None = None,
    base_model: str | None = None,
    push_vocabulary: bool = False,
) -> Path:
    """Write the folder that is pushed, from a finished run: adapter, processor, prompt, labels, metrics, card.

    ``prompt.yaml`` is the content of ``prompt.file``: a prompt, or for a CLAP an ensemble of descriptions.

    Args:
        run_folder: a run folder of finetune.py
        out: a new or empty folder
        repo_id: id of the repository, for the card
        licence: licence of the adapter; None is shown as not stated
        base_model: Hub id of the base model, if the run used a local copy; the name of its folder is not shared
        push_vocabulary: share the vocabulary of a base model that is not known to be published

    Raises:
        AdapterError: if the run is unfinished, trained no adapter, or used simulated transcripts, its adapter is not in
            safetensors, the vocabulary may not be shared, or a field has other content than expected
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
    check_text(files.card.record)
    if not is_name(files.prompt["name"]):
        raise AdapterError(
            f"{run_folder}: the prompt is named {files.prompt['name']!r}; rename it, since names are pushed"
        )
    config = check_adapter_folder(run_folder / ADAPTER, root=run_folder, towers=files.family.towers.values())
    base = {
        "base_model_name_or_path": files.card.base_model,
        "revision": files.card.record.config["model"]["revision"],
    }
    weights = run_folder / ADAPTER / WEIGHTS
    public = _public_adapter_config(config, files.family, _tensor_names(weights), run_folder / ADAPTER / CONFIG)
    require_empty(out)
    check_vocabulary(files.model.id, copy_of=base_model, push_vocabulary=push_vocabulary)
    with only_writer(out), atomic_folder(out) as partial:
        save_file(load_file(weights), partial / WEIGHTS, metadata={"format": "pt"})  # its header may contain more
        write_json(partial / CONFIG, public | base)
        files.write(partial)
    return out


def complete_adapter(run_folder: Path) -> Path:
    """Add processor, prompt, labels and card to ``adapter/`` of a finished run; returns that folder.

    The adapter of a run on several labels or on numbers, which is not shared, is left as it is.

    Its config still names the base model as the run did, by a path if it was a local folder.

    Raises:
        AdapterError: if the run is unfinished, or trained no adapter
        ConfigError: if the prompt or the protocol has changed since
        PredictionError: if the run folder is malformed
    """
    folder = run_folder / ADAPTER
    if read_record(run_folder / RUN_FILE).task_kind != "single":
        return folder
    if not (folder / LABELS).is_file():  # the file that is written last
        with writing(folder):
            _description(_finished(run_folder), run_folder).write(folder)
    return folder


@dataclass(frozen=True)
class _Labels:
    """The content of labels.json."""

    task: str
    labels: tuple[str, ...]
    forms: Mapping[str, Sequence[str]]


def read_labels(folder: Path) -> LabelSet:
    """The labels of a shared adapter with their surface forms.

    Raises:
        AdapterError: naming the file, if it has no labels
    """
    file = folder / LABELS
    try:
        content = parse(_Labels, read_object(file), str(file))
        return LabelSet(content.labels, {label: tuple(forms) for label, forms in content.forms.items()})
    except ConfigError as error:
        raise AdapterError(f"{file}: {error}") from error


@dataclass(frozen=True)
class _Description:
    """The files besides an adapter's weights and config."""

    family: type[Any]
    model: ModelRecord
    prompt: Mapping[str, Any]
    card: CardFacts

    def write(self, out: Path) -> None:
        record, metrics = self.card.record, self.card.metrics
        write_processor(self.family, self.model.id, self.model.revision, out)
        write_prompt(self.prompt, out)
        write_json(out / RUN_FILE, record.to_json())
        write_json(out / "metrics.json", metrics)
        write_text(out / "README.md", render_model_card(self.card))
        write_json(out / LABELS, asdict(_Labels(record.task, record.labels, self.card.forms)))


def _description(
    run: Run, folder: Path, base_model: str | None = None, *, repo_id: str | None = None, licence: str | None = None
) -> _Description:
    record, source = run.record, str(folder / RUN_FILE)
    model = record.model(source)
    published = base_model or published_id(model.id)
    revision = model.revision if published and base_model is None else None
    family = model_class(model.family)
    protocol = load_protocol(Path(record.setting("split.protocol", str, source)))
    prompt = family.load_prompt(Path(record.setting("prompt.file", str, source)))
    label_set = _label_set(record, source, prompt, protocol)
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
    return _Description(family, model, prompt.content, card)


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
    if run.record.task_kind != "single":
        raise AdapterError(
            f"{folder}: its task is {run.record.task_kind}; only an adapter for one label an utterance is pushed; "
            "lalm-mer predict opens the run folder"
        )
    if run.record.method not in ADAPTERS:
        raise AdapterError(f"{folder}: method {run.record.method}; only a run that trained an adapter has one to push")
    return run


def _label_set(record: RunRecord, source: str, prompt: Any, protocol: Protocol) -> LabelSet:  # noqa: ANN401
    """The labels with their surface forms in training, from the prompt or ensemble and the protocol."""
    if prompt.digest != record.hashes["prompt"]:
        file = record.setting("prompt.file", str, source)
        raise ConfigError(f"{file}: the prompt has changed since the run; restore it, or train again")
    task = protocol.resolve_task(load_tasks(record.corpus))
    label_set: LabelSet = prompt.label_set(task.labels)
    stated = (protocol.name, protocol.version, task.name, label_set.labels)
    if stated != (record.protocol, record.protocol_version, record.task, record.labels):
        file = record.setting("split.protocol", str, source)
        raise ConfigError(
            f"{file}: is {protocol.name} version {protocol.version} with labels "
            f"{list(label_set.labels)} of task {task.name}, but the run has {record.protocol} version "
            f"{record.protocol_version} with {list(record.labels)} of {record.task}; restore the protocol"
        )
    return label_set


def _tensor_names(file: Path) -> list[str]:
    """Names of the tensors, which are pushed, of weights without other metadata than that of peft."""
    with safe_open(file, framework="pt") as opened:
        metadata, found = opened.metadata() or {}, list(opened.keys())
    if metadata.keys() - {"format"}:
        raise AdapterError(f"{file}: has metadata {sorted(metadata)}; expected that of peft, only format")
    for name in found:
        if not is_module_path(name):
            raise AdapterError(f"{file}: has a tensor {name!r}; expected the path of a parameter")
    return found


def _public_adapter_config(
    config: Mapping[str, Any], family: type[Any], tensors: Collection[str], file: Path
) -> dict[str, Any]:
    """peft's config for the kind of the adapter, with its numbers and with the modules that have tensors."""
    kind = KINDS[config["peft_type"].lower()]
    public: dict[str, Any] = json.loads(json.dumps(asdict(kind.config()), default=list))
    modules = "\n".join(f".{name}." for name in tensors)
    for key in ("target_modules", "modules_to_save", *kind.options):
        value = config.get(key, public[key])
        for text in _texts(value):
            if f".{text}." not in modules and not (key == "init_lora_weights" and text in PLAIN_STARTS):
                raise AdapterError(f"{file}: key {key!r}: {text!r} is not pushed; expected modules of {WEIGHTS}")
        public[key] = sorted(value) if key == "target_modules" and isinstance(value, list) else value
    model = family.model_class
    classes = {"base_model_class": model.__name__, "parent_library": model.__module__}
    return public | {"auto_mapping": classes, "inference_mode": True}


def _texts(value: object) -> Iterator[str]:
    """Each text in plain data, keys included."""
    if isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def write_prompt(content: Mapping[str, Any], out: Path) -> None:
    """Write the values of a prompt or ensemble, without the comments of its file."""
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, default_style='"', width=2**31)
    write_text(out / PROMPT, text)


def published_id(model_id: str) -> str | None:
    """The id, if it has the form of a Hub id and is not a folder; else None."""
    return model_id if _REPO_ID.fullmatch(model_id) and not Path(model_id).exists() else None


def written_here(name: str) -> bool:
    """Whether ``assemble`` may have written a file with that name."""
    return Path(name).suffix in (".safetensors", ".yaml", *PROCESSOR_KINDS)
