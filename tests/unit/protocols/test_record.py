import json

import pyarrow.parquet as pq
import pytest

from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.protocols.record import record_folds
from lalm_mer.protocols.splits import hash_ids

PROTOCOL = """
name: {name}
version: 3
source: here
corpus: {corpus}
inline_task: {{name: two, labels: {{happy: [happy], sad: [sad]}}}}
disjoint_in: [speaker]
shared_in: [audio]
folds: {{rule: grouped, column: speaker, k: {k}}}
"""


@pytest.fixture
def corpus(tmp_path, tone):
    rows = [
        Utterance(utterance_id=f"u{n}", corpus="toy", audio_path=f"{n}.wav", audio_bytes=tone(),
                  speaker=f"s{n % 4}", label=("happy", "sad")[n // 4 % 2])
        for n in range(12)
    ]  # fmt: skip
    write_corpus(rows, corpus="toy", out_dir=tmp_path / "toy", loader_version="1", processes=1)
    return tmp_path / "toy"


def test_every_protocol_of_the_corpus_is_recorded_or_the_reason_is_given(corpus, tmp_path):
    protocols = tmp_path / "protocols"
    protocols.mkdir()
    for name, of, k in (("fits", "toy", 4), ("too_many", "toy", 9), ("another", "other", 4)):
        (protocols / f"{name}.yaml").write_text(PROTOCOL.format(name=name, corpus=of, k=k))
    lines = record_folds(corpus, "toy", protocols)
    assert [path.name for path in (tmp_path / "toy/folds").iterdir()] == ["fits.parquet"]
    assert lines[0] == "protocol fits, version 3: 4 folds, 12 utterances tested"
    assert lines[2].startswith(
        "WARNING: classes with fewer than 5 utterances: fold 1, dev: happy 2, sad 1; fold 1, test:"
    )
    assert lines[3] == (
        "protocol too_many does not fit: protocol too_many: 4 speakers for 9 folds; needs 3 <= k <= speakers"
    )
    assert len(lines) == 4
    table = pq.read_table(tmp_path / "toy/folds/fits.parquet")
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert (metadata["protocol"], metadata["version"], table.num_rows) == ("fits", "3", 4 * 12)
    assert json.loads(metadata["classes"])["2"] == {
        "train": {"happy": 4, "sad": 2}, "dev": {"happy": 2, "sad": 1}, "test": {"happy": 2, "sad": 1},
    }  # fmt: skip
    hashes = json.loads(metadata["sides"])
    rows = table.to_pylist()
    for fold, split in (("1", "test"), ("3", "train")):
        ids = [row["utterance_id"] for row in rows if (row["fold"], row["split"]) == (int(fold), split)]
        assert hashes[fold][split] == {"n": len(ids), "sha256": hash_ids(ids)}
    assert load(tmp_path / "toy").summary["n_utterances"] == 12  # folds in the folder are ignored


def test_a_leak_is_reported_as_a_leak(corpus, tmp_path):
    protocols = tmp_path / "protocols"
    protocols.mkdir()
    content = PROTOCOL.format(name="leaks", corpus="toy", k=4).replace("shared_in: [audio]", "shared_in: []")
    (protocols / "leaks.yaml").write_text(content)
    (line,) = record_folds(corpus, "toy", protocols)
    assert line.startswith("LEAK: protocol leaks, fold 1: 1 values of audio are in two splits")
