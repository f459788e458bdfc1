"""The behaviours that all readers share."""

import io
import json
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import soundfile
from releases import Release
from representatives import slow_except

from lalm_mer.core.audio import decode
from lalm_mer.core.errors import CorpusError
from lalm_mer.core.provenance import hash_bytes
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.corpora.settings import READERS, CorpusSettings, OutputSettings, PrepareSettings, open_reader, prepare

SYNTHETIC = ("circumplex", "readings")
FOLDER_READERS = tuple(name for name in READERS if name not in SYNTHETIC)
QUICK = (*FOLDER_READERS, "readings")
TEXTS = ("The door is open.", "It rains again.", "Nobody saw the train.", "We lost the keys.")


def release(name, root, tone, backwards=False):
    """A release of four clips; ``backwards`` creates the same files in the opposite order."""
    if name in SYNTHETIC:
        pytest.importorskip("espeakng_loader", reason="the extra `synthesis` is not installed")
        return CorpusSettings("circumplex") if name == "circumplex" else CorpusSettings("readings", texts=texts(root))
    small = Release(name, root)
    for number in sorted((1, 2, 4, 5), reverse=backwards):
        small.put(number, tone(0.2 + 0.1 * number, hertz=100 * number))
    return small


def texts(root):
    """A prepared corpus of transcripts alone."""
    rows = [
        Utterance(utterance_id=f"t{number}", corpus="words", transcript=text, transcript_source="human", label="x")
        for number, text in enumerate(TEXTS)
    ]
    write_corpus(rows, corpus="words", out_dir=root / "texts", loader_version="1", keep_missing_audio=True)
    return str(root / "texts")


def settings_of(made):
    return made.settings if isinstance(made, Release) else made


def run(settings, out_dir):
    return prepare(PrepareSettings(settings, OutputSettings(str(out_dir), processes=1)))


@pytest.mark.parametrize("name", slow_except(list(READERS), QUICK))
def test_rows_are_complete_and_the_bytes_are_those_measured(name, tmp_path, tone):
    reading = open_reader(settings_of(release(name, tmp_path, tone)))
    rows = list(reading.rows)
    assert rows
    assert len({row.utterance_id for row in rows}) == len(rows)
    for row in rows[:20]:
        assert isinstance(row, Utterance)
        assert row.corpus == reading.corpus
        assert (row.label, row.sentiment) != (None, None)
        assert row.speaker is not None or name == "mosei"  # its release names none
        assert not row.audio_path.startswith("/")
    assert all(type(getattr(rows[0], field.name)) is not np.float32 for field in fields(Utterance))
    run(settings_of(release(name, tmp_path / "again", tone)), tmp_path / "out")
    for row in load(tmp_path / "out").dataset.select(range(3)):
        waveform = decode(row["audio"]["bytes"], row["utterance_id"])
        assert (waveform.sampling_rate, waveform.duration_s) == (row["sampling_rate"], row["duration_s"])
        assert row["audio_sha256"] == hash_bytes(row["audio"]["bytes"])


@pytest.mark.parametrize("name", slow_except(list(READERS), QUICK))
def test_preparations_from_two_places_are_the_same_corpus(name, tmp_path, tone):
    first = run(settings_of(release(name, tmp_path / "one", tone)), tmp_path / "out1")
    second = run(settings_of(release(name, tmp_path / "elsewhere", tone, backwards=True)), tmp_path / "out2")
    assert first == second
    one, two = (tmp_path / out / "utterances/part-00000.parquet" for out in ("out1", "out2"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", slow_except(list(READERS), QUICK))
def test_prepared_and_loaded(name, tmp_path, tone):
    summary = run(settings_of(release(name, tmp_path / "root", tone)), tmp_path / "out")
    prepared = load(tmp_path / "out")
    assert summary["n_found"] == summary["n_utterances"] + summary["n_rejected"]
    assert prepared.dataset.num_rows == summary["n_utterances"]
    assert prepared.summary == summary
    assert summary["synthetic"] is (name in SYNTHETIC)
    assert set(summary["tasks"]) == set(prepared.tasks)
    for task in prepared.tasks.values():
        counts = summary["tasks"][task.name]
        if task.kind == "single":
            assert tuple(counts) == (*task.label_set.labels, "unmapped")
            assert sum(counts.values()) == summary["n_utterances"]
    assert any(counts["unmapped"] == 0 for counts in summary["tasks"].values())


@pytest.mark.parametrize("name", FOLDER_READERS)
def test_bad_files_are_rejected_with_their_reasons_and_no_row_is_lost(name, tmp_path, tone):
    small = release(name, tmp_path / "root", tone)
    complete = run(small.settings, tmp_path / "out")
    nan = io.BytesIO()
    soundfile.write(nan, np.full(800, np.nan, np.float32), 8000, format="WAV", subtype="FLOAT")
    bad = {
        (3, ".wav"): (b"", "empty"),
        (6, ".wav"): (tone(1.0)[:5000], "truncated"),
        (8, ".flac"): (tone(5.0, container="FLAC")[:5000], "truncated"),
        (9, ".wav"): (nan.getvalue(), "non_finite"),
        (7, ".wav"): (b"%PDF-1.7 no audio at all", "unreadable"),
    }
    expected = {small.put(number, content, suffix): reason for (number, suffix), (content, reason) in bad.items()}
    summary = run(small.settings, tmp_path / "out")
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert {row["path"]: row["reason"] for row in rejected} == expected
    assert summary["n_utterances"] == complete["n_utterances"]
    assert summary["n_found"] == complete["n_found"] + len(bad)
    assert summary["root_hash"] == complete["root_hash"]


@pytest.mark.parametrize("name", FOLDER_READERS)
def test_a_missing_or_empty_folder_is_an_error_of_one_line(name, tmp_path):
    options = {"manifest": "rows.csv"} if name == "manifest" else {}
    (tmp_path / "empty").mkdir()
    for root in ("nowhere", "empty"):
        with pytest.raises(CorpusError) as error:
            run(CorpusSettings(name, root=str(tmp_path / root), **options), tmp_path / "out")
        assert "\n" not in str(error.value)
        hints = ("corpus root",) if root == "nowhere" else ("recipes/corpora/", "expected ", "corpus.manifest")
        assert any(hint in str(error.value) for hint in hints)
    assert not (tmp_path / "out").exists()


def test_preparation_needs_neither_torch_nor_transformers():
    code = (
        "import sys, lalm_mer.corpora.settings, lalm_mer.corpora.writer\n"
        "print([name for name in ('torch', 'transformers', 'evaluate', 'peft', 'accelerate') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
