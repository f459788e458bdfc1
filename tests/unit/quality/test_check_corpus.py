"""The command line of eval/check_corpus.py and the report that it writes."""

import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import write_corpus

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def command():
    specification = importlib.util.spec_from_file_location("check_corpus_command", ROOT / "eval" / "check_corpus.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


@pytest.fixture
def data(tmp_path):
    """A prepared corpus of 30, of which one is silent and has markup as its transcript."""
    folder = tmp_path / "mine"

    def rows():
        for i in range(30):
            sound = np.random.default_rng(i).uniform(-0.3, 0.3, 8000 * 2 + 100 * i)
            file = io.BytesIO()
            soundfile.write(file, 0 * sound if i == 7 else sound, 8000, format="WAV")
            words = "<script>alert(1)</script> how & why" if i == 7 else "how are you all today"
            yield Utterance(utterance_id=f"u{i}", corpus="mine", audio_bytes=file.getvalue(), transcript=words)

    write_corpus(rows(), corpus="mine", out_dir=folder, loader_version="1", processes=1)
    return folder


def test_it_writes_three_files_and_one_line_per_flag(command, data, capsys):
    assert command([str(data), "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^suspicious +1 \(3\.3%\)$", printed, re.MULTILINE)
    assert re.search(r"^silent +1$", printed, re.MULTILINE)
    out = data.with_name("mine_quality")
    assert sorted(path.name for path in out.iterdir()) == ["quality.csv", "quality.html", "quality.json"]
    summary = json.loads((out / "quality.json").read_text())
    assert (summary["n_utterances"], summary["flags"]["silent"]) == (30, 1)
    assert len((out / "quality.csv").read_text().splitlines()) == 31


def test_the_report_needs_no_network_and_lists_unchecked_flags(command, data, tmp_path):
    assert command([str(data), "--out", str(tmp_path / "out"), "--set", "shortest_s=0.1", "--processes", "1"]) == 0
    page = (tmp_path / "out" / "quality.html").read_text()
    outside = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)([^"')\s>]+)""", page)
    assert outside == []
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; how &amp; why" in page
    assert "1 of 30 utterances (3.3%) are suspicious" in page
    assert "no output of speech recognition (--asr)" in page
    assert "default 0.2" in page
    assert page.count("data:image/svg+xml;base64,") == 1
    assert "--set shortest_s=0.1" in page


def test_a_table_of_speech_recognition_is_read(command, data, tmp_path, capsys):
    rows = ["utterance_id,hypothesis", *(f"u{i},how are you all today" for i in range(30) if i != 3)]
    (tmp_path / "asr.csv").write_text("\n".join([*rows, "u3,buy tickets for the big circus"]) + "\n")
    assert command([str(data), "--asr", str(tmp_path / "asr.csv"), "--processes", "1"]) == 0
    assert re.search(r"^transcript_mismatch +1$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--asr", "gone.csv"], "gone.csv: no such file"),
        (["--word-times", "gone"], "gone: no such folder"),
        (["--set", "loudness=1"], "--set loudness=1: no threshold 'loudness'; expected one of mismatch_s"),
        (["--processes", "0"], "--processes 0: expected 1 or more"),
        (["--out", "{data}/quality"], "is in the prepared corpus"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(command, data, capsys, arguments, message):
    assert command([str(data), *(argument.format(data=data) for argument in arguments)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert not data.with_name("mine_quality").exists()


def test_a_folder_that_is_not_a_prepared_corpus_is_refused(command, tmp_path, capsys):
    assert command([str(tmp_path / "gone")]) == 1
    assert "no such folder; prepare it with" in capsys.readouterr().err


def test_it_runs_as_a_program_and_does_not_import_torch():
    code = "import sys; sys.path.insert(0, 'eval'); import check_corpus; "
    code += "print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr
    helped = subprocess.run(
        [sys.executable, "eval/check_corpus.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert helped.returncode == 0
    assert "python eval/check_corpus.py outputs/data/ravdess" in helped.stdout
