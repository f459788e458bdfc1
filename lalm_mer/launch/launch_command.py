"""The command ``lalm-mer launch``: accelerate launch, whose launchers print no stack trace if a recipe stops."""

from __future__ import annotations

import argparse
import logging

from lalm_mer.core.imports import quick_imports

__all__ = ["add_launch"]

_END_S = 30  # until interrupted recipes have ended


def add_launch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand ``launch``; everything after it is for accelerate, ``--help`` included."""
    help_ = "accelerate launch without stack traces: one or several processes, devices or machines"
    parser = commands.add_parser("launch", help=help_, prefix_chars="\0", add_help=False)
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(command=_launch, debug=False)


def _launch(options: argparse.Namespace) -> int:
    """Launch; returns the exit status of the first process that failed."""
    with quick_imports():
        import psutil
        from accelerate.commands.launch import launch_command, launch_command_parser
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments = launch_command_parser().parse_args(["--quiet", *options.arguments])
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        return abs(error.get_first_failure()[1].exitcode) or 1
    except (KeyboardInterrupt, SignalException) as error:  # the recipe, which is interrupted too, prints the line
        _, running = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=_END_S)
        for process in running:
            process.kill()
        return 130 if isinstance(error, KeyboardInterrupt) else 128 + error.sigval
    except SystemExit as end:  # of a single process
        return int(end.code or 0)
    return 0
