import dataclasses
import hashlib
import multiprocessing
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.examples.augmentation import (
    Augmentation,
    AugmentSettings,
    GainSettings,
    Mp3Settings,
    NoiseSettings,
    ReverbSettings,
    SpeedSettings,
)
from lalm_mer.examples.augmented_examples import AugmentedExamples

RATE = 16_000
EVERYTHING = AugmentSettings(
    SpeedSettings(p=0.7), ReverbSettings(p=0.7), NoiseSettings(p=0.7, color="random"), GainSettings(p=0.7),
    Mp3Settings(p=0.7),
)  # fmt: skip
SINGLE = {
    "speed": AugmentSettings(speed=SpeedSettings(p=1)),
    "reverb": AugmentSettings(reverb=ReverbSettings(p=1)),
    "white": AugmentSettings(noise=NoiseSettings(p=1)),
    "random": AugmentSettings(noise=NoiseSettings(p=1, color="random")),
    "gain": AugmentSettings(gain=GainSettings(p=1)),
    "mp3": AugmentSettings(mp3=Mp3Settings(p=1)),
}


def sound(seconds=0.6, level=0.2, hertz=200.0):
    time = np.arange(round(seconds * RATE)) / RATE
    samples = np.sin(2 * np.pi * hertz * time) * np.sin(np.pi * time / seconds)
    return Waveform((level * samples).astype(np.float32), RATE)


def rms(samples):
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def recording(folder, name, samples, rate=RATE):
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / name, samples, rate)
    return str(folder)


