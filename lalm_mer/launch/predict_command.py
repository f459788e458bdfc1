"""The command ``lalm-mer predict``: label probabilities of recordings, printed or written to a file."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lalm_mer.core.command import path_argument, source_argument
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.imports import quick_imports
from lalm_mer.core.names import DTYPES
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.plain_text import printable
from lalm_mer.core.progress import progress

if TYPE_CHECKING:
    from torch import nn

    from lalm_mer.serving.predict import Prediction
    from lalm_mer.serving.recordings import Recording

__all__ = ["add_predict"]

_EXAMPLES = """examples:
  lalm-mer predict interview.wav --run outputs/runs/ravdess_lora
  lalm-mer predict recordings/ --run outputs/runs/ravdess_lora --out predictions.csv
  lalm-mer predict list.csv --run user/name --window 6 --hop 3 --out over_time.parquet
  lalm-mer predict call.wav --run outputs/runs/meld_lora --transcript "I can't believe it!" --channel 1
  lalm-mer predict a.wav --run Qwen/Qwen2-Audio-7B-Instruct --prompt prompts/audio.yaml --labels happy,sad,angry

A list is a .csv, .tsv or .jsonl file with a column path, relative to the list, and optionally transcript and speaker;
with start_s and end_s, for parts of longer files, it also needs utterance_id. A recording that cannot be predicted is a
row with the reason. The exit status is 0, or 1 with --strict if there is such a row."""


def add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the subcommand ``predict``."""
    parser = commands.add_parser(
        "predict",
        help="label probabilities of new recordings",
        description="Label probabilities of recordings from a run, a pushed model, or a base model with a prompt.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "audio", nargs="+", type=path_argument, metavar="AUDIO", help="audio or video file, folder of them, or list"
    )
    parser.add_argument(
        "--run",
        required=True,
        type=source_argument,
        help="run folder; folder or Hub id of an adapter or a baseline, or of a base model with --prompt",
    )
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="write the table: .csv, .json or .parquet")
    parser.add_argument("--transcript", metavar="TEXT", help="of a single recording")
    parser.add_argument("--window", type=float, metavar="S", help="cut recordings into windows of S seconds")
    parser.add_argument("--hop", type=float, metavar="S", help="from one window to the next (default: S of --window)")
    parser.add_argument("--channel", type=_channel, metavar="N", help="number from 1, or each (default: mixed to mono)")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="B", help="recordings per batch (default: %(default)s)"
    )
    parser.add_argument("--prompt", type=path_argument, metavar="FILE", help="of a base model: a file of prompts/")
    parser.add_argument("--labels", metavar="A,B,...", help="of a base model, if the prompt has no answers")
    parser.add_argument("--family", metavar="NAME", help="of a base model (default: by its config)")
    parser.add_argument(
        "--base-model", metavar="ID", type=source_argument, help="of an adapter, if not that of its run"
    )
    parser.add_argument("--revision", help="branch, tag or commit of --run on the Hub")
    parser.add_argument("--dtype", choices=DTYPES, help="data type (default: that of the run)")
    parser.add_argument("--device", help="cpu, cuda ... (default: a GPU if there is one)")
    parser.add_argument("--strict", action="store_true", help="exit status 1 if a recording could not be predicted")
    parser.set_defaults(command=_predict)
    return parser


def _predict(options: argparse.Namespace) -> int:
    """Predict, print and write; returns the exit status."""
    with quick_imports():
        from transformers.utils import logging

        from lalm_mer.launch.build.open_recognizer import open_recognizer
        from lalm_mer.recognizers.base import kind_of, targets_of
        from lalm_mer.serving.predict import TABLE_SUFFIXES, predict, predictions_table, write_predictions
        from lalm_mer.serving.recordings import Window, find_recordings

    if options.out is not None and options.out.suffix not in TABLE_SUFFIXES:
        raise ConfigError(f"--out {options.out}: expected a name that ends in {', '.join(TABLE_SUFFIXES)}")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: expected 1 or more")
    if options.hop is not None and options.window is None:
        raise ConfigError("--hop: only with --window")
    window = None
    if options.window is not None:
        window = Window(options.window, options.window if options.hop is None else options.hop)
    recordings = list(find_recordings(map(as_recorded, options.audio), options.transcript))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    recognizer = open_recognizer(
        options.run,
        prompt=options.prompt,
        labels=None if options.labels is None else [label.strip() for label in options.labels.split(",")],
        family=options.family,
        base_model=options.base_model,
        revision=options.revision,
        dtype=options.dtype,
        device=options.device,
    )
    if (advice := _advice(recognizer)) is not None:
        print(advice, file=sys.stderr)
    shown: Iterable[Recording] = recordings
    if len(recordings) > 1:
        shown = progress(recordings, desc="predict", unit="recordings", total=len(recordings))
    rows = list(predict(recognizer, shown, window=window, channel=options.channel, batch_size=options.batch_size))
    if options.out is None:
        for row in rows:
            print(_line(row))
    else:
        table = predictions_table(rows, targets_of(recognizer), numbers=kind_of(recognizer) == "scalar")
        write_predictions(table, options.out)
    reasons = Counter(row.reason for row in rows if row.reason is not None)
    for reason, count in reasons.most_common(5):
        print(f"not predicted: {count}: {printable(reason)}", file=sys.stderr)
    written = "" if options.out is None else f", written to {as_recorded(options.out)}"
    print(f"{len(rows) - reasons.total()} of {len(rows)} predicted{written}")
    return 1 if options.strict and reasons else 0


def _advice(recognizer: nn.Module) -> str | None:
    """What makes it faster on a GPU without bfloat16; None if nothing does."""
    import torch

    from lalm_mer.models.devices import gpu_before_ampere

    devices = {each.device for each in recognizer.parameters() if each.dtype == torch.bfloat16}
    older = next(filter(None, map(gpu_before_ampere, devices)), None)
    return older and f"slow: {older} has no bfloat16 and emulates it; --dtype float16 is faster"


def _channel(text: str) -> int | str:
    if text == "each" or (text.isdecimal() and int(text) > 0):
        return text if text == "each" else int(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1, or each")


def _line(row: Prediction) -> str:
    name = row.path if row.start_s is None else f"{row.path} {row.start_s:.2f}-{row.end_s:.2f} s"
    if row.reason is not None:
        return f"{name}: not predicted: {row.reason}"
    if row.numbers is not None:
        return f"{name}: " + ", ".join(f"{target} {number:.2f}" for target, number in row.numbers.items())
    ranked = sorted((row.probabilities or {}).items(), key=lambda item: -item[1])
    present = f"{row.prediction or 'none'} of " if row.several else ""
    return f"{name}: {present}" + ", ".join(f"{label} {probability:.3f}" for label, probability in ranked)
