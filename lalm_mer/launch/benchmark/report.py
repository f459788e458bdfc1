"""The JSON file of a benchmark, written after each comparison, and the same as a table."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.output import write_json
from lalm_mer.core.strict_json import read_object
from lalm_mer.corpora import load
from lalm_mer.launch.benchmark.compare import compare
from lalm_mer.launch.benchmark.data import Place, prepare
from lalm_mer.launch.benchmark.measuring import machine, matmul_flops_per_s, pin
from lalm_mer.launch.config.benchmark import OURS, BenchmarkSettings, ComparisonSettings

__all__ = ["dry", "read_report", "record", "run_comparisons", "table"]

_VERSION = 1
_SMALL = {
    "audio_config": {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 128},
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
}
_FEW = 4


def dry(settings: BenchmarkSettings) -> BenchmarkSettings:
    """The same comparisons with a very small model, few short utterances, in float32 on the CPU."""
    comparisons = {name: _dry(each) for name, each in settings.comparisons.items()}
    return replace(
        settings,
        comparisons=comparisons,
        device="cpu",
        dry_run=True,
        model=replace(settings.model, sizes=_SMALL, dtype="float32", window_s=4),
        data=replace(
            settings.data, dir="", protocol="", utterances=_FEW, mean_s=1, sd_s=0.5, shortest_s=0.5, longest_s=3
        ),
    )


def _dry(comparison: ComparisonSettings) -> ComparisonSettings:
    """On the CPU in float32, as nothing else runs everywhere."""
    content = {section: dict(values) for section, values in comparison.settings.items()}
    content.setdefault("model", {}).pop("dtype", None)
    for section in ("train", "scoring"):
        content.get(section, {}).pop("bf16", None)
    return replace(comparison, utterances=_FEW, settings=content)


def run_comparisons(settings: BenchmarkSettings) -> dict[str, Any]:
    """Run the chosen comparisons; the file is complete after each of them.

    Returns:
        content of the file, with these comparisons alone

    Raises:
        ConfigError: if there is no GPU and ``dry_run`` is false
        ModelError: if a variant fails that is not optional
    """
    if settings.dry_run:
        settings = dry(settings)
    elif settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "key 'device': cuda, but torch finds no GPU; set dry_run=true to see that it runs, on the CPU"
        )
    file = Path(settings.output.file)
    place = Place(settings)
    prepare(place)
    if settings.device == "cpu" and not settings.dry_run:
        pin(settings.threads)
    dtype = settings.model.dtype
    speed = matmul_flops_per_s(settings.device, dtype)
    setting: dict[str, Any] = {
        "dry_run": settings.dry_run,
        "machine": machine(settings.device, settings.threads),
        "matmul_flops_per_s": speed,
        "model": {"family": settings.model.family, "dtype": dtype, "sizes": settings.model.sizes},
        "data": _describe(place),
    }
    for name, comparison in settings.chosen.items():
        required = comparison.requires
        if required is not None and importlib.util.find_spec(required) is None:
            record(file, name, setting | {"left_out": f"{required} is not installed"})
            continue
        print(f"benchmark: {name}: {', '.join(comparison.arms)}", flush=True)  # noqa: T201 it may take minutes
        result = compare(place, comparison, speed)
        record(file, name, setting | result)
    report = read_report(file)
    return report | {"comparisons": {name: report["comparisons"][name] for name in settings.chosen}}


def _describe(place: Place) -> dict[str, Any]:
    """The utterances, without any path."""
    summary, clips = load(place.data).summary, place.settings.data
    noise = not clips.dir
    return {
        "corpus": summary["corpus"],
        "synthetic_noise": noise,
        "durations": f"log-normal, mean {clips.mean_s:g} s, sd {clips.sd_s:g} s" if noise else "those of the corpus",
        "mean_s": summary["duration_s"] / summary["n_utterances"],
    }


def read_report(file: Path) -> dict[str, Any]:
    """Content of the file of a benchmark.

    Raises:
        PredictionError: if it cannot be read
        ConfigError: if it is no such file
    """
    content = read_object(file)
    if content.get("version") != _VERSION or not isinstance(content.get("comparisons"), dict):
        raise ConfigError(f"{file}: is not the result of recipes/benchmark.py (version {_VERSION})")
    return content


def record(file: Path, name: str, result: Mapping[str, Any]) -> None:
    """Replace the result of one comparison, or step, in the file."""
    content: dict[str, Any] = read_report(file) if file.is_file() else {"version": _VERSION, "comparisons": {}}
    content["comparisons"][name] = dict(result)
    write_json(file, content)


def table(report: Mapping[str, Any]) -> Iterator[str]:
    """The results as Markdown."""
    yield "| comparison | variant | utterances/s | tokens/s | CPU s | wall s | waited s | MFU | peak GiB | ratios |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, result in report["comparisons"].items():
        shown = f"{name} (dry run: no measurement)" if result.get("dry_run") else name
        for arm, found in result.get("arms", {}).items():
            if "wall_s" not in found:
                yield f"| {shown} | {arm} | failed: {found['failed']} | | | | | | | |"
                continue
            ratios = ", ".join(
                f"{row['cpu']['median']:.2f}x CPU, {row['wall']['median']:.2f}x wall of {row['reference']}"
                for row in result["ratios"]
                if row["arm"] == arm
            )
            times = " | ".join(f"{found[key]['median']:.3g}" for key in ("cpu_s", "wall_s", "waited_s"))
            yield (
                f"| {shown} | {arm} | {found['utterances_per_s']:.3g} | {found['tokens_per_s']:.3g} | {times} | "
                f"{100 * found['mfu']:.1f}% | {found['peak_bytes'] / 2**30:.2f} | {ratios} |"
            )
        if "arms" not in result:
            yield f"| {shown} | {result.get('left_out') or result.get('ended')} | | | | | | | | |"
    yield from _differences(report)
    yield from _predictions(report)


def _differences(report: Mapping[str, Any]) -> Iterator[str]:
    rows = [(name, row) for name, result in report["comparisons"].items() for row in result.get("differences", [])]
    if not rows:
        return
    yield ""
    yield "| comparison | variant | compared with | largest relative differences |"
    yield "|---|---|---|---|"
    for name, row in rows:
        values = {key: value for key, value in row.items() if key not in ("arm", "reference")}
        shown = ", ".join(f"{key} {'none' if value is None else f'{value:.1e}'}" for key, value in values.items())
        yield f"| {name} | {row['arm']} | {row['reference']} | {shown} |"


def _predictions(report: Mapping[str, Any]) -> Iterator[str]:
    """What ``lalm-mer estimate`` predicts, with the speed of the other comparisons, and what was measured."""
    arms = {
        (name, arm): found
        for name, result in report["comparisons"].items()
        for arm, found in result.get("arms", {}).items()
        if found.get("path") == OURS and "wall_s" in found
    }
    if not arms:
        return
    yield ""
    yield "| comparison | variant | memory predicted, GiB | measured, GiB | seconds predicted | measured |"
    yield "|---|---|---|---|---|---|"
    for (name, arm), found in arms.items():
        others = [each["flops_per_s"] for (another, _), each in arms.items() if another != name]
        seconds = f"{found['predicted_flops'] / median(others):.3g}" if others else "-"
        measured = found["peak_bytes"] - found["loaded_bytes"] + found["predicted_weights"]
        yield (
            f"| {name} | {arm} | {found['predicted_bytes'] / 2**30:.3f} | {measured / 2**30:.3f} | {seconds} | "
            f"{found['wall_s']['median']:.3g} |"
        )
