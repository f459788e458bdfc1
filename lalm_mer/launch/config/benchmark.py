"""Schema of benchmark.py: comparisons of named variants of a run, on one model and the same utterances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lalm_mer.core import names
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting
from lalm_mer.models.families import FAMILIES

__all__ = [
    "OURS", "PLAIN_SCORING", "PLAIN_TRAINING", "ArmSettings", "BenchmarkModelSettings", "BenchmarkOutputSettings",
    "BenchmarkSettings", "ClipsSettings", "ComparisonSettings",
]  # fmt: skip

OURS = "ours"
PLAIN_SCORING = ("generate", "full_sequence")
PLAIN_TRAINING = ("trainer",)
SCORE, TRAIN = "score", "train"


@dataclass(frozen=True)
class ArmSettings:
    """One variant of a run: what computes it, and the settings in which it differs."""

    path: str = setting(OURS, choices=(OURS, *PLAIN_SCORING, *PLAIN_TRAINING), help="ours, or the plain way")
    settings: dict[str, Any] = setting({}, help="sections of zero_shot.py or finetune.py, with the keys that differ")
    optional: bool = setting(False, help="whether the benchmark continues if this variant cannot run here")


@dataclass(frozen=True)
class ComparisonSettings:
    """Variants that do the same work, measured in turn."""

    kind: str = setting(choices=(SCORE, TRAIN), help="scoring of the test utterances, or training on the others")
    arms: dict[str, ArmSettings] = setting(help="name -> variant")
    settings: dict[str, Any] = setting({}, help="sections of zero_shot.py or finetune.py, for all variants")
    repeats: int | None = setting(None, at_least=1, help="null for that of the benchmark")
    utterances: int | None = setting(None, at_least=1, help="null for that of the benchmark")
    requires: str | None = setting(None, help="package without which the comparison is left out")
    limit_s: int = setting(600, at_least=1, help="with --steps: time after which it is stopped, in seconds")

    def __post_init__(self) -> None:
        allowed = (OURS, *(PLAIN_SCORING if self.kind == SCORE else PLAIN_TRAINING))
        for name, arm in self.arms.items():
            if arm.path not in allowed:
                raise ConfigError(
                    f"key 'comparisons': variant {name} has path {arm.path}; a comparison of kind {self.kind} takes "
                    f"{', '.join(allowed)}"
                )
        if not self.arms:
            raise ConfigError("key 'comparisons': a comparison has no arms; name at least one")

    @property
    def references(self) -> list[str]:
        """Names of the variants that the others are compared with: the plain ones, or the first if there are none."""
        plain = [name for name, arm in self.arms.items() if arm.path != OURS]
        return plain or list(self.arms)[:1]


@dataclass(frozen=True)
class BenchmarkModelSettings:
    """The model: a real architecture of any size, with random weights."""

    family: str = setting("qwen2_audio", choices=tuple(FAMILIES), help="architecture")
    sizes: dict[str, Any] = setting({}, help="part of its config -> values, with transformers' names")
    window_s: int = setting(30, at_least=1, help="window of the audio tower, in whole seconds")
    vocabulary: int = setting(2000, at_least=300, help="largest number of tokens of the tokenizer")
    dtype: str = setting("float32", choices=names.DTYPES, help="data type of the weights")
    initializer_range: float = setting(0.02, above=0, help="standard deviation of the weights")


@dataclass(frozen=True)
class ClipsSettings:
    """The utterances: those of a prepared corpus, or noise with log-normal durations."""

    dir: str = setting("", path="folder", help="prepared corpus; empty for noise")
    protocol: str = setting("", path="file", among="eval/protocols", help="of the prepared corpus")
    utterances: int = setting(32, at_least=1, help="number that is scored, and number that is trained on")
    labels: list[str] = setting(
        ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"], help="of noise"
    )
    mean_s: float = setting(4.5, above=0, help="mean duration of noise, in seconds")
    sd_s: float = setting(3.1, at_least=0, help="standard deviation of its duration")
    shortest_s: float = setting(0.6, above=0, help="durations are at least this")
    longest_s: float = setting(30.0, above=0, help="durations are at most this")

    def __post_init__(self) -> None:
        if bool(self.dir) != bool(self.protocol):
            raise ConfigError("section 'data': dir and protocol belong together; give both, or none for noise")


@dataclass(frozen=True)
class BenchmarkOutputSettings:
    """What is written."""

    file: str = setting(path="new", help="JSON; comparisons that are not run again are kept in it")
    work: str = setting("outputs/benchmarks", path="new", help="folder of model, noise and temporary files")


@dataclass(frozen=True)
class BenchmarkSettings:
    """YAML of benchmark.py."""

    output: BenchmarkOutputSettings
    comparisons: dict[str, ComparisonSettings] = setting(help="name -> comparison; see docs/benchmark.md")
    model: BenchmarkModelSettings = field(default_factory=BenchmarkModelSettings)
    data: ClipsSettings = field(default_factory=ClipsSettings)
    prompt: str = setting("prompts/audio.yaml", path="file", among="prompts", help="the prompt")
    device: str = setting("cpu", choices=("cpu", "cuda"), help="where all variants run")
    threads: int = setting(1, at_least=1, help="threads, and cores that they are pinned to, on the CPU")
    repeats: int = setting(5, at_least=1, help="measurements of each variant, taken in turn, after one that is dropped")
    only: list[str] = setting([], help="comparisons to run; empty for all")
    dry_run: bool = setting(
        False,
        help="a very small model, few utterances and one repeat, on the CPU: shows that it runs, measures nothing",
    )
    tests: list[str] = setting([], help="with --steps: arguments of pytest, which runs at the end; empty for no tests")
    tests_limit_s: int = setting(120, at_least=1, help="time after which the tests are stopped, in seconds")
    seed: int = setting(0, at_least=0, at_most=2**32 - 1, help="seed of weights, noise, order and adapters")

    @property
    def chosen(self) -> dict[str, ComparisonSettings]:
        """The comparisons to run.

        Raises:
            ConfigError: if ``only`` names another
        """
        for name in self.only:
            if name not in self.comparisons:
                raise ConfigError(f"key 'only': {name!r}; the comparisons are {', '.join(self.comparisons)}")
        return {name: each for name, each in self.comparisons.items() if not self.only or name in self.only}
