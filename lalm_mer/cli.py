"""The command ``lalm-mer``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from lalm_mer.core.errors import LalmMerError
from lalm_mer.launch.predicting import add_predict, run_predict

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand, whose heavy imports come only then."""
    parser = argparse.ArgumentParser(prog="lalm-mer", description="Recipes are launched as files: see README.md.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="versions, devices, extras, and whether each family runs here")
    doctor.add_argument(
        "--build", action="store_true", help="build a tiny random model of every family and score with it (no download)"
    )
    doctor.set_defaults(command=_doctor)
    predict = add_predict(commands)
    predict.set_defaults(command=run_predict)
    for command in (doctor, predict):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its import warns of an optional kernel
    try:
        status: int = options.command(options)
    except (LalmMerError, OSError) as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


def _doctor(options: argparse.Namespace) -> int:
    from lalm_mer.launch.doctor import examine

    for line in examine(builds=options.build):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
