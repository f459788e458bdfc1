"""The command ``lalm-mer``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lalm_mer.core.command import add_debug, run_command
from lalm_mer.launch.cache_command import add_cache
from lalm_mer.launch.estimate_command import add_estimate
from lalm_mer.launch.launch_command import add_launch
from lalm_mer.launch.predict_command import add_predict

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; heavy libraries are imported only by the subcommand."""
    parser = argparse.ArgumentParser(
        prog="lalm-mer", description="Recipes are files, started by python or launch: see README.md."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="versions, devices, extras, and whether each family runs here")
    doctor.add_argument(
        "--build", action="store_true", help="build a tiny random model of each family and score with it (no download)"
    )
    doctor.set_defaults(command=_doctor)
    doctor.add_argument(
        "--families", action="store_true", help="weights, licence and what is known of the training data of each family"
    )
    add_debug(doctor)
    add_debug(add_predict(commands))
    add_debug(add_cache(commands))
    add_debug(add_estimate(commands))
    add_launch(commands)
    options = parser.parse_args(arguments)
    return run_command(options.command, options)


def _doctor(options: argparse.Namespace) -> int:
    from lalm_mer.launch.doctor import examine

    for line in examine(builds=options.build, describes=options.families):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
