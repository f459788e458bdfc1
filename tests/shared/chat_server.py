"""A server in this process that speaks OpenAI's chat API as vLLM does, and may refuse, stall or send malformed data.

What it computes is that of a ``backing``: ``Words``, whose tokens are words and whose log-probabilities follow from a
hash, or ``Exact``, the forward pass of a model on this machine.
"""

import base64
import hashlib
import io
import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile

KEY = "sk-secret-Key-17"
NAME = "served/tiny"


def audio_of(message):
    """The encoded audio of a message, in order."""
    parts = message["content"] if isinstance(message["content"], list) else []
    return [part["input_audio"]["data"] for part in parts if part["type"] == "input_audio"] + [
        part["audio_url"]["url"].removeprefix("data:audio/wav;base64,") for part in parts if part["type"] == "audio_url"
    ]


def decoded(data):
    """Samples and rate of encoded audio."""
    return soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")


class Words:
    """A model whose tokens are words; ``leading`` makes the first characters of an answer its first token."""

    def __init__(self, first_characters=None):
        self._ids = {}
        self._lock = threading.Lock()
        self._first = first_characters

    def _id(self, word):
        with self._lock:
            return self._ids.setdefault(word, len(self._ids) + 10)

    def ids(self, messages, *, generation_prompt, left_open):
        """Token ids of the rendered conversation."""
        words = []
        for number, message in enumerate(messages):
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            words += ["<start>", message["role"]]
            for part in parts:
                words += part["text"].split() if part["type"] == "text" else ["<audio>"] * 3
            if not (left_open and number == len(messages) - 1):
                words += ["<stop>", "<newline>"]
        return [self._id(word) for word in ([*words, "<start>", "assistant"] if generation_prompt else words)]

    def log_prob(self, messages, place, token):
        """Of a token of the answer to a conversation: from -5 to 0."""
        asked = [message for message in messages if message["role"] != "assistant"]
        seen = hashlib.sha256(json.dumps([asked, place, token]).encode()).digest()
        return -5 * int.from_bytes(seen[:4], "big") / 2**32

    def prompt_log_probs(self, messages, ids):
        """Of every position but the first."""
        answers = [message for message in messages if message["role"] == "assistant"]
        start = len(self.ids(messages[:-1], generation_prompt=True, left_open=False)) if answers else len(ids)
        return [self.log_prob(messages, place - start, token) for place, token in enumerate(ids)][1:]

    def answer_log_probs(self, messages, form):
        """Of the words of an answer and the stop token, for tests."""
        tokens = [self._id(word) for word in [*form.split(), "<stop>"]]
        return [self.log_prob(messages, place, token) for place, token in enumerate(tokens)]

    def first_tokens(self, messages, forms):
        """The most probable tokens at the start of an answer."""
        tokens = [form if self._first is None else form[: self._first] for form in forms]
        rows = {token: self.log_prob(messages, 0, self._id(token)) - 3 for token in tokens}
        return sorted([("The", -0.1), *rows.items()], key=lambda row: -row[1])

    def generate(self, messages, forms):
        """A free answer that names one of the forms, or none."""
        rank = int(-1000 * self.log_prob(messages, 0, 1)) % (len(forms) + 1)
        return "I cannot tell." if rank == len(forms) else f"The speaker sounds {forms[rank]}."


class Exact:
    """A loaded family, which gives the log-probabilities of its own forward pass."""

    def __init__(self, family, shift=0.0):
        self._family = family
        self._lock = threading.RLock()  # also for the tokenizer, whose calls change its state
        self._shift = shift  # by which every log-probability is wrong

    def _conversation(self, messages):
        from lalm_mer.core.audio import Waveform
        from lalm_mer.prompting.conversation import Conversation, Message, Part

        rendered = []
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            rendered.append(
                Message(
                    message["role"],
                    tuple(
                        Part("words", part["text"])
                        if part["type"] == "text"
                        else Part("audio", audio=Waveform(*decoded(part["input_audio"]["data"])))
                        for part in parts
                    ),
                )
            )
        return Conversation(tuple(rendered))

    def _prompt(self, messages):
        answer = messages[-1]["content"] if messages[-1]["role"] == "assistant" else None
        conversation = self._conversation(messages[:-1] if answer is not None else messages)
        counts = [self._family.audio_token_count(len(each.samples)) for each in conversation.audio]
        return conversation, answer, self._family.prompt_ids(conversation, counts)

    def ids(self, messages, *, generation_prompt, left_open):
        """Token ids; the template writes a line break after the stop token."""
        with self._lock:
            return self._ids(messages, generation_prompt=generation_prompt, left_open=left_open)

    def _ids(self, messages, *, generation_prompt, left_open):
        _, answer, ids = self._prompt(messages)
        if answer is None:
            assert generation_prompt
            return ids
        tail = self._family.word_ids(answer) if left_open else self._family.answer_ids(answer)
        return [*ids, *tail, *([] if left_open else self._family.word_ids("\n"))]

    def prompt_log_probs(self, messages, ids):
        """Of every position but the first."""
        import torch

        from lalm_mer.models.families.base import LanguageInputs

        sequence = torch.tensor([ids])
        inputs = LanguageInputs(sequence, torch.arange(len(ids))[None], torch.ones_like(sequence))
        with self._lock, torch.inference_mode():
            conversation, _, _ = self._prompt(messages)
            audio = self._family.encode_audio(**self._family.audio_inputs(conversation.audio))
            hidden = self._family.hidden_states(inputs, audio)
            log_probs = self._family.logits(hidden)[0].float().log_softmax(dim=-1)
        return [float(log_probs[place, token]) - self._shift * (token % 2) for place, token in enumerate(ids[1:])]


