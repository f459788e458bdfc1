"""The recipe as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lalm_mer.corpora import load

REPO_ROOT = Path(__file__).resolve().parents[3]


def run(*arguments):
    command = [sys.executable, "recipes/prepare_corpus.py", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path, tone):
    folder = tmp_path / "root/Actor_01"
    folder.mkdir(parents=True)
    (folder / "03-01-03-01-01-01-01.wav").write_bytes(tone(36.0))
    (folder / "03-01-04-01-01-01-01.wav").write_bytes(b"")
    return folder.parent


def test_prepares_and_prints_a_summary(root, tmp_path):
    done = run("--config", "recipes/corpora/ravdess.yaml", f"corpus.root={root}", f"output.dir={tmp_path / 'out'}")
    assert (done.returncode, done.stderr) == (0, "")  # no progress bar without a terminal
    printed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (printed["found"], printed["utterances"], printed["speakers"], printed["hours"]) == ("2", "1", "1", "0.01")
    assert printed["labels"] == "happy 1"
    assert printed["rejected"] == f"1: empty 1; see {tmp_path / 'out/rejected.jsonl'}"
    assert json.loads((tmp_path / "out/rejected.jsonl").read_text())["path"] == "Actor_01/03-01-04-01-01-01-01.wav"
    assert load(tmp_path / "out").dataset["utterance_id"][:] == ["03-01-03-01-01-01-01"]


@pytest.mark.slow
def test_the_synthetic_corpus_is_marked(tmp_path):
    pytest.importorskip("espeakng_loader", reason="the extra `synthesis` is not installed")
    done = run("--config", "recipes/corpora/circumplex.yaml", f"output.dir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "circumplex (synthetic)" in done.stdout
    assert "transcript: UAR 0.500" in done.stdout
    assert load(tmp_path / "out").summary["variant"] == "masked"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpus.root=/no/such/folder"], "key 'corpus.root': /no/such/folder: no such folder: there is no /no"),
        (["corpus.root=.", "corpus.variant=spoken"], "key 'corpus.variant': applies to circumplex"),
        (["corpus.speed=2"], "unknown key 'corpus.speed'"),
        (["corpus"], "override 'corpus': expected section.key=value"),
    ],
)
def test_an_error_is_one_line_and_a_status(overrides, message):
    done = run("--config", "recipes/corpora/ravdess.yaml", *overrides)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback():
    done = run("--config", "recipes/corpora/ravdess.yaml", "corpus.root=/no/such/folder", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_help_has_an_example():
    done = run("--help")
    assert done.returncode == 0
    assert "corpus.variant=spoken" in done.stdout
