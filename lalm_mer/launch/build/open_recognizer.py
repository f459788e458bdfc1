"""Recognizers for new recordings, from a finished run, an adapter, a baseline, or a base model with a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

from lalm_mer.core.config import build_config
from lalm_mer.core.errors import AdapterError, ConfigError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.names import BASELINE, FULL, LATE_FUSION, LINEAR
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.provenance import hash_file
from lalm_mer.core.run_record import MODEL_FOLDER, RUN_FILE, RunRecord, has_results, read_record
from lalm_mer.core.settings import require_declared
from lalm_mer.corpora import load_tasks
from lalm_mer.evaluation.predictions import PREDICTIONS_FILE
from lalm_mer.launch.build.model_run import builder_of, open_model_run
from lalm_mer.launch.build.prompts import open_target_prompts
from lalm_mer.launch.config.sections import DataSettings, ModelSettings, OutputSettings, PromptSettings, SplitSettings
from lalm_mer.launch.config.settings import ZeroShotSettings
from lalm_mer.models.adapter_files import CONFIG, read_json
from lalm_mer.models.adapters import load_adapter
from lalm_mer.models.digest import base_digest
from lalm_mer.models.families import REMOTE
from lalm_mer.models.registry import family_of, model_class
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.recognizers.baselines.network import BaselineNetwork
from lalm_mer.recognizers.baselines.saved import NETWORK, read_saved, require_task
from lalm_mer.recognizers.late_fusion.recognizer import LateFusion
from lalm_mer.recognizers.late_fusion.rules import FusionRule
from lalm_mer.recognizers.linear.model import LinearRecognizer
from lalm_mer.sharing.adapter_context import context_of, read_merged_from, read_trained_run, surely_differ
from lalm_mer.sharing.hub import load_adapter_from, load_from
from lalm_mer.sharing.hub_folder import LABELS, PROMPT, read_labels

__all__ = ["open_recognizer"]


def open_recognizer(
    source: str | Path,
    *,
    prompt: str | Path | None = None,
    labels: Sequence[str] | None = None,
    family: str | None = None,
    base_model: str | None = None,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> Any:  # noqa: ANN401 a Recognizer and nn.Module
    """Open a recognizer for new recordings, to be used with ``lalm_mer.serving.predict``.

    Args:
        source: finished run folder of any recipe; folder or Hub id of an adapter or a baseline; or, with ``prompt``,
            folder or Hub id of a base model
        prompt: prompt file for a base model; for a dual encoder a file of descriptions
        labels: labels for a base model, if the prompt has no ``answers``
        family: family of a base model; None to read it from the model's config
        base_model: Hub id or folder of the base of an adapter, if not the one named in its run
        revision: branch, tag or commit of ``source`` on the Hub
        dtype: float32, bfloat16 or float16; None for that of the run, or float32 for a base model
        device: cpu, cuda ...; None for a GPU if there is one, otherwise the CPU

    Returns:
        a ``Recognizer`` in evaluation mode on its device

    Raises:
        ConfigError: if arguments do not fit each other, or the run cannot be used for new recordings
        AdapterError: if there is no adapter, or it does not fit its base
        ModelError: if the model cannot be loaded
    """
    if prompt is not None:
        recognizer = _open_base(str(source), Path(prompt), labels, family, revision, dtype or "float32")
    else:
        for name, value in (("labels", labels), ("family", family)):
            if value is not None:
                raise ConfigError(f"{name}: only with a prompt, for a base model; {source} has its own")
        recognizer = _open_trained(str(source), base_model, revision, dtype)
    return recognizer.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def _open_base(
    source: str, prompt: Path, labels: Sequence[str] | None, family: str | None, revision: str | None, dtype: str
) -> nn.Module:
    model = ModelSettings(family or family_of(source, revision), source, revision, dtype)
    answers = model_class(model.family).load_prompt(prompt).answers
    if labels is None and not answers:
        raise ConfigError(f"{prompt}: has no answers, so labels are needed; give them, for example happy,sad")
    return _recognizer(_settings(PromptSettings(str(prompt)), model), LabelSet(tuple(labels or answers)))


def _open_trained(source: str, base_model: str | None, revision: str | None, dtype: str | None) -> nn.Module:
    folder = Path(source)
    if (folder / RUN_FILE).is_file() and not any((folder / name).is_file() for name in (CONFIG, NETWORK)):
        record = read_record(folder / RUN_FILE)
        if not has_results(folder):
            raise ConfigError(f"{folder}: the run is not finished; rerun its command to resume it")
        if record.method == BASELINE:
            return _open_baseline(folder / MODEL_FOLDER, record)
        if record.method == LINEAR:
            return LinearRecognizer.load_trained(folder / MODEL_FOLDER)
        if record.method == LATE_FUSION:
            return _open_late_fusion(folder, record, dtype)
        if record.method == FULL:
            return _open_full(folder, record, base_model, dtype)
        if record.task_kind != "single":
            return _open_targets(folder, record, base_model, dtype)
        if not (folder / "adapter").is_dir():
            return _open_zero_shot(folder, record, base_model, dtype)
    return _open_shared(source, base_model, revision, dtype)


def _open_late_fusion(folder: Path, record: RunRecord, dtype: str | None) -> nn.Module:
    """The members of a late fusion from their folders, and the rule.

    Raises:
        ConfigError: naming the members that are missing, or have other results than those that were fused
    """
    missing = [member.folder for member in record.members if not has_results(Path(member.folder))]
    if missing:
        raise ConfigError(
            f"{as_recorded(folder)}: {len(missing)} of its {len(record.members)} members are missing: "
            f"{', '.join(missing)}; put the run folders there, relative to the working directory"
        )
    for member in record.members:
        if hash_file(Path(member.folder) / PREDICTIONS_FILE) != member.predictions:
            raise ConfigError(
                f"{as_recorded(folder)}: its member {member.folder} has other predictions than those that were fused; "
                "run the fusion again"
            )
    members = [_open_trained(member.folder, None, None, dtype) for member in record.members]
    return LateFusion(members, FusionRule.load(folder / MODEL_FOLDER))


def _open_zero_shot(folder: Path, record: RunRecord, base_model: str | None, dtype: str | None) -> nn.Module:
    """The model of a run, with the prompt and, if there was one, the adapter of the run."""
    settings = build_config(ZeroShotSettings, record.config, str(folder / RUN_FILE))
    if settings.answering.mode != "likelihood":
        raise ConfigError(f"{folder}: its answers were generated and have no probabilities; run it by likelihood")
    if settings.model.family == REMOTE:
        raise ConfigError(f"{folder}: its model is on a server, and only recipes/zero_shot.py sends recordings there")
    settings = replace(settings, model=_changed(settings.model, base_model, dtype))
    if settings.prompt.shots:  # the corpus has the examples
        loaded = open_model_run(settings).load()
        _require_same_prompts(folder, record, loaded.hashes)
        return cast(nn.Module, loaded.recognizer(_adapted(loaded.model, settings.model)))
    return _recognizer(settings, _task_of(record, str(folder / RUN_FILE)).labels, folder, record)


def _open_targets(folder: Path, record: RunRecord, base_model: str | None, dtype: str | None) -> nn.Module:
    """The language model of a run on several labels or on numbers, with the prompts and the adapter of the run."""
    named = str(folder / RUN_FILE)
    model = _changed(build_config(ModelSettings, record.setting("model", dict, named), named), base_model, dtype)
    if (folder / "adapter").is_dir():
        model = replace(model, adapter=str(folder / "adapter"), adapter_revision=None)
    settings = _settings(PromptSettings(record.setting("prompt.file", str, named)), model)
    return _of_setup(settings, open_target_prompts(settings, _task_of(record, named), record.ranges), folder, record)


def _open_full(folder: Path, record: RunRecord, base_model: str | None, dtype: str | None) -> nn.Module:
    """The model that a run trained in full, with the prompts of the run.

    Raises:
        ConfigError: if the folder of the model is missing or of another run, or the prompts cannot be made again
    """
    named, inside = str(folder / RUN_FILE), folder / MODEL_FOLDER
    if base_model is not None:
        raise ConfigError(f"base_model: {base_model}, but {folder} has a complete model of its own; omit it")
    merged = read_merged_from(inside)
    if merged is None or merged.trained_with != context_of(record, named):
        raise ConfigError(
            f"{inside}: is {'missing' if merged is None else 'the model of another run'}; expected the model that "
            "this run trained; put it there, or train it again"
        )
    if record.setting("prompt.shots", int, named):
        raise ConfigError(f"{folder}: was trained with answered examples (prompt.shots), which it does not contain")
    model = build_config(ModelSettings, record.setting("model", dict, named), named)
    model = _changed(model, str(inside), dtype)
    prompt = PromptSettings(
        record.setting("prompt.file", str, named), label_score=record.setting("prompt.label_score", str, named)
    )
    settings, task = _settings(prompt, model), _task_of(record, named)
    setup: Any
    if record.task_kind == "single":
        require_declared(settings.model)
        setup = builder_of(model.family).prompts(settings, task.labels)
    else:
        setup = open_target_prompts(settings, task, record.ranges)
    _require_same_prompts(folder, record, setup.digests())
    return _of_setup(settings, setup, folder, None)


def _task_of(record: RunRecord, named: str) -> Task:
    """The task of a run by its protocol."""
    protocol = load_protocol(Path(record.setting("split.protocol", str, named)))
    return protocol.resolve_task(load_tasks(record.corpus))


def _open_shared(source: str, base_model: str | None, revision: str | None, dtype: str | None) -> nn.Module:
    """An adapter or a baseline, from a folder or the Hub."""
    folder = load_from(source, revision)
    if (folder / CONFIG).is_file():
        return _open_adapter(source, folder, base_model, dtype)
    if base_model is not None:
        raise ConfigError(f"base_model: {base_model}, but {source} is a baseline and has none; omit it")
    return _open_baseline(folder, read_trained_run(folder))


def _open_baseline(folder: Path, record: RunRecord | None) -> nn.Module:
    """A baseline, from the folder with its weights; its task is compared with a record of its run."""
    if record is not None:
        require_task(read_saved(folder), folder, record.task_kind, record.labels)
    return BaselineNetwork.load_trained(folder)


def _open_adapter(source: str, folder: Path, base_model: str | None, dtype: str | None) -> nn.Module:
    record = read_trained_run(folder)
    if record is None or not (folder / PROMPT).is_file() or not (folder / LABELS).is_file():
        raise AdapterError(
            f"{source}: no {RUN_FILE}, {PROMPT} and {LABELS} with the adapter, so its base model, prompt and labels "
            "are not known; train it with recipes/finetune.py"
        )
    named = f"{source}: {RUN_FILE}"
    if record.setting("prompt.shots", int, named):
        raise ConfigError(f"{source}: was trained with answered examples (prompt.shots), which it does not contain")
    base = base_model or read_json(folder / CONFIG).get("base_model_name_or_path")
    if base is None:
        raise AdapterError(f"{source}: was trained on a model in a local folder; name the folder by --base-model")
    model = build_config(ModelSettings, record.setting("model", dict, named) | {"id": base}, named)
    model = replace(_changed(model, None, dtype), adapter=str(folder), adapter_revision=None)
    prompt = PromptSettings(str(folder / PROMPT), label_score=record.setting("prompt.label_score", str, named))
    return _recognizer(_settings(prompt, model), read_labels(folder), source, record)


def _recognizer(
    settings: ZeroShotSettings, label_set: LabelSet, source: str | Path = "", record: RunRecord | None = None
) -> nn.Module:
    """The recognizer of settings that need no corpus; with a record, prompts and base must be those of the run."""
    require_declared(settings.model)
    return _of_setup(settings, builder_of(settings.model.family).prompts(settings, label_set), source, record)


def _of_setup(
    settings: ZeroShotSettings,
    setup: Any,  # noqa: ANN401 a Setup
    source: str | Path,
    record: RunRecord | None,
) -> nn.Module:
    builder: Any = builder_of(settings.model.family)
    if setup.uses("descriptors"):
        raise ConfigError(
            f"{settings.prompt.file}: describes voices relative to the speakers of a corpus, to which a new recording "
            "does not belong; use a prompt without descriptors"
        )
    if record is not None:
        _require_same_prompts(source, record, setup.digests())
        if surely_differ(base_digest(settings.model.id, settings.model.revision), record.hashes["base_model"]):
            raise AdapterError(f"{source}: was run on another base model than {settings.model.id}; name the same one")
    model: Any = builder.load(settings.model)
    return cast(nn.Module, builder.recognizer(model, setup, settings, _adapted(model, settings.model)))


def _adapted(model: Any, settings: ModelSettings) -> PeftModel | None:  # noqa: ANN401 a Family or a DualEncoder
    if settings.adapter is None:
        return None
    return load_adapter(model, load_adapter_from(settings.adapter, settings.adapter_revision))


def _require_same_prompts(source: str | Path, record: RunRecord, digests: Mapping[str, str | None]) -> None:
    for name, digest in digests.items():
        if name != "base_model" and record.hashes.get(name) != digest:
            raise ConfigError(f"{source}: its {name} has changed since the run; restore the file, or run it again")


def _changed(model: ModelSettings, base_model: str | None, dtype: str | None) -> ModelSettings:
    if base_model is not None:
        model = replace(model, id=base_model, revision=None)
    return model if dtype is None else replace(model, dtype=dtype)


def _settings(prompt: PromptSettings, model: ModelSettings) -> ZeroShotSettings:
    """Settings of a recognizer without a corpus."""
    return ZeroShotSettings(DataSettings(""), SplitSettings(""), model, OutputSettings(""), prompt)