@pytest.fixture(scope="module")
def examples(tmp_path_factory, examples_of_rows):
    """Eight synthetic utterances, sampled at 16 kHz."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "audio").mkdir()
    rows = []
    for number in range(8):
        path = folder / "audio" / f"u{number}.wav"
        soundfile.write(path, sound(hertz=150 + 20 * number).samples, RATE)
        rows.append(
            Utterance(
                utterance_id=f"u{number}", corpus="toy", audio_path=path.name, audio_bytes=path.read_bytes(),
                transcript="words", speaker=f"s{number % 2}", label=("happy", "sad")[number % 2],
            )
        )  # fmt: skip
    write_corpus(rows, corpus="toy", out_dir=folder / "prepared", loader_version="1", synthetic=True)
    task = Task("two", LabelSet(("happy", "sad")), {"happy": "happy", "sad": "sad"})
    return examples_of_rows(load(folder / "prepared").dataset, list(range(8)), task, RATE)


def waveforms(examples):
    return [example.input.waveform.samples for example in examples]


def same(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def as_they_are(batch):
    """A collator for worker processes."""
    return [(each.input.utterance_id, torch.from_numpy(each.input.waveform.samples.copy())) for each in batch]


@pytest.mark.parametrize("name", SINGLE)
def test_each_augmentation_changes_samples_and_keeps_type_and_rate(name):
    clip = sound()
    changed = Augmentation(SINGLE[name])(clip, "key")
    assert changed.sampling_rate == RATE
    assert changed.samples.dtype == np.float32
    assert np.isfinite(changed.samples).all()
    assert not np.array_equal(changed.samples, clip.samples)
    assert np.abs(changed.samples).max() <= 1
    if name != "speed":
        assert changed.samples.shape == clip.samples.shape
    if name in ("reverb", "mp3"):
        assert rms(changed.samples) == pytest.approx(rms(clip.samples), rel=1e-3)


@pytest.mark.parametrize("samples", [np.zeros(4000, np.float32), np.ones(3, np.float32), sound(0.05).samples])
def test_silent_and_very_short_clips_stay_finite(samples):
    settings = AugmentSettings(
        *(dataclasses.replace(getattr(EVERYTHING, f.name), p=1) for f in dataclasses.fields(EVERYTHING))
    )
    changed = Augmentation(settings)(Waveform(samples, RATE), "key")
    assert np.isfinite(changed.samples).all()
    assert len(changed.samples) > 0


def test_nothing_is_on_by_default_and_nothing_changes():
    clip = sound()
    assert AugmentSettings().active == ()
    assert Augmentation(AugmentSettings())(clip, "key") is clip


def test_noise_has_the_requested_signal_to_noise_ratio():
    clip = sound(2.0)
    for color in ("white", "random"):
        change = Augmentation(AugmentSettings(noise=NoiseSettings(p=1, min_snr_db=10, max_snr_db=10, color=color)))
        noise = change(clip, "key").samples - clip.samples
        assert 20 * np.log10(rms(clip.samples) / rms(noise)) == pytest.approx(10, abs=0.3)


def test_recorded_noise_is_repeated_and_resampled_to_fill_the_clip(tmp_path):
    random_ = np.random.default_rng(0)
    folder = recording(tmp_path / "noises", "hum.wav", 0.1 * random_.standard_normal(2_000), rate=8_000)
    clip = sound(1.0)
    settings = NoiseSettings(p=1, min_snr_db=6, max_snr_db=6, folder=folder)
    noise = Augmentation(AugmentSettings(noise=settings))(clip, "key").samples - clip.samples
    assert 20 * np.log10(rms(clip.samples) / rms(noise)) == pytest.approx(6, abs=0.3)
    assert rms(noise[-1000:]) > 0.3 * rms(noise)


def test_a_clip_is_convolved_with_recorded_impulse_responses(tmp_path):
    response = np.zeros(2_000)
    response[[0, 1_600]] = 0.5, 0.25
    folder = recording(tmp_path / "rooms", "echo.wav", response)
    clip = sound()
    changed = Augmentation(AugmentSettings(reverb=ReverbSettings(p=1, folder=folder)))(clip, "key").samples
    echoed = clip.samples + 0.5 * np.concatenate([np.zeros(1_600, np.float32), clip.samples[:-1_600]])
    expected = echoed * rms(clip.samples) / rms(echoed)
    assert np.abs(changed - expected).max() <= 1e-4 * np.abs(expected).max()


def test_slow_clips_are_longer_by_the_rate_and_lower():
    clip = sound(1.0, hertz=400)
    slow = Augmentation(AugmentSettings(speed=SpeedSettings(p=1, min_rate=0.8, max_rate=0.8)))(clip, "key")
    assert slow.duration_s == pytest.approx(1 / 0.8, abs=1e-3)
    spectrum = np.abs(np.fft.rfft(slow.samples))
    assert spectrum.argmax() / slow.duration_s == pytest.approx(400 * 0.8, abs=2)


def test_a_clip_too_loud_is_scaled_down_and_not_clipped():
    clip = sound(level=0.9)
    loud = Augmentation(AugmentSettings(gain=GainSettings(p=1, min_gain_db=6, max_gain_db=6)))(clip, "key").samples
    assert np.abs(loud).max() == pytest.approx(1, abs=1e-6)
    assert np.abs(loud - clip.samples / np.abs(clip.samples).max()).max() <= 1e-6  # of a largest value of 1


def test_draws_depend_on_the_key_only_and_random_states_are_restored():
    clip, change = sound(), Augmentation(EVERYTHING)
    random.seed(1)
    np.random.seed(1)
    first = [change(clip, f"key {number}").samples for number in range(6)]
    assert random.random() == random.Random(1).random()
    assert np.random.random() == np.random.RandomState(1).random_sample()
    again = [Augmentation(EVERYTHING)(clip, f"key {number}").samples for number in reversed(range(6))]
    assert same(first, again[::-1])
    assert len({samples.tobytes() for samples in first}) == 6


@pytest.mark.slow
def test_another_process_draws_the_same():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_augmentation import Augmentation, EVERYTHING, sound\n"
        "import hashlib\n"
        "augment = Augmentation(EVERYTHING)\n"
        "print([hashlib.sha256(augment(sound(), f'key {n}').samples.tobytes()).hexdigest() for n in range(4)])\n"
    )
    folder = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    augment = Augmentation(EVERYTHING)
    here = [hashlib.sha256(augment(sound(), f"key {n}").samples.tobytes()).hexdigest() for n in range(4)]
    assert done.stdout == f"{here}\n"


def test_each_epoch_is_drawn_separately_and_reproducibly(examples):
    train = AugmentedExamples(examples, Augmentation(EVERYTHING), seed=0)
    first = waveforms(train)
    train.set_epoch(1)
    second = waveforms(train)
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True) if len(a) == len(b))
    train.set_epoch(0)
    assert same(waveforms(train), first)
    assert not same(waveforms(AugmentedExamples(examples, Augmentation(EVERYTHING), seed=1)), first)
    assert [example.input.utterance_id for example in train] == list(train.utterances()["utterance_id"])
    assert train.truths() == examples.truths()
    assert train.durations_s() == examples.durations_s()


def test_the_examples_themselves_never_change(examples):
    """Dev and test use the same examples, which the augmentation of the training split does not change."""
    before = waveforms(examples)
    train = AugmentedExamples(examples, Augmentation(EVERYTHING), seed=0)
    train.set_epoch(3)
    waveforms(train)
    assert same(waveforms(examples), before)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("workers", [0, 2])
def test_persistent_workers_use_the_new_epoch(examples, workers, start):
    train = AugmentedExamples(examples, Augmentation(EVERYTHING), seed=0)
    expected = []
    for epoch in range(3):
        train.set_epoch(epoch)
        expected.append(waveforms(train))
    train.set_epoch(0)
    context = multiprocessing.get_context(start) if workers else None
    loader = DataLoader(
        train, batch_size=2, num_workers=workers, persistent_workers=workers > 0, collate_fn=as_they_are,
        multiprocessing_context=context,
    )  # fmt: skip
    for epoch in range(3):
        train.set_epoch(epoch)
        found = [samples.numpy() for batch in loader for _, samples in batch]
        assert same(found, expected[epoch])


def test_repeats_of_an_utterance_differ_and_the_first_is_as_without_repeats(examples):
    train = AugmentedExamples(examples.select([0, 1, 0]), Augmentation(SINGLE["white"]), seed=0)
    first, other, repeat = waveforms(train)
    assert not np.array_equal(first, repeat)
    assert same(waveforms(AugmentedExamples(examples, Augmentation(SINGLE["white"]), seed=0))[:2], [first, other])


def test_examples_without_a_waveform_are_unchanged(examples):
    without_audio = examples.without_waveforms()
    train = AugmentedExamples(without_audio, Augmentation(EVERYTHING), seed=0)
    assert list(train) == list(without_audio)
    assert {example.input.waveform for example in train} == {None}


def test_utterances_near_the_limit_keep_their_speed(examples):
    settings = AugmentSettings(speed=SpeedSettings(p=1, min_rate=0.5, max_rate=0.6))

    def refuses(duration_s):
        return "too long" if duration_s > 1.1 else None

    bound = AugmentedExamples(examples, Augmentation(settings), seed=0, refuses=refuses)
    assert bound.unchanged_speed == {f"u{number}" for number in range(8)}
    assert same(waveforms(bound), waveforms(examples))
    free = AugmentedExamples(examples, Augmentation(settings), seed=0, refuses=lambda duration_s: None)
    assert free.unchanged_speed == frozenset()
    assert min(example.input.waveform.duration_s for example in free) > 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gain": GainSettings(p=1.5)}, "argument 'gain.p': 1.5; expected 0 to 1$"),
        ({"speed": SpeedSettings(min_rate=1.2)}, "'speed.min_rate': 1.2; expected at most max_rate, which is 1.1"),
        ({"reverb": ReverbSettings(min_rt60_s=0.01)}, "argument 'reverb.min_rt60_s': 0.01; expected 0.15 to 2$"),
        ({"mp3": Mp3Settings(min_bitrate_kbps=17)}, r"'mp3.min_bitrate_kbps': 17; expected one of 8, 16, .*320$"),
        ({"noise": NoiseSettings(color="pink")}, "argument 'noise.color': 'pink'; expected white or random$"),
        ({"noise": NoiseSettings(p=1, folder="nowhere")}, "'noise.folder': no .wav.* file in nowhere"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(AugmentSettings(**settings))


def test_empty_or_silent_recordings_are_named(tmp_path):
    silent = recording(tmp_path / "silent", "zeros.wav", np.zeros(100))
    with pytest.raises(ConfigError, match=r"reverb.folder': .*zeros.wav is empty or silent"):
        Augmentation(AugmentSettings(reverb=ReverbSettings(p=1, folder=silent)))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(ConfigError, match=r"noise.folder': .*a.wav cannot be read"):
        Augmentation(AugmentSettings(noise=NoiseSettings(p=1, folder=str(tmp_path / "torn"))))


@pytest.mark.parametrize(
    ("package", "name"), [("audiomentations", "gain"), ("fast_mp3_augment", "mp3"), ("pyroomacoustics", "reverb")]
)
def test_a_missing_package_is_named_with_its_install_command(monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}; pip install -e '\.\[augment\]'"):
        Augmentation(SINGLE[name])
    Augmentation(AugmentSettings())


def test_mp3_at_an_unsupported_rate_is_refused():
    with pytest.raises(ConfigError, match="no MP3 at 7000 Hz"):
        Augmentation(SINGLE["mp3"])(Waveform(sound().samples, 7_000), "key")


def test_an_augmentation_is_picklable_and_its_digest_depends_on_the_recordings(tmp_path):
    folder = recording(tmp_path / "noises", "a.wav", np.full(100, 0.1))
    settings = AugmentSettings(noise=NoiseSettings(p=1, folder=folder))
    change = Augmentation(settings)
    clip = sound()
    before = change(clip, "key").samples
    copy = pickle.loads(pickle.dumps(change))  # noqa: S301 our own bytes
    assert np.array_equal(copy(clip, "key").samples, before)
    digest = change.digest()
    assert Augmentation(settings).digest() == digest
    recording(tmp_path / "noises", "b.wav", np.full(100, 0.1))
    assert Augmentation(settings).digest() != digest
