"""A tiny Whisper with random weights: its transcripts of tones have no meaning, but they have to be reproducible."""

import json

import numpy as np
import pytest
import torch
from a_gpu import a_gpu
from representatives import slow_except
from tiny_whisper import WORDS, build_tiny_whisper
from transformers import (
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError, ModelError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.models.transcriber import Transcriber, transcribe_utterances


@pytest.fixture(scope="module")
def transcriber(tiny_whisper_folder):
    return Transcriber.load(str(tiny_whisper_folder), language="en")


def sine(hertz, seconds, rate=16_000):
    time_s = np.arange(round(seconds * rate)) / rate
    return Waveform((0.3 * np.sin(2 * np.pi * hertz * time_s)).astype(np.float32), rate)


SOUNDS = [(200, 0.5), (400, 1.0), (2000, 3.3), (1000, 1.5), (3000, 2.0), (500, 5.1), (300, 0.3)]


def test_a_batch_gives_the_transcripts_of_single_utterances_in_the_same_order(transcriber):
    sounds = [sine(*sound) for sound in SOUNDS]
    together = transcriber.transcribe(sounds)
    assert together == [transcriber.transcribe([sound])[0] for sound in sounds]
    assert len(set(together)) >= 5  # so that another order would be noticed
    for hypothesis in together:
        assert hypothesis
        assert set(hypothesis.split()) <= set(WORDS)  # no token of its own grammar, no timestamp
        assert hypothesis == hypothesis.strip()


def test_audio_longer_than_a_window_is_transcribed_to_its_end(transcriber):
    """Truncated at the window, both would be the same."""
    quiet = Waveform(np.zeros(32_000, dtype=np.float32), 16_000)
    same_start = [
        Waveform(np.concatenate([sine(500, 2.0).samples, rest.samples]), 16_000) for rest in (sine(3000, 2.0), quiet)
    ]
    first, second = transcriber.transcribe(same_start)
    assert first != second


def test_the_language_is_given_or_detected(tiny_whisper_folder, transcriber):
    sounds = [sine(hertz, 1.0) for hertz in (200, 400, 800, 1600, 3200)]
    german, by_name = (Transcriber.load(str(tiny_whisper_folder), language=name) for name in ("de", "German"))
    given = {"en": transcriber.transcribe(sounds), "de": german.transcribe(sounds)}
    assert given["en"] != given["de"]
    assert by_name.transcribe(sounds) == given["de"]
    detected = Transcriber.load(str(tiny_whisper_folder)).transcribe(sounds)
    for place, hypothesis in enumerate(detected):
        assert hypothesis in (given["en"][place], given["de"][place])


def test_an_unsupported_language_is_refused(tiny_whisper_folder, tmp_path):
    with pytest.raises(
        ConfigError, match=r"argument 'language'.*'fr', not supported by .*; expected one of \['de', 'en'\]"
    ):
        Transcriber.load(str(tiny_whisper_folder), language="fr")
    build_tiny_whisper(tmp_path, multilingual=False)
    english_only = Transcriber.load(str(tmp_path))
    assert english_only.transcribe([sine(300, 1.0)])[0]
    with pytest.raises(ConfigError, match="has only one language"):
        Transcriber.load(str(tmp_path), language="en")


def test_audio_at_another_rate_is_refused(transcriber):
    with pytest.raises(AudioError, match="Whisper takes audio at 16000 Hz, found 8000 Hz"):
        transcriber.transcribe([sine(300, 1.0, rate=8000)])


def test_a_model_without_timestamps_refuses_long_audio(tiny_whisper_folder):
    transcriber = Transcriber.load(str(tiny_whisper_folder))
    transcriber._model.generation_config.no_timestamps_token_id = None
    with pytest.raises(ModelError, match=r"cannot transcribe 2\.5 s"):
        transcriber.transcribe([sine(300, 2.5)])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "bert"}, "is a bert; transcripts need a Whisper model"),
        ({"max_source_positions": 50}, "cannot be loaded as Whisper"),
        ({"decoder_layers": 3}, r"no weights of model\.decoder\.layers\.2"),  # or a third would be made up
    ],
)
def test_a_model_of_another_kind_is_refused(tiny_whisper_folder, tmp_path, changes, expected):
    for path in tiny_whisper_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=expected):
        Transcriber.load(str(tmp_path))


def test_an_extractor_of_another_window_is_refused(tiny_whisper_folder, tmp_path):
    for path in tiny_whisper_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    WhisperProcessor(
        WhisperFeatureExtractor(feature_size=16, chunk_length=3), WhisperTokenizer.from_pretrained(tiny_whisper_folder)
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="makes 300 frames, but its encoder takes 200"):
        Transcriber.load(str(tmp_path))


def test_only_safetensors_weights_are_read(tiny_whisper_folder, tmp_path):
    for path in tiny_whisper_folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        Transcriber.load(str(tmp_path))


def test_unknown_models_and_data_types_are_refused(tiny_whisper_folder):
    with pytest.raises(ModelError, match="'no/such/whisper'"):
        Transcriber.load("no/such/whisper")
    with pytest.raises(ConfigError, match=r"argument 'dtype'.*int4"):
        Transcriber.load(str(tiny_whisper_folder), dtype="int4")


