"""Folds of a prepared corpus on disk, with hashes for comparing them with those of others."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lalm_mer.core.config import read_yaml
from lalm_mer.core.errors import ConfigError, CorpusError, SplitLeakError
from lalm_mer.core.output import atomic_path
from lalm_mer.corpora import load
from lalm_mer.protocols.folded_corpus import FoldedCorpus, fold_corpus
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS, hash_ids

__all__ = ["record_folds", "write_folds"]


def record_folds(folder: Path, name: str, protocols: Path) -> list[str]:
    """Add ``folds/<protocol>.parquet`` to the prepared corpus in ``folder`` for each protocol file of the corpus.

    Returns:
        Lines that describe the folds of each protocol, or why it does not fit this corpus
    """
    lines: list[str] = []
    paths = sorted(protocols.glob("*.yaml"))
    fitting = [load_protocol(path) for path in paths if read_yaml(path).get("corpus") == name]
    if not fitting:
        return lines
    corpus = load(folder)
    for protocol in fitting:
        try:
            folded = fold_corpus(corpus, protocol)
        except SplitLeakError as error:
            lines.append(f"LEAK: {error}")
            continue
        except (ConfigError, CorpusError) as error:  # an incomplete release, or another variant
            lines.append(f"protocol {protocol.name} does not fit: {error}")
            continue
        write_folds(folded, folder / "folds" / f"{protocol.name}.parquet")
        lines += folded.describe()
    return lines


def write_folds(folded: FoldedCorpus, path: Path) -> None:
    """Write ``utterance_id``, ``fold`` and ``split``; protocol, hashes and classes of all splits are the metadata."""
    folds = folded.folds
    split_hashes = {
        str(fold): {split: {"n": len(ids := folds.ids(fold, split)), "sha256": hash_ids(ids)} for split in SPLITS}
        for fold in sorted({int(fold) for fold in folds.frame["fold"]})
    }
    metadata = {
        "protocol": folds.protocol.name,
        "version": str(folds.protocol.version),
        "hash": folds.digest,
        "sides": json.dumps(split_hashes),
        "classes": json.dumps(folded.classes),
    }
    table = pa.Table.from_pandas(folds.frame, preserve_index=False).replace_schema_metadata(metadata)
    with atomic_path(path) as partial:
        pq.write_table(table, partial)
