"""EMO-DB, the Berlin Database of Emotional Speech: ten actors, ten German sentences, seven emotions.

References:
    Burkhardt et al. 2005, A Database of German Emotional Speech, INTERSPEECH: 1517-1520. Speakers, sentences and the
    naming scheme are from the published documentation, http://emodb.bilderbar.info/docu/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lalm_mer.core.names import HUMAN
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora.base import AUDIO_SUFFIXES, list_files

__all__ = ["LOADER_VERSION", "RANGES", "facts", "read"]

LOADER_VERSION = "1"
RANGES: Mapping[str, Sequence[float]] = {}

_SPEAKERS = {
    "03": ("male", 31), "08": ("female", 34), "09": ("female", 21), "10": ("male", 32), "11": ("male", 26),
    "12": ("male", 30), "13": ("female", 32), "14": ("female", 35), "15": ("male", 25), "16": ("female", 31),
}  # fmt: skip
_SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
# The keys are the initials of Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral.
_EMOTIONS = {
    "W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral",
}  # fmt: skip
_NAME = re.compile(
    rf"(?P<speaker>{'|'.join(_SPEAKERS)})(?P<sentence>{'|'.join(_SENTENCES)})(?P<emotion>[{''.join(_EMOTIONS)}])[a-z]"
)
_SUFFIXES = (".wav", ".flac")  # as released, and losslessly compressed


def read(root: Path) -> Iterator[Utterance | Rejection]:
    """Read ``wav/SSTTTEV.wav`` (or ``.flac``) in any folder below ``root``.

    Files of phone and syllable labels and ``erkennung.txt`` (percentages of a listening test, not votes) are ignored.

    Raises:
        CorpusError: if there is no such folder
    """
    for item in list_files(root):
        if isinstance(item, Rejection):
            yield item
        elif item.suffix.lower() in AUDIO_SUFFIXES:
            yield _read_clip(root, item)


def _read_clip(root: Path, path: Path) -> Utterance | Rejection:
    where = path.relative_to(root).as_posix()
    name = _NAME.fullmatch(path.stem)
    if name is None or path.suffix.lower() not in _SUFFIXES:
        detail = "not named as EMO-DB names its files: speaker, sentence, emotion, version, such as 03a01Fa.wav"
        return Rejection(where, "unexpected_name", detail)
    gender, age = _SPEAKERS[name["speaker"]]
    return Utterance(
        utterance_id=path.stem,
        corpus="emodb",
        audio_path=where,
        transcript=_SENTENCES[name["sentence"]],
        transcript_source=HUMAN,
        speaker=name["speaker"],
        gender=gender,
        age=age,
        language="de",
        script=name["sentence"],
        label=_EMOTIONS[name["emotion"]],
    )


def facts(utterance_id: str) -> Facts | None:
    """Speaker and script encoded in an utterance id; None if it is not an id of this corpus.

    Example:
        >>> facts("16b10Wb")
        Facts(speaker='16', session=None, script='b10')
    """
    name = _NAME.fullmatch(utterance_id)
    return Facts(speaker=name["speaker"], script=name["sentence"]) if name else None
