from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import FeatureStore, feature_statistics
from lalm_mer.models.encoders.spectra import LogMel


@pytest.fixture
def inputs():
    """Synthetic tones of different lengths."""
    made = []
    for number in range(16):
        time = np.arange(3200 + 800 * number) / 16_000
        samples = 0.3 * np.sin(2 * np.pi * (150 + 20 * number) * time)
        made.append(
            Input(f"u{number:02d}", None, Waveform(samples.astype(np.float32), 16_000), audio_sha256=f"a{number:02d}")
        )
    return made


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path, LogMel())


def refuse(*_):
    raise AssertionError("computed what is stored")


def test_stored_once_and_read_back_by_another_run(store, tmp_path, inputs, monkeypatch):
    expected = [store.extractor.extract(given) for given in inputs]
    assert store.add(inputs) == 16
    again = FeatureStore(tmp_path, LogMel())
    monkeypatch.setattr(LogMel, "_compute", refuse)
    assert again.add(inputs) == 0
    for given, frames in zip(inputs, expected, strict=True):
        np.testing.assert_array_equal(again.frames(given), frames)
        np.testing.assert_array_equal(again.frames(dataclasses.replace(given, waveform=None)), frames)


def test_only_what_is_missing_is_computed(store, inputs):
    store.add(inputs[:5])
    light = [dataclasses.replace(given, waveform=None) for given in inputs]
    assert store.missing([*light, light[-1]]) == list(range(5, 16))
    assert store.add(inputs) == 11
    assert len(store) == 16


def test_the_key_depends_on_the_settings(store, tmp_path, inputs):
    store.add(inputs)
    assert len(FeatureStore(tmp_path, LogMel(bands=20))) == 0


def test_changed_audio_is_neither_looked_up_nor_stored(store, inputs):
    store.add(inputs)
    changed = dataclasses.replace(inputs[0], waveform=inputs[9].waveform, audio_sha256=None)
    np.testing.assert_array_equal(store.frames(changed), store.frames(inputs[9]))
    assert store.add([changed]) == 0


def test_the_same_audio_under_another_id_is_stored_once(store, inputs):
    again = [dataclasses.replace(given, utterance_id=f"copy of {given.utterance_id}") for given in inputs]
    assert store.add([*inputs, *again]) == 16
    np.testing.assert_array_equal(store.frames(again[3]), store.frames(inputs[3]))


def test_absent_utterance_without_audio_is_an_error(store, inputs):
    with pytest.raises(AudioError, match="utterance u00: no waveform"):
        store.frames(dataclasses.replace(inputs[0], waveform=None))
    with pytest.raises(CorpusError, match="features of a00 are not in"):
        store["a00"]


def test_two_processes_store_the_same(store, tmp_path, inputs):
    two = FeatureStore(tmp_path / "two", LogMel())
    assert store.add(inputs) == two.add(inputs, processes=2) == 16
    for given in inputs:
        np.testing.assert_array_equal(two.frames(given), store.frames(given))
    with pytest.raises(ConfigError, match="processes=0"):
        two.add(inputs, processes=0)


def test_after_a_failure_nothing_looks_finished(store, tmp_path, inputs):
    broken = dataclasses.replace(inputs[4], waveform=Waveform(np.zeros(0, np.float32), 16_000))
    with pytest.raises(AudioError, match="utterance u04"):
        store.add([*inputs[:4], broken])
    assert len(FeatureStore(tmp_path, LogMel())) == 0
    assert not list(store.folder.glob("*.arrow")) + list(store.folder.glob(".*"))


def test_after_a_kill_nothing_looks_finished(store, tmp_path, inputs):
    def killed_after_four():
        yield from inputs[:4]
        os._exit(9)

    child = os.fork()
    if child == 0:
        store.add(killed_after_four())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    again = FeatureStore(tmp_path, LogMel())
    assert len(again) == 0
    assert again.add(inputs) == 16


def test_statistics_equal_numpy():
    generator = np.random.default_rng(1)
    sequences = [generator.normal(1000, 3, (n, 4)).astype(np.float32) for n in (3, 50, 7)]
    mean, std = feature_statistics(sequences, 4)
    joined = np.concatenate(sequences).astype(np.float64)
    np.testing.assert_allclose(mean, joined.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, joined.std(0), rtol=1e-9)
    with pytest.raises(CorpusError, match="train split empty"):
        feature_statistics([], 4)
