"""Miniature releases that the shipped protocols can fold: all speakers, sessions, videos and splits that they name."""

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import iemocap_tree
import numpy as np
import pytest
import soundfile
from iemocap_tree import Line
from small_release import mp4, put

from lalm_mer.corpora.circumplex import design
from lalm_mer.protocols.splits import SPLITS

RATE = 16_000
_ANY = "The door is number"


def voice(number: int, seconds: float = 0.5) -> bytes:
    """A WAV file of a tone in noise, different for each number."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * (150 + 7 * number) * time_s)
    noise = np.random.default_rng(number).standard_normal(len(time_s))
    file = io.BytesIO()
    soundfile.write(file, 0.2 * tone + 0.05 * noise, RATE, "PCM_16", format="WAV")
    return file.getvalue()


def _table(header: str, rows: list[tuple]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header.split(","), *rows])
    return file.getvalue()


def _ravdess(root: Path) -> None:
    """24 actors with one clip each."""
    for actor in range(1, 25):
        name = f"03-01-{1 + actor % 8:02}-01-{1 + actor // 2 % 2:02}-01-{actor:02}.wav"
        put(root / f"Actor_{actor:02}/{name}", voice(actor))


def _emodb(root: Path) -> None:
    """Ten speakers with three clips each."""
    speakers = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
    for number, (speaker, sentence) in enumerate(itertools.product(speakers, ("a01", "a02", "b10"))):
        put(root / f"wav/{speaker}{sentence}{'WLEAFTN'[number % 7]}a.wav", voice(number))


def _crema_d(root: Path) -> None:
    """91 actors with one clip each."""
    sentences, emotions = ("DFA", "IEO", "WSI"), ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    names = [f"{1001 + n}_{sentences[n % 3]}_{emotions[n // 2 % 6]}_XX" for n in range(91)]
    put(root / "SentenceFilenames.csv", _table("Stimulus_Number,Filename", list(enumerate(names, start=1))))
    people = [(name[:4], 40, "Female", "Unknown", "Hispanic") for name in names]
    put(root / "VideoDemographics.csv", _table("ActorID,Age,Sex,Race,Ethnicity", people))
    votes = [(100_001 + n, 0, 0, 0, 0, 1, 0, name, 1, 1.0) for n, name in enumerate(names)]
    put(root / "processedResults/tabulatedVotes.csv", _table(",A,D,F,H,N,S,fileName,numResponses,agreement", votes))
    for number, name in enumerate(names):
        put(root / f"AudioWAV/{name}.wav", voice(number, 0.3))


def _iemocap(root: Path) -> None:
    """Five sessions: an improvisation of both speakers, and a line of each of the three plays."""
    parts = (("impro01", "F"), ("impro01", "M"), ("script01_1", "F"), ("script02_1", "M"), ("script03_1", "F"))
    labels = ("ang", "exc", "neu", "sad")
    lines = [
        Line(session, "F", part, letter, 0, labels[(session + n) % 4], f"{_ANY} {n} of {session}.")
        for session in range(1, 6)
        for n, (part, letter) in enumerate(parts)
    ]
    iemocap_tree.write(root, lines)
    for number, line in enumerate(lines):
        put(root / f"Session{line.session}/sentences/wav/{line.dialogue}/{line.name}.wav", voice(number))


def _meld(root: Path) -> None:
    """Three splits with one dialogue of all seven emotions each, whose clips are videos."""
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    splits = {"train": "train/train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    moods = (
        ("joy", "positive"), ("anger", "negative"), ("neutral", "neutral"), ("sadness", "negative"),
        ("surprise", "positive"), ("disgust", "negative"), ("fear", "negative"),
    )  # fmt: skip
    root.mkdir(parents=True)
    clip = 0
    for split, folder in splits.items():
        rows = []
        for turn, mood in enumerate(moods):
            who = ("Monica", "Joey")[turn % 2]
            times = ("00:16:16,059", "00:16:21,731")
            rows.append((turn + 1, f"{_ANY} {turn}, {split}.", who, *mood, 0, turn, 8, 21, *times))
            put(root / folder / f"dia0_utt{turn}.mp4", mp4(root, hertz=200 + 20 * clip))
            clip += 1
        put(root / f"{split}_sent_emo.csv", _table(header, rows))
    (root / "made.mp4").unlink()


def _mosei(root: Path) -> None:
    """Two videos of each split with three sentences each."""
    import mosei_release as release  # here, because it skips where the extra `mosei` is not installed

    listed = release.LISTED[release.LISTED["session"].str.len() == 11]
    videos = list(listed.groupby("split").head(2)["session"])
    spans = ((0.0, 0.5), (0.5, 1.0), (1.0, 1.5))
    rows = [(*span, sign, *release.CALM) for span, sign in zip(spans, (2.0, -1.0, 0.0), strict=True)]
    release.labels(root, dict.fromkeys(videos, rows))
    for number, video in enumerate(videos):
        put(root / f"{release.WAV}/{video}.wav", voice(number, 1.5))
        lines = ((start_s, end_s, f"{_ANY} {end_s}.") for start_s, end_s in spans)
        put(root / f"{release.TXT}/{video}.txt", release.said(video, *lines))


def _msp_podcast(root: Path) -> None:
    """One podcast of each split, with all eight classes in train."""
    names, rows = [], []
    for podcast, (split, count) in enumerate({"Train": 8, "Development": 4, "Test1": 4, "Test2": 4}.items()):
        for number in range(count):
            names.append(f"MSP-PODCAST_{podcast:04}_{number:04}")
            rows.append((f"{names[-1]}.wav", "ASHUFDCN"[number], 4.0, 4.0, 4.0, 30 + podcast, "Male", split))
    header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    put(root / "Labels/labels_consensus.csv", _table(header, rows))
    for number, name in enumerate(names):
        put(root / f"Audios/{name}.wav", voice(number))
        put(root / f"Transcripts/{name}.txt", f"{_ANY} {number}.\n")


def _manifest(root: Path) -> None:
    """Six speakers of four clips each."""
    rows = []
    labels = ("angry", "happy", "neutral", "sad")
    for number, (speaker, label) in enumerate(itertools.product(range(6), labels)):
        rows.append((f"clips/{number}.wav", f"s{speaker}", label, f"{_ANY} {number}."))
        put(root / f"clips/{number}.wav", voice(number))
    put(root / "manifest.csv", _table("path,speaker,label,transcript", rows))


RELEASES: dict[str, Callable[[Path], None]] = {
    "ravdess": _ravdess,
    "emodb": _emodb,
    "crema_d": _crema_d,
    "iemocap": _iemocap,
    "meld": _meld,
    "mosei": _mosei,
    "msp_podcast": _msp_podcast,
    "manifest": _manifest,
}
"""Corpus -> function that writes a miniature of its release into a folder."""


@contextmanager
def small_circumplex() -> Iterator[None]:
    """Two carriers and one speaker per split, and two words, of the design of the synthetic corpus."""
    pytest.importorskip("espeakng_loader", reason="the extra `synthesis` is not installed")
    with pytest.MonkeyPatch.context() as patched:
        for name, count in (("CARRIERS", 2), ("SPEAKERS", 1)):
            of_side = ([each for each in getattr(design, name) if each.split == split][:count] for split in SPLITS)
            patched.setattr(design, name, tuple(itertools.chain(*of_side)))
        patched.setattr(design, "WORDS", (design.WORDS[0], design.WORDS[-1]))
        yield
