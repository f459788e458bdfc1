"""Prediction of recordings by a recognizer that scores loudness."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.serving.predict import predict, predictions_table, write_predictions
from lalm_mer.serving.recordings import Recording, Window

LABELS = LabelSet(("loud", "quiet"))


class Loudness(nn.Module):
    """Scores the mean of the samples, and the length of a transcript where it uses one."""

    label_set, content_free = LABELS, None

    def __init__(self, modalities="audio", longest_s=5.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.modalities, self.longest_s = modalities, longest_s
        self.sampling_rate = 16_000 if "audio" in modalities else None
        self.batches = []
        self.joint_collator = self.collate

    def collate(self, inputs):
        self.batches.append(len(inputs))
        means = [0.0 if each.waveform is None else float(each.waveform.samples.mean()) for each in inputs]
        for each in inputs:
            assert each.waveform is None or each.waveform.sampling_rate == self.sampling_rate
        lengths = [len(each.transcript or "") if "transcript" in self.modalities else 0 for each in inputs]
        return {"level": torch.tensor(means) + torch.tensor(lengths)}

    def refuses(self, duration_s):
        return (
            f"{duration_s:.2f} s long; it takes {self.longest_s:g} s at most" if duration_s > self.longest_s else None
        )

    def forward(self, level):
        return {"log_probs": torch.stack([self.weight * level, torch.zeros_like(level)], dim=1).log_softmax(dim=1)}


def write(path, level, seconds=1.0, rate=16_000):
    soundfile.write(path, np.full(round(seconds * rate), level), rate, format=path.suffix[1:].upper())
    return path


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "a.wav", 0.5)
    write(tmp_path / "b.wav", -0.5, rate=48_000)
    write(tmp_path / "c.wav", 0.1, seconds=9.0)
    (tmp_path / "d.wav").write_bytes(b"")
    (tmp_path / "e.wav").write_text("no audio at all")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_recording_is_a_row_with_probabilities_or_a_reason(folder, batch_size):
    rows = list(predict(Loudness(), [folder], batch_size=batch_size))
    assert [row.prediction for row in rows] == ["loud", "quiet", None, None, None]
    assert [row.path for row in rows] == [str(folder / name) for name in ("a.wav", "b.wav", "c.wav", "d.wav", "e.wav")]
    assert rows[0].probabilities["loud"] == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-3)
    assert sum(rows[1].probabilities.values()) == pytest.approx(1)
    assert rows[2].reason == "9.00 s long; it takes 5 s at most"
    assert rows[3].reason == "the file has no bytes"
    assert rows[4].reason.startswith("not audio that libsndfile reads")


def test_batches_contain_what_can_be_scored(folder):
    recognizer = Loudness(longest_s=100)
    list(predict(recognizer, [folder], batch_size=2))
    assert recognizer.batches == [2, 1]


def test_windows_give_labels_over_time(folder):
    rows = list(predict(Loudness(), [folder / "c.wav"], window=Window(4, 2)))
    assert [(row.start_s, row.end_s) for row in rows] == [(0, 4), (2, 6), (4, 8), (6, 9)]
    assert all(row.reason is None for row in rows)


def test_times_of_a_part_are_those_of_the_recording(folder):
    (row,) = predict(Loudness(), [Recording(folder / "c.wav", start_s=2.0, end_s=4.0)])
    assert (row.start_s, row.end_s) == (2.0, 4.0)


def test_a_transcript_is_needed_where_it_is_used(folder):
    recognizer = Loudness("audio+transcript")
    (row,) = predict(recognizer, [folder / "a.wav"])
    assert row.reason == "no transcript, which this recognizer uses"
    (row,) = predict(recognizer, [folder / "a.wav"], transcript="ten chars.")
    assert row.probabilities["loud"] > 0.999
    (row,) = predict(Loudness("transcript"), [folder / "d.wav"], transcript="the audio is never opened")
    assert row.reason is None


def test_a_transcript_is_of_a_single_recording(folder):
    with pytest.raises(ConfigError, match="one transcript for 2 recordings"):
        next(predict(Loudness("transcript"), [folder / "a.wav", folder / "c.wav"], transcript="hello"))


def test_windows_are_refused_where_transcripts_are_used(folder):
    with pytest.raises(ConfigError, match="windows of a recording have no transcripts, which this recognizer uses"):
        next(predict(Loudness("transcript"), [folder], window=Window(2, 1)))


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_the_table_is_the_same_in_every_format(folder, tmp_path, suffix):
    table = predictions_table(predict(Loudness(), [folder]), LABELS.labels)
    assert list(table["status"]) == ["scored", "scored", "unscored", "unscored", "unscored"]
    path = tmp_path / f"out{suffix}"
    write_predictions(table, path)
    read = {".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet}[suffix](path)
    assert list(read.columns) == list(table.columns)
    np.testing.assert_allclose(read["prob_loud"], table["prob_loud"].astype(float), rtol=1e-12)


def test_another_suffix_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"out\.txt: expected a name that ends in \.csv, \.json, \.parquet"):
        write_predictions(predictions_table(predict(Loudness(), [folder]), LABELS.labels), tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists()
