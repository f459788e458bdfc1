"""The command ``lalm-mer estimate``: memory, hours and disk of a run before anything is downloaded or rented."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalm_mer.core.command import path_argument, source_argument
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO, DTYPES, FULL, MODALITIES, ZERO_SHOT, uses_audio
from lalm_mer.models.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lalm_mer.launch.estimate import Estimate, Method

__all__ = ["add_estimate", "estimate_lines", "speed_of"]

_METHODS = (ZERO_SHOT, "lora", "qlora", FULL)
_LABELS = "angry,happy,neutral,sad"
_KEPT_CHECKPOINTS = 2  # default of train.save_total_limit
_EXAMPLES = """examples:
  lalm-mer estimate --family qwen2_audio --method lora --utterances 5531 --mean-s 4.5 --benchmark gpu_7b.json
  lalm-mer estimate --family qwen2_audio --method qlora --data outputs/data/iemocap --tflops 150

Config and tokenizer of the model are read (from the Hub, if --model is no folder), its weights are not. Time needs
either the measured speed of a benchmark, or the operations per second that you expect to reach, in --tflops."""


def add_estimate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the subcommand ``estimate``."""
    help_ = "memory, hours and disk of a run; reads the config of the model, not its weights"
    parser = commands.add_parser(
        "estimate",
        help=help_,
        description=f"Estimate {help_}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--family", required=True, choices=tuple(FAMILIES), help="architecture")
    parser.add_argument("--model", type=source_argument, metavar="ID", help="Hub id or folder (default: the family's)")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--method", required=True, choices=_METHODS)
    parser.add_argument("--data", type=path_argument, metavar="FOLDER", help="a prepared corpus")
    parser.add_argument("--utterances", type=int, metavar="N", help="number of utterances, if there is no --data")
    parser.add_argument("--mean-s", type=float, metavar="S", help="their mean duration in seconds")
    parser.add_argument("--longest-s", type=float, metavar="S", help="longest duration (default: 4 times the mean)")
    parser.add_argument("--epochs", type=float, default=3.0, help="of training (default: %(default)g)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="per device (default: %(default)s)")
    parser.add_argument("--r", type=int, default=16, help="rank of the adapter (default: %(default)s)")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights (default: bfloat16, with full float32, the only one it takes)"
    )
    parser.add_argument("--modalities", choices=MODALITIES, default=AUDIO, help="of the prompt (default: %(default)s)")
    parser.add_argument("--labels", default=_LABELS, metavar="A,B,...", help="labels (default: %(default)s)")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--benchmark", type=path_argument, metavar="FILE.json", help="result of recipes/benchmark.py")
    speed.add_argument("--tflops", type=float, metavar="T", help="10^12 operations per second that are reached")
    parser.set_defaults(command=_estimate)
    return parser


def _estimate(options: argparse.Namespace) -> int:
    for line in estimate_lines(options):
        print(line, flush=True)  # noqa: T201 what the command is for
    return 0


def estimate_lines(options: argparse.Namespace) -> Iterator[str]:
    """Lines of the estimate.

    Raises:
        ConfigError: if arguments do not fit each other, or the benchmark has no such measurement
        ModelError: if there is no such model
    """
    from lalm_mer.core.labels import LabelSet
    from lalm_mer.launch.estimate import Method, empty_family, estimate
    from lalm_mer.models.families import family_class
    from lalm_mer.recognizers.language.prompt_setup import PromptSetup

    family_type = family_class(options.family)
    count, mean_s, longest_s, audio_bytes = _corpus(options)
    if options.model is None and not family_type.published:
        raise ConfigError(f"--model is missing; family {options.family} has no published model of its own")
    source = options.model or family_type.published[0]
    revision = options.revision or (None if options.model else family_type.published_revision)
    full = options.method == FULL
    dtype = options.dtype or ("float32" if full else "bfloat16")
    if full and dtype != "float32":
        raise ConfigError(f"--dtype {dtype}: weights that are trained in full are in float32; leave it out")
    family = empty_family(options.family, source, revision, dtype)
    labels = LabelSet(tuple(options.labels.split(",")))
    prompt = family_type.load_prompt(Path(family_type.default_prompt(options.modalities)))
    parameters = sum(each.numel() for each in family.model.parameters())
    method = Method(
        towers=None if options.method in (ZERO_SHOT, FULL) else family_type.adapter_targets,
        r=options.r,
        quantization="nf4" if options.method == "qlora" else None,
        batch_size=options.batch_size,
        checkpointing=options.gradient_checkpointing,
        full=_used_towers(family.towers, options.modalities) if full else (),
    )
    setup = PromptSetup((prompt,), prompt.label_set(labels), (labels.labels,))
    found = estimate(family, setup, method, mean_s=mean_s, longest_s=longest_s)
    yield f"model     {options.family}, {parameters / 1e9:.2f} billion parameters, {dtype}"
    yield f"corpus    {count} utterances of {mean_s:.2f} s (longest {longest_s:.2f} s), {found.tokens} tokens each"
    yield from _memory(found, method)
    yield from _time(options, found, count, method)
    yield from _disk(found, count, audio_bytes, method)


