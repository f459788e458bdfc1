"""Zero-shot runs of a model on a server, by the recipe and the real client, against a server in this process."""

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
import yaml
from chat_server import KEY, NAME, Exact, Words, audio_of, cuts, refuses, sends, serve, stalls
from killing import changes_of, full_disk_at_change, killed_at_change, killed_when

from lalm_mer import open_recognizer
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.run_record import read_record

pytest.importorskip("openai", reason="the extra `remote` is not installed")

LOG = logging.getLogger(__name__)
LABELS = ("angry", "content", "happy", "sad")
TEST = 20  # utterances that are short enough
PROMPT = "name: lines\nuser: |\n  {{ audio }}\n  {{ labels }}\n"


GENERATED = ("answering.mode=generation",)  # one request for each utterance


def served_config(workplace, folder):
    """Options that name a YAML of a served model."""
    content = yaml.safe_load(workplace.config("zero_shot").read_text())
    (folder / "lines.yaml").write_text(PROMPT)
    content |= {
        "model": {"family": "remote", "url": "http://127.0.0.1:9/v1", "id": NAME},
        "prompt": {"file": str(folder / "lines.yaml")},
        "remote": {"max_retries": 2, "timeout_s": 20, "concurrency": 4},
    }
    (folder / "remote.yaml").write_text(yaml.safe_dump(content))
    return "--config", str(folder / "remote.yaml")


def served_options(server, out, *overrides):
    return f"model.url={server.url}", f"output.dir={out}", *overrides


@pytest.fixture
def run(workplace, tmp_path):
    """Run the recipe on a server; its exit status."""

    def start(server, *overrides, out="run"):
        options = served_options(server, tmp_path / out, *overrides)
        return workplace.script("recipes/zero_shot.py", *served_config(workplace, tmp_path), *options)

    return start


@pytest.fixture
def refused(run, capsys):
    """Run the recipe, which must end with an error; its line."""

    def start(server, *overrides, out="run"):
        capsys.readouterr()
        assert run(server, *overrides, out=out) == 1
        captured = capsys.readouterr().err
        assert "Traceback" not in captured
        (line,) = [line for line in captured.splitlines() if line.startswith("error: ")]
        return line

    return start


def table(folder):
    return pd.read_parquet(folder / "predictions.parquet")


