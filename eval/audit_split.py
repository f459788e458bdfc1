"""Audit a split that somebody made: what do its sides share?

Examples:
    python eval/audit_split.py --train train.txt --test test.txt
    python eval/audit_split.py --train cremad_train_fold_1.jsonl --test cremad_test_fold_1.jsonl --corpus crema_d
    python eval/audit_split.py --train a.csv --dev b.csv --test c.csv --data outputs/data/mine --require transcript

A file holds one utterance id a line, or is a CSV, TSV, JSON or JSON Lines with a column utterance_id, key (as EmoBox
has it), id, name, FileName or file. Speaker, session and script are told by the ids, by the corpus's own rule; with a
prepared corpus (--data) also transcripts and sounds are compared. Exit status 0: disjoint in what is required; 1: not,
or not provable; 2: could not be audited.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lalm_mer.core.command import command_parser, run_command
from lalm_mer.core.errors import ConfigError
from lalm_mer.corpora import load
from lalm_mer.protocols.audit import Audit, audit_split, read_split_file
from lalm_mer.protocols.protocol import COLUMNS


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--train", type=Path, required=True, metavar="FILE", help="ids trained on")
    parser.add_argument("--dev", type=Path, metavar="FILE", help="ids that choose the model")
    parser.add_argument("--test", type=Path, required=True, metavar="FILE", help="ids tested on")
    parser.add_argument(
        "--corpus", metavar="NAME", help="whose ids they are; by default the corpus that knows them all"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="that corpus, prepared")
    parser.add_argument(
        "--require", default="speaker", metavar="COLUMNS", help=f"of {', '.join(COLUMNS)} (default: speaker)"
    )
    return run_command(audit_files, parser.parse_args(arguments), error_status=2)


def audit_files(options: argparse.Namespace) -> int:
    """Audit and print; 1 if the sides share what they must not."""
    required = [column.strip() for column in options.require.split(",") if column.strip()]
    unknown = [column for column in required if column not in COLUMNS]
    if unknown or not required:
        raise ConfigError(f"--require {(unknown or ['of nothing'])[0]}: expected some of {', '.join(COLUMNS)}")
    files = {side: getattr(options, side) for side in ("train", "dev", "test") if getattr(options, side)}
    sides = {side: read_split_file(path) for side, path in files.items()}
    audit = audit_split(sides, options.corpus, load(options.data) if options.data else None)
    failures = audit.failures(required)
    print_audit(audit)
    for line in failures:
        print(f"FAILS       {line}")
    if not failures:
        print(f"passes      disjoint in {', '.join(required)}")
    return 1 if failures else 0


def print_audit(audit: Audit) -> None:
    """What every two sides share, a line a column."""
    print(f"corpus      {audit.corpus}")
    print(f"utterances  {', '.join(f'{side} {n}' for side, n in audit.n.items())}")
    for sharing in audit.sharings:
        first, second = sharing.sides
        told = f"{sharing.shared} of {sharing.n_values} of {second} are in {first} too"
        if sharing.shared:
            told += f" ({sharing.n_utterances} utterances of {second})"
        if sharing.n_unknown:
            told += f"; unknown of {sharing.n_unknown} utterances"
        print(f"{sharing.column:<11} {told}")
    if audit.unknown:
        print(f"not told    {', '.join(audit.unknown)}")
    if any(sharing.column == "speaker" and sharing.shared for sharing in audit.sharings):
        print("verdict     speaker-dependent: its figures do not compare with speaker-independent ones")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
