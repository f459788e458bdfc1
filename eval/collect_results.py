"""Collect finished runs of one corpus and protocol into a file of results; docs/write_results.py makes its table.

Example:
    python eval/collect_results.py outputs/cross_validation/ravdess_brief --out eval/results/ravdess.json \\
        --title "RAVDESS without pretrained weights" --reference linear_compare --machine "2 CPU cores" \\
        --command "python recipes/cross_validate.py --config recipes/ravdess_brief/cross_validate.yaml"

A FOLDER is the output of cross_validate.py, a folder in it with the runs of one system, or a run folder. Every system
has figures with intervals by speaker, the paired test against the reference, minutes, parameters and memory. The file
has no path, no id of an utterance and no name of a speaker or a machine; a text that could be private is refused, as
are runs that are not finished, of several protocols, on other utterances, or without seeds that other systems have.
"""

from __future__ import annotations

import argparse
import sys

from lalm_mer.core.command import command_parser, path_argument, run_command
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.paths import as_recorded


def main(arguments: list[str]) -> int:
    """Run the command line; 0 if the file was written, 1 for an error that the user can correct."""
    parser = command_parser(__doc__)
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=path_argument, help="finished runs")
    parser.add_argument("--out", required=True, type=path_argument, metavar="FILE.json", help="the file of results")
    parser.add_argument("--title", required=True, help="heading of the table")
    parser.add_argument("--command", required=True, help="the command that makes the runs, with relative paths")
    parser.add_argument("--reference", metavar="SYSTEM", help="compare every other with it (default: the first)")
    parser.add_argument("--machine", help="on which the minutes were measured, in words")
    for flag, value, help_ in (
        ("--label", "TEXT", "name of a system in the table (default: that of its folder)"),
        ("--base-model", "USER/NAME", "the published model of which the system's local one is a copy"),
    ):
        parser.add_argument(flag, metavar=f"SYSTEM={value}", action="append", default=[], help=help_)
    parser.add_argument(
        "--allow-missing-seeds",
        action="store_true",
        help="a system may have fewer seeds than others; the page shows it",
    )
    return run_command(collect_results, parser.parse_args(arguments))


def collect_results(options: argparse.Namespace) -> None:
    """Read the runs, compare them, and write the file."""
    from lalm_mer.core.output import write_json  # here, so that --help does not wait
    from lalm_mer.evaluation.runs import read_run, run_folders
    from lalm_mer.sharing.public_results import About, public_results

    named = [(system, read_run(run)) for folder in options.folders for system, run in run_folders(folder)]
    about = About(
        options.title,
        options.command,
        options.reference,
        labels=_pairs("--label", options.label),
        base_models=_pairs("--base-model", options.base_model),
        machine=options.machine,
        allow_missing_seeds=options.allow_missing_seeds,
    )
    results = public_results(named, about)
    write_json(options.out, results.to_json())
    print(f"runs: {len(named)}, systems: {len(results.rows)}, written to {as_recorded(options.out)}")
    print("python docs/write_results.py makes the page of results from all files in eval/results")


def _pairs(flag: str, values: list[str]) -> dict[str, str]:
    """System -> text; a name of a system may contain an equals sign."""
    pairs = {}
    for value in values:
        system, equals, text = value.rpartition("=")
        if not equals or not system or not text:
            raise ConfigError(f"{flag} {value!r}: expected SYSTEM=TEXT")
        pairs[system] = text
    return pairs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
