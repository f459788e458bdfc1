"""Invented miniature releases of all corpora, for the behaviours that all readers share."""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import iemocap_tree
import numpy as np

from lalm_mer.corpora.settings import CorpusSettings

VIDEO = "hh04W3xXa5s"
SENTENCES = ("", "a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09")


@dataclass
class Release:
    """A release in a folder, to which clips are added; its tables are written for them."""

    name: str
    root: Path
    numbers: list = field(default_factory=list)

    @property
    def settings(self):
        options = {"manifest": "rows.csv", "labels": ["glad", "sad"]} if self.name == "manifest" else {}
        return CorpusSettings(self.name, root=str(self.root), **options)

    def put(self, number, content, suffix=".wav"):
        """Add a clip with its rows in the tables; returns its path relative to the root."""
        path, table = CLIPS[self.name]
        relative = path(number, suffix)
        (self.root / relative).parent.mkdir(parents=True, exist_ok=True)
        (self.root / relative).write_bytes(content)
        self.numbers.append((number, relative))
        if table is not None:
            table(self.root, sorted(self.numbers))
        return relative


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _manifest(root, clips):
    write(root / "rows.csv", ["path,label,speaker", *(f"{path},glad,s1" for _, path in clips)])


def _crema_d(root, clips):
    names = [Path(path).stem for _, path in clips]
    rows = [f'{n},"{name}"' for n, name in enumerate(names, 1)]
    write(root / "SentenceFilenames.csv", ['"Stimulus_Number","Filename"', *rows])
    people = sorted({name[:4] for name in names})
    header = '"ActorID","Age","Sex","Race","Ethnicity"'
    write(
        root / "VideoDemographics.csv",
        [header, *(f'{who},40,"Male","Caucasian","Not Hispanic"' for who in people)],
    )


def _iemocap_line(number):
    return iemocap_tree.Line(1 + number % 5, "F", f"impro0{number}", "F", 0, "neu", f"Synthetic words {number}.")


def _iemocap(root, clips):
    iemocap_tree.write(root, [_iemocap_line(number) for number, _ in clips])


def _meld(root, clips):
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    rows = [f'{n},Words {n}.,Monica,joy,positive,0,{n},8,21,"00:16:16,059","00:16:21,731"' for n, _ in clips]
    write(root / "train/train_sent_emo.csv", [header, *rows])
    for side in ("dev", "test"):
        write(root / f"{side}_sent_emo.csv", [header])


def _mosei(root, clips):
    with h5py.File(root / "CMU_MOSEI_Labels.csd", "w") as file:
        for number, _ in clips:
            video = _video(number)
            file[f"All Labels/data/{video}/intervals"] = np.array(
                [[0.0, 4.9 if number == 8 else 0.09]]
            )  # the long one ends where its file is cut
            file[f"All Labels/data/{video}/features"] = np.array([[1.0, 2, 0, 0, 0, 0, 0]], np.float32)


def _video(number):
    return f"{VIDEO[:-1]}{number}"


def _msp_podcast(root, clips):
    header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    write(
        root / "Labels/labels_consensus.csv",
        [header, *(f"{Path(path).name},N,4.0,4.0,4.0,30,Male,Train" for _, path in clips)],
    )


CLIPS = {
    "ravdess": (lambda n, suffix: f"Actor_0{n}/03-01-03-01-01-01-0{n}{suffix}", None),
    "manifest": (lambda n, suffix: f"deep/{n}{suffix}", _manifest),
    "crema_d": (lambda n, suffix: f"AudioWAV/100{n}_IEO_SAD_LO.wav", _crema_d),
    "emodb": (lambda n, suffix: f"wav/03{SENTENCES[n]}Fa.wav", None),
    "iemocap": (
        lambda n, suffix: f"Session{1 + n % 5}/sentences/wav/{_iemocap_line(n).dialogue}/{_iemocap_line(n).name}.wav",
        _iemocap,
    ),
    "meld": (lambda n, suffix: f"train/train_splits/dia0_utt{n}{suffix}", _meld),
    "mosei": (lambda n, suffix: f"Raw/Audio/Full/WAV_16000/{_video(n)}.wav", _mosei),
    "msp_podcast": (lambda n, suffix: f"Audios/MSP-PODCAST_0001_000{n}.wav", _msp_podcast),
}
"""Reader -> path of clip number n (one digit), and the function that writes the tables of all clips."""
