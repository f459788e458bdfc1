"""The command line that every recipe shares, and errors in one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import LalmMerError
from lalm_mer.launch.config.ranges import require_ranges

__all__ = ["run_recipe"]

SettingsT = TypeVar("SettingsT")

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its import warns of an optional kernel, in every process


def run_recipe(
    description: str,
    schema: type[SettingsT],
    recipe: Callable[[SettingsT], None],
    instead: Mapping[str, tuple[Callable[[SettingsT], None], str]] | None = None,
) -> None:
    """Read the command line and the config, and run the recipe.

    A mistake that the user can mend is one line on stderr and exit status 1; ``--debug`` shows where it arose.

    Args:
        description: the recipe's docstring, shown by ``--help``
        schema: frozen dataclass of the recipe's YAML
        recipe: what to do with it
        instead: flag, such as ``--dump-labels`` -> what is done with it in place of the recipe, and its help
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, metavar="FILE.yaml", help="the run, complete")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(recipe=recipe)
    for flag, (another, told) in (instead or {}).items():
        parser.add_argument(flag, dest="recipe", action="store_const", const=another, help=told)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replaces what the file says")
    arguments = parser.parse_intermixed_args()
    try:
        settings = load_config(schema, arguments.config, arguments.overrides)
        require_ranges(settings)
        arguments.recipe(settings)
    except (LalmMerError, NotADirectoryError, FileExistsError, PermissionError) as error:  # paths that a user gave
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 the one line a user sees
        sys.exit(1)
    except KeyboardInterrupt:
        if arguments.debug:
            raise
        print("error: interrupted; the same command again goes on", file=sys.stderr)  # noqa: T201
        sys.exit(130)  # as a shell tells it