def _used_towers(towers: Iterable[str], modalities: str) -> list[str]:
    """The towers that a prompt of these modalities uses."""
    from lalm_mer.launch.build.defaults import AUDIO_TOWERS

    return [tower for tower in towers if uses_audio(modalities) or tower not in AUDIO_TOWERS]


def _corpus(options: argparse.Namespace) -> tuple[int, float, float, int]:
    """Number of utterances, mean and longest duration in seconds, and bytes of their audio at 16 kHz and 16 bits."""
    if (options.data is None) == (options.utterances is None or options.mean_s is None):
        raise ConfigError("expected either --data, or --utterances and --mean-s")
    if options.data is None:
        for name in ("utterances", "mean_s", "batch_size", "r", "epochs"):
            if getattr(options, name) <= 0:
                raise ConfigError(f"--{name.replace('_', '-')}: {getattr(options, name)}; expected more than 0")
        longest_s = options.longest_s or 4 * options.mean_s
        return options.utterances, options.mean_s, longest_s, round(options.utterances * options.mean_s * 32_000)
    from lalm_mer.corpora import load

    corpus = load(options.data)
    durations = corpus.columns(["duration_s"])["duration_s"].dropna()
    if not len(durations):
        raise ConfigError(f"--data {options.data}: no utterance has audio; give --utterances and --mean-s")
    size = sum(path.stat().st_size for path in Path(options.data).rglob("*.parquet"))
    return len(durations), float(durations.mean()), options.longest_s or float(durations.max()), size


def _memory(found: Estimate, method: Method) -> Iterator[str]:
    memory = found.memory
    training = f"gradients {_gib(memory.gradients)}, AdamW {_gib(memory.optimizer)}, " if memory.gradients else ""
    yield (
        f"memory    {_gib(memory.total)}: weights {_gib(memory.weights)}, {training}activations "
        f"{_gib(memory.activations)} (batch of {method.batch_size}, all of the longest duration)"
    )


def _time(options: argparse.Namespace, found: Estimate, count: int, method: Method) -> Iterator[str]:
    epochs = options.epochs if method.trains else 1
    flops = count * (found.tower_flops + epochs * (found.flops - found.tower_flops))  # the tower once, if it is frozen
    if options.benchmark is not None:
        from lalm_mer.launch.benchmark.report import read_report

        kind = "train" if method.trains else "score"
        speed, source = speed_of(read_report(options.benchmark), kind, method.quantization)
    elif options.tflops is not None:
        speed, source = options.tflops * 1e12, "--tflops"
    else:
        yield f"time      {flops:.3g} operations; give --benchmark or --tflops for hours"
        return
    yield f"time      {flops / speed / 3600:.2f} hours: {flops:.3g} operations at {speed / 1e12:.3g} TFLOP/s ({source})"


def speed_of(report: Mapping[str, Any], kind: str, quantization: str | None) -> tuple[float, str]:
    """The fastest measured speed of this kind of work, in operations per second, and where it was measured.

    Args:
        report: content of the file of a benchmark
        kind: score or train
        quantization: ``nf4`` or None

    Raises:
        ConfigError: if nothing of this kind was measured
    """
    found = [
        (float(arm["flops_per_s"]), f"{name}, {variant}, {_device(result['machine'])}")
        for name, result in report["comparisons"].items()
        if result.get("kind") == kind and not result["dry_run"]
        for variant, arm in result["arms"].items()
        if arm.get("path") == "ours" and "flops_per_s" in arm and arm["quantization"] == quantization
    ]
    if not found:
        dry = (
            " (dry runs measure nothing)" if any(each.get("dry_run") for each in report["comparisons"].values()) else ""
        )
        raise ConfigError(
            f"--benchmark: has no measurement of kind {kind} with quantization {quantization or 'none'}{dry}; run "
            "recipes/benchmark.py with such a comparison, or give --tflops"
        )
    return max(found)


def _device(machine: Mapping[str, Any]) -> str:
    return str(machine.get("gpu") or f"{machine['processor']}, {machine['threads']} thread(s)")


def _disk(found: Estimate, count: int, audio_bytes: int, method: Method) -> Iterator[str]:
    parts = [f"corpus {_gib(audio_bytes)}", f"outputs of the audio tower, if cached, {_gib(found.tower_bytes * count)}"]
    if method.trains:
        kept = _KEPT_CHECKPOINTS * found.checkpoint_bytes
        saved = "model" if method.full else "adapter"
        parts += [f"{saved} {_gib(found.saved_bytes)}", f"checkpoints {_gib(kept)}"]
    yield f"disk      {', '.join(parts)}"


def _gib(count: float) -> str:
    """Bytes as text.

    Example:
        >>> _gib(3 * 2**20), _gib(2.5 * 2**30)
        ('3.0 MiB', '2.50 GiB')
    """
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
