"""Corpora: readers of releases on disk, the writer of prepared corpora, and ``load``, which opens them."""

from lalm_mer.corpora.base import load_tasks
from lalm_mer.corpora.prepared import PreparedCorpus, load, waveform_of
from lalm_mer.corpora.writer import write_corpus

__all__ = ["PreparedCorpus", "load", "load_tasks", "waveform_of", "write_corpus"]
