"""What all commands of this project share: ``--debug``, errors on one line, exit statuses.

Importing it also makes a console show any text, and hides the FutureWarnings of other packages.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from lalm_mer.core.errors import ConfigError, LalmMerError, message_of, one_line
from lalm_mer.core.output import output_error
from lalm_mer.core.paths import absolute, path_or_id
from lalm_mer.core.plain_text import PlainOutput, printable
from lalm_mer.core.processes import is_first_process

__all__ = ["add_debug", "command_parser", "path_argument", "run_command", "source_argument"]

_INTERRUPTED = "interrupted"
_OTHERS_END_S = 3  # within it, the launcher ends all processes of a run after the first has failed

warnings.filterwarnings("ignore", category=FutureWarning, module=r"(?!lalm_mer\b)")  # for the authors of other packages
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its import warns of an optional kernel, in every process


def _prepare_console() -> None:
    """Print what the console cannot show as escapes, and an interruption before ``run_command`` as one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt) and "--debug" not in sys.argv:
            print(f"error: {_INTERRUPTED}", file=sys.stderr)  # noqa: T201 the one line that a user sees
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = show


_prepare_console()


def command_parser(description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """Create a parser with the flag ``--debug``, whose ``--help`` keeps the line breaks of the description."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=formatter)
    add_debug(parser)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add the flag ``--debug``, which ``run_command`` reads."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def path_argument(text: str) -> Path:
    """``type`` of an argument that is a path: absolute, with ``~`` expanded."""
    try:
        return Path(absolute(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def source_argument(text: str) -> str:
    """``type`` of an argument that is a path or a Hub id; a path as in ``path_argument``."""
    try:
        return path_or_id(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run_command(
    command: Callable[[argparse.Namespace], int | None],
    options: argparse.Namespace,
    *,
    error_status: int = 1,
    resumes: bool = False,
) -> int:
    """Run a command; print an error that the user can mend on one line of stderr, or with ``--debug`` its traceback.

    What the command prints is ``printable``, so that no text of a file controls the terminal. Of several processes, the
    first prints its error at once, the others only if it has none.

    Args:
        command: called with the options
        options: parsed command line, with ``debug``
        error_status: exit status after an error
        resumes: whether the same command resumes after an interruption

    Returns:
        the exit status: that of the command (None is 0), ``error_status`` after such an error, 130 if interrupted
    """
    try:
        with redirect_stdout(cast(IO[str], PlainOutput(sys.stdout))):
            return command(options) or 0
    except (LalmMerError, OSError, KeyboardInterrupt) as error:
        if options.debug:
            raise
        if isinstance(error, KeyboardInterrupt):
            message = f"{_INTERRUPTED}; rerun the same command to resume" if resumes else _INTERRUPTED
            status = 130  # the status that shells use
        else:
            known = error if isinstance(error, LalmMerError) else output_error(error)
            message, status = message_of(known) if known else one_line(error), error_status
        if not is_first_process():
            time.sleep(_OTHERS_END_S)
        message = " ".join(printable(message).splitlines())
        print(f"error: {message}", file=sys.stderr)  # noqa: T201 the one line that a user sees
        return status
