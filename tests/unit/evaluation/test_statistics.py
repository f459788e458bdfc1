import time
from itertools import product

import numpy as np
import pandas as pd
import pytest
from fabricated import fabricated_predictions

from lalm_mer.core.errors import PredictionError
from lalm_mer.evaluation import statistics
from lalm_mer.evaluation.metrics import METRICS, UAR
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.evaluation.scores import score_table
from lalm_mer.evaluation.statistics import (
    holm,
    paired_test,
    speaker_counts,
    speaker_intervals,
)

LABELS = ["a", "b", "c", "d"]


def random_frame(seed: int, speakers: int = 6, per_speaker: int = 20, seeds: int = 1, accuracy: float = 0.6):
    generator = np.random.default_rng(seed)
    count = speakers * per_speaker
    truth = np.random.default_rng(1).choice(LABELS, count)
    parts = []
    for number in range(seeds):
        prediction = np.where(generator.random(count) < accuracy, truth, generator.choice(LABELS, count))
        parts.append(
            pd.DataFrame(
                {
                    "utterance_id": [f"u{i}" for i in range(count)],
                    "corpus": "c",
                    "fold": 1,
                    "seed": number,
                    "speaker": [f"s{i // per_speaker}" for i in range(count)],
                    "truth": truth,
                    "prediction": prediction,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("cells", [1, 200, 10**6])
@pytest.mark.parametrize("name", METRICS)
def test_leaving_a_speaker_out_of_the_counts_equals_dropping_the_rows(name, cells, monkeypatch):
    """Also if only a part of the speakers is left out at once, to bound the memory."""
    frame = random_frame(3, seeds=2)
    monkeypatch.setattr(statistics, "_CELLS", cells)
    counts = speaker_counts(frame, LABELS)
    fast = counts.leave_one_out(METRICS[name])
    for place, speaker in enumerate(counts.speakers):
        rest = frame[frame["corpus"] + "/" + frame["speaker"] != speaker]
        seeds = [part for _, part in rest.groupby("seed")]
        slow = np.mean(
            [METRICS[name].from_labels(part["truth"].tolist(), part["prediction"].tolist(), LABELS) for part in seeds]
        )
        assert fast[place] == pytest.approx(slow, abs=1e-12)


def test_without_speakers_there_is_no_interval_and_the_method_gives_the_reason():
    frame = random_frame(1)
    one = speaker_intervals(frame.assign(speaker="only"), LABELS, [METRICS[UAR]])[UAR]
    assert (one.low, one.high, one.n_clusters) == (None, None, 1)
    assert one.method.startswith("uninformative: 1 speaker")
    frame.loc[3, "speaker"] = None
    unknown = speaker_intervals(frame, LABELS, [METRICS[UAR]])[UAR]
    assert (unknown.low, unknown.high, unknown.n_clusters) == (None, None, None)
    assert "unknown in 1 of 120" in unknown.method


def test_a_class_of_a_single_speaker_is_named_in_the_method():
    frame = random_frame(2)
    frame = frame[(frame["truth"] != "d") | (frame["speaker"] == "s0")]
    interval = speaker_intervals(frame, LABELS, [METRICS[UAR]])[UAR]
    assert "absent from 1 of 6 resamples" in interval.method
    assert "absent" not in speaker_intervals(random_frame(2), [*LABELS, "e"], [METRICS[UAR]])[UAR].method
    assert interval.low is not None


def test_order_of_rows_does_not_matter():
    frame = random_frame(4, seeds=2)
    mixed = frame.sample(frac=1, random_state=0)
    first, second = (speaker_intervals(table, LABELS, [METRICS[UAR]])[UAR] for table in (frame, mixed))
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=1e-12)


def test_equal_seeds_do_not_narrow_the_interval():
    """Seeds are not new speakers: five copies of the same predictions give the interval of one."""
    frame = random_frame(5)
    five = pd.concat([frame.assign(seed=number) for number in range(5)])
    once, often = (speaker_intervals(table, LABELS, [METRICS[UAR]])[UAR] for table in (frame, five))
    assert (once.low, once.high) == pytest.approx((often.low, often.high), abs=1e-12)


def test_many_rows_and_speakers_are_quick():
    frame = random_frame(6, speakers=1368, per_speaker=4, seeds=5)
    assert len(frame) == 27_360
    start = time.perf_counter()
    result = score_table(frame, LABELS)
    assert time.perf_counter() - start < 10
    assert result["uar"]["n_clusters"] == 1368


def test_paired_test_enumerates_all_sign_flips():
    a, b = random_frame(10, accuracy=0.7), random_frame(11, accuracy=0.5)
    result = paired_test(a, b, LABELS)
    values = [METRICS[UAR].from_labels(f["truth"].tolist(), f["prediction"].tolist(), LABELS) for f in (a, b)]
    assert result.difference == pytest.approx(values[0] - values[1])
    per_class = a["truth"].value_counts()
    right = (a["truth"] == a["prediction"]).astype(int) - (b["truth"] == b["prediction"]).astype(int)
    share = (right / (4 * a["truth"].map(per_class))).groupby(a["speaker"]).sum().to_numpy()
    flips = np.array(list(product((-1, 1), repeat=6))) @ share
    expected = np.mean(np.abs(flips) >= abs(share.sum()) - 1e-12)
    assert result.p_value == pytest.approx(expected)
    assert (result.n_speakers, result.n_utterances, result.smallest_p) == (6, 120, 2 / 64)
    assert result.interval.low < result.difference < result.interval.high


def test_paired_test_is_antisymmetric_and_the_same_when_repeated():
    a, b = random_frame(10, speakers=20, accuracy=0.65), random_frame(11, speakers=20, accuracy=0.6)
    first, again, other = paired_test(a, b, LABELS), paired_test(a, b, LABELS), paired_test(b, a, LABELS)
    assert first == again
    assert first.difference == pytest.approx(-other.difference)
    assert first.p_value == pytest.approx(other.p_value, abs=0.02)
    assert "random sign flips" in first.method


def test_equal_recognizers_do_not_differ():
    a = random_frame(12)
    result = paired_test(a, a, LABELS)
    assert (result.difference, result.p_value) == (0.0, 1.0)


@pytest.mark.slow
def test_paired_test_holds_its_level():
    """Two recognizers of equal skill: about one test in twenty is below 0.05, not more."""
    below = []
    for seed in range(100):
        a, b = (random_frame(stream, speakers=8, per_speaker=12) for stream in (seed, seed + 5000))
        below.append(paired_test(a, b, LABELS).p_value < 0.05)
    assert np.mean(below) <= 0.1


def test_paired_test_averages_seeds():
    a, b = random_frame(13, seeds=3, accuracy=0.8), random_frame(14, seeds=2, accuracy=0.3)
    result = paired_test(a, b, LABELS)
    expected = score_table(a, LABELS)["uar"]["value"] - score_table(b, LABELS)["uar"]["value"]
    assert result.difference == pytest.approx(expected)
    assert result.n_utterances == 120


def test_paired_test_needs_speakers():
    a = random_frame(15)
    unknown = paired_test(a.assign(speaker=None), a.assign(speaker=None), LABELS)
    assert (unknown.p_value, unknown.interval.low) == (None, None)
    one = paired_test(a.assign(speaker="s"), a.assign(speaker="s"), LABELS)
    assert (one.p_value, one.n_speakers) == (None, 1)


def test_paired_test_refuses_other_utterances_truths_and_incomplete_seeds():
    a = random_frame(16)
    with pytest.raises(PredictionError, match=r"A and B score different utterances: 'u0' \(fold 1\) is only in A"):
        paired_test(a, a.iloc[1:], LABELS, ("A", "B"))
    other = a.copy()
    other.loc[5, "truth"] = "a" if other.loc[5, "truth"] != "a" else "b"
    with pytest.raises(PredictionError, match="disagree on the truth of utterance 'u5'"):
        paired_test(a, other, LABELS)
    with pytest.raises(PredictionError, match="seeds do not score the same utterances"):
        paired_test(a, pd.concat([a, a.iloc[:10].assign(seed=1)]), LABELS)


def test_a_fabricated_table_is_tested():
    pooled = Predictions.concat([fabricated_predictions(fold=fold) for fold in (1, 2, 3)])
    assert speaker_intervals(pooled.frame, pooled.labels, [METRICS["macro_f1"]])["macro_f1"].n_clusters == 12


def test_holm_against_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
