"""Runs on a server that fails, or that are killed or meet a full disk, are resumed and send each utterance once."""

import json
import logging
import shutil
import threading
import time
from collections import Counter
from functools import partial

import numpy as np
import pandas as pd
import pytest
from chat_server import Words, audio_of, cuts, refuses, sends, serve, stalls
from killing import changes_of, full_disk_at_change, killed_at_change, killed_when
from representatives import slow_except
from served_run import GENERATED, TEST, journal, score_served, table

from lalm_mer.core.run_record import read_record

pytest.importorskip("openai", reason="the extra `remote` is not installed")

LOG = logging.getLogger(__name__)
LABELS = ("angry", "content", "happy", "sad")


@pytest.fixture
def run(workplace, tmp_path):
    """Run the recipe on a server; its exit status."""
    return partial(score_served, workplace, tmp_path)


@pytest.fixture(scope="module")
def calm(workplace, made_once):
    """Predictions of a run without faults, which do not depend on the address of the server."""

    def build(folder):
        with serve(Words(), LABELS) as server:
            assert score_served(workplace, folder, server, *GENERATED) == 0

    return table(made_once("remote_calm", build) / "run")


FAULTS = {
    "refusal": (refuses(400, "audio\nis not\x1b[31m supported"), "status 400: 'audio is not\\x1b[31m supported'"),
    "malformed": (sends(b"{not json"), "not valid JSON"),
    "stall": (stalls, "no complete answer within 0.5 s"),
}


@pytest.mark.parametrize("fault", slow_except(list(FAULTS), ["stall"]))
def test_a_fault_is_one_line_and_the_run_is_resumed(fault, run, calm, tmp_path, capsys):
    happens, says = FAULTS[fault]
    with serve(Words(), LABELS) as server:
        server.faults = [None] * 6 + [happens]
        options = ["remote.max_retries=0", "remote.timeout_s=0.5", "remote.concurrency=1"]
        capsys.readouterr()
        assert run(server, *GENERATED, *options) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert says in line
        assert line.startswith("error: utterance s1_5: ")
        kept = journal(tmp_path / "run")
        assert [row["utterance_id"] for row in kept] == [f"s1_{number}" for number in range(5)]
        assert not (tmp_path / "run" / "metrics.json").exists()
        server.requests.clear()
        assert run(server, *GENERATED) == 0
        assert len(server.chats()) == 1 + TEST - 5
    assert sorted(Counter(row["utterance_id"] for row in journal(tmp_path / "run")).values()) == [1] * TEST
    pd.testing.assert_frame_equal(table(tmp_path / "run"), calm)


def test_a_server_that_is_busy_and_restarts_is_waited_for(run, calm, tmp_path):
    with serve(Words(), LABELS) as server:

        def restarts(handler):
            handler.hang_up()
            threading.Thread(target=restart).start()

        def restart():
            server.stop()
            time.sleep(0.2)
            server.start()

        server.faults = [None, refuses(503), cuts, None, refuses(429, Retry_After="0.01"), None, None, restarts]
        assert run(server, *GENERATED, "remote.max_retries=8") == 0
    assert sorted(Counter(row["utterance_id"] for row in journal(tmp_path / "run")).values()) == [1] * TEST
    pd.testing.assert_frame_equal(table(tmp_path / "run"), calm)


def test_a_run_that_is_killed_asks_for_each_utterance_once(run, calm, tmp_path):
    with serve(Words(), LABELS, delay_s=0.02) as server:
        file = tmp_path / "run" / "answers.jsonl"
        assert killed_when(
            lambda: run(server, *GENERATED, "remote.concurrency=2"),
            lambda: file.is_file() and file.read_bytes().count(b"\n") >= 7,
        )
        kept = file.read_bytes().count(b"\n")
        assert kept < TEST
        with file.open("ab") as journal_file:
            journal_file.write(b'{"utterance_id": "s2_9", "mod')  # as if killed in the middle of a line
        time.sleep(0.1)
        server.requests.clear()
        assert run(server, *GENERATED) == 0
        assert len(server.chats()) == 1 + TEST - kept
    assert sorted(Counter(row["utterance_id"] for row in journal(tmp_path / "run")).values()) == [1] * TEST
    pd.testing.assert_frame_equal(table(tmp_path / "run"), calm)
    (tokens,) = [
        note.facts for note in read_record(tmp_path / "run" / "run.json").notes if note.code == "server_tokens"
    ]
    assert tokens["requests"] == TEST


