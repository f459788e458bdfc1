"""The files of a model's processor that may be shared."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jinja2

from lalm_mer.core.errors import AdapterError, ModelError, one_line
from lalm_mer.core.output import write_json, write_text
from lalm_mer.models.adapter_files import read_json
from lalm_mer.models.pretrained import PretrainedModel

__all__ = ["PROCESSOR_KINDS", "check_vocabulary", "public_settings", "without_comments", "write_processor"]

PROCESSOR_KINDS = (".json", ".jinja", ".txt", ".model")
"""Suffixes of the files of a processor."""
_VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", "tekken.json")
_WORDS = {
    "tokenizer_class", "processor_class", "feature_extractor_type", "image_processor_type", "video_processor_type",
    "backend", "padding", "padding_side", "truncation", "truncation_side", "data_format", "errors", "chat_template",
    "default_transcription_prompt", "model_input_names", "extra_special_tokens", "additional_special_tokens",
    "added_tokens_decoder",
}  # fmt: skip
"""Keys whose values may contain text, besides ``..._token``."""
_NUMBERS = {
    "add_bos_token", "add_eos_token", "add_prefix_space", "audio_compression_rate", "audio_downsample_rate",
    "audio_feat_stride", "audio_processor", "audio_seq_length", "chunk_length", "clean_up_tokenization_spaces",
    "dither", "do_lower_case", "do_normalize", "feature_extractor", "feature_size", "fft_length",
    "fft_overdrive", "fft_window_size", "frame_length", "frequency_max", "frequency_min", "hop_length",
    "input_scale_factor", "legacy", "max_audio_len", "max_frequency", "max_length_s", "mel_floor",
    "melspec_kwargs", "min_frequency", "min_length", "model_max_length", "model_specific_special_tokens",
    "n_fft", "n_mels", "n_samples", "n_window", "nb_frequency_bins", "nb_max_frames", "nb_max_samples",
    "padding_value", "per_bin_mean", "per_bin_stddev", "preemphasis", "preemphasis_htk_flavor",
    "projector_downsample_rate", "projector_window_size", "return_attention_mask", "sample_rate",
    "sampling_rate", "split_special_tokens", "timestamp_segment_time", "top_db", "trim_offsets", "win_length",
}  # fmt: skip
"""Keys whose values are numbers, or sections of such keys."""
_TEMPLATE = "chat_template"


def check_vocabulary(model_id: str, *, copy_of: str | None, push_vocabulary: bool) -> None:
    """Check that the vocabulary of a model may be pushed: it is published, or the user wants to publish it.

    Args:
        model_id: Hub id or folder of the base model
        copy_of: Hub id of the published model of which the folder is a copy; None if it is not stated
        push_vocabulary: whether the vocabulary is pushed in any case

    Raises:
        AdapterError: if the vocabulary was learnt from a corpus, or its origin is not known
    """
    folder = Path(model_id)
    if push_vocabulary or not folder.is_dir():
        return
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if config.get("randomly_initialised"):
        reason = "its vocabulary was learnt from transcripts by build_tiny_model.py and contains words of them"
        choice = ""
    elif copy_of is None:
        reason = "its vocabulary may contain words of a corpus, since it is a local folder"
        choice = "name the published model of which it is a copy (--base-model USER/NAME), or "
    else:
        return
    raise AdapterError(
        f"model {model_id}: {reason}; {choice}set hub.push_vocabulary=true (--push-vocabulary) to push it anyway"
    )


def write_processor(family: type[PretrainedModel], source: str, revision: str | None, out: Path) -> None:
    """Write the processor of a model into an existing folder; of its settings, only ``public_settings``.

    Args:
        family: family of the model
        source: Hub id or folder of the model
        revision: branch, tag or commit on the Hub
        out: the folder

    Raises:
        ModelError: if the processor cannot be loaded
    """
    try:
        processor = family.load_processor(source, revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {source!r}: its processor cannot be loaded: {one_line(error)}") from error
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            if path.suffix == ".json" and path.name not in _VOCABULARIES:
                write_json(out / path.name, public_settings(json.loads(path.read_text(encoding="utf-8"))))
            elif path.suffix == ".jinja":
                write_text(out / path.name, without_comments(path.read_text(encoding="utf-8")))
            elif path.is_file() and path.suffix in PROCESSOR_KINDS:
                shutil.copyfile(path, out / path.name)


def public_settings(content: dict[str, Any]) -> dict[str, Any]:
    """Settings of known keys, without text where a number is expected: it could be a path.

    Example:
        >>> public_settings({"pad_token": "<pad>", "name_or_path": "/home/jane", "feature_extractor": {"n_fft": 400}})
        {'pad_token': '<pad>', 'feature_extractor': {'n_fft': 400}}
    """
    public: dict[str, Any] = {}
    for key, value in content.items():
        if key == _TEMPLATE and isinstance(value, str):
            public[key] = without_comments(value)
        elif key in _WORDS or (key.endswith("_token") and isinstance(value, str)):
            public[key] = value
        elif key in _NUMBERS and isinstance(value, dict):
            public[key] = public_settings(value)
        elif key in _NUMBERS and not _has_text(value):
            public[key] = value
    return public


def without_comments(template: str) -> str:
    """A chat template without its comments, which renders the same.

    Example:
        >>> without_comments("{# by Jane #}{{ messages[0] }} {%- if x %}{# why #} a{% endif %}")
        '{{ messages[0] }}{%- if x %} a{% endif %}'
    """
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    try:
        pieces = list(environment.lex(template))
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"the chat template of the base model cannot be read ({one_line(error)})") from error
    return "".join(piece for _, kind, piece in pieces if not kind.startswith("comment"))


def _has_text(value: object) -> bool:
    return any(map(_has_text, value)) if isinstance(value, list) else isinstance(value, str | dict)
