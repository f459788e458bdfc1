"""The command ``lalm-mer cache``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lalm_mer.core.command import path_argument
from lalm_mer.core.errors import ConfigError

__all__ = ["add_cache"]

_SHOWN = ("family", "dtype", "corpus")  # of the key, where it has them


def add_cache(commands: Any) -> argparse.ArgumentParser:  # noqa: ANN401 argparse's own
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "cache",
        help="list or remove stored features: outputs of audio towers, acoustic features, embeddings, voice measures",
        description="Lists the stored features of a folder, the last used first. They are computed again when needed, "
        "so that removing them only costs time.",
    )
    parser.add_argument("--dir", type=path_argument, default="outputs/cache", help="default: outputs/cache")
    parser.add_argument(
        "--clear", nargs="*", metavar="NAME", help="remove the named folders, or all if no name is given"
    )
    parser.set_defaults(command=_cache)
    return parser


def _cache(options: argparse.Namespace) -> int:
    from lalm_mer.core.paths import as_recorded
    from lalm_mer.core.progress import size_text
    from lalm_mer.examples.feature_caches import describe, remove, stored_features

    found = stored_features(Path(options.dir))
    if options.clear is not None:
        names = {each.folder.name for each in found}
        for name in options.clear:
            if name not in names:
                raise ConfigError(
                    f"--clear {name}: not in {options.dir}, which has {', '.join(sorted(names)) or 'none'}"
                )
        found = [each for each in found if each.folder.name in options.clear or not options.clear]
    for each in found:
        if options.clear is not None:
            remove(each.folder)
        extractor = each.key.get("extractor", each.key)
        facts = ", ".join(f"{name} {value}" for name in _SHOWN if (value := {**each.key, **extractor}.get(name)))
        print(f"{'removed ' if options.clear is not None else ''}{describe(each)}{f' ({facts})' if facts else ''}")
    total = size_text(sum(each.bytes for each in found))
    print(f"{len(found)} in {as_recorded(options.dir)}, {total}")
    return 0
