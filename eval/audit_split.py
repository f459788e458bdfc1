"""Audit existing splits: what do train, dev and test share?

Examples:
    python eval/audit_split.py --train train.txt --test test.txt
    python eval/audit_split.py --train cremad_train_fold_1.jsonl --test cremad_test_fold_1.jsonl --corpus crema_d
    python eval/audit_split.py --train a.csv --dev b.csv --test c.csv --data outputs/data/mine --require transcript

A file has one utterance id per line, or is a CSV, TSV, JSON or JSON Lines file with a column utterance_id, key (as in
EmoBox), id, name, FileName or file. Speaker, session and script are derived from the ids by the naming rule of the
corpus; if they fit no rule, or several, the corpus is unknown and only the ids are compared. With a prepared corpus
(--data) all columns are compared, and the files may name audio files instead of ids. Exit status 0: disjoint in the
required columns; 1: not disjoint, or not known; 2: an error.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from lalm_mer.core.command import command_parser, path_argument, run_command
from lalm_mer.core.errors import ConfigError
from lalm_mer.protocols.protocol import COLUMNS

if TYPE_CHECKING:
    from lalm_mer.protocols.audit import Audit


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--train", type=path_argument, required=True, metavar="FILE", help="ids of the training set")
    parser.add_argument("--dev", type=path_argument, metavar="FILE", help="ids of the development set")
    parser.add_argument("--test", type=path_argument, required=True, metavar="FILE", help="ids of the test set")
    parser.add_argument(
        "--corpus", metavar="NAME", help="corpus of the ids (default: the only one whose rule fits all)"
    )
    parser.add_argument("--data", type=path_argument, metavar="DIR", help="the prepared corpus")
    parser.add_argument(
        "--require",
        default="speaker",
        metavar="COLUMNS",
        help=f"columns that must be disjoint, of {', '.join(COLUMNS)} (default: speaker)",
    )
    return run_command(audit_files, parser.parse_args(arguments), error_status=2)


def audit_files(options: argparse.Namespace) -> int:
    """Audit and print; returns 1 if a required column is shared or unknown."""
    from lalm_mer.corpora import load  # here, so that --help does not wait
    from lalm_mer.protocols.audit import audit_split, read_split_file

    required = [column.strip() for column in options.require.split(",") if column.strip()]
    unknown = [column for column in required if column not in COLUMNS]
    if unknown or not required:
        raise ConfigError(f"--require {(unknown or ['of nothing'])[0]}: expected some of {', '.join(COLUMNS)}")
    files = {split: getattr(options, split) for split in ("train", "dev", "test") if getattr(options, split)}
    splits = {split: read_split_file(path) for split, path in files.items()}
    audit = audit_split(splits, options.corpus, load(options.data) if options.data else None)
    failures = audit.failures(required)
    print_audit(audit)
    for line in failures:
        print(f"FAILS       {line}")
    if not failures:
        print(f"passes      disjoint in {', '.join(required)}")
    return 1 if failures else 0


def print_audit(audit: Audit) -> None:
    """Print what each pair of splits shares, one line per column."""
    print(f"corpus      {audit.corpus}")
    print(f"utterances  {', '.join(f'{split} {n}' for split, n in audit.n.items())}")
    for overlap in audit.overlaps:
        first, second = overlap.splits
        line = f"{overlap.shared} of {overlap.n_values} of {second} are also in {first}"
        if overlap.shared:
            line += f" ({overlap.n_utterances} utterances of {second})"
        if overlap.n_unknown:
            line += f"; unknown for {overlap.n_unknown} utterances"
        print(f"{overlap.column:<11} {line}")
    if audit.unknown:
        print(f"unknown     {', '.join(audit.unknown)}")
    if any(overlap.column == "speaker" and overlap.shared for overlap in audit.overlaps):
        print("verdict     speaker-dependent: results are not comparable with speaker-independent ones")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
