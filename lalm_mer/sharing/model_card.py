"""The model card of an adapter or a baseline: training, results and intended use.

Text from a config, a corpus or a label is escaped: its Markdown and HTML have no effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import (
    ADAPTERS,
    ASR,
    AUDIO,
    AUDIO_TRANSCRIPT,
    FROM_CORPUS,
    TRANSCRIPT,
    uses_audio,
    uses_transcript,
)
from lalm_mer.core.notes import sentence
from lalm_mer.evaluation.metrics import METRICS, Metric
from lalm_mer.models.families import DUAL_ENCODERS
from lalm_mer.protocols.protocol import Protocol
from lalm_mer.recognizers.baselines.settings import NetworkSettings
from lalm_mer.sharing.public_record import PublicRecord

__all__ = ["CardFacts", "card_metadata", "check_licence", "dev_rule", "plain", "render_model_card"]

_GIVEN = {AUDIO: "its audio only", TRANSCRIPT: "its transcript only", AUDIO_TRANSCRIPT: "its audio and transcript"}
_TRANSCRIPTS = {None: "not used", FROM_CORPUS: "those of the corpus", ASR: "from speech recognition"}
_HUB_LICENCES = {
    "apache-2.0", "mit", "openrail", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "cc0-1.0", "odbl", "unknown",
    *(f"cc-by{kind}-4.0" for kind in ("", "-sa", "-nc", "-nd", "-nc-sa", "-nc-nd")),
}  # fmt: skip
"""Identifiers on the Hub (huggingface.co/docs/hub/repositories-licenses); any other licence is ``other``."""
_CORPUS_LICENCES = {
    "ravdess": "CC BY-NC-SA 4.0",
    "crema_d": "Open Database Licence 1.0",
    "iemocap": "signed licence of the University of Southern California",
    "msp_podcast": "signed licence of the University of Texas at Dallas",
    "meld": "see the MELD repository (declare-lab/MELD); its clips are of a television series",
}
_ENCODERS = {
    "scratch": "a small BERT, trained from scratch", "static": "word vectors", "tfidf": "TF-IDF",
    "opensmile": "openSMILE features", "log_mel": "log-mel bands", "mfcc": "MFCC", "waveform": "samples",
}  # fmt: skip
"""Kinds of encoders with another name in text."""
_LOADING = ("revision", "dtype", "quantization")
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~$#!@])")


class _Written(str):
    """Markdown that is not escaped."""


@dataclass(frozen=True)
class CardFacts:
    """The content of a card.

    Args:
        repo_id: repository of the adapter or baseline; None if it stays in its run folder
        record: the part of the run's record that is shared
        metrics: content of metrics.json
        forms: label -> its surface forms, in the order of the labels; empty for a baseline
        dev_rule: result of ``dev_rule``
        base_licence: licence of the base model's published weights; empty for a baseline
        unknown_in: columns of ``disjoint_in`` that some utterances lack
        contamination: what is known about the corpus in the base model's training data; None for nothing
        base_model: Hub id of the base model; None for a local folder, and for a baseline
        licence: licence of the adapter or baseline; None if it is not stated
        network: settings of a baseline that are shared; None for an adapter
    """

    repo_id: str | None
    record: PublicRecord
    metrics: Mapping[str, Any]
    forms: Mapping[str, Sequence[str]]
    dev_rule: str
    base_licence: str = ""
    unknown_in: Sequence[str] = ()
    contamination: str | None = None
    base_model: str | None = None
    licence: str | None = None
    network: NetworkSettings | None = None

    @property
    def encoders(self) -> list[str]:
        """Hub ids of the pretrained encoders of a baseline."""
        encoders = self.network.encoders.values() if self.network else ()
        return [encoder.model for encoder in encoders if encoder.uses_model]


def plain(value: object) -> str:
    """Escape a value for Markdown.

    Example:
        >>> plain("[sad](http://x) <b>")
        '\\\\[sad\\\\](http&#58;//x) &lt;b&gt;'
    """
    if isinstance(value, _Written):
        return value
    text = "".join(character for character in " ".join(str(value).split()) if character.isprintable())
    text = _SPECIAL.sub(r"\\\1", escape(text, quote=False))
    return text.replace("://", "&#58;//").replace("www.", r"www\.")


def check_licence(licence: str | None) -> None:
    """Check that the identifier of a licence has only lower-case letters, digits, dots, plus signs and hyphens.

    Raises:
        ConfigError: if it has others
    """
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", licence):
        raise ConfigError(f"--licence {licence!r}: expected an identifier such as cc-by-nc-4.0 or apache-2.0")


def dev_rule(protocol: Protocol) -> str:
    """Description of the dev set of a fold."""
    rule = protocol.folds
    if rule.dev:
        return f"{rule.column} values that the protocol lists for each fold"
    if rule.rule in ("listed", "grouped", "crossed"):
        return "the test set of the next fold"
    return "the published split of the corpus"


def card_metadata(facts: CardFacts) -> dict[str, Any]:
    """Metadata for the Hub; without results if the corpus is synthetic, or the base model unpublished or random."""
    record, licence, baseline = facts.record, facts.licence or "unknown", facts.network is not None
    published = baseline or facts.base_model is not None
    shown = published and not record.synthetic and not record.randomly_initialised
    pipeline = "audio-classification"
    if baseline and not uses_audio(record.modalities):
        pipeline = "text-classification"
    results = [
        EvalResult(
            task_type=pipeline,
            task_name="Speech emotion recognition",
            dataset_type=record.corpus,
            dataset_name=f"{record.corpus}, {record.protocol}, fold {record.fold}",
            dataset_split="test",
            metric_type=metric.hub_type,
            metric_name=metric.long_title,
            metric_value=facts.metrics[metric.name]["value"],
            metric_args={"average": metric.hub_average} if metric.hub_average else None,
        )
        for metric in _scored(facts.metrics)
        if shown and metric.hub_type is not None
    ]
    data: dict[str, Any] = ModelCardData(
        base_model=(facts.encoders or None) if baseline else facts.base_model,
        base_model_relation="adapter" if facts.base_model else None,
        library_name="lalm-mer" if baseline else "peft",
        pipeline_tag=pipeline,
        license=licence if licence in _HUB_LICENCES else "other",
        license_name=None if licence in _HUB_LICENCES else licence,
        tags=["speech-emotion-recognition", record.method, "lalm-mer", *_tags(record)],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=_title(facts) if results else None,
        eval_results=results or None,
    ).to_dict()  # type: ignore[no-untyped-call]
    return data


def render_model_card(facts: CardFacts) -> str:
    """Render the card: metadata in YAML, then Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lalm_mer", "sharing"),
        autoescape=False,  # Markdown, which plain() escapes
        finalize=plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "interval": _interval}
    record, metrics = facts.record, facts.metrics
    header = yaml.safe_dump(card_metadata(facts), sort_keys=False, allow_unicode=True)
    family = record.config.get("model", {}).get("family")
    needs_base = facts.network is None and facts.base_model is None and facts.repo_id is not None
    corpus_licence = _CORPUS_LICENCES.get(record.corpus, "not recorded by lalm-mer; see the release")
    return environment.get_template("model_card.md.jinja").render(
        metadata=_Written(header.rstrip()),  # escaped by the YAML library
        title=_title(facts),
        source=_Written(facts.repo_id or "FOLDER"),  # checked by check_repo_id
        options=_Written(_options(record.modalities, needs_base=needs_base)),
        needs_base=needs_base,
        network=facts.network,
        branches=[] if facts.network is None else _branches(facts.network),
        encoders=", ".join(facts.encoders),
        base_model=facts.base_model or f"a model of family {family} from a local folder",
        base_licence=f"{facts.base_licence}, as published; see its model card",
        compares=family in DUAL_ENCODERS,
        given=_GIVEN[record.modalities],
        forms=facts.forms,
        scored=_scored(metrics),
        metrics=metrics,
        intervals=_intervals(metrics),
        disjoint_in=", ".join(record.disjoint_in),
        shared_in=", ".join(record.shared_in) or "nothing",
        unknown_in=", ".join(facts.unknown_in),
        dev_rule=facts.dev_rule,
        primary_metric=METRICS[record.primary_metric].long_title,
        transcripts=_TRANSCRIPTS[record.transcript_source],
        contamination=facts.contamination or _contamination(facts),
        licence=facts.licence or "not stated; ask the publisher before any use",
        corpus_licence=f"{record.corpus}: {'synthetic, made by a program' if record.synthetic else corpus_licence}",
        method=ADAPTERS.get(record.method),
        notes=[sentence(note) for note in record.notes],
        settings=_settings(record),
        versions=", ".join(f"{name} {version}" for name, version in record.versions.items() if version),
        commit=record.git,
        record=record,
    )


