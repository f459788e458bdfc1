"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song: its speech clips.

References:
    Livingstone & Russo 2018, PLOS ONE 13(5): e0196391. Licence CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lalm_mer.core.names import HUMAN
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora.base import AUDIO_SUFFIXES, list_files

__all__ = ["LOADER_VERSION", "RANGES", "facts", "read"]

LOADER_VERSION = "2"
RANGES: Mapping[str, Sequence[float]] = {}

_NAME = re.compile(
    r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])-(?P<statement>0[12])-"
    r"(?P<repetition>0[12])-(?P<actor>[01]\d|2[0-4])"
)
_SUFFIXES = (".wav", ".flac", ".mp4")  # as released, losslessly compressed, and videos of the release
_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}


def read(root: Path) -> Iterator[Utterance | Rejection]:
    """Read ``Actor_NN/MM-CC-EE-II-SS-RR-AA.wav`` (or ``.flac``) in any folder below ``root``.

    Song and video files, which some copies contain too, are rejected as ``not_speech_audio``.

    Raises:
        CorpusError: if there is no such folder
    """
    for item in list_files(root):
        if isinstance(item, Rejection):
            yield item
        elif item.suffix.lower() in AUDIO_SUFFIXES or _NAME.fullmatch(item.stem):
            yield _read_clip(root, item)


def _read_clip(root: Path, path: Path) -> Utterance | Rejection:
    where = path.relative_to(root).as_posix()
    name = _NAME.fullmatch(path.stem)
    if name is None or path.suffix.lower() not in _SUFFIXES or name["actor"] == "00":
        return Rejection(where, "unexpected_name", "not named as RAVDESS names its files: 03-01-EE-II-SS-RR-AA.wav")
    if (name["modality"], name["channel"]) != ("03", "01") or path.suffix.lower() == ".mp4":
        kind = f"modality {name['modality']}, channel {name['channel']}"
        return Rejection(where, "not_speech_audio", f"{kind}; speech audio is modality 03, channel 01")
    if path.parent.name != f"Actor_{name['actor']}":
        return Rejection(where, "folder_mismatch", f"actor {name['actor']} by its name, but in {path.parent.name!r}")
    return Utterance(
        utterance_id=path.stem,
        corpus="ravdess",
        audio_path=where,
        transcript=_STATEMENTS[name["statement"]],
        transcript_source=HUMAN,
        speaker=name["actor"],
        gender="male" if int(name["actor"]) % 2 else "female",
        language="en",
        script=name["statement"],
        label=_EMOTIONS[int(name["emotion"]) - 1],
    )


def facts(utterance_id: str) -> Facts | None:
    """Speaker and script encoded in an utterance id; None if it is not an id of this corpus.

    Example:
        >>> facts("03-01-05-01-02-01-12")
        Facts(speaker='12', session=None, script='02')
    """
    name = _NAME.fullmatch(utterance_id)
    return Facts(speaker=name["actor"], script=name["statement"]) if name else None
