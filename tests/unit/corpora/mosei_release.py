"""Writes miniature releases of CMU-MOSEI."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_release import put

from lalm_mer.corpora import mosei

h5py = pytest.importorskip("h5py", reason="the extra `mosei` is not installed")

PROTOCOLS = Path(__file__).resolve().parents[3] / "eval" / "protocols"
CSD = "CMU_MOSEI_Labels.csd"
WAV, TXT, MP4 = "Raw/Audio/Full/WAV_16000", "Raw/Transcript/Segmented/Combined", "Raw/Videos/Full/Combined"
CALM = [0.0] * 6
LISTED = pd.read_csv(PROTOCOLS / "mosei_official.csv", dtype=str, keep_default_na=False)
OF_TEST = LISTED.loc[(LISTED["split"] == "test") & (LISTED["session"].str.len() == 11), "session"]
TRAIN, TRAIN_NUMBER, UNLISTED = "hh04W3xXa5s", "81406", "abcdefghijk"
TEST_DASH, TEST = OF_TEST.iloc[0], OF_TEST.iloc[-1]
DEV = LISTED.loc[(LISTED["split"] == "dev") & (LISTED["session"].str.len() == 11), "session"].iloc[0]


def labels(root, videos, name=CSD):
    """Write the label file: video -> rows of (start, end, sentiment, happy, sad, anger, surprise, disgust, fear)."""
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / name, "w") as file:
        data = file.create_group("All Labels/data")
        file["All Labels"].create_group("metadata")
        for video, rows in videos.items():
            table = np.array(rows, dtype=np.float64).reshape(-1, 9)
            data.create_dataset(f"{video}/intervals", data=table[:, :2])
            data.create_dataset(f"{video}/features", data=table[:, 2:].astype(np.float32))


def said(video, *rows, end="\n"):
    """A transcript file: rows of (start, end, transcript)."""
    return "".join(f"{video}___{n}___{a}___{b}___{text}{end}" for n, (a, b, text) in enumerate(rows))


def one(root, interval=(1.0, 2.0), values=(0.0, *CALM), lines=None):
    """A release of one utterance, read."""
    labels(root, {TRAIN: [(*interval, *values)]})
    if lines is not None:
        put(root / f"{TXT}/{TRAIN}.txt", lines)
    return list(mosei.read(root))
