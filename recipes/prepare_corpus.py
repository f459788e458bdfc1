"""Prepare a corpus: a Parquet table of utterances, its folds, rejected.jsonl and summary.json.

It reads a release (or synthesises the circumplex corpus), lists every rejected file with its reason, and records the
folds of every protocol in eval/protocols for this corpus. A prepared corpus in output.dir is replaced; other content
there is an error.

Example:
  python recipes/prepare_corpus.py --config recipes/corpora/ravdess.yaml corpus.root=data/ravdess
  python recipes/prepare_corpus.py --config recipes/corpora/manifest.yaml corpus.root=data/mine \\
      'corpus.labels=[flat, lively]'
  python recipes/prepare_corpus.py --config recipes/corpora/circumplex.yaml corpus.variant=spoken \\
      output.dir=outputs/data/spoken
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lalm_mer.core.paths import as_recorded
from lalm_mer.corpora.settings import PrepareSettings, prepare
from lalm_mer.launch.arguments import run_recipe

PROTOCOLS = Path(__file__).resolve().parents[1] / "eval" / "protocols"


def prepare_corpus(settings: PrepareSettings) -> None:
    """Prepare the corpus and record its folds."""
    from lalm_mer.protocols.record import record_folds  # here, so that --help does not wait for it

    out_dir = Path(settings.output.dir)
    summary = prepare(settings)
    print_summary(summary, out_dir)
    for line in record_folds(out_dir, summary["corpus"], PROTOCOLS):
        print(line)


def print_summary(summary: Mapping[str, Any], out_dir: Path) -> None:
    """Print what should be checked before training."""
    folder = as_recorded(out_dir)
    kind = " (synthetic)" if summary["synthetic"] else ""
    labels = ", ".join(f"{label} {n}" for label, n in summary["labels"].items())
    rejected = ", ".join(f"{reason} {n}" for reason, n in summary["rejected"].items())
    print(f"corpus      {summary['corpus']}{kind}")
    print(f"found       {summary['n_found']}")
    print(f"utterances  {summary['n_utterances']}")
    print(f"rejected    {summary['n_rejected']}" + (f": {rejected}; see {folder}/rejected.jsonl" if rejected else ""))
    print(f"labels      {labels or 'none'}")
    for column, joined in summary["joined_spellings"].items():
        print(f"joined      {column}: {', '.join(f'{n} spellings of {value!r}' for value, n in joined.items())}")
    for column, groups in summary["similar_spellings"].items():
        print(f"alike       {column}: {'; '.join(', '.join(map(repr, group)) for group in groups)}")
    print(f"speakers    {len(summary['speakers'])}")
    print(f"hours       {summary['duration_s'] / 3600:.2f}")
    if summary["n_without_audio"]:
        print(f"no audio    {summary['n_without_audio']}")
    for task, counts in summary["tasks"].items():
        n_mapped = summary["n_utterances"] - counts["unmapped"]
        print(f"task        {task}: {n_mapped} mapped, {counts['unmapped']} unmapped")
    for modality, uar in summary.get("ceilings", {}).items():
        print(f"ceiling     {modality}: UAR {uar:.3f}")
    print(f"written to  {folder}")


if __name__ == "__main__":
    run_recipe(__doc__, PrepareSettings, prepare_corpus)