def journal(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_labels_are_scored_exactly_and_the_run_states_what_it_was(run, tmp_path, capsys):
    with serve(Words(), LABELS) as server:
        assert run(server, "remote.prompt_token_price=2.0", "remote.completion_token_price=10.0") == 0
        printed = capsys.readouterr().out.splitlines()
        (said,) = [line for line in printed if line.startswith("remote: ")]
        host = server.url.removeprefix("http://").removesuffix("/v1")
        assert said.startswith(
            f"remote: to {host} ({server.url}, not encrypted) go the prompt and the audio of 20 test "
        )
        predictions = table(tmp_path / "run")
        assert Counter(predictions["status"]) == {"scored": TEST, "unscored": 1}
        by_audio = {}
        for body in server.chats():
            by_audio.setdefault("".join(audio_of(body["messages"][0])), body["messages"][:1])
        expected = sorted(
            tuple(np.round(values - np.logaddexp.reduce(values), 9))
            for messages in by_audio.values()
            for values in [np.array([sum(server.backing.answer_log_probs(messages, label)) for label in LABELS])]
        )
    scored = predictions[predictions["status"] == "scored"]
    found = [tuple(row) for row in scored[[f"log_prob_{label}" for label in LABELS]].round(9).to_numpy()]
    assert len(by_audio) == TEST + 1  # and a second of silence, which found the tokens of the answers
    assert len(set(found)) == TEST
    assert set(found) < set(expected)
    record = read_record(tmp_path / "run" / "run.json")
    notes = {note.code: note.facts for note in record.notes}
    assert notes["served_model"] == {"url": server.url, "model": NAME, "reported": NAME}
    assert notes["server_tokens"] == {
        "requests": 80, "prompt_tokens": 8000, "completion_tokens": 80, "cost": "0.0168 USD"
    }  # fmt: skip
    assert (record.base_model, record.hashes["base_model"], record.method) == (NAME, None, "zero_shot")
    assert record.recognizer == "remote (tiny)"


def test_nothing_leaves_but_audio_transcript_and_prompt(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-somebody")
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    with serve(Words(), LABELS) as server:
        assert run(server, "prompt.file=prompts/audio_transcript.yaml") == 0
        requests = server.requests
    for path, headers, body in requests:
        assert set(map(str.lower, headers)) <= {
            "host", "accept", "accept-encoding", "connection", "authorization", "content-type", "content-length",
        }  # fmt: skip
        assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer none"
        if path == "/v1/models":
            continue
        assert set(body) <= {
            "model", "messages", "temperature", "max_tokens", "prompt_logprobs", "add_generation_prompt",
            "continue_final_message",
        }  # fmt: skip
        for message in body["messages"]:
            assert set(message) == {"role", "content"}
        text = json.dumps([[part for part in message["content"] if part != "x"] for message in body["messages"]])
        for private in ("s1_", "s2_", '"s1"', "manifest", str(tmp_path), "synthetic_beeps", "org-of", "another-key"):
            assert private not in text
    for row in journal(tmp_path / "run"):
        assert row["utterance_id"].startswith(("s1_", "s2_"))


def test_the_key_is_sent_and_never_written_or_shown(run, refused, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", KEY)
    with serve(Words(), LABELS) as server:
        server.key = KEY
        assert run(server, *GENERATED, "remote.api_key_env=MY_KEY") == 0
        captured = capsys.readouterr()
        line = refused(server, "remote.api_key_env=null", out="other")
        assert line.endswith(
            "refuses the key (status 401); remote.api_key_env names the environment variable that has it"
        )
        server.faults = [refuses(400, f"the header says {KEY}, and that is bad")]
        echoed = refused(server, "remote.api_key_env=MY_KEY", out="third")
    assert "status 400: 'the header says ***, and that is bad'" in echoed
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert KEY.encode() not in file.read_bytes(), file
    assert KEY not in captured.out + captured.err + line


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.url=http://user:pass@localhost/v1"], "key 'model.url': has a user name or password"),
        (["model.url=null"], "key 'model.url' is missing"),
        (["model.family=qwen2_audio"], "key 'model.url' is set, and the family is qwen2_audio"),
        ([f"remote.api_key_env={KEY}"], "key 'remote.api_key_env': expected the name of an environment variable"),
        (["model.dtype=float32"], "key 'model.dtype': 'float32', but family remote only uses url, id and adapter"),
        (["model.tower_cache=require"], "key 'model.tower_cache': 'require', but family remote only uses"),
        (["model.id=no-such-model"], "does not serve 'no-such-model'; it serves my-adapter, served/tiny"),
        (["parity.utterances=3"], "section 'parity': has keys, but no family"),
    ],
)
def test_settings_that_do_not_fit(overrides, says, refused, tmp_path):
    with serve(Words(), LABELS) as server:
        line = refused(server, *overrides)
        assert server.chats() == []
    assert says in line
    assert "pass@" not in line
    assert KEY not in line


def test_a_prompt_with_names_of_speakers_is_refused(refused, tmp_path):
    (tmp_path / "named.yaml").write_text("name: named\nuser: '{{ audio }} of {{ speaker }}'\n")
    with serve(Words(), LABELS) as server:
        line = refused(server, f"prompt.file={tmp_path / 'named.yaml'}")
        assert server.requests == []
    assert "names of speakers are not sent to a server" in line


def test_a_server_without_log_probabilities_needs_another_way(run, refused, tmp_path, capsys):
    with serve(Words(), LABELS, gives=("top_logprobs",)) as server:  # nor does it list its models
        line = refused(server)
        assert line.endswith("set remote.label_scores=first_token, or answering.mode=generation")
        assert run(server, "remote.label_scores=first_token", out="first") == 0
    with serve(Words(), LABELS, gives=()) as server:
        line = refused(server, "remote.label_scores=first_token", out="second")
        assert line.endswith("gives no top_logprobs; set answering.mode=generation")
        capsys.readouterr()
        assert run(server, "answering.mode=generation", out="generated") == 0
    first, generated = table(tmp_path / "first"), table(tmp_path / "generated")
    assert set(first["status"]) == {"scored", "unscored"}
    assert {note.code for note in read_record(tmp_path / "first" / "run.json").notes} >= {"first_token"}
    assert set(generated["status"]) == {"scored", "unparsed", "unscored"}
    named = generated[generated["status"] == "scored"]
    assert (named["answer"] == "The speaker sounds " + named["prediction"] + ".").all()


@pytest.fixture(scope="module")
def calm(workplace, made_once):
    """Predictions of a run without faults, which do not depend on the address of the server."""

    def build(folder):
        with serve(Words(), LABELS) as server:
            options = served_options(server, folder / "run", *GENERATED)
            assert workplace.script("recipes/zero_shot.py", *served_config(workplace, folder), *options) == 0

    return table(made_once("remote_calm", build) / "run")


FAULTS = {
    "refusal": (refuses(400, "audio\nis not\x1b[31m supported"), "status 400: 'audio is not\\x1b[31m supported'"),
    "malformed": (sends(b"{not json"), "not valid JSON"),
    "stall": (stalls, "no complete answer within 0.5 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_the_run_is_resumed(fault, run, refused, calm, tmp_path):
    happens, says = FAULTS[fault]
    with serve(Words(), LABELS) as server:
        server.faults = [None] * 6 + [happens]
        options = ["remote.max_retries=0", "remote.timeout_s=0.5", "remote.concurrency=1"]
        line = refused(server, *GENERATED, *options)
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


@pytest.fixture(scope="module")
def family(workplace):
    """The tiny model of the workplace."""
    from lalm_mer.models.families import family_class

    return family_class("qwen2_audio").load(workplace.folder / "model", attn_implementation="sdpa")


def test_scores_are_those_of_the_exact_scorer(run, workplace, family, tmp_path, capsys):
    parity = ["parity.family=qwen2_audio", f"parity.id={workplace.folder / 'model'}", "parity.max_difference=0.001"]
    prompt = [f"prompt.file={tmp_path / 'lines.yaml'}", "prompt.label_score=pmi", "prompt.label_orders=2"]
    with serve(Exact(family), LABELS) as server:
        assert run(server, *parity, *prompt, "parity.utterances=3") == 0
    assert "parity: Compared with the exact scores" in capsys.readouterr().out
    workplace.run("zero_shot", tmp_path / "exact", *prompt, "preflight=false")
    columns = [f"log_prob_{label}" for label in LABELS]
    served, exact = (
        table(tmp_path / name).set_index("utterance_id").dropna(subset=columns) for name in ("run", "exact")
    )
    assert len(served) == TEST
    np.testing.assert_allclose(served[columns], exact.loc[served.index, columns], rtol=1e-4, atol=0)
    (note,) = [note for note in read_record(tmp_path / "run" / "run.json").notes if note.code == "parity"]
    assert (note.n, note.facts["same"], note.facts["same_here"]) == (3, 3, 3)


def test_parity_is_that_of_the_text_that_is_sent(run, workplace, family, tmp_path):
    """A server tokenises a prompt as one text, and this machine its slots separately: both are stated."""
    parity = ["parity.family=qwen2_audio", f"parity.id={workplace.folder / 'model'}", "parity.max_difference=0.001"]
    with serve(Exact(family), LABELS) as server:
        assert run(server, *parity, "parity.utterances=2", "prompt.file=prompts/audio.yaml") == 0
    (note,) = [note for note in read_record(tmp_path / "run" / "run.json").notes if note.code == "parity"]
    assert note.n == 2
    assert float(note.facts["difference"]) < 0.001 < float(note.facts["difference_here"])


def test_another_model_on_the_server_is_refused_before_most_is_sent(refused, workplace, family, tmp_path):
    parity = ["parity.family=qwen2_audio", f"parity.id={workplace.folder / 'model'}", "parity.utterances=5"]
    with serve(Exact(family, shift=1.0), LABELS) as server:
        line = refused(server, *parity)
        assert len(server.chats()) == 6 + 4 * 5
    assert "of 5 predictions are those of" in line
    assert "(parity.max_difference 0.1)" in line
    assert len(journal(tmp_path / "run")) == 5
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_served_adapter_is_named_in_the_request(run, tmp_path):
    with serve(Words(), LABELS) as server:
        assert run(server, *GENERATED, "model.adapter=my-adapter", "model.cache_dir=unused") == 0
        assert {body["model"] for body in server.chats()} == {"my-adapter"}
    record = read_record(tmp_path / "run" / "run.json")
    assert record.method == "lora"
    assert "unknown_training_data" in {note.code for note in record.notes}
    (facts,) = [note.facts for note in record.notes if note.code == "served_model"]
    assert facts["model"] == f"{NAME} with adapter my-adapter"


def test_shots_are_announced_and_sent_with_their_answers(run, capsys):
    with serve(Words(), LABELS) as server:
        assert run(server, *GENERATED, "prompt.shots=2", "remote.audio_part=audio_url") == 0
        body = server.chats()[-1]
    assert "; with each, 2 training utterances and their labels; no ids" in capsys.readouterr().out
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert sum(len(audio_of(message)) for message in body["messages"]) == 3


def test_it_trains_nothing_and_predicts_no_new_recordings(run, workplace, tmp_path, capsys):
    with serve(Words(), LABELS, gives=("top_logprobs",)) as server:
        assert run(server, "remote.label_scores=first_token") == 0
        model = ["model.family=remote", f"model.url={server.url}", f"model.id={NAME}"]
        assert workplace.again("finetune", *model, f"output.dir={tmp_path / 'tuned'}") == 1
    assert "a model on a server is not trained" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"its model is on a server"):
        open_recognizer(tmp_path / "run")
