"""A served model as a recognizer, through openai's client, against a server in this process that misbehaves."""

import time
from pathlib import Path

import numpy as np
import pytest
from chat_server import (
    KEY,
    NAME,
    Words,
    audio_of,
    cuts,
    decoded,
    drips,
    floods,
    refuses,
    sends,
    serve,
    stalls,
    tone,
)

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError, LalmMerError, ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Input, Turn
from lalm_mer.models.chat_client import ChatClient, ServerAddress
from lalm_mer.models.remote import Remote
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.remote.label_scores import FirstTokenScorer
from lalm_mer.recognizers.remote.recognizer import RemoteRecognizer
from lalm_mer.recognizers.remote.replies import TokenLogProb

pytest.importorskip("openai", reason="the extra `remote` is not installed")

LABELS = LabelSet(("ang", "hap", "sad"), {"ang": ("angry", "full of anger"), "hap": ("happy",), "sad": ("sad",)})
FORMS = {"ang": ("angry", "full of anger"), "hap": ("happy",), "sad": ("sad",)}
SPOKEN = ("angry", "happy", "sad")
PROMPTS = Path(__file__).resolve().parents[4] / "prompts"
GIVEN = Input("u1", "It is late.", Waveform(tone(0.1), 16_000), "Ross")


def open_recognizer(server, *, label_score="sum", label_scores="prompt_logprobs", generates=False, key=None, **options):
    """A recognizer of the server's model."""
    options = {"timeout_s": 10.0, "max_retries": 0} | options
    client = ChatClient(ServerAddress.parse(server.url), model=NAME, api_key=key, **options)
    remote = Remote(client, sampling_rate=16_000, longest_audio_s=30.0)
    setup = PromptSetup(
        (load_prompt(PROMPTS / "audio_transcript.yaml"),), LABELS, (LABELS.labels,), label_score=label_score
    )
    return RemoteRecognizer(remote, setup, label_scores=label_scores, max_new_tokens=5 if generates else None)


@pytest.mark.parametrize("label_score", ["sum", "mean"])
def test_a_label_has_the_sum_over_forms_of_all_tokens_and_the_stop_token(label_score):
    with serve(Words(), SPOKEN) as server:
        recognizer = open_recognizer(server, label_score=label_score)
        assert recognizer.prepare() == NAME
        answer = recognizer.answer(GIVEN)
        messages = server.chats()[-1]["messages"][:-1]
        tokens = {label: [server.backing.answer_log_probs(messages, form) for form in FORMS[label]] for label in FORMS}
    assert [len(each) for each in tokens["ang"]] == [2, 4]
    score = np.sum if label_score == "sum" else np.mean
    values = np.array([np.logaddexp.reduce([score(each) for each in tokens[label]]) for label in LABELS.labels])
    np.testing.assert_allclose(answer.log_probs, [values - np.logaddexp.reduce(values)], rtol=1e-12, atol=0)
    assert answer.usage.requests == 4


def test_the_audio_that_is_sent_is_that_of_the_utterance():
    with serve(Words(), SPOKEN) as server:
        open_recognizer(server, generates=True).answer(GIVEN)
        (body,) = server.chats()
    system, user = body["messages"][:-1], body["messages"][-1]
    samples, rate = decoded(*audio_of(user))
    assert rate == 16_000
    assert np.abs(samples - GIVEN.waveform.samples).max() <= 0.5001 / 2**15  # rounded to 16 bits
    assert [part["type"] for part in user["content"]] == ["input_audio", "text"]
    assert "It is late." in user["content"][1]["text"]
    assert all(isinstance(message["content"], str) for message in system)


def test_names_of_speakers_are_numbered(tmp_path):
    (tmp_path / "turns.yaml").write_text("name: turns\nuser: '{{ context }} {{ transcript }}'\n")
    given = Input("u1", "It is late.", None, "Ross", context=(Turn("Rachel", "Hi."), Turn("Ross", "Hm.")))
    with serve(Words(), SPOKEN) as server:
        recognizer = open_recognizer(server, generates=True)
        prompt = load_prompt(tmp_path / "turns.yaml")
        recognizer.prompts = ((prompt, LABELS.labels),)
        recognizer.answer(given)
        (body,) = server.chats()
    assert body["messages"][0]["content"][0]["text"] == "Speaker 1: Hi.\nSpeaker 2: Hm. It is late."


