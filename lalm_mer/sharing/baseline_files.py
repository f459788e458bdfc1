"""The files of a baseline that are shared, each written anew, and the check of a folder with such files.

Such a folder may come from anyone: its settings could name a folder of this machine, or another model for each encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.activations import ACT2FN

from lalm_mer.core.errors import AdapterError, ModelError, shown
from lalm_mer.core.names import AUDIO, TRANSCRIPT
from lalm_mer.core.paths import is_within
from lalm_mer.core.strict_json import parse
from lalm_mer.models.encoders.finetuned_text import ARCHITECTURE, FinetunedTokenizer, architecture_of
from lalm_mer.models.encoders.kinds import hashed
from lalm_mer.recognizers.baselines.saved import (
    NETWORK,
    SAVED_FILES,
    WEIGHTS,
    SavedNetwork,
    load_source,
    read_saved,
    require_task,
    save_source,
    write_saved,
)
from lalm_mer.recognizers.baselines.settings import NetworkSettings
from lalm_mer.sharing.hub_ids import has_id_form, published_id
from lalm_mer.sharing.processor_files import check_vocabulary
from lalm_mer.sharing.public_record import (
    NETWORK_SETTINGS,
    NETWORK_WORDS,
    is_hash,
    is_module_path,
    is_plain,
    is_revision,
    is_version,
    picked,
)
from lalm_mer.sharing.tensors import check_tensor_names, copy_tensors

__all__ = ["check_baseline", "public_network", "write_baseline"]

_PARTS = ("branches.", "fusion.", "head.")
_WORDS = frozenset(
    {*ACT2FN, *CONFIG_MAPPING, "absolute", "relative_key", "relative_key_query", "c2p", "p2c", "p2p", "c2p|p2c",
     "layer_norm", "first", "last", "mean", "cls", "late", "default", "linear", "full_attention", "sliding_attention"}
)  # fmt: skip
"""Texts in the architecture of an encoder of transcripts"""
_ENCODER_KEYS = (
    "name", "version", "bands", "hop_ms", "coefficients", "trim_db", "pooled", "set", "level", "columns", "model_type",
    "weights", "layers", "max_tokens", "dtype", "extractor", "vocabulary", "transformers", "longest_ngram",
    "least_count", "vocabulary_size", "sublinear",
)  # fmt: skip
_ENCODER_WORDS = NETWORK_WORDS | {"pretrained_audio", "pretrained_text", "finetuned_text", "float32"}


def public_network(
    saved: SavedNetwork, where: str, *, base_model: str | None = None, push_vocabulary: bool = False
) -> NetworkSettings:
    """The settings of a baseline that are shared: no path, and the Hub ids of its pretrained encoders.

    Args:
        saved: the content of its ``network.json``
        where: name of the run in errors
        base_model: Hub id of the only pretrained encoder that was in a local folder
        push_vocabulary: share what was learnt from transcripts

    Raises:
        AdapterError: if it cannot predict new recordings, an encoder is in a local folder, or its vocabulary was learnt
            from transcripts and is not to be shared
    """
    settings = saved.settings
    if settings.by_speaker:
        raise AdapterError(
            f"{where}: features of {' and '.join(settings.by_speaker)} are normalised by statistics of each speaker of "
            "the corpus, which a new recording does not have; train with normalisation: train to push it"
        )
    text = settings.encoders.get(TRANSCRIPT)
    if text is not None and not text.uses_model and not push_vocabulary:
        raise AdapterError(
            f"{where}: the vocabulary of its transcript encoder ({text.kind}) was learnt from transcripts, so that it "
            "contains their words; set --push-vocabulary to push it anyway"
        )
    models = _published(settings, where, base_model)
    if text is not None and text.kind == "finetuned":
        check_vocabulary(text.model, copy_of=base_model, push_vocabulary=push_vocabulary)
    content, defaults = asdict(settings), asdict(NetworkSettings())
    for modality in (AUDIO, TRANSCRIPT):
        given = defaults[modality]["encoder"]
        content[modality]["encoder"] |= models.get(modality, {"model": given["model"], "revision": None})
    return parse(NetworkSettings, picked(content, NETWORK_SETTINGS), where)


def _published(settings: NetworkSettings, where: str, base_model: str | None) -> dict[str, dict[str, str | None]]:
    """Modality -> Hub id and revision of its pretrained encoder."""
    pretrained = {name: each for name, each in settings.encoders.items() if each.uses_model}
    local = [name for name, each in pretrained.items() if published_id(each.model) is None]
    if base_model is not None and not local:
        raise AdapterError(f"--base-model {base_model}: {where} has no encoder in a local folder; omit it")
    if len(local) == 1 and base_model is None:
        raise AdapterError(
            f"{where}: the encoder of {local[0]}, {pretrained[local[0]].model}, is in a local folder, which is not "
            "shared; name the published model of which it is a copy (--base-model USER/NAME), or train with its id on "
            "the Hub, user/name"
        )
    if len(local) > 1:
        raise AdapterError(
            f"{where}: the encoders of {' and '.join(local)} are in local folders, which are not shared, and "
            "--base-model can name only one; train with their ids on the Hub, user/name"
        )
    for name, each in pretrained.items():
        if each.revision is not None and not is_revision(each.revision):
            raise AdapterError(
                f"{where}: revision {each.revision!r} of the encoder of {name}; expected a branch or tag"
            )
    return {
        name: {"model": base_model, "revision": None}
        if name in local
        else {"model": each.model, "revision": each.revision}
        for name, each in pretrained.items()
    }


def write_baseline(source: Path, out: Path, labels: tuple[str, ...], network: NetworkSettings) -> None:
    """Write the shared files of a baseline, each anew.

    Args:
        source: folder ``model`` of the run
        out: an existing folder
        labels: the K labels of the run
        network: result of ``public_network``

    Raises:
        AdapterError: if a file is a link to another place, is not safetensors, or has other content than a baseline
        ModelError: if a file is missing or does not fit the others, or the task is not that of the run
    """
    _refuse_links(source, source.parent, str(source))
    saved = read_saved(source)
    require_task(saved, source, "single", labels)
    for name in check_tensor_names(source / WEIGHTS):
        if not name.startswith(_PARTS):
            raise AdapterError(f"{source / WEIGHTS}: has a tensor {name!r}; expected one of {', '.join(_PARTS)}")
    text = network.encoders.get(TRANSCRIPT)
    if text is not None and text.kind != "pretrained":
        read = load_source(saved, TRANSCRIPT, source)
        if isinstance(read, FinetunedTokenizer):
            _check_architecture(architecture_of(read.config), str(source))
        save_source(read, out)
    copy_tensors(source / WEIGHTS, out / WEIGHTS)
    encoders = {name: _public_encoder(saved.encoders[name]) for name in network.branches if name in saved.encoders}
    write_saved(out, SavedNetwork(labels, "single", (), network, encoders))


def _public_encoder(known: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an encoder in training: numbers, hashes, versions and choices; of others their hash."""
    return {key: known[key] if _is_public(known[key]) else hashed(known[key]) for key in _ENCODER_KEYS if key in known}