def test_a_data_type_that_the_gpu_emulates_is_refused(tiny_whisper_folder, monkeypatch):
    a_gpu(monkeypatch, "Tesla T4", (7, 5))
    with pytest.raises(ConfigError, match=r"'dtype': bfloat16, whose emulation on Tesla T4 \(7\.5\) is slow"):
        Transcriber.load(str(tiny_whisper_folder), dtype="bfloat16", device="cuda")
    Transcriber.load(str(tiny_whisper_folder), dtype="bfloat16", device="cpu")


def test_the_digest_is_of_the_content(tiny_whisper_folder, tmp_path):
    for path in tiny_whisper_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    same = Transcriber.load(str(tmp_path)).digest
    assert same == Transcriber.load(str(tiny_whisper_folder)).digest
    (tmp_path / "generation_config.json").write_text(
        (tmp_path / "generation_config.json").read_text().replace('"max_length": 16', '"max_length": 12')
    )
    assert Transcriber.load(str(tmp_path)).digest != same


@pytest.fixture
def utterances(tmp_path, tone):
    """Nine synthetic utterances of different lengths and rates, one of them without audio."""
    rows = [
        Utterance(
            utterance_id=f"u{number}", corpus="beeps", audio_path=f"u{number}.wav", speaker="s",
            audio_bytes=tone(seconds=0.4 + 0.3 * number, rate=8000 + 8000 * (number % 2), hertz=200 * (number + 1)),
        )
        for number in range(8)
    ]  # fmt: skip
    rows.insert(3, Utterance(utterance_id="silent", corpus="beeps", speaker="s", transcript="Nothing."))
    write_corpus(
        rows, corpus="beeps", out_dir=tmp_path / "data", loader_version="1", synthetic=True, keep_missing_audio=True
    )
    return load(tmp_path / "data").dataset


class Interrupted(Exception):
    """In place of a kill."""


class Counting:
    """A transcriber that counts its batches, and ends the process before one of them."""

    def __init__(self, transcriber, last=None):
        self._transcriber, self._last, self.batches = transcriber, last, []
        self.sampling_rate = transcriber.sampling_rate

    def transcribe(self, waveforms):
        if len(self.batches) == self._last:
            raise Interrupted
        self.batches.append([round(waveform.duration_s, 1) for waveform in waveforms])
        return self._transcriber.transcribe(waveforms)


IDENTITY = {"model": "tiny", "root_hash": "r"}


def run(transcriber, utterances, journal, batch_size=3, identity=IDENTITY):
    return transcribe_utterances(
        transcriber, utterances, identity=identity, journal=journal, batch_size=batch_size
    )  # fmt: skip


def test_utterances_with_audio_are_transcribed_longest_first(transcriber, utterances, tmp_path):
    counting = Counting(transcriber)
    hypotheses = run(counting, utterances, tmp_path / "journal")
    assert list(hypotheses) == [f"u{number}" for number in range(8)]
    assert counting.batches == [[2.5, 2.2, 1.9], [1.6, 1.3, 1.0], [0.7, 0.4]]
    assert run(transcriber, utterances, tmp_path / "other", batch_size=1) == hypotheses


@pytest.mark.parametrize("damage", slow_except([b"", b'{"u4": "kids a', b'{"u4": "kids are"}'], [b'{"u4": "kids a']))
def test_a_killed_run_resumes_with_the_same_results(transcriber, utterances, tmp_path, damage):
    complete = run(transcriber, utterances, tmp_path / "complete")
    with pytest.raises(Interrupted):
        run(Counting(transcriber, last=1), utterances, tmp_path / "journal")
    with (tmp_path / "journal").open("ab") as file:
        file.write(damage)
    again = Counting(transcriber)
    assert run(again, utterances, tmp_path / "journal") == complete
    assert again.batches == [[1.6, 1.3, 1.0], [0.7, 0.4]]
    assert (tmp_path / "journal").read_bytes() == (tmp_path / "complete").read_bytes()
    finished = Counting(transcriber)
    assert run(finished, utterances, tmp_path / "journal") == complete
    assert finished.batches == []


def test_a_run_killed_at_its_first_line_starts_again(transcriber, utterances, tmp_path):
    (tmp_path / "journal").write_text('{"model": "ti')
    assert run(transcriber, utterances, tmp_path / "journal") == run(transcriber, utterances, tmp_path / "complete")
    assert (tmp_path / "journal").read_bytes() == (tmp_path / "complete").read_bytes()


def test_another_run_is_not_resumed(transcriber, utterances, tmp_path):
    run(transcriber, utterances, tmp_path / "journal")
    with pytest.raises(ConfigError, match="another transcription, with model = 'tiny', now it is 'small'"):
        run(transcriber, utterances, tmp_path / "journal", identity={"model": "small", "root_hash": "r"})


def test_a_damaged_journal_is_one_line(transcriber, utterances, tmp_path):
    run(transcriber, utterances, tmp_path / "journal")
    whole = (tmp_path / "journal").read_bytes()
    for damage in (b"null", b"[]", b'"x"', b"{", b"[" * 20_000, b"\xff"):
        (tmp_path / "journal").write_bytes(whole + damage + b"\n")
        with pytest.raises(ConfigError, match=r"journal: is damaged .*remove it to transcribe again") as caught:
            run(transcriber, utterances, tmp_path / "journal")
        assert "\n" not in str(caught.value), damage


def test_a_batch_size_of_zero_is_refused(transcriber, utterances, tmp_path):
    with pytest.raises(ConfigError, match=r"argument 'batch_size': 0"):
        run(transcriber, utterances, tmp_path / "journal", batch_size=0)
