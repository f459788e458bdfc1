"""Merge the adapter of a finished run into its base model: a folder that model.id takes.

Example:
  python recipes/merge_adapter.py outputs/my_run --out outputs/my_model
  python recipes/merge_adapter.py user/name --base-model Qwen/Qwen2-Audio-7B-Instruct --out outputs/my_model

The folder receives weights (safetensors), processor and merged_from.json, which names the data that the adapter was
trained on, so that zero_shot.py refuses another fold of it. The base is opened in the run's dtype, never in 4 bits: for
a run with model.quantization=nf4, the scores of the merged model differ slightly. The base model's licence still
applies.
"""

from __future__ import annotations

import argparse
import sys

from lalm_mer.core.command import command_parser, path_argument, run_command, source_argument
from lalm_mer.core.paths import as_recorded


def main(arguments: list[str]) -> int:
    """Run the command line; 0 if it was merged, 1 for an error that the user can correct."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "run",
        metavar="RUN",
        type=source_argument,
        help="run folder of finetune.py, or user/name of an adapter on the Hub",
    )
    parser.add_argument("--out", type=path_argument, required=True, help="a new or empty folder")
    parser.add_argument(
        "--base-model", metavar="ID", type=source_argument, help="Hub id or folder of the base, if not that of the run"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the adapter on the Hub")
    return run_command(merge_adapter, parser.parse_args(arguments))


def merge_adapter(options: argparse.Namespace) -> None:
    """Merge, and print how to use the model."""
    from lalm_mer.sharing.merging import merge  # here, so that --help does not wait for torch

    folder = as_recorded(merge(options.run, options.out, base_model=options.base_model, revision=options.revision))
    print(f"merged into {folder}; score it with model.id={folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
