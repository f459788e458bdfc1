"""Compare runs: a table, paired tests by speaker, and one self-contained HTML report.

Example:
    python eval/compare.py runs/demo/* --out results/demo

Each RUN is a run folder (run.json, predictions.parquet, history.jsonl), one fold and one seed. Runs of the same
recognizer, modalities, method, corpus and protocol become one row: folds are pooled per seed, then averaged over seeds.
Runs that were tested on different data, folds or utterances are refused: their figures do not compare. So are runs
whose transcripts name the label (data.transcript_source=simulated), unless --allow-simulated is given.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from lalm_mer.core.command import command_parser, path_argument, run_command
from lalm_mer.core.paths import as_recorded


def main(arguments: list[str]) -> int:
    """Run the command line; 0 if the report was written, 1 for an error that the user can correct."""
    parser = command_parser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=path_argument, help="run folder")
    parser.add_argument(
        "--out", required=True, type=path_argument, help="folder for comparison.csv, comparison.json, report.html"
    )
    parser.add_argument(
        "--allow-simulated", action="store_true", help="include runs whose transcripts name the label: an upper bound"
    )
    parser.add_argument(
        "--values", action="store_true", help="also write the figures of every fold and seed, and means over folds"
    )
    parser.set_defaults(command=shlex.join(["python", "eval/compare.py", *arguments]))
    return run_command(compare_runs, parser.parse_args(arguments))


def compare_runs(options: argparse.Namespace) -> None:
    """Compare, write and print."""
    from lalm_mer.evaluation.comparison import compare, write_comparison  # here, so that --help does not wait
    from lalm_mer.evaluation.report.html import write_report
    from lalm_mer.evaluation.report.text import comparison_text, values_text
    from lalm_mer.evaluation.runs import read_run

    comparison = compare([read_run(folder) for folder in options.runs], allow_simulated=options.allow_simulated)
    write_comparison(comparison, options.out, with_values=options.values)
    report = options.out / "report.html"
    write_report(comparison, report, command=options.command)
    print(comparison_text(comparison))
    if options.values:
        print()
        print(values_text([value for row in comparison.rows for value in row.values()]))
    print(f"\nreport: {as_recorded(report)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