FAULTS = {
    "bad_request": (refuses(400, f"the key {KEY}\nis bad"), "status 400: 'the key *** is bad'"),
    "forbidden": (refuses(403, KEY), "refuses the key (status 403)"),
    "not_found": (refuses(404), "status 404: 'no'; check model.url and model.id"),
    "busy": (refuses(503), "status 503: 'no'; rerun the same command to resume"),
    "no_json_error": (lambda handler: handler.answer(400, b"<html>" * 1000), "status 400: '<html>"),
    "redirect": (refuses(307, Location="http://127.0.0.1:9/v1"), "status 307"),
    "malformed": (sends(b"{not json"), "not valid JSON"),
    "no_text": (sends(b""), "not valid JSON"),
    "nan": (sends(b'{"model": "m", "choices": NaN}'), "not valid JSON (the number NaN)"),
    "deep": (sends(b'{"a":' * 5000 + b"1" + b"}" * 5000), "not valid JSON"),
    "list": (sends([1]), "expected a JSON object, found list"),
    "empty": (sends({}), "key 'model' is missing"),
    "no_choice": (sends({"model": "m", "choices": []}), "0 choices; expected 1"),
    "choices_text": (sends({"model": "m", "choices": "x"}), "key 'choices'"),
    "content_list": (sends({"model": "m", "choices": [{"message": {"content": []}}]}), "choices.0.message.content"),
    "long": (sends({"model": NAME, "choices": [{"message": {"content": "x" * 20_001}}]}), "of 20,001 characters"),
    "negative": (
        sends({"model": NAME, "choices": [{"message": {}}], "usage": {"prompt_tokens": -1}}), "key 'usage'",
    ),
    "model_number": (sends({"model": 3, "choices": []}), "key 'model'"),
    "model_control": (sends({"model": "a\nb", "choices": [{"message": {}}]}), "key 'model'"),
    "another_model": (sends({"model": "m", "choices": [{"message": {}}]}), "by model 'm', before by 'served/tiny'"),
    "no_prompt": (sends({"model": NAME, "choices": [{"message": {}}]}), "the prompt does not end with the tokens of"),
    "prompt_text": (
        sends({"model": NAME, "choices": [{"message": {}}], "prompt_logprobs": "x"}), "key 'prompt_logprobs'",
    ),
    "positions": (
        sends({"model": NAME, "choices": [{"message": {}}], "prompt_logprobs": [None, {}, {}, {}]}),
        "expected one token at each position",
    ),
    "no_log_prob": (
        sends({"model": NAME, "choices": [{"message": {}}], "prompt_logprobs": [{"1": {"logprob": True}}] * 9}),
        "expected an id and its logprob",
    ),
    "above_one": (
        sends({"model": NAME, "choices": [{"message": {}}], "prompt_logprobs": [{"1": {"logprob": 3.0}}] * 9}),
        "a log-probability of 3.0",
    ),
    "compressed": (sends(b"x", Content_Encoding="gzip"), "content-encoding 'gzip', which was not requested"),
    "flood": (floods, "answers with more than 33,554,432 bytes"),
    "half": (cuts, "cannot be reached"),
    "stall": (stalls, "no complete answer within 0.2 s"),
    "drip": (drips, "no complete answer within 0.2 s"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_utterance(fault):
    happens, says = FAULTS[fault]
    with serve(Words(), SPOKEN) as server:
        recognizer = open_recognizer(server, key=KEY, timeout_s=0.2 if fault in ("stall", "drip") else 10.0)
        recognizer.prepare()
        server.faults = [happens]
        with pytest.raises(LalmMerError) as caught:
            recognizer.answer(GIVEN)
    line = str(caught.value)
    assert line.startswith("utterance u1: ")
    assert says in line
    assert "\n" not in line
    assert len(line) < 600
    assert KEY not in line


@pytest.mark.parametrize("fault", [refuses(500), refuses(429, Retry_After="0.01"), refuses(408), cuts, stalls])
def test_what_passes_is_repeated_and_changes_nothing(fault):
    with serve(Words(), SPOKEN) as server:
        recognizer = open_recognizer(server, timeout_s=0.2 if fault is stalls else 10.0, max_retries=2)
        recognizer.prepare()
        expected = recognizer.answer(GIVEN)
        before = len(server.chats())
        server.faults = [None, fault]
        assert recognizer.answer(GIVEN) == expected
        assert len(server.chats()) - before == 5


def test_retry_after_is_honoured():
    with serve(Words(), SPOKEN) as server:
        recognizer = open_recognizer(server, generates=True, max_retries=1)
        server.faults = [refuses(429, Retry_After="1")]  # else it would be half a second at most
        recognizer.answer(GIVEN)
        assert server.times[1] - server.times[0] >= 1.0


def test_after_an_error_the_answers_under_way_are_kept():
    inputs = [Input(f"u{number}", "It is late.", Waveform(tone(0.1), 16_000)) for number in range(9)]
    with serve(Words(), SPOKEN, delay_s=0.1) as server:
        recognizer = open_recognizer(server, generates=True)
        server.faults = [refuses(400), None, None]
        arriving = recognizer.answers(inputs, concurrency=3)
        assert len({next(arriving).utterance_id, next(arriving).utterance_id}) == 2
        with pytest.raises(ModelError, match="status 400"):
            next(arriving)
        assert len(server.chats()) == 3


def test_an_interruption_does_not_wait_for_the_server():
    inputs = [Input(f"u{number}", "It is late.", Waveform(tone(0.1), 16_000)) for number in range(4)]
    with serve(Words(), SPOKEN) as server:
        recognizer = open_recognizer(server, generates=True, timeout_s=60.0)
        server.faults = [None, stalls, stalls]
        arriving = recognizer.answers(inputs, concurrency=2)
        next(arriving)
        started = time.monotonic()
        arriving.close()
        assert time.monotonic() - started < 20
        assert len(server.chats()) <= 3


def test_several_utterances_are_under_way_at_once():
    inputs = [Input(f"u{number}", "It is late.", Waveform(tone(0.1), 16_000)) for number in range(8)]
    with serve(Words(), SPOKEN, delay_s=0.1) as server:
        found = list(open_recognizer(server, generates=True).answers(inputs, concurrency=4))
        assert 2 <= server.most_under_way <= 4
    assert sorted(answer.utterance_id for answer in found) == [given.utterance_id for given in inputs]


def test_a_template_that_does_not_end_an_answer_is_refused():
    class Open(Words):
        def ids(self, messages, *, generation_prompt, left_open):
            return super().ids(messages, generation_prompt=generation_prompt, left_open=not generation_prompt)

    with serve(Open(), SPOKEN) as server, pytest.raises(ConfigError, match="does not render an answer such as 'angry'"):
        open_recognizer(server).prepare()


def log_probs(listed):
    tokens = [TokenLogProb(token, np.log(probability)) for token, probability in listed]
    found = FirstTokenScorer(LABELS)._log_probs(tokens)
    return None if found is None else np.exp(found)


def test_first_tokens_count_for_the_label_whose_forms_they_begin():
    listed = [("The", 0.5), (" hap", 0.2), ("happy", 0.1), ("full", 0.05), ("ang", 0.05), ("x", 0.02)]
    np.testing.assert_allclose(log_probs(listed), np.array([0.1, 0.3, 0.02]) / 0.42, rtol=1e-12, atol=0)
    assert log_probs([("The", 0.9), ("", 0.05)]) is None


def test_labels_that_share_their_first_token_are_refused():
    labels = LabelSet(("a", "b", "c"), {"a": ("sad",), "b": ("sullen",), "c": ("happy",)})
    scorer = FirstTokenScorer(labels)
    rare = (TokenLogProb("sad", np.log(0.5)), TokenLogProb("s", np.log(0.004)))
    assert scorer._log_probs(rare) is not None
    with pytest.raises(ConfigError, match=r"answers of a, b begin with the same token 's'"):
        scorer._log_probs((TokenLogProb("sad", np.log(0.5)), TokenLogProb("s", np.log(0.1))))
    with pytest.raises(ConfigError, match=r"the answer 'happy surprise' begins with 'happy'"):
        FirstTokenScorer(LabelSet(("h", "s"), {"h": ("happy",), "s": ("happy surprise",)}))
