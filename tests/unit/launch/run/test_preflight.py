"""The utterances and the device of the preflight."""

import numpy as np
import pandas as pd
import pytest
import torch

from lalm_mer.core.audio import Waveform
from lalm_mer.core.schema import Example, Input
from lalm_mer.launch.config.sections import ScoringSettings
from lalm_mer.launch.run.engine import run_device
from lalm_mer.launch.run.preflight import _choose, _longest


class Rows:
    """Examples of a list of (name, seconds, transcript, samples); counts those that were opened."""

    def __init__(self, *rows):
        self.rows, self.opened = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.opened += 1
        name, _, transcript, samples = self.rows[index]
        return Example(Input(name, transcript, None if samples is None else Waveform(samples, 100), "s"), "sad")

    def durations_s(self):
        return [seconds for _, seconds, _, _ in self.rows]

    def utterances(self):
        return pd.DataFrame([(row[0], row[2]) for row in self.rows], columns=["utterance_id", "transcript"])


def noise(seconds, seed):
    return np.random.default_rng(seed).normal(size=round(100 * seconds)).astype(np.float32)


def row(name, seconds, transcript="said", seed=None):
    seed = sum(map(ord, name)) if seed is None else seed
    return name, seconds, transcript, noise(seconds, seed)


def names(rows, **options):
    used = {"uses_audio": True, "uses_transcript": True} | options
    return [example.input.utterance_id for example in _choose(rows, **used)]


def test_the_shortest_of_different_durations_are_chosen_except_very_short_ones():
    rows = Rows(*(row(f"u{number}", seconds) for number, seconds in enumerate([9, 3, 0.2, 1, 1, 2, 0.5, 0.5])))
    assert names(rows, uses_transcript=False) == ["u6", "u3", "u5", "u1"]
    assert names(Rows(row("a", 0.2), row("b", 0.3), row("c", 0.6)), uses_transcript=False) == ["c", "a", "b"]


def test_utterances_without_audio_are_not_chosen_if_audio_is_used():
    rows = Rows(("mute", None, "said", None), row("a", 1), row("b", 2))
    assert names(rows) == ["a", "b"]
    assert "mute" in names(rows, uses_audio=False)


def test_transcripts_differ_if_there_are_different_ones():
    rows = Rows(*(row(f"u{number}", 1 + number, said) for number, said in enumerate(["a", "a", "a", "b", "b", "b"])))
    transcripts = [rows[int(name[1])].input.transcript for name in names(rows)]
    assert sorted(transcripts) == ["a", "a", "b", "b"]
    assert names(rows, uses_transcript=False) == ["u0", "u1", "u2", "u3"]


def test_no_utterance_is_chosen_twice_if_there_are_others():
    once = row("again", 1)
    assert names(Rows(once, once, once, row("b", 2), row("c", 3), row("d", 4))) == ["again", "b", "c", "d"]


def test_silence_and_repeated_audio_are_not_chosen():
    silent = ("silent", 1.0, "x", np.zeros(100, np.float32))
    hum = ("hum", 1.1, "y", np.full(110, 0.2, np.float32))
    rows = Rows(silent, hum, row("a", 1.2, seed=1), row("longer_a", 1.3, seed=1), row("b", 1.4, seed=2))
    assert names(rows) == ["a", "b"]
    assert names(Rows(silent)) == ["silent"]  # for the other checks


def test_few_utterances_are_opened():
    rows = Rows(*(row(f"u{number}", 1 + number / 10, seed=1) for number in range(100)))
    assert len(names(rows)) == 1
    assert rows.opened <= 33


def test_without_audio_only_transcripts_are_compared():
    rows = Rows(*((f"u{number}", None, "w" * number, None) for number in range(6)))
    assert names(rows) == ["u0", "u1", "u2", "u3"]
    assert _longest(rows, uses_audio=False).input.utterance_id == "u5"
    assert _longest(Rows(row("a", 1, "long " * 9), row("b", 2, "x")), uses_audio=True).input.utterance_id == "b"


@pytest.mark.parametrize(("variable", "device"), [("false", "cuda:1"), ("true", "cpu")])
def test_the_device_is_that_of_the_trainer(monkeypatch, variable, device):
    monkeypatch.setenv("ACCELERATE_USE_CPU", variable)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    assert run_device(ScoringSettings(use_cpu=True)) == torch.device("cpu")
    assert run_device(ScoringSettings()) == torch.device(device)
