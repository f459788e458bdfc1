"""The recipe that transcribes a corpus, as a user runs it, on a tiny Whisper with random weights."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import write_corpus
from lalm_mer.examples.transcripts import load_transcripts, pooled_word_error_rate, word_error_rate
from lalm_mer.models.transcriber import Transcriber

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "recipes/transcribe/whisper.yaml"
SENTENCES = ("Kids are talking by the door.", None, "...", "It is eleven.", "I would like a new alarm clock!")


@pytest.fixture
def whisper(tiny_whisper_folder):
    return tiny_whisper_folder


@pytest.fixture
def data(tmp_path, tone):
    """Five tones, one sentence recognised by another machine, and one utterance without audio."""
    rows = [
        Utterance(
            utterance_id=f"u{number}", corpus="beeps", audio_path=f"u{number}.wav", transcript=sentence,
            transcript_source=None if sentence is None else "asr" if number == 3 else "human",
            audio_bytes=tone(seconds=0.5 + 0.4 * number, rate=22_050, hertz=300 * (number + 1)),
        )
        for number, sentence in enumerate(SENTENCES)
    ]  # fmt: skip
    rows.append(Utterance(utterance_id="u5", corpus="beeps", transcript="No sound.", transcript_source="human"))
    write_corpus(
        rows, corpus="beeps", out_dir=tmp_path / "data", loader_version="1", synthetic=True, keep_missing_audio=True
    )
    return tmp_path / "data"


def transcribe(monkeypatch, *overrides):
    """The command line, in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["recipes/transcribe.py", "--config", CONFIG, "model.use_cpu=true", *overrides])
    try:
        runpy.run_path("recipes/transcribe.py", run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_corpus_is_transcribed_and_compared_with_its_own_transcripts(whisper, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out" / "beeps.parquet"
    options = [f"data.dir={data}", f"model.id={whisper}", "model.batch_size=2"]
    assert transcribe(monkeypatch, *options, f"output.file={out}") == 0
    printed = capsys.readouterr().out
    rows = pq.read_table(out).to_pylist()
    assert [row["utterance_id"] for row in rows] == ["u0", "u1", "u2", "u3", "u4"]
    assert [row["reference"] for row in rows] == [SENTENCES[0], None, "...", None, SENTENCES[4]]
    assert [row["n_reference_words"] for row in rows] == [6, None, 0, None, 7]
    assert [row["word_error_rate"] is None for row in rows] == [False, True, True, True, False]
    for row in rows:
        assert row["hypothesis"]
        assert row["word_error_rate"] == word_error_rate(row["reference"], row["hypothesis"])
    known = [row for row in rows if row["reference"] is not None]
    rate = pooled_word_error_rate([row["reference"] for row in known], [row["hypothesis"] for row in known])
    assert f"word error rate     {100 * rate:.1f}% over 13 words" in printed
    assert "without reference   2" in printed
    assert "without audio       1 (left out)" in printed
    metadata = load_transcripts(out).metadata
    assert metadata["corpus"] == "beeps"
    assert metadata["root_hash"] == json.loads((data / "summary.json").read_text())["root_hash"]
    assert metadata["model"] == str(whisper)
    assert metadata["versions"]["transformers"]
    assert os.listdir(out.parent) == ["beeps.parquet"]  # noqa: PTH208 hidden files too

    assert transcribe(monkeypatch, *options, f"output.file={out}") == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert transcribe(monkeypatch, *options, f"output.file={out}", "model.language=de") == 1
    assert "language = 'en', now it is 'de'" in capsys.readouterr().err


def test_a_killed_transcription_is_resumed_to_the_same_file(whisper, data, tmp_path, monkeypatch):
    options = [f"data.dir={data}", f"model.id={whisper}", "model.batch_size=2"]
    assert transcribe(monkeypatch, *options, f"output.file={tmp_path / 'whole.parquet'}") == 0
    calls = []
    original = Transcriber.transcribe

    def killed(self, waveforms):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(len(waveforms))
        return original(self, waveforms)

    out = tmp_path / "killed.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(Transcriber, "transcribe", killed)
        assert transcribe(patched, *options, f"output.file={out}") == 130
    assert not out.exists()
    assert (tmp_path / ".killed.parquet.partial.jsonl").is_file()
    assert transcribe(monkeypatch, *options, f"output.file={out}") == 0
    assert calls == [2]
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("output.file=table.csv", "table.csv; expected a name that ends in .parquet"),
        ("model.id=no/such/whisper", "no/such/whisper"),
        ("model.language=tlh", "'model.language'"),
        ("model.batch_size=0", "'model.batch_size': 0"),
        ("data.dir=no/such/folder", "no/such/folder"),
        ("model.beams=5", "unknown key 'model.beams'"),
    ],
)
def test_an_error_is_one_line(whisper, data, tmp_path, monkeypatch, capsys, override, says):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = [f"data.dir={data}", f"model.id={whisper}", f"output.file={tmp_path / 'out.parquet'}"]
    assert transcribe(monkeypatch, *options, override) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert says in line
    assert not (tmp_path / "out.parquet").exists()


def test_debug_shows_the_traceback(whisper, data, monkeypatch):
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        transcribe(monkeypatch, f"data.dir={data}", f"model.id={whisper}", "output.file=x", "--debug")


@pytest.mark.slow
def test_real_speech_with_any_batch_size(whisper, shared_data, tmp_path, monkeypatch, capsys):
    actor = tmp_path / "release" / "Actor_01"
    actor.mkdir(parents=True)
    for path in sorted((shared_data / "ravdess" / "Actor_01").glob("*.flac"))[::15]:
        shutil.copy(path, actor)
    prepare = ["recipes/prepare_corpus.py", "--config", "recipes/corpora/ravdess.yaml"]
    folders = [f"corpus.root={tmp_path / 'release'}", f"output.dir={tmp_path / 'data'}"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [*prepare, *folders])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(prepare[0], run_name="__main__")
    tables = []
    for size in (1, 4):
        out = tmp_path / f"batch{size}.parquet"
        options = [f"data.dir={tmp_path / 'data'}", f"model.id={whisper}", f"output.file={out}"]
        assert transcribe(monkeypatch, *options, f"model.batch_size={size}") == 0
        tables.append(pq.read_table(out).to_pylist())
    assert tables[0] == tables[1]
    assert len(tables[0]) == 4
    assert {row["reference"] for row in tables[0]} == {
        "Kids are talking by the door.", "Dogs are sitting by the door."
    }  # fmt: skip
    assert all(row["hypothesis"] and row["word_error_rate"] > 0 for row in tables[0])
    assert "over 24 words" in capsys.readouterr().out