def sent_audio(body):
    """The encoded audio of a request."""
    return "".join(audio for message in body["messages"] for audio in audio_of(message))


def answered_in(folder):
    """Utterances in the complete lines of a journal, which may not exist."""
    file = folder / "answers.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    return [json.loads(line)["utterance_id"] for line in lines]


@pytest.mark.slow
def test_runs_that_are_killed_at_any_moment_again_and_again(run, calm, tmp_path):
    """Twenty kills, most of them at a random time and some while a file is written."""
    random, killed, found = np.random.default_rng(11), 0, []
    options = [*GENERATED, "remote.concurrency=3"]
    with serve(Words(), LABELS) as server:
        changes = changes_of(lambda: run(server, *GENERATED, "remote.concurrency=1", out="0/run"), tmp_path / "0")
        ids = answered_in(tmp_path / "0" / "run")
        audio = dict(zip([sent_audio(body) for body in server.chats()[1:]], ids, strict=True))
        server.delay_s = 0.05

        def killed_once(attempt, folder):
            if random.random() < 0.3:
                number, in_file = int(random.integers(len(changes))), bool(random.random() < 0.5)
                return killed_at_change(attempt, folder, number, in_file=in_file)
            count, delay_s = int(random.integers(1 + TEST)), random.uniform(0, 0.05)
            return killed_when(attempt, lambda: len(server.chats()) > count and not time.sleep(delay_s))

        while killed < 20:
            out = tmp_path / f"after {killed}" / "run"
            for _ in range(3):
                answered = set(answered_in(out))
                server.requests.clear()
                if len(found) % 3 == 2:
                    assert run(server, *options, out=out) == 0
                else:
                    killed += killed_once(partial(run, server, *options, out=out), out.parent)
                time.sleep(0.1)  # the server answers what was under way
                LOG.warning("after %d kills: %d answered, %d requests", killed, len(answered), len(server.chats()))
                assert not answered & {audio.get(sent_audio(body)) for body in server.chats()}
                found.append(len(answered))
            assert sorted(Counter(answered_in(out)).values()) == [1] * TEST
            pd.testing.assert_frame_equal(table(out), calm)
            assert not list(out.parent.glob(".*"))
            assert not list(out.glob(".*"))
            shutil.rmtree(out)
    assert len(set(found)) > 3


def test_a_full_disk_is_one_line_and_no_answer_is_lost(run, calm, tmp_path):
    with serve(Words(), LABELS) as server:
        start = partial(run, server, *GENERATED, "remote.concurrency=1")
        changes = changes_of(partial(start, out="0/run"), tmp_path / "0")
        opened = [number for number, change in enumerate(changes) if "answers.jsonl" in change]
        server.requests.clear()
        out = tmp_path / "1" / "run"
        status, errors = full_disk_at_change(partial(start, out=out), out.parent, opened[7])
        assert status == 1
        assert not [line for line in errors if line.startswith("Traceback")]
        (line,) = [line for line in errors if line.startswith("error: ")]
        assert line.startswith(f"error: {out / 'answers.jsonl'}: cannot be written: File too large; free some space")
        assert len(answered_in(out)) == 7
        server.requests.clear()
        assert start(out=out) == 0
        assert len(server.chats()) == 1 + TEST - 7
    assert sorted(Counter(answered_in(out)).values()) == [1] * TEST
    pd.testing.assert_frame_equal(table(out), calm)
