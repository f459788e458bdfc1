import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lalm_mer.core.audio import decode
from lalm_mer.core.errors import CorpusError
from lalm_mer.core.provenance import hash_bytes, hash_json
from lalm_mer.corpora import espeak
from lalm_mer.corpora.circumplex import design, read, voices
from lalm_mer.corpora.espeak import SAMPLING_RATE

HASH_OF_ALL = (
    "from lalm_mer.corpora.circumplex import read; from lalm_mer.core.provenance import hash_bytes, hash_json; "
    "print(hash_json([[u.utterance_id, u.label, hash_bytes(u.audio_bytes)] for u in read('spoken')]))"
)


@pytest.fixture(scope="module")
def corpora():
    pytest.importorskip("espeakng_loader", reason="the extra `synthesis` is not installed")
    return {variant: list(read(variant)) for variant in ("masked", "spoken")}


def log_mel_like(waveform):
    """Mean and deviation of 40 band energies, which show the voice but not the word."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform.samples, 400)[::160] * np.hanning(400)
    power = np.abs(np.fft.rfft(frames, 512))[:, :240] ** 2
    bands = np.log(power.reshape(len(power), 40, 6).sum(axis=2) + 1e-8)
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])


def test_columns(corpora):
    speaker = next(speaker for speaker in design.SPEAKERS if speaker.split == "test")
    (row,) = [row for row in corpora["masked"] if row.utterance_id == f"test_{speaker.name}_c15_wonderful_calm"]
    assert (row.corpus, row.split, row.script) == ("circumplex", "test", "c15")
    assert (row.speaker, row.gender) == (speaker.name, speaker.gender)
    assert (row.transcript, row.transcript_source) == ("The meeting felt wonderful on Monday.", "simulated")
    assert (row.label, row.language, row.dialogue, row.session) == ("content", "en", None, None)
    assert len(corpora["masked"]) == len({row.utterance_id for row in corpora["masked"]}) == 1728


def test_masked_audio_depends_on_carrier_speaker_and_voice_only(corpora):
    audio_of = defaultdict(set)
    for row in corpora["masked"]:
        audio_of[row.script, row.speaker, row.utterance_id.rpartition("_")[2]].add(hash_bytes(row.audio_bytes))
    pairs = [(carrier, speaker) for carrier in design.CARRIERS for speaker in design.SPEAKERS]
    assert len(audio_of) == 2 * sum(carrier.split == speaker.split for carrier, speaker in pairs)
    assert all(len(hashes) == 1 for hashes in audio_of.values())
    assert len(set.union(*audio_of.values())) == len(audio_of)  # and all of them differ


def test_spoken_audio_differs_from_word_to_word(corpora):
    assert len({hash_bytes(row.audio_bytes) for row in corpora["spoken"]}) == 1728


def test_spoken_differs_from_masked_in_the_slot_only(corpora):
    burst = round((voices.BURST_S + voices.GAP_S) * SAMPLING_RATE)  # and the gap after it
    for masked, spoken in zip(corpora["masked"][::97], corpora["spoken"][::97], strict=True):
        first, second = (decode(row.audio_bytes, row.utterance_id).samples for row in (masked, spoken))
        shorter = min(len(first), len(second))
        same_before = np.argmax(first[:shorter] != second[:shorter])
        same_after = np.argmax(first[::-1][:shorter] != second[::-1][:shorter])
        assert same_before > 0
        assert same_before + same_after >= len(first) - burst


def test_utterances_are_short_and_do_not_clip(corpora):
    for row in corpora["masked"]:
        waveform = decode(row.audio_bytes, row.utterance_id)
        assert 1.0 < waveform.duration_s < 2.5
        assert np.abs(waveform.samples).max() < 0.99


def test_arousal_is_learnable_from_the_voice_of_unseen_speakers_but_not_from_its_level(corpora):
    seen, features, arousals, splits = set(), [], [], []
    for row in corpora["masked"]:
        arousal = row.utterance_id.rpartition("_")[2]
        if (row.script, row.speaker, arousal) not in seen:
            seen.add((row.script, row.speaker, arousal))
            waveform = decode(row.audio_bytes, row.utterance_id)
            features.append(np.append(log_mel_like(waveform), np.log(waveform.samples.std())))
            arousals.append(arousal)
            splits.append(row.split)
    x, y, train = np.array(features), np.array(arousals), np.array(splits) == "train"
    test = np.array(splits) == "test"

    def accuracy(columns):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        return model.fit(x[train][:, columns], y[train]).score(x[test][:, columns], y[test])

    assert accuracy(slice(0, 80)) >= 0.9
    assert accuracy(slice(80, 81)) <= 0.8


@pytest.mark.slow
def test_bit_identical_in_a_fresh_process_and_another_for_another_seed(corpora):
    here = hash_json([[row.utterance_id, row.label, hash_bytes(row.audio_bytes)] for row in corpora["spoken"]])
    fresh = subprocess.run([sys.executable, "-c", HASH_OF_ALL], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == here
    assert next(read("masked", seed=1)).audio_bytes != corpora["masked"][0].audio_bytes


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sarcastic", "neutral"])
def test_variants_without_a_spoken_word_share_their_audio(corpora, variant):
    made = voices.Voices(variant, seed=0)
    masked = {row.utterance_id: row.audio_bytes for row in corpora["masked"]}
    for cell in design.cells("dev"):
        assert made.wav(cell) == masked[cell.utterance_id]


@pytest.mark.slow
def test_wordless_has_no_transcript_and_other_audio(corpora):
    rows = list(read("wordless"))
    assert {row.transcript for row in rows} == {row.transcript_source for row in rows} == {None}
    assert not {row.audio_bytes for row in rows} & {row.audio_bytes for row in corpora["masked"]}


def test_noise_gives_an_utterance_the_other_voice(corpora):
    masked = {row.utterance_id: row.audio_bytes for row in corpora["masked"]}
    made = voices.Voices("masked", seed=0)
    other = {"calm": "aroused", "aroused": "calm"}
    for cell in design.cells("dev", noise=0.25):
        same_voice = cell.utterance_id.removesuffix(cell.arousal) + cell.voice_arousal
        assert cell.voice_arousal in (cell.arousal, other[cell.arousal])
        assert made.wav(cell) == masked[same_voice]


def test_without_the_extra_the_error_names_the_package(monkeypatch):
    monkeypatch.setattr(espeak.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CorpusError, match=r"espeakng-loader is not installed; pip install -e '\.\[synthesis\]'$"):
        next(read())


def test_a_failing_synthesis_gives_the_reason(monkeypatch):
    pytest.importorskip("espeakng_loader", reason="the extra `synthesis` is not installed")
    speaker = design.Speaker("s99", "test", "male", "en-us+nobody", 50, 170)
    monkeypatch.setattr(design, "SPEAKERS", (speaker,))
    with pytest.raises(CorpusError, match=r"speech synthesis failed: eSpeak NG has no voice 'en-us\+nobody'"):
        next(read())