def _tags(record: PublicRecord) -> list[str]:
    """The family of the base model, or what a baseline uses."""
    if "model" in record.config:
        return [record.config["model"]["family"]]
    return record.modalities.split("+")


def _branches(network: NetworkSettings) -> list[dict[str, str]]:
    """What each branch of a baseline uses, and its network over time."""
    rows = []
    for modality, branch in network.branches.items():
        encoder = branch.encoder
        names = _ENCODERS | {
            "pretrained": f"frozen hidden states of {encoder.model}",
            "finetuned": f"hidden states of {encoder.model}, which was trained too",
        }
        name = names.get(encoder.kind, encoder.name)
        turns = network.transcript.context_turns if modality == TRANSCRIPT else 0
        before = f", also of the turns before (context_turns: {turns})" if turns else ""
        rows.append({"modality": modality, "encoder": name + before, "sequence": branch.sequence.kind})
    return rows


def _contamination(facts: CardFacts) -> str:
    """What is not known, or cannot be, about the corpus in the training data of pretrained parts."""
    corpus, network = facts.record.corpus, facts.network
    if network is None:
        return f"It is not known whether the training data of the base model contain {corpus} and its test set."
    parts = facts.encoders
    if TRANSCRIPT in network.encoders and network.transcript.encoder.kind == "static":
        parts = [*parts, "the word vectors"]
    if parts:
        return f"It is not known whether the training data of {' and '.join(parts)} contain {corpus} and its test set."
    return f"It has no pretrained part: all its weights were trained on {corpus}."


