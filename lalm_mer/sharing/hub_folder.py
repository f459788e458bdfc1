"""The folder that is pushed: the adapter or the baseline of a finished run, with the files that its use needs.

Every file is written anew from an explicit list of its content: no checkpoint, prediction, transcript, utterance id or
local path is shared. The vocabulary is that of a published model, or the user has agreed to publish it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lalm_mer.core.errors import AdapterError, ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.locks import only_writer
from lalm_mer.core.names import ADAPTERS, BASELINE, FULL, SIMULATED
from lalm_mer.core.output import atomic_folder, require_empty, write_json, write_text, writing
from lalm_mer.core.run_record import METRICS_FILE, MODEL_FOLDER, RUN_FILE, ModelRecord, RunRecord, read_record
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.corpora import load_tasks
from lalm_mer.evaluation.runs import Run, read_run
from lalm_mer.evaluation.scores import score
from lalm_mer.models.adapter_files import CONFIG, WEIGHTS, check_adapter_folder
from lalm_mer.models.adapter_kinds import KINDS, PLAIN_STARTS
from lalm_mer.models.registry import model_class
from lalm_mer.protocols.protocol import Protocol, load_protocol
from lalm_mer.recognizers.baselines.saved import read_saved
from lalm_mer.sharing.baseline_files import public_network, write_baseline
from lalm_mer.sharing.hub_ids import check_repo_id, published_id
from lalm_mer.sharing.model_card import CardFacts, check_licence, dev_rule, render_model_card
from lalm_mer.sharing.processor_files import PROCESSOR_KINDS, check_vocabulary, write_processor
from lalm_mer.sharing.public_record import check_text, is_name, public_baseline_record, public_record
from lalm_mer.sharing.tensors import check_tensor_names, copy_tensors

__all__ = [
    "ADAPTER", "LABELS", "PROMPT", "assemble", "complete_adapter", "read_labels", "write_prompt",
    "written_here",
]  # fmt: skip

ADAPTER = "adapter"
"""Folder of the adapter in a run folder."""
PROMPT = "prompt.yaml"
LABELS = "labels.json"


def assemble(
    run_folder: Path,
    out: Path,
    *,
    repo_id: str,
    licence: str | None = None,
    base_model: str | None = None,
    push_vocabulary: bool = False,
) -> Path:
    """Write the folder that is pushed, from a finished run, with its record, its metrics and a model card.

    Of finetune.py: adapter, processor, prompt and labels, where ``prompt.yaml`` is the content of ``prompt.file``: a
    prompt, or for a CLAP an ensemble of descriptions. Of train_baseline.py: its network, as in the run folder.

    Args:
        run_folder: a run folder of finetune.py or train_baseline.py
        out: a new or empty folder
        repo_id: id of the repository, for the card
        licence: licence of the adapter or baseline; None is shown as not stated
        base_model: Hub id of the base model, or of the only pretrained encoder of a baseline that was a local copy; the
            name of its folder is not shared
        push_vocabulary: share the vocabulary of a base model that is not known to be published, or what a baseline has
            learnt from transcripts

    Raises:
        AdapterError: if the run is unfinished, trained neither an adapter nor a baseline, or used simulated
            transcripts, its weights are not in safetensors, the vocabulary may not be shared, or a field has other
            content than expected
        ConfigError: if the prompt or the protocol has changed since, a name is wrong, or ``out`` is not empty
        ModelError: if a file of a baseline is missing or malformed
        PredictionError: if the run folder is malformed
    """
    check_repo_id(repo_id, "--repo")
    check_licence(licence)
    if base_model is not None:
        check_repo_id(base_model, "--base-model")
    run = _finished(run_folder)
    if run.record.transcript_source == SIMULATED:
        raise AdapterError(
            f"{run_folder}: its transcripts are simulated and name the label; such a model is not shared"
        )
    check = _shared_baseline if run.record.method == BASELINE else _shared_adapter
    write = check(run, run_folder, repo_id, licence, base_model, push_vocabulary)
    require_empty(out)
    with only_writer(out), atomic_folder(out) as partial:
        write(partial)
    return out


def _shared_adapter(
    run: Run, run_folder: Path, repo_id: str, licence: str | None, base_model: str | None, push_vocabulary: bool
) -> Callable[[Path], None]:
    """Check what is shared of a run that trained an adapter; the function that writes it."""
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
    public = _public_adapter_config(config, files.family, check_tensor_names(weights), run_folder / ADAPTER / CONFIG)
    check_vocabulary(files.model.id, copy_of=base_model, push_vocabulary=push_vocabulary)

    def write(out: Path) -> None:
        copy_tensors(weights, out / WEIGHTS)
        write_json(out / CONFIG, public | base)
        files.write(out)

    return write


def _shared_baseline(
    run: Run, run_folder: Path, repo_id: str, licence: str | None, base_model: str | None, push_vocabulary: bool
) -> Callable[[Path], None]:
    """Check what is shared of a run that trained a baseline; the function that writes it."""
    record, source, model = run.record, str(run_folder / RUN_FILE), run_folder / MODEL_FOLDER
    network = public_network(read_saved(model), str(run_folder), base_model=base_model, push_vocabulary=push_vocabulary)
    if network.modalities != record.modalities:
        raise AdapterError(f"{model}: is of modalities {network.modalities}, but run.json has {record.modalities}")
    protocol = load_protocol(Path(record.setting("split.protocol", str, source)))
    task = protocol.resolve_task(load_tasks(record.corpus))
    _require_same_task(record, source, protocol, task.name, task.targets)
    card = CardFacts(
        repo_id=repo_id,
        record=public_baseline_record(record, network),
        metrics=score(run.predictions.of_condition(record.condition)),
        forms={},
        dev_rule=dev_rule(protocol),
        unknown_in=protocol.unknown_in,
        licence=licence,
        network=network,
    )
    check_text(card.record)

    def write(out: Path) -> None:
        write_baseline(model, out, record.labels, network)
        _write_description(card, out)

    return write


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
        record = self.card.record
        write_processor(self.family, self.model.id, self.model.revision, out)
        write_prompt(self.prompt, out)
        _write_description(self.card, out)
        write_json(out / LABELS, asdict(_Labels(record.task, record.labels, self.card.forms)))


def _write_description(card: CardFacts, out: Path) -> None:
    """Write the record, the metrics and the card."""
    write_json(out / RUN_FILE, card.record.to_json())
    write_json(out / METRICS_FILE, card.metrics)
    write_text(out / "README.md", render_model_card(card))


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


def _finished(folder: Path) -> Run:
    """Read a finished run that trained an adapter or a baseline."""
    run = read_run(folder)
    if run.metrics is None:
        raise AdapterError(f"{folder}: no metrics.json: the run is not finished; rerun its command to resume it")
    if run.record.task_kind != "single":
        raise AdapterError(
            f"{folder}: its task is {run.record.task_kind}; only a model for one label an utterance is pushed; "
            "lalm-mer predict opens the run folder"
        )
    if run.record.method == FULL:
        raise AdapterError(
            f"{folder}: was trained in full, and only adapters and baselines are pushed; its folder {MODEL_FOLDER}/ is "
            f"a checkpoint of transformers: upload it with `hf upload USER/NAME {folder / MODEL_FOLDER}`"
        )
    if run.record.method not in (*ADAPTERS, BASELINE):
        raise AdapterError(
            f"{folder}: method {run.record.method}; only an adapter (finetune.py) or a baseline (train_baseline.py) is "
            "pushed; lalm-mer predict opens the run folder"
        )
    return run


def _label_set(record: RunRecord, source: str, prompt: Any, protocol: Protocol) -> LabelSet:  # noqa: ANN401
    """The labels with their surface forms in training, from the prompt or ensemble and the protocol."""
    if prompt.digest != record.hashes["prompt"]:
        file = record.setting("prompt.file", str, source)
        raise ConfigError(f"{file}: the prompt has changed since the run; restore it, or train again")
    task = protocol.resolve_task(load_tasks(record.corpus))
    label_set: LabelSet = prompt.label_set(task.labels)
    _require_same_task(record, source, protocol, task.name, label_set.labels)
    return label_set


def _require_same_task(record: RunRecord, source: str, protocol: Protocol, task: str, labels: tuple[str, ...]) -> None:
    """Check that the protocol, its task and the labels are still those of the run."""
    stated = (protocol.name, protocol.version, task, labels)
    if stated != (record.protocol, record.protocol_version, record.task, record.labels):
        file = record.setting("split.protocol", str, source)
        raise ConfigError(
            f"{file}: is {protocol.name} version {protocol.version} with labels "
            f"{list(labels)} of task {task}, but the run has {record.protocol} version "
            f"{record.protocol_version} with {list(record.labels)} of {record.task}; restore the protocol"
        )


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


def written_here(name: str) -> bool:
    """Whether ``assemble`` may have written a file of an adapter with that name."""
    return Path(name).suffix in (".safetensors", ".yaml", *PROCESSOR_KINDS)
