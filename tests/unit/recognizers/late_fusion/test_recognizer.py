"""A late fusion scores an input as its members do, each with its own rate, prompts, labels and limits."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Input
from lalm_mer.recognizers.late_fusion.recognizer import LateFusion
from lalm_mer.recognizers.late_fusion.rules import FusionRule
from lalm_mer.recognizers.scoring import score_inputs
from lalm_mer.serving.predict import predict
from lalm_mer.serving.recordings import Recording

LABELS = ("a", "b")


class Loudness(nn.Module):
    """Prefers its first label for loud audio, by two prompts whose scores of an empty input are subtracted."""

    modalities, sampling_rate = "audio", 8_000
    label_set = LabelSet(("b", "a"))
    content_free = Input("<content-free>", None, Waveform(np.full(10, 0.1, np.float32), 8_000))

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.joint_collator = self.collate

    def refuses(self, duration_s):
        return "longer than 2 s" if duration_s > 2 else None

    def collate(self, inputs):
        assert all(given.waveform.sampling_rate == self.sampling_rate for given in inputs)
        return {"level": torch.tensor([float(np.abs(given.waveform.samples).max()) for given in inputs])}

    def forward(self, level):
        logits = torch.stack([self.scale * level, torch.zeros_like(level)], dim=1)
        return {"log_probs": torch.log_softmax(torch.stack([logits, 2 * logits], dim=1), dim=2)}


class Length(nn.Module):
    """Prefers its first label for long transcripts."""

    modalities, sampling_rate, content_free = "transcript", None, None
    label_set = LabelSet(LABELS)

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.2))
        self.joint_collator = self.collate

    def refuses(self, duration_s):
        return None

    def collate(self, inputs):
        assert all(given.waveform is None for given in inputs)
        return {"words": torch.tensor([float(len(given.transcript.split())) for given in inputs])}

    def forward(self, words):
        return {"log_probs": torch.log_softmax(torch.stack([self.scale * words, torch.ones_like(words)], 1), dim=1)}


def given(name, level, words, seconds=1.0, rate=16_000):
    samples = np.full(int(seconds * rate), level, np.float32)
    return Input(name, "word " * words, Waveform(samples, rate))


def fused(*inputs, rule="mean"):
    recognizer = LateFusion([Loudness(), Length()], FusionRule(rule, LABELS, 2)).eval()
    return np.stack(list(score_inputs(recognizer, inputs, batch_size=2)))


def test_it_combines_the_scores_of_its_members():
    inputs = [given("u1", 0.5, 2), given("u2", 0.1, 9), given("u3", 0.9, 1)]
    loud = [
        np.stack(list(score_inputs(Loudness(), [Input(each.utterance_id, None, each.waveform.resampled(8_000))])))[0]
        for each in inputs
    ]
    long = [next(score_inputs(Length(), [Input(each.utterance_id, each.transcript, None)])) for each in inputs]
    assert fused(*inputs) == pytest.approx(np.log((np.exp(loud)[:, ::-1] + np.exp(long)) / 2), abs=1e-6)
    expected = log_softmax((np.array(loud)[:, ::-1] + np.array(long)) / 2, axis=1)
    assert fused(*inputs, rule="logits") == pytest.approx(expected, abs=1e-6)


def test_a_member_that_refuses_an_input_is_left_out_of_it():
    short, long = given("short", 0.5, 2), given("long", 0.5, 2, seconds=3)
    alone = next(score_inputs(Length(), [Input("long", long.transcript, None)]))
    assert fused(short, long)[1] == pytest.approx(alone, abs=1e-6)
    assert fused(short, long)[0] == pytest.approx(fused(short)[0], abs=1e-9)


def test_it_predicts_recordings_and_refuses_what_its_rule_cannot_fuse(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "long.wav", np.full(24_000, 0.5), 8_000)
    members = [Loudness(), Length()]
    plain = LateFusion(members, FusionRule("mean", LABELS, 2))
    numbers = ((0.1,) * 4, (0.2,) * 4)
    stacked = LateFusion(members, FusionRule("stacking", LABELS, 2, coefficients=numbers, intercepts=(0.0, 0.0)))
    assert (plain.modalities, plain.sampling_rate) == ("audio+transcript", 8_000)
    recording = Recording(tmp_path / "long.wav", "some words")
    (row,) = predict(plain, [recording])
    assert set(row.probabilities) == set(LABELS)
    (row,) = predict(stacked, [recording])
    assert row.reason == "longer than 2 s"


def test_members_that_do_not_fit_the_rule_are_refused():
    with pytest.raises(ModelError, match="1 members, but the rule is of 2"):
        LateFusion([Length()], FusionRule("mean", LABELS, 2))
    with pytest.raises(ModelError, match="member 1 has the labels a, b, but the rule x, y"):
        LateFusion([Length(), Length()], FusionRule("mean", ("x", "y"), 2))
