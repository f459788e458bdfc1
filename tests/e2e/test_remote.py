"""Zero-shot runs of a model on a server, by the recipe and the real client, against a server in this process."""

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
from chat_server import KEY, NAME, Exact, Words, audio_of, refuses, serve
from served_run import GENERATED, TEST, journal, score_served, table

from lalm_mer import open_recognizer
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.run_record import read_record

pytest.importorskip("openai", reason="the extra `remote` is not installed")

LABELS = ("angry", "content", "happy", "sad")


@pytest.fixture
def run(workplace, tmp_path):
    """Run the recipe on a server; its exit status."""
    return partial(score_served, workplace, tmp_path)


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
    assert (record.parameters, record.peak_memory) == (None, None)


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
        (["model.torch_compile=true"], "key 'model.torch_compile': True, but family remote only uses"),
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


@pytest.mark.slow
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


@pytest.mark.slow
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
