"""The command ``lalm-mer``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; what it needs is imported only then."""
    parser = argparse.ArgumentParser(prog="lalm-mer", description="Recipes are launched as files: see README.md.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="versions, devices, extras, and whether each family runs here")
    doctor.add_argument(
        "--build", action="store_true", help="build a tiny random model of every family and ask it (no download)"
    )
    options = parser.parse_args(arguments)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its import warns of an optional kernel
    from lalm_mer.launch.doctor import examine

    for line in examine(builds=options.build):
        print(line, flush=True)  # noqa: T201 a report for the terminal
    return 0


if __name__ == "__main__":
    sys.exit(main())