class Server:
    """State of a server that outlives its restarts.

    Args:
        backing: what computes
        forms: answers that it may give
        gives: which of ``prompt_logprobs``, ``top_logprobs`` and ``models`` it supports
        delay_s: time of each answer
    """

    def __init__(self, backing, forms, *, gives=("prompt_logprobs", "top_logprobs", "models"), delay_s=0.0):
        self.backing, self.forms, self.gives, self.delay_s = backing, forms, set(gives), delay_s
        self.requests = []  # path, headers, body of each
        self.faults = []  # what happens to the next chat requests instead of an answer; None for an answer
        self.key = None  # that requests must have
        self.served = [{"id": NAME}, {"id": "my-adapter", "parent": NAME}]
        self.model = None  # name that it reports; None for that of the request
        self.released = threading.Event()
        self.times = []
        self.under_way = self.most_under_way = 0
        self._http = None
        self._port = 0

    @property
    def url(self):
        """Its address."""
        return f"http://127.0.0.1:{self._port}/v1"

    def chats(self):
        """Bodies of the chat requests so far."""
        return [body for path, _, body in self.requests if path.endswith("/chat/completions")]

    def start(self):
        """Begin to answer, at the same port as before."""
        handler = type("OneServer", (_Handler,), {"state": self})
        self._http = _Http(("127.0.0.1", self._port), handler)
        self._port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        """Refuse connections."""
        self._http.shutdown()
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Nothing: clients of these tests are killed."""


@contextmanager
def serve(backing, forms, **options):
    """A running server."""
    server = Server(backing, forms, **options)
    server.start()
    try:
        yield server
    finally:
        server.released.set()
        server.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    state: Server

    def log_message(self, *arguments):
        pass

    def answer(self, status, content, *, cut=False, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        defaults = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in (defaults | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.hang_up()

    def hang_up(self):
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self):
        self.state.requests.append((self.path, dict(self.headers), None))
        if self.path == "/v1/models" and "models" in self.state.gives:
            return self.answer(200, {"object": "list", "data": self.state.served})
        return self.answer(404, {"error": {"message": "no such path"}})

    def do_POST(self):
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state.requests.append((self.path, dict(self.headers), body))
        state.times.append(time.monotonic())
        if state.key is not None and self.headers.get("Authorization") != f"Bearer {state.key}":
            sent = self.headers.get("Authorization")
            return self.answer(401, {"error": {"message": f"Incorrect API key provided: {sent}"}})
        fault = state.faults.pop(0) if state.faults else None
        if fault is not None:
            return fault(self)
        state.under_way += 1
        state.most_under_way = max(state.most_under_way, state.under_way)
        time.sleep(state.delay_s)
        state.under_way -= 1
        return self.answer(200, self.completion(body))

    def completion(self, body):
        state, messages = self.state, body["messages"]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ""}}
        content = {"id": "1", "object": "chat.completion", "created": 1, "model": state.model or body["model"]}
        left_open = body.get("continue_final_message", False)
        generation_prompt = body.get("add_generation_prompt", True)
        if "prompt_logprobs" in body and "prompt_logprobs" in state.gives:
            ids = state.backing.ids(messages, generation_prompt=generation_prompt, left_open=left_open)
            log_probs = state.backing.prompt_log_probs(messages, ids)
            rows = [
                {str(token): {"logprob": value, "rank": 1, "decoded_token": "x"}}
                for token, value in zip(ids[1:], log_probs, strict=True)
            ]
            content["prompt_logprobs"] = [None, *rows]
        elif body.get("top_logprobs") and "top_logprobs" in state.gives:
            listed = [
                {"token": t, "logprob": p, "bytes": None} for t, p in state.backing.first_tokens(messages, state.forms)
            ]
            first = {"token": "x", "logprob": -1.0, "bytes": None, "top_logprobs": listed[: body["top_logprobs"]]}
            choice["logprobs"] = {"content": [first]}
        elif "prompt_logprobs" not in body and not body.get("logprobs"):
            choice["message"]["content"] = state.backing.generate(messages, state.forms)
        usage = {"prompt_tokens": 100, "completion_tokens": body["max_tokens"], "total_tokens": 101}
        return content | {"choices": [choice], "usage": usage}


def refuses(status, message="no", **headers):
    """A fault: an error in place of an answer."""
    return lambda handler: handler.answer(status, {"error": {"message": message}}, **headers)


def sends(content, **headers):
    """A fault: other content with status 200."""
    return lambda handler: handler.answer(200, content, **headers)


def stalls(handler):
    """A fault: accepted, never answered."""
    handler.state.released.wait(30)
    handler.close_connection = True


def drips(handler):
    """A fault: a byte from time to time, so that the connection never times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)
    handler.hang_up()


def cuts(handler):
    """A fault: the connection breaks off in the middle of the answer."""
    handler.answer(200, {"choices": ["x" * 1000]}, cut=True)


def floods(handler):
    """A fault: more than the client reads."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(2**30))
    handler.end_headers()
    part = b" " * 2**20
    for _ in range(64):
        handler.wfile.write(part)
    handler.hang_up()


def tone(seconds, rate=16_000, hertz=220.0):
    """Samples of a tone."""
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
