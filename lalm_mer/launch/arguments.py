"""The command line that every recipe with a config shares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from lalm_mer.core.command import command_parser, run_command
from lalm_mer.core.config import load_config
from lalm_mer.core.settings import describe_settings

__all__ = ["run_recipe"]

SettingsT = TypeVar("SettingsT")


def run_recipe(
    description: str | None,
    schema: type[SettingsT],
    recipe: Callable[[SettingsT], None],
    instead: Mapping[str, tuple[Callable[[SettingsT], None], str]] | None = None,
) -> None:
    """Read the command line and the config, run the recipe, and exit.

    Args:
        description: the recipe's docstring, which ``--help`` shows before every key of the config
        schema: frozen dataclass of the recipe's YAML
        recipe: what to do with it
        instead: flag, such as ``--dump-labels`` -> what is done with it in place of the recipe, and its help
    """
    parser = command_parser(description, f"keys of FILE.yaml:\n{describe_settings(schema)}")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE.yaml", help="the run, complete")
    parser.set_defaults(recipe=recipe)
    for flag, (another, help_) in (instead or {}).items():
        parser.add_argument(flag, dest="recipe", action="store_const", const=another, help=help_)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replaces what the file says")

    def run(options: argparse.Namespace) -> None:
        options.recipe(load_config(schema, options.config, options.overrides))

    sys.exit(run_command(run, parser.parse_intermixed_args()))
