from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError
from lalm_mer.examples.feature_store import FeatureStore, feature_statistics
from lalm_mer.recognizers.baselines.acoustic import LogMelFeatures


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path, "corpus-a", LogMelFeatures())


def refuse(*_):
    raise AssertionError("computed what is stored")


def test_stored_once_and_read_back_by_another_run(store, tmp_path, examples, monkeypatch):
    expected = [store.extractor.extract(example) for example in examples]
    assert store.add(examples) == 16
    again = FeatureStore(tmp_path, "corpus-a", LogMelFeatures())
    monkeypatch.setattr(LogMelFeatures, "_compute", refuse)
    assert again.add(examples) == 0
    for example, frames in zip(examples, expected, strict=True):
        np.testing.assert_array_equal(again.frames(example), frames)
        np.testing.assert_array_equal(again.frames(dataclasses.replace(example, waveform=None)), frames)


def test_only_what_is_missing_is_computed(store, examples):
    store.add(examples[:5])
    assert store.missing(example.utterance_id for example in examples) == [e.utterance_id for e in examples[5:]]
    assert store.add(examples) == 11
    assert len(store) == 16


def test_key_holds_corpus_and_settings(store, tmp_path, examples):
    store.add(examples)
    assert len(FeatureStore(tmp_path, "corpus-b", LogMelFeatures())) == 0
    assert len(FeatureStore(tmp_path, "corpus-a", LogMelFeatures(bands=20))) == 0


def test_changed_audio_is_not_looked_up(store, examples):
    store.add(examples)
    swapped = dataclasses.replace(examples[0], waveform=examples[9].waveform)
    np.testing.assert_array_equal(store.frames(swapped), store.frames(examples[9]))


def test_absent_utterance_without_audio_is_an_error(store, examples):
    with pytest.raises(CorpusError, match="utterance u00: its features are not in"):
        store.frames(dataclasses.replace(examples[0], waveform=None))


def test_two_processes_store_the_same(store, tmp_path, examples):
    two = FeatureStore(tmp_path / "two", "corpus-a", LogMelFeatures())
    assert store.add(examples) == two.add(examples, processes=2) == 16
    for example in examples:
        np.testing.assert_array_equal(two.frames(example), store.frames(example))
    with pytest.raises(ConfigError, match="processes=0"):
        two.add(examples, processes=0)


def test_a_failure_halfway_leaves_nothing_that_looks_finished(store, tmp_path, examples):
    broken = dataclasses.replace(examples[4], waveform=Waveform(np.zeros(0, np.float32), 16_000))
    with pytest.raises(AudioError, match="utterance u04"):
        store.add([*examples[:4], broken])
    assert len(FeatureStore(tmp_path, "corpus-a", LogMelFeatures())) == 0
    assert not list(store.folder.glob("*.arrow")) + list(store.folder.glob(".*"))


def test_a_kill_halfway_leaves_nothing_that_looks_finished(store, tmp_path, examples):
    def killed_after_four():
        yield from examples[:4]
        os._exit(9)

    child = os.fork()
    if child == 0:
        store.add(killed_after_four())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    again = FeatureStore(tmp_path, "corpus-a", LogMelFeatures())
    assert len(again) == 0
    assert again.add(examples) == 16


def test_statistics_equal_numpy():
    generator = np.random.default_rng(1)
    sequences = [generator.normal(1000, 3, (n, 4)).astype(np.float32) for n in (3, 50, 7)]
    mean, std = feature_statistics(sequences, 4)
    whole = np.concatenate(sequences).astype(np.float64)
    np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, whole.std(0), rtol=1e-9)
    with pytest.raises(CorpusError, match="train split empty"):
        feature_statistics([], 4)
