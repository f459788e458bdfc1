"""Report on this machine: versions, devices, extras, and whether each family runs."""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from packaging.requirements import Requirement

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError, one_line
from lalm_mer.core.extras import install_extra
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.provenance import package_versions
from lalm_mer.core.schema import Input
from lalm_mer.models.devices import gpu_before_ampere
from lalm_mer.models.families import FAMILIES, family_class
from lalm_mer.models.families.base import Family
from lalm_mer.models.families.generic import LIMITS, Generic
from lalm_mer.models.tiny import build_tiny
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.scoring import score_inputs

__all__ = ["examine", "family_status"]

_LABELS = LabelSet(("happy", "sad"))
_WITHOUT_BFLOAT16 = (
    "set model.dtype=float16, and train.bf16=false train.fp16=true (zero_shot.py: scoring.fp16=true), with "
    "engine.accelerate_config=accelerate_configs/t4.yaml; sdpa in place of flash_attention_2; see docs/free-gpus.md"
)


def examine(*, builds: bool, describes: bool = False) -> Iterator[str]:
    """Lines of the report.

    Args:
        builds: whether to build a tiny random model of each family and score with it, which takes some seconds each
        describes: whether to list weights, licence, limits and contamination of each family
    """
    for name, version in package_versions().items():
        yield f"package     {name} {version or 'not installed'}"
    yield from _devices()
    yield from _extras()
    for name in FAMILIES:
        yield from _family(name, builds=builds, describes=describes)
    yield f"other       {Generic.name}: any other model that transformers has a class for; not checked here"
    for limit in LIMITS if describes else ():
        yield f"            limit, {limit}"
    if not describes:
        yield "            --families lists weights, licences and what is known of their training data"


def _family(name: str, *, builds: bool, describes: bool) -> Iterator[str]:
    try:
        family = family_class(name)
    except ModelError as error:
        yield f"family      {name}: does not run: {error}"
        return
    status = family_status(family) if builds else "known; --build scores with a tiny random model of it"
    yield f"family      {name}: {status}"
    if not describes:
        return
    yield f"            weights {', '.join(family.published) or 'none published'}; licence {family.licence}"
    if family.single_turn_reason is not None:
        yield f"            single turn only: {family.single_turn_reason}"
    for corpus, known in family.contamination.items():
        yield f"            contamination, {corpus}: {known}"


def _devices() -> Iterator[str]:
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        yield f"device      CPU only, {torch.get_num_threads()} threads; torch {torch.__version__} finds no GPU"
    elif found.type != "cuda":
        yield f"device      {found.type}, {torch.accelerator.device_count()} GPU(s); torch {torch.__version__}"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        older = gpu_before_ampere(torch.device("cuda", index)) is not None
        name = f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        yield f"device      {name}, {'no bfloat16' if older else 'bfloat16'}"
        if older:
            yield f"            {_WITHOUT_BFLOAT16}"


def _extras() -> Iterator[str]:
    """The extras in the metadata of this package, with their missing packages."""
    distribution = importlib.metadata.distribution("lalm-mer")
    packages: dict[str, list[str]] = {}
    for line in distribution.requires or []:
        requirement = Requirement(line)
        found = re.search(r'extra == "([^"]+)"', str(requirement.marker or ""))
        if found and requirement.marker and requirement.marker.evaluate({"extra": found[1]}):
            packages.setdefault(found[1], []).append(requirement.name)
    installed = package_versions({name for names in packages.values() for name in names})
    for extra, names in sorted(packages.items()):
        missing = [name for name in names if installed[name] is None]
        status = f"lacks {', '.join(missing)}: {install_extra(extra)}" if missing else "installed"
        yield f"extra       {extra}: {status}"


def family_status(family: type[Family]) -> str:
    """Build, load and score with a tiny random model of a family; ``runs``, or the reason why it does not."""
    prompt = Prompt("doctor", None, (("audio", ""), ("words", "They say: "), ("transcript", "")), {}, "")
    noise = np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)
    try:
        with tempfile.TemporaryDirectory() as folder:
            build_tiny(family.name, Path(folder), words=["happy sad how they feel"], window_s=2, hidden_size=32)
            loaded = family.load(folder, revision=None, dtype="float32", attn_implementation="sdpa")
            waveform = Waveform(noise, 16_000).resampled(loaded.sampling_rate)
            setup = PromptSetup((prompt,), _LABELS, (_LABELS.labels,))
            recognizer = LanguageRecognizer(loaded, setup).eval()
            scores = next(iter(score_inputs(recognizer, [Input("recording", "well", waveform)])))
    except Exception as error:  # the report shows every reason
        return f"does not run: {type(error).__name__}: {one_line(error)}"
    return "runs" if np.isfinite(scores).all() else "does not run: its scores are not finite"
