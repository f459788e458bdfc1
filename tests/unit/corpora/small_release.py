"""Writes the files of miniature releases, and prepares them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from lalm_mer.corpora import write_corpus


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def prepare(reader, root, out_dir, **options):
    """Prepare a release with the module of its reader; returns summary, {utterance id: row} and rejections."""
    summary = write_corpus(
        reader.read(root),
        corpus=reader.__name__.rpartition(".")[2],
        out_dir=out_dir,
        loader_version=reader.LOADER_VERSION,
        root=root,
        ranges=reader.RANGES,
        processes=1,
        **options,
    )
    rejected = [json.loads(line) for line in (out_dir / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert summary["n_found"] == summary["n_utterances"] + summary["n_rejected"]
    assert summary["n_rejected"] == len(rejected)
    rows = [row for path in sorted((out_dir / "utterances").iterdir()) for row in pq.read_table(path).to_pylist()]
    assert len(rows) == summary["n_utterances"]
    return summary, {row["utterance_id"]: row for row in rows}, rejected


def mp4(tmp_path, seconds=0.5, rate=16000, hertz=509.0):
    """The bytes of a video file with a tone and no picture."""
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    path = tmp_path / "made.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=rate, layout="mono")
        samples = np.sin(2 * np.pi * hertz / rate * np.arange(round(seconds * rate)))[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path.read_bytes()
