"""Score a table of predictions of any origin, with 95% intervals by speaker.

Example:
    python eval/score_predictions.py predictions.csv --labels ang,hap,neu,sad --out metrics.json

The table (.csv or .parquet) has the columns utterance_id and truth, and either prediction or one column of
probabilities per label, called prob_<label>, log_prob_<label> or as the label itself. The columns speaker, fold and
seed are optional; without speaker there is no interval, since utterances of one speaker are not independent. Folds are
pooled per seed, then metrics averaged over seeds. A prediction outside the label set is an error of its true class.
"""

from __future__ import annotations

import argparse
import sys

from lalm_mer.core.command import command_parser, path_argument, run_command
from lalm_mer.core.output import write_json
from lalm_mer.core.paths import as_recorded


def main(arguments: list[str]) -> int:
    """Run the command line; 0 if the table was scored, 1 for an error that the user can correct."""
    parser = command_parser(__doc__)
    parser.add_argument("file", metavar="FILE", type=path_argument, help="CSV or Parquet table")
    parser.add_argument("--labels", help="label set, separated by commas; default: the labels of the table")
    parser.add_argument("--out", type=path_argument, help="write the figures to this JSON file as well")
    parser.add_argument(
        "--values",
        type=path_argument,
        help="write the figures of every fold and seed to this CSV file, and to --out; print means over folds",
    )
    return run_command(score_predictions, parser.parse_args(arguments))


def score_predictions(options: argparse.Namespace) -> None:
    """Score a table, print the metrics, and write them if ``--out`` is given."""
    # imported here, so that --help does not wait
    from lalm_mer.evaluation.conventions import values_by_part, write_values
    from lalm_mer.evaluation.report.text import metrics_text, values_text
    from lalm_mer.evaluation.scores import score_table
    from lalm_mer.evaluation.tables import read_table

    labels = None if options.labels is None else [label.strip() for label in options.labels.split(",")]
    table = read_table(options.file, labels)
    scores = score_table(table.frame, table.labels)
    if options.values is not None:
        scores["values"] = values_by_part(table.frame, table.labels)
        write_values(scores["values"], options.values)
    if options.out is not None:
        write_json(options.out, scores)
    print("\n".join(table.remarks))
    print(metrics_text(scores))
    if options.values is not None:
        print(f"\n{values_text(scores['values'])}")
    written = [as_recorded(path) for path in (options.out, options.values) if path is not None]
    if written:
        print(f"\nwritten: {', '.join(written)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