def _settings(record: PublicRecord) -> list[dict[str, Any]]:
    """The settings that the card lists, as rows; of a network those that are not the default, of its branches."""
    config = record.config
    model = {key: config["model"][key] for key in _LOADING if key in config["model"]} if "model" in config else {}
    unused = {AUDIO, TRANSCRIPT} - set(record.modalities.split("+"))
    baseline = {key: value for key, value in config.get("baseline", {}).items() if key not in unused}
    sections = {
        "model": model, "adapter": config.get("adapter", {}), "baseline": baseline, "train": config.get("train", {}),
    }  # fmt: skip
    defaults = _flat("baseline", asdict(NetworkSettings()))
    return [row for name, values in sections.items() for row in _flat(name, values) if row not in defaults]


def _scored(metrics: Mapping[str, Any]) -> list[Metric]:
    """The metrics that a metrics.json has; one of an older version may lack the newest."""
    return [metric for metric in METRICS.values() if metric.name in metrics]


def _title(facts: CardFacts) -> str:
    """Name of the repository, or recognizer, method and corpus of the run."""
    if facts.repo_id:
        return facts.repo_id.rpartition("/")[2]
    return f"{facts.record.recognizer}, {facts.record.method}, {facts.record.corpus}"


def _options(modalities: str, *, needs_base: bool) -> str:
    """Options of ``lalm-mer predict`` that the adapter needs."""
    transcript = ' --transcript "its words"' if uses_transcript(modalities) else ""
    return transcript + (" --base-model BASE" if needs_base else "")


def _intervals(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics that share a method and number of clusters of their intervals, in one row each."""
    rows: dict[tuple[str, Any], list[str]] = {}
    for metric in _scored(metrics):
        result = metrics[metric.name]
        rows.setdefault((result["method"], result["n_clusters"]), []).append(metric.long_title)
    return [{"name": ", ".join(names), "method": method, "n_clusters": n} for (method, n), names in rows.items()]


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}%"


def _interval(result: Mapping[str, Any]) -> str:
    """The interval of a metric; one of zero width, of an older version, says nothing about other speakers."""
    if result["low"] is None or result["low"] == result["high"]:
        return "none" if result["n_clusters"] is None else "uninformative"
    return f"{_percent(result['low'])} to {_percent(result['high'])}"


def _flat(section: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings as rows ``section.key``; a list is joined."""
    rows: list[dict[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows.extend(_flat(f"{section}.{key}", value))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            rows.append({"name": f"{section}.{key}", "value": "none" if text in (None, "") else text})
    return rows
