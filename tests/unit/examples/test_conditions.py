from collections import Counter

import numpy as np
import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.examples.conditions import SwappedAudio, derangement
from lalm_mer.examples.dataset import InputDataset
from lalm_mer.protocols.protocol import FoldRule, InlineTask, Protocol

TASK = Protocol(
    "p", 1, "here", FoldRule("grouped", "speaker", k=2), disjoint_in=["speaker"],
    inline_task=InlineTask("two", {"happy": ["happy"], "sad": ["sad"]}),
).resolve_task({})  # fmt: skip


@pytest.fixture
def examples(tmp_path, tone, examples_of_rows):
    """A function that makes examples with different audio."""

    def make(rate=8000):
        rows = [
            Utterance(
                utterance_id=f"u{number}", corpus="toy", audio_path=f"u{number}.wav",
                audio_bytes=tone(seconds=0.1 + 0.05 * number, hertz=100 + 50 * number),
                transcript=f"It is {number}.", speaker=f"s{number % 2}", label=("happy", "sad")[number % 2],
            )
            for number in range(7)
        ]  # fmt: skip
        write_corpus(rows, corpus="toy", out_dir=tmp_path / f"toy{rate}", loader_version="1", synthetic=True)
        return examples_of_rows(load(tmp_path / f"toy{rate}").dataset, list(range(7)), TASK, rate)

    return make


def test_inputs_keep_all_but_their_audio(examples):
    plain = examples()
    swapped = SwappedAudio(plain, seed=0)
    assert len(swapped) == 7
    for own, changed in zip(InputDataset(plain), swapped, strict=True):
        assert changed.utterance_id == own.utterance_id
        assert (changed.speaker, changed.transcript, changed.context) == (own.speaker, own.transcript, own.context)
        assert len(changed.waveform.samples) != len(own.waveform.samples)
    lengths = [[len(given.waveform.samples) for given in inputs] for inputs in (InputDataset(plain), swapped)]
    assert sorted(lengths[0]) == sorted(lengths[1])
    assert swapped.lengths() == pytest.approx(
        [25 * samples / 8000 + len(given.transcript) / 4 for samples, given in zip(lengths[1], swapped, strict=True)]
    )


def test_the_audio_is_that_of_the_recorded_source(examples):
    plain = examples()
    swapped = SwappedAudio(plain, seed=3)
    for index, source in enumerate(swapped.sources):
        np.testing.assert_array_equal(swapped[index].waveform.samples, plain[source].input.waveform.samples)


def test_audio_comes_only_from_the_selected_examples(examples):
    chosen = [0, 2, 5]
    swapped = SwappedAudio(examples().select(chosen), seed=1)
    allowed = {len(examples()[index].input.waveform.samples) for index in chosen}
    assert {len(given.waveform.samples) for given in swapped} == allowed


def test_examples_without_audio_are_refused(examples):
    with pytest.raises(ConfigError, match=r"argument 'examples': no audio to swap; choose a prompt with an audio slot"):
        SwappedAudio(examples().without_waveforms(), seed=0)
    with pytest.raises(ConfigError, match="'count': 1; swapping audio needs two or more utterances"):
        SwappedAudio(examples().select([0]), seed=0)


def test_a_derangement_has_no_fixed_point_and_depends_on_the_seed():
    for count in (2, 3, 50):
        for seed in range(20):
            order = derangement(count, seed)
            assert sorted(order) == list(range(count))
            assert all(place != index for index, place in enumerate(order))
    assert derangement(50, 4) == derangement(50, 4) != derangement(50, 5)


def test_all_derangements_are_equally_likely():
    found = Counter(tuple(derangement(4, seed)) for seed in range(3600))
    assert len(found) == 9
    assert min(found.values()) > 400 - 5 * 19  # of 400, standard deviation 19


def test_a_perfect_audio_recognizer_falls_to_chance():
    truth = np.arange(240) % 8
    hits = [(truth[derangement(240, seed)] == truth).mean() for seed in range(200)]
    assert np.mean(hits) == pytest.approx((240 / 8 - 1) / 239, abs=0.006)
