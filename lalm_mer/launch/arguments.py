"""The command line of every recipe with a config."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TypeVar

from lalm_mer.core.command import command_parser, path_argument, run_command
from lalm_mer.core.config import load_config, require_paths
from lalm_mer.core.processes import leave
from lalm_mer.core.settings import describe_settings

__all__ = ["run_recipe"]

SettingsT = TypeVar("SettingsT")


def run_recipe(
    description: str | None,
    schema: type[SettingsT],
    recipe: Callable[[SettingsT], None],
    instead: Mapping[str, tuple[Callable[[SettingsT], None], str]] | None = None,
    worker: Callable[[SettingsT], None] | None = None,
) -> None:
    """Read the command line and the config, run the recipe, and exit.

    Args:
        description: docstring of the recipe; ``--help`` shows it before the keys of the config
        schema: frozen dataclass of the recipe's YAML
        recipe: runs with the config
        instead: flag, such as ``--dump-labels`` -> function to run instead of the recipe, and help of the flag
        worker: what a recipe that starts workers runs in each of them, with the flag ``--worker``
    """
    parser = command_parser(description, f"keys of FILE.yaml:\n{describe_settings(schema)}")
    parser.add_argument("--config", required=True, type=path_argument, metavar="FILE.yaml", help="a complete run")
    parser.set_defaults(recipe=recipe)
    flags = dict(instead or {})
    if worker is not None:
        flags["--worker"] = (worker, "for the workers that it starts: run, in this process, what no other works on")
    for flag, (another, help_) in flags.items():
        parser.add_argument(flag, dest="recipe", action="store_const", const=another, help=help_)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides the file")

    def run(options: argparse.Namespace) -> None:
        settings = load_config(schema, options.config, options.overrides)
        require_paths(settings)
        options.recipe(settings)

    leave(run_command(run, parser.parse_intermixed_args(), resumes=True))
