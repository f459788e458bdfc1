"""Check a prepared corpus: is its audio usable, and do audio, transcript and times of each utterance belong together?

Examples:
    python eval/check_corpus.py outputs/data/ravdess
    python eval/check_corpus.py outputs/data/mine --asr outputs/mine_asr.parquet --out outputs/mine_quality
    python eval/check_corpus.py outputs/data/mine --word-times alignments/ --set longest_s=30

DATA_DIR is the output of recipes/prepare_corpus.py. The output folder gets quality.csv (measures and flags, one row per
utterance), quality.json (counts and thresholds) and quality.html (suspicious utterances with reasons). Wrong
transcripts are found only with --asr, a table with utterance_id and hypothesis as recipes/transcribe.py writes it.
--word-times is a folder of <utterance_id>.TextGrid, .ctm or .json with times from the start of the utterance's audio.
The corpus is not changed. Exit status 0: checked, with or without findings; 1: an error.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lalm_mer.core.command import command_parser, path_argument, run_command
from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.paths import as_recorded

if TYPE_CHECKING:
    from lalm_mer.corpora import PreparedCorpus
    from lalm_mer.quality.check import Quality


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("data", metavar="DATA_DIR", type=path_argument, help="prepared corpus")
    parser.add_argument("--out", type=path_argument, metavar="DIR", help="output folder (default: <DATA_DIR>_quality)")
    parser.add_argument(
        "--asr", type=path_argument, metavar="FILE", help="output of speech recognition: Parquet or CSV"
    )
    parser.add_argument("--word-times", type=path_argument, metavar="DIR", help="one file of word times per utterance")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="processes that decode audio (default: one per core)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="name=value", help="change a threshold; the report lists them"
    )
    parser.set_defaults(command=shlex.join(["python", "eval/check_corpus.py", *arguments]))
    return run_command(check, parser.parse_args(arguments))


def check(options: argparse.Namespace) -> None:
    """Check the corpus and write the report."""
    from lalm_mer.corpora import load  # here, so that --help does not wait
    from lalm_mer.quality.check import check_corpus
    from lalm_mer.quality.flags import Thresholds, with_settings
    from lalm_mer.quality.report import write_quality_report

    data = options.data.resolve()
    out = options.out or data.with_name(f"{data.name}_quality")
    if options.processes is not None and options.processes < 1:
        raise ConfigError(f"--processes {options.processes}: expected 1 or more")
    if options.word_times is not None and not options.word_times.is_dir():
        raise CorpusError(f"--word-times {options.word_times}: no such folder")
    if out.resolve().is_relative_to(data):
        raise ConfigError(f"--out {out}: is in the prepared corpus, which may contain nothing else; choose another")
    thresholds = with_settings(Thresholds(), options.set)
    corpus = load(options.data)
    quality = check_corpus(
        corpus,
        out,
        thresholds=thresholds,
        hypotheses=load_hypotheses(options.asr, corpus) if options.asr else None,
        word_times=options.word_times,
        known_defects=known_defects(corpus),
        processes=options.processes,
    )
    report = out / "quality.html"
    write_quality_report(quality, report, command=options.command)
    print_quality(quality)
    print(f"\nreport: {as_recorded(report)}")


def load_hypotheses(file: Path, corpus: PreparedCorpus) -> Mapping[str, str]:
    """Load the hypotheses of speech recognition for this corpus."""
    from lalm_mer.examples.transcripts import load_transcripts, require_same_corpus

    table = load_transcripts(file)
    require_same_corpus(table, corpus.name, corpus.summary["root_hash"])
    ids = set(corpus.columns(["utterance_id"])["utterance_id"])
    print(f"{as_recorded(file)}: {len(ids & set(table.hypotheses))} of {len(ids)} utterances have a hypothesis")
    return table.hypotheses


def known_defects(corpus: PreparedCorpus) -> Mapping[str, str]:
    """Published defects of the corpus; none for a manifest."""
    from lalm_mer.corpora.settings import READERS

    reader = READERS.get(corpus.name)
    defects: Mapping[str, str] = reader.known_defects if reader else {}
    return defects


def print_quality(quality: Quality) -> None:
    """Print the number of utterances with each flag."""
    summary = quality.summary
    print(f"{'corpus':<22} {summary['corpus']}{' (synthetic)' if summary['synthetic'] else ''}")
    print(f"{'utterances':<22} {summary['n_utterances']}")
    print(f"{'suspicious':<22} {summary['n_flagged']} ({summary['n_flagged'] / summary['n_utterances']:.1%})")
    for flag, n in summary["flags"].items():
        print(f"{flag:<22} {'not checked' if n is None else n}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