def _is_public(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_public, value)) and not any(isinstance(item, list) for item in value)
    return is_plain(value, _ENCODER_WORDS) or is_hash(value) or is_version(value)


def _check_architecture(values: Mapping[str, Any], where: str) -> None:
    """Refuse the architecture of an encoder with a text, or a name of a value, that could be private."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            _check_architecture(value, where)
        texts = value if isinstance(value, list) else [value]
        if not is_module_path(key) or not all(isinstance(text, Mapping) or is_plain(text, _WORDS) for text in texts):
            raise AdapterError(
                f"{where}: {ARCHITECTURE} of its encoder: key {key!r} is {value!r}, which could be private and is not "
                "pushed; remove it there if the encoder does not need it"
            )


def check_baseline(folder: Path, *, named: str, root: Path | None = None) -> None:
    """Refuse a folder that is no shared baseline, or whose settings name a path.

    Args:
        folder: an assembled folder, or a download
        named: name of the folder in errors
        root: folder that no link may leave, except those of the Hub's cache; None for no check of links

    Raises:
        AdapterError: if a file is a link to another place
        ModelError: naming the file, and the key where there is one
    """
    if root is not None:
        _refuse_links(folder, root, named)
    saved = read_saved(folder)
    settings = saved.settings
    if settings.by_speaker:
        raise ModelError(f"{named}: {NETWORK}: normalises by speaker, and a new recording belongs to no known speaker")
    for modality, branch in ((AUDIO, settings.audio), (TRANSCRIPT, settings.transcript)):
        encoder, key = branch.encoder, f"{named}: {NETWORK}, key 'settings.{modality}"
        if branch.start_from is not None:
            raise ModelError(
                f"{key}.start_from': {shown(branch.start_from)}; expected null, since paths are not shared"
            )
        used = modality in settings.branches and encoder.kind == "pretrained"
        if not has_id_form(encoder.model) or (used and published_id(encoder.model) is None):
            raise ModelError(
                f"{key}.encoder.model': {shown(encoder.model)}; expected a Hub id user/name, which is no folder here"
            )
        if encoder.revision is not None and not is_revision(encoder.revision):
            raise ModelError(f"{key}.encoder.revision': {shown(encoder.revision)}; expected a branch, tag or commit")
    file = settings.transcript.encoder.file
    if file is not None:
        raise ModelError(
            f"{named}: {NETWORK}, key 'settings.transcript.encoder.file': {shown(file)}; expected null, since paths "
            "are not shared"
        )


def _refuse_links(folder: Path, root: Path, named: str) -> None:
    for name in SAVED_FILES:
        if not is_within(folder / name, root):
            raise AdapterError(f"{named}: {name} is a link that leads out of the folder; put the file itself there")
