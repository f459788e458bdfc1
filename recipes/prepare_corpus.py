"""Prepare a corpus: read a release (or make the synthetic one), write Parquet, list what was rejected and why, and
record the folds of every protocol in eval/protocols that is for it.

python recipes/prepare_corpus.py --config recipes/corpora/ravdess.yaml corpus.root=data/ravdess
python recipes/prepare_corpus.py --config recipes/corpora/circumplex.yaml corpus.variant=spoken
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import LalmMerError
from lalm_mer.corpora.settings import PrepareSettings, prepare
from lalm_mer.protocols.record import record_folds

PROTOCOLS = Path(__file__).resolve().parents[1] / "eval" / "protocols"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Prepare a corpus: a Parquet table of utterances, its folds, rejected.jsonl and summary.json.",
        epilog=(
            "examples:\n"
            "  %(prog)s --config recipes/corpora/ravdess.yaml corpus.root=data/ravdess\n"
            "  %(prog)s --config recipes/corpora/manifest.yaml corpus.root=data/mine 'corpus.labels=[flat, lively]'\n"
            "  %(prog)s --config recipes/corpora/circumplex.yaml corpus.variant=spoken output.dir=outputs/data/spoken\n"
            "A prepared corpus in output.dir is replaced; anything else there is left alone and an error."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="YAML with the sections corpus and output"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="set a key of the file; the value is YAML"
    )
    return parser.parse_args(arguments)


def print_summary(summary: Mapping[str, Any], out_dir: Path) -> None:
    """What a person wants to check before training on it."""
    kind = " (synthetic)" if summary["synthetic"] else ""
    labels = ", ".join(f"{label} {n}" for label, n in summary["labels"].items())
    rejected = ", ".join(f"{reason} {n}" for reason, n in summary["rejected"].items())
    print(f"corpus      {summary['corpus']}{kind}")
    print(f"found       {summary['n_found']}")
    print(f"utterances  {summary['n_utterances']}")
    print(
        f"rejected    {summary['n_rejected']}" + (f": {rejected}; see {out_dir / 'rejected.jsonl'}" if rejected else "")
    )
    print(f"labels      {labels or 'none'}")
    print(f"speakers    {len(summary['speakers'])}")
    print(f"hours       {summary['duration_s'] / 3600:.2f}")
    if summary["n_without_audio"]:
        print(f"no audio    {summary['n_without_audio']}")
    for task, counts in summary["tasks"].items():
        n_mapped = summary["n_utterances"] - counts["unmapped"]
        print(f"task        {task}: {n_mapped} mapped, {counts['unmapped']} unmapped")
    for modality, uar in summary.get("ceilings", {}).items():
        print(f"ceiling     {modality}: UAR {uar:.3f}")
    print(f"written to  {out_dir}")


def main() -> int:
    """Run, and turn an error that a user can mend into one line."""
    arguments = parse_arguments()
    try:
        settings = load_config(PrepareSettings, arguments.config, arguments.overrides)
        out_dir = Path(settings.output.dir)
        summary = prepare(settings)
        print_summary(summary, out_dir)
        for line in record_folds(out_dir, summary["corpus"], PROTOCOLS):
            print(line)
    except LalmMerError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
