import dataclasses
from statistics import fmean, median

import numpy as np
import pytest

from lalm_mer.core.audio import Waveform, decode, encode
from lalm_mer.core.errors import AudioError, CorpusError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.examples import feature_store
from lalm_mer.examples.dataset import ExampleSource, InputDataset
from lalm_mer.examples.descriptors import Measures, Terciles, describe_corpus, describe_voice, measure
from lalm_mer.protocols.folded_corpus import fold_corpus
from lalm_mer.protocols.protocol import FoldRule, InlineTask, Protocol

RATE = 16_000


def wave(hertz, seconds=1.0, level=0.5, rate=RATE, harmonics=1):
    """A tone; of several harmonics the lower ones are stronger."""
    time_s = np.arange(round(seconds * rate)) / rate
    partials = [np.sin(2 * np.pi * hertz * n * time_s) / n for n in range(1, harmonics + 1)]
    return Waveform((level * sum(partials)).astype(np.float32), rate)


def bursts(per_s, seconds=4.0, depth=1.0):
    """Noise whose level rises and falls the given number of times per second."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    swell = 1 - depth * (1 + np.cos(2 * np.pi * per_s * time_s)) / 2
    return Waveform((0.1 * swell * np.random.default_rng(0).normal(size=len(time_s))).astype(np.float32), RATE)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("hertz", [80.0, 110.0, 215.5, 330.0, 590.0])
def test_the_pitch_of_a_tone_is_found_at_any_rate(hertz, rate):
    assert measure(wave(hertz, rate=rate)).pitch_hz == pytest.approx(hertz, rel=2e-3)


@pytest.mark.parametrize("hertz", [80.0, 150.0, 290.0])
def test_the_pitch_is_the_fundamental_not_a_harmonic_or_half_of_it(hertz):
    assert measure(wave(hertz, level=0.2, harmonics=12)).pitch_hz == pytest.approx(hertz, rel=5e-3)


def test_pitch_is_the_median_of_the_voiced_frames():
    high, low, noise = wave(300, 0.6), wave(120, 1.0), bursts(0, 3.0, depth=0.0)
    mixed = np.concatenate([high.samples, noise.samples, low.samples])
    assert measure(Waveform(mixed, RATE)).pitch_hz == pytest.approx(120, rel=1e-2)


def test_noise_has_no_pitch():
    assert measure(bursts(4)).pitch_hz is None


@pytest.mark.parametrize("level", [1.0, 0.5, 0.01])
def test_energy_is_the_root_mean_square_of_the_frames_that_are_not_silent(level):
    tone = wave(200, 2.0, level)
    expected = 20 * np.log10(level / np.sqrt(2))
    assert measure(tone).energy_db == pytest.approx(expected, abs=0.1)
    silence = np.zeros(3 * RATE, np.float32)
    padded = Waveform(np.concatenate([silence, tone.samples, silence]), RATE)
    assert measure(padded).energy_db == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize("per_s", [2, 3, 4, 5, 6, 8])
def test_the_rate_of_modulated_noise_is_found(per_s):
    assert measure(bursts(per_s)).rate_per_s == pytest.approx(per_s, rel=0.03)


def test_a_pause_lowers_the_rate_and_silence_at_the_ends_does_not():
    silence, speech = np.zeros(2 * RATE, np.float32), bursts(5).samples
    padded = Waveform(np.concatenate([silence, speech, silence]), RATE)
    assert measure(padded).rate_per_s == pytest.approx(5, rel=0.05)
    paused = Waveform(np.concatenate([speech, silence, speech]), RATE)
    assert measure(paused).rate_per_s == pytest.approx(5 * 8 / 10, rel=0.05)


@pytest.mark.parametrize("hertz", [80, 100, 250, 440])
def test_a_steady_voice_is_one_nucleus(hertz):
    assert measure(wave(hertz)).rate_per_s == pytest.approx(1, rel=0.05)


def test_a_dip_of_less_than_two_decibels_separates_no_nuclei():
    assert measure(bursts(4, depth=0.95)).rate_per_s == pytest.approx(4, rel=0.05)
    time_s = np.arange(2 * RATE) / RATE
    level = 10 ** (-1.5 * (1 - np.cos(2 * np.pi * 4 * time_s)) / 2 / 20)
    shallow = Waveform((wave(200, 2.0).samples * level).astype(np.float32), RATE)
    assert measure(shallow).rate_per_s == pytest.approx(0.5, rel=0.05)


def test_silence_has_no_measures():
    silent = measure(Waveform(np.zeros(RATE, np.float32), RATE))
    assert silent == Measures(None, None, None)
    terciles = Terciles((1.0, 2.0), (1.0, 2.0), (1.0, 2.0), 3, 3)
    assert describe_voice(silent, terciles) == "pitch not heard, energy not heard, speaking rate not heard"
    with pytest.raises(AudioError, match="no samples"):
        measure(Waveform(np.zeros(0, np.float32), RATE))


@pytest.mark.parametrize("samples", [1, 5, 100, 639, 640, 641, 1600])
def test_a_very_short_clip_is_measured(samples):
    found = measure(Waveform(np.full(samples, 0.1, np.float32), RATE))
    assert found.energy_db is not None
    assert all(np.isfinite(value) for value in vars(found).values() if value is not None)


def voices(*pitches):
    return [Measures(pitch, -20.0, 4.0) for pitch in pitches]


def test_a_third_each_is_low_medium_and_high():
    rows = voices(*map(float, range(1, 10)))
    terciles = Terciles.of(rows, [str(row) for row in range(9)])
    words = [describe_voice(row, terciles).split(",")[0] for row in rows]
    assert words == ["pitch low"] * 3 + ["pitch medium"] * 3 + ["pitch high"] * 3


def test_speakers_have_equal_weight():
    few = Terciles.of(voices(100.0, 200.0, 300.0), ["a", "b", "c"])
    many = Terciles.of(voices(*[100.0] * 50, 200.0, 200.0, 300.0), [*["a"] * 50, "b", "b", "c"])
    assert many.pitch_hz == few.pitch_hz == (100.0, 200.0)
    assert (many.n_utterances, many.n_speakers) == (53, 3)
    unknown = Terciles.of(voices(*[100.0] * 50, 200.0, 300.0), [None] * 52)
    assert unknown.pitch_hz == (100.0, 100.0)
    assert unknown.n_speakers == 52


def test_an_unvoiced_utterance_has_no_weight_in_pitch():
    rows = [*voices(100.0, 200.0, 300.0), *[Measures(None, -90.0, 4.0)] * 3]
    terciles = Terciles.of(rows, ["a", "b", "c", "a", "a", "a"])
    assert terciles.pitch_hz == (100.0, 200.0)
    assert describe_voice(rows[-1], terciles) == "pitch not heard, energy low, speaking rate low"


def test_a_measure_that_no_utterance_has_is_an_error():
    with pytest.raises(CorpusError, match=r"^pitch: none of 2 training utterances"):
        Terciles.of([Measures(None, -20.0, 4.0)] * 2, ["a", "b"])
    with pytest.raises(CorpusError, match="none of 0 training"):
        Terciles.of([], [])


def test_the_digest_follows_the_thresholds():
    terciles = Terciles.of(voices(100.0, 200.0, 300.0), ["a", "b", "c"])
    assert terciles.digest == Terciles.of(voices(100.0, 200.0, 300.0), ["a", "b", "c"]).digest
    assert terciles.digest != dataclasses.replace(terciles, energy_db=(-30.0, -20.0)).digest


PROTOCOL = Protocol(
    "p", 1, "tests", FoldRule("grouped", "speaker", k=3), ["speaker"],
    inline_task=InlineTask("two", {"happy": ["happy"], "sad": ["sad"]}),
)  # fmt: skip

BY_SESSION = dataclasses.replace(PROTOCOL, folds=FoldRule("grouped", "session", k=3), disjoint_in=["session"])


@pytest.fixture
def source(tmp_path):
    """A function that makes a source: six synthetic speakers of rising pitch, one with an utterance without audio."""

    def make(name="toy", speakers=True, **pitches):
        rows = [
            Utterance(
                utterance_id=f"s{speaker}_{label}", corpus="toy", audio_path=f"s{speaker}_{label}.flac", label=label,
                audio_bytes=encode(wave(pitches.get(f"s{speaker}_{label}", 100 + 50 * speaker), 0.5)),
                speaker=f"s{speaker}" if speakers else None, session=f"s{speaker}",
                transcript=f"{speaker} says so.", transcript_source="human",
            )
            for speaker in range(6) for label in ("happy", "sad")
        ]  # fmt: skip
        rows.append(Utterance(utterance_id="s0_mute", corpus="toy", label="sad", speaker="s0", session="s0"))
        write_corpus(
            rows, corpus="toy", out_dir=tmp_path / name, loader_version="1", synthetic=True, keep_missing_audio=True,
            processes=1,
        )  # fmt: skip
        return ExampleSource(fold_corpus(load(tmp_path / name), PROTOCOL if speakers else BY_SESSION))

    return make


def test_only_training_utterances_define_the_terciles(source, tmp_path):
    plain = source()
    train, test = plain.folded.folds.ids(1, "train"), plain.folded.folds.ids(1, "test")
    audible = [name for name in test if name != "s0_mute"]
    found = describe_corpus(plain, train, tmp_path / "cache", processes=1)
    extreme = source("extreme", **dict.fromkeys(audible, 590))
    moved = describe_corpus(extreme, train, tmp_path / "cache", processes=1)
    assert moved.terciles == found.terciles
    assert moved.terciles.digest == found.terciles.digest
    assert all(moved.by_id[name].startswith("pitch high") for name in audible)
    assert {moved.by_id[name] for name in train if name != "s0_mute"} == {
        found.by_id[name] for name in train if name != "s0_mute"
    }
    other = describe_corpus(extreme, extreme.folded.folds.ids(2, "train"), tmp_path / "cache", processes=1)
    assert other.terciles.digest != moved.terciles.digest


def test_every_utterance_with_audio_is_described_and_the_others_are_not(source, tmp_path):
    toy = source()
    train = toy.folded.folds.ids(1, "train")
    found = describe_corpus(toy, [*train, *train], tmp_path / "cache", processes=1)
    assert sorted(found.by_id) == sorted(toy.folded.with_audio)
    assert "s0_mute" not in found.by_id
    assert found.terciles.n_utterances == len(set(train) - {"s0_mute"})
    for given in InputDataset(toy.examples_of(toy.folded.with_audio, RATE)):
        assert measure(given.waveform) == found.measures[given.utterance_id]
        assert describe_voice(measure(given.waveform), found.terciles) == found.by_id[given.utterance_id]


def test_an_utterance_of_an_unknown_speaker_counts_as_a_separate_speaker(source, tmp_path):
    toy = source(speakers=False)
    train = [name for name in toy.folded.folds.ids(1, "train") if name != "s0_mute"]
    terciles = describe_corpus(toy, train, tmp_path / "cache", processes=1).terciles
    assert terciles.n_speakers == terciles.n_utterances == len(train)


@pytest.mark.slow
def test_measures_are_stored_for_other_folds_and_runs(source, tmp_path, monkeypatch):
    toy = source()
    first = describe_corpus(toy, toy.folded.folds.ids(1, "train"), tmp_path / "cache", processes=2)

    def measured_again(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(feature_store, "_row", measured_again)
    again = describe_corpus(toy, toy.folded.folds.ids(1, "train"), tmp_path / "cache", processes=1)
    assert (again.by_id, again.terciles.digest) == (first.by_id, first.terciles.digest)
    describe_corpus(toy, toy.folded.folds.ids(2, "train"), tmp_path / "cache", processes=1)
    with pytest.raises(AssertionError, match="measured again"):
        describe_corpus(source("other", s1_sad=333), toy.folded.folds.ids(1, "train"), tmp_path / "cache", processes=1)


def test_anger_is_louder_than_sadness_and_women_speak_higher(shared_data):
    """RAVDESS: the first repetition of both sentences at normal and strong intensity."""
    energy, pitch, rates = {"angry": [], "sad": []}, {"male": [], "female": []}, []
    for path in sorted((shared_data / "ravdess").glob("Actor_*/03-01-0[45]-*-*-01-*.flac")):
        fields = path.stem.split("-")
        found = measure(decode(path.read_bytes(), path.name))
        energy["angry" if fields[2] == "05" else "sad"].append(found.energy_db)
        pitch["female" if int(fields[6]) % 2 == 0 else "male"].append(found.pitch_hz)
        rates.append(found.rate_per_s)
    assert [len(values) for values in (*energy.values(), *pitch.values())] == [96] * 4
    assert fmean(energy["angry"]) > fmean(energy["sad"]) + 5
    assert median(pitch["female"]) > 1.3 * median(pitch["male"])
    assert 2 < median(rates) < 8
