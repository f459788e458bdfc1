"""A comparison: its variants measured in turn, the ratios of their times, the differences of their results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from statistics import median
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lalm_mer.core.errors import LalmMerError, ModelError, one_line
from lalm_mer.core.progress import progress
from lalm_mer.launch.benchmark.arms import Bench, Facts, Measured
from lalm_mer.launch.benchmark.data import Place
from lalm_mer.launch.benchmark.measuring import pin
from lalm_mer.launch.config.benchmark import ArmSettings, ComparisonSettings
from lalm_mer.models.attention import DEFAULT, FLEX, implementation_of

__all__ = ["compare", "difference", "spread"]


class Bencher(Protocol):
    """``Bench`` in this process or in another one."""

    def measure(self, arm: ArmSettings, *, keeps_results: bool) -> Measured: ...

    def facts(self, arm: ArmSettings) -> Facts: ...


@dataclass
class _Arm:
    """A variant, the results of its first round, which is not timed, and its measurements so far."""

    settings: ArmSettings
    bench: Bencher
    facts: Facts | None = None
    first: Measured | None = None
    measured: list[Measured] = field(default_factory=list)
    failed: str | None = None


def compare(place: Place, comparison: ComparisonSettings, peak_flops_per_s: float) -> dict[str, Any]:
    """Measure all variants of a comparison in turn, after one round that is dropped.

    On the CPU each variant has a process of its own, pinned to the same cores; it waits while another is measured, and
    its memory is its own. On a GPU all run in this process, and the memory of each is measured anew; so does a dry run.

    Args:
        place: folders and settings of the benchmark
        comparison: the comparison
        peak_flops_per_s: speed of a matrix product, for the share of it that a variant reaches

    Returns:
        plain data: ``kind``, ``arms``, ``ratios``, ``differences``

    Raises:
        ModelError: if a variant fails that is not optional
    """
    repeats = 1 if place.settings.dry_run else comparison.repeats or place.settings.repeats
    with _benches(place, comparison) as benches:
        arms = {name: _Arm(arm, benches[name]) for name, arm in comparison.arms.items()}
        for name, arm in arms.items():
            if place.settings.dry_run and _compiles(arm.settings):
                arm.failed = "not in a dry run, because it compiles kernels"
                continue
            with _recording(name, arm):
                arm.facts = arm.bench.facts(arm.settings)
        rounds = [(number, *each) for number in range(repeats + 1) for each in _rotated(arms, number)]
        for number, name, arm in progress(rounds, desc="measure", unit="measurements"):
            if arm.failed is not None:
                continue
            with _recording(name, arm):
                found = arm.bench.measure(arm.settings, keeps_results=number == 0)
                if number == 0:
                    arm.first = found
                else:
                    arm.measured.append(found)
    done = {name: arm for name, arm in arms.items() if arm.failed is None}
    return {
        "kind": comparison.kind,
        "repeats": repeats,
        "arms": {name: _summary(arm, peak_flops_per_s) for name, arm in arms.items()},
        "ratios": _ratios(done, comparison.references),
        "differences": _differences(done, comparison.references),
    }


def _compiles(arm: ArmSettings) -> bool:
    model = arm.settings.get("model", {})
    chosen = model.get("attn_implementation", DEFAULT)
    return bool(model.get("torch_compile")) or implementation_of(chosen, "language_model") == FLEX


@contextmanager
def _benches(place: Place, comparison: ComparisonSettings) -> Iterator[Mapping[str, Bencher]]:
    with ExitStack() as stack:
        if place.settings.device == "cuda" or place.settings.dry_run:
            bench = Bench(place, comparison)
            yield dict.fromkeys(comparison.arms, bench)
        else:
            yield {name: stack.enter_context(_OwnProcess(place, comparison)) for name in comparison.arms}


class _OwnProcess:
    """A ``Bench`` in a process of its own."""

    def __init__(self, place: Place, comparison: ComparisonSettings) -> None:
        self._pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_open, initargs=(place, comparison)
        )

    def __enter__(self) -> _OwnProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def measure(self, arm: ArmSettings, *, keeps_results: bool) -> Measured:
        return self._pool.submit(_measure, arm, keeps_results).result()

    def facts(self, arm: ArmSettings) -> Facts:
        return self._pool.submit(_facts, arm).result()


_BENCH: list[Bench] = []  # of a worker process


def _open(place: Place, comparison: ComparisonSettings) -> None:
    pin(place.settings.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _BENCH.append(Bench(place, comparison))


def _measure(arm: ArmSettings, keeps_results: bool) -> Measured:
    return _BENCH[0].measure(arm, keeps_results=keeps_results)


def _facts(arm: ArmSettings) -> Facts:
    return _BENCH[0].facts(arm)


@contextmanager
def _recording(name: str, arm: _Arm) -> Iterator[None]:
    """Keep the error of an optional variant as its result; a variant that failed is not run again."""
    try:
        yield
    except Exception as error:
        if not arm.settings.optional:
            if isinstance(error, LalmMerError):
                raise
            raise ModelError(f"variant {name}: {type(error).__name__}: {one_line(error)}") from error
        arm.failed = f"{type(error).__name__}: {one_line(error)}"


def _rotated(arms: Mapping[str, _Arm], number: int) -> list[tuple[str, _Arm]]:
    """The variants, each time beginning with another one."""
    items = list(arms.items())
    start = number % len(items)
    return items[start:] + items[:start]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest value.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    return {"median": median(values), "min": min(values), "max": max(values)}


def _summary(arm: _Arm, peak_flops_per_s: float) -> dict[str, Any]:
    settings: dict[str, Any] = {"path": arm.settings.path, "settings": arm.settings.settings}
    if arm.failed is not None or arm.facts is None:
        return settings | {"failed": arm.failed}
    facts, walls = arm.facts, [each.timing.wall_s for each in arm.measured]
    wall = median(walls)
    return settings | {
        **asdict(facts),
        "wall_s": spread(walls),
        "cpu_s": spread([each.timing.cpu_s for each in arm.measured]),
        "waited_s": spread([each.timing.waited_s for each in arm.measured]),
        "peak_bytes": max(each.peak_bytes for each in arm.measured),
        "utterances_per_s": facts.utterances / wall,
        "tokens_per_s": facts.tokens / wall,
        "flops_per_s": facts.flops / wall,
        "limit_s": facts.flops / peak_flops_per_s,
        "mfu": facts.flops / wall / peak_flops_per_s,
    }


def _ratios(arms: Mapping[str, _Arm], references: Sequence[str]) -> list[dict[str, Any]]:
    """Time of each reference divided by that of each other variant, paired by repeat."""
    rows = []
    for reference in (name for name in references if name in arms):
        for name, arm in arms.items():
            if name in references and name != reference and reference != references[0]:
                continue
            if name == reference:
                continue
            pairs = list(zip(arms[reference].measured, arm.measured, strict=True))
            rows.append(
                {
                    "arm": name,
                    "reference": reference,
                    "cpu": spread([plain.timing.cpu_s / ours.timing.cpu_s for plain, ours in pairs]),
                    "wall": spread([plain.timing.wall_s / ours.timing.wall_s for plain, ours in pairs]),
                }
            )
    return rows


def _differences(arms: Mapping[str, _Arm], references: Sequence[str]) -> list[dict[str, Any]]:
    """Largest differences of the results from those of the first reference that has some, relative to their scale."""
    rows = []
    results = {name: arm.first for name, arm in arms.items() if arm.first is not None and arm.first.has_results}
    for reference in [name for name in references if name in results][:1]:
        expected = results[reference]
        for name, found in results.items():
            if name == reference:
                continue
            row: dict[str, Any] = {"arm": name, "reference": reference}
            if found.log_probs is not None:
                row["log_probs"] = difference(found.log_probs, expected.log_probs)
            else:
                row["first_loss"] = difference(found.losses[:1], expected.losses[:1])
                row["losses"] = difference(found.losses, expected.losses)
                row["gradients"] = difference(*_flat(found.gradients, expected.gradients), least_scale=0.0)
            rows.append(row)
    return rows


def _flat(*gradients: Mapping[str, Tensor]) -> list[npt.NDArray[np.float64]]:
    """All values, in the order of the parameters' names."""
    return [
        np.concatenate([each[name].double().flatten().numpy() for name in sorted(each)] or [np.zeros(0)])
        for each in gradients
    ]


def difference(found: Any, expected: Any, *, least_scale: float = 1.0) -> float | None:  # noqa: ANN401 numbers
    """Largest difference, relative to the largest expected value, or to ``least_scale`` if that is larger.

    Returns:
        None if there is nothing to compare: other shapes, or no values

    Example:
        >>> difference([1.0, 4.0], [1.0, 5.0])
        0.2
    """
    ours, plain = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if ours.shape != plain.shape or not ours.size:
        return None
    scale = max(least_scale, float(np.abs(plain).max()))
    return float(np.abs(ours - plain).max() / scale) if scale else None
