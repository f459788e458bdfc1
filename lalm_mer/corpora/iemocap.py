"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database: its utterances, labels and votes.

References:
    Busso et al. 2008, Language Resources and Evaluation 42(4): 335-359. Signed licence of the University of Southern
    California.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lalm_mer.core.names import HUMAN
from lalm_mer.core.schema import Facts, Rejection, Utterance
from lalm_mer.corpora.base import AUDIO_SUFFIXES, accepted, decoded_text, list_files, number_of, relative

__all__ = ["LOADER_VERSION", "RANGES", "facts", "read"]

LOADER_VERSION = "1"
RANGES: Mapping[str, Sequence[float]] = {"valence": [1, 5], "arousal": [1, 5], "dominance": [1, 5]}

# The first letter is the actor with motion-capture markers; the letter of the last token is the speaker.
_NAME = re.compile(
    r"(?P<dialogue>(?P<session>Ses0[1-5])[FM]_(?:impro\d\d[a-z]?|(?P<script>script\d\d)_\d[a-z]?))_"
    r"(?P<letter>[FM])(?:XX)?\d+"
)
_SECONDS = r"\d+(?:\.\d*)?"
_LABEL_LINE = re.compile(
    rf"\[\s*(?P<start>{_SECONDS})\s*-\s*(?P<end>{_SECONDS})\s*\]\s+(?P<name>\S+)\s+(?P<label>\S+)\s+"
    r"\[(?P<valence>[^,\]]*),(?P<arousal>[^,\]]*),(?P<dominance>[^,\]]*)\].*"
)
_RATER_LINE = re.compile(r"(?P<kind>[CA])-(?P<rater>[EFM])\d+:(?P<rest>.*)")
_NEAR_S = 1.0  # largest distance between the times of a transcript and those of its label
_TRANSCRIPT_LINE = re.compile(
    rf"(?P<name>Ses\w+)\s*(?:\[\s*(?P<start>{_SECONDS})\s*-\s*(?P<end>{_SECONDS})\s*\])?\s*:\s*(?P<words>.*)"
)
_EVALUATIONS = re.compile(r"(?:^|/)Session[1-5]/dialog/EmoEvaluation$")
_RECORDINGS = re.compile(r"(?:^|/)Session[1-5]/sentences/wav/[^/]+$")


@dataclass(frozen=True)
class _Evaluation:
    """A label line and the votes in the lines below it."""

    line: re.Match[str]
    name: re.Match[str]
    ratings: dict[str, int]

    @property
    def times_s(self) -> tuple[float, float]:
        return float(self.line["start"]), float(self.line["end"])


def read(root: Path) -> Iterator[Utterance | Rejection]:
    """Read ``SessionN/{dialog/EmoEvaluation, dialog/transcriptions, sentences/wav}`` in any folder below ``root``.

    The utterances are those with a label line; ``xxx``, no agreement, is a label like any other. ``ratings`` are only
    the votes of the external evaluators (``C-E1`` ...), whose majority is the label; the self-ratings of the speakers
    (``C-F1``, ``C-M1``) in the same file are not used. A vote for several categories counts once for each. ``start_s``
    and ``end_s`` are times in the recording of the dialogue, and ``turn`` numbers the evaluated utterances of a
    dialogue by time, from 1. Transcription lines without an utterance id (``M: ...``) and turns that were not evaluated
    (``..._MXX0``) are ignored.

    Raises:
        CorpusError: if there is no such folder, or an evaluation or transcription cannot be read
    """
    evaluations: list[Path] = []
    recordings: list[str] = []
    for item in (yield from accepted(list_files(root))):
        kind = _kind(item.relative_to(root).parts[:-1], item.suffix.lower())
        if kind == "evaluation":
            evaluations.append(item)
        elif kind == "recording":
            recordings.append(relative(root, item))
    evaluated: set[str | None] = set()
    for path in evaluations:
        for row in _read_dialogue(root, path):
            if isinstance(row, Utterance):
                evaluated.add(row.audio_path)
            yield row
    for recording in recordings:
        if recording not in evaluated:
            yield Rejection(recording, "orphan", "no label line in dialog/EmoEvaluation names it")


def facts(utterance_id: str) -> Facts | None:
    """Speaker, session and script encoded in an utterance id; None if it is not an id of this corpus.

    The script is the play (``script01``), whose parts are ``script01_1`` to ``script01_3``; improvisations have
    none.

    Example:
        >>> facts("Ses01F_script02_1_M003")
        Facts(speaker='Ses01M', session='Ses01', script='script02')
        >>> facts("Ses05M_impro08b_F010").script is None
        True
    """
    name = _NAME.fullmatch(utterance_id)
    return Facts(_speaker(name), name["session"], name["script"]) if name else None


def _speaker(name: re.Match[str]) -> str:
    return name["session"] + name["letter"]


def _kind(folders: Sequence[str], suffix: str) -> str | None:
    """Kind of a file by its folders; None for other files, such as motion capture."""
    folder = "/".join(folders)
    if suffix == ".txt" and _EVALUATIONS.search(folder):
        return "evaluation"
    return "recording" if suffix in AUDIO_SUFFIXES and _RECORDINGS.search(folder) else None


def _read_dialogue(root: Path, path: Path) -> Iterator[Utterance | Rejection]:
    """The utterances of one file of ``EmoEvaluation``, in its order."""
    evaluations = yield from accepted(_evaluations(decoded_text(root, path), relative(root, path)))
    session = path.parents[2]
    lines: dict[str, list[re.Match[str]]] = {}
    for dialogue in dict.fromkeys(evaluation.name["dialogue"] for evaluation in evaluations):
        transcription = session / "dialog" / "transcriptions" / f"{dialogue}.txt"
        if not transcription.exists():
            continue
        found = _transcript_lines(decoded_text(root, transcription), relative(root, transcription))
        for line in (yield from accepted(found)):
            lines.setdefault(line["name"], []).append(line)
    by_time = sorted(range(len(evaluations)), key=lambda index: evaluations[index].times_s)
    turn = {index: number for number, index in enumerate(by_time, start=1)}
    for index, evaluation in enumerate(evaluations):
        name = evaluation.name
        wav = session / "sentences" / "wav" / name["dialogue"] / f"{name.string}.wav"
        yield _utterance(evaluation, relative(root, wav), turn[index], lines.get(name.string, []))


def _utterance(
    evaluation: _Evaluation, audio_path: str, turn: int, transcript_lines: Sequence[re.Match[str]]
) -> Utterance:
    line, name = evaluation.line, evaluation.name
    transcript = _transcript(transcript_lines, evaluation.times_s)
    start_s, end_s = evaluation.times_s
    return Utterance(
        utterance_id=name.string,
        corpus="iemocap",
        audio_path=audio_path,
        start_s=start_s,
        end_s=end_s,
        transcript=transcript,
        transcript_source=None if transcript is None else HUMAN,
        speaker=_speaker(name),
        gender={"F": "female", "M": "male"}[name["letter"]],
        language="en",
        session=name["session"],
        dialogue=name["dialogue"],
        turn=turn,
        script=name["script"],
        label=line["label"],
        ratings=evaluation.ratings or None,
        valence=number_of(line["valence"]),
        arousal=number_of(line["arousal"]),
        dominance=number_of(line["dominance"]),
    )


def _evaluations(content: str, where: str) -> Iterator[_Evaluation | Rejection]:
    """Each label line with the votes of the external evaluators; a malformed line is rejected.

    The lines below a malformed label line are skipped, since their votes belong to no other utterance.
    """
    for block in _blocks(content):
        number, head = block[0]
        line = _LABEL_LINE.fullmatch(head)
        if line is None:
            yield _bad_row(where, number, head, "expected [start - end] name label [V, A, D]")
            continue
        name = _NAME.fullmatch(line["name"])
        if name is None:
            yield _bad_row(where, number, head, "not named as the release names its utterances")
            continue
        votes: Counter[str] = Counter()
        for number, text in block[1:]:
            rater = _RATER_LINE.fullmatch(text)
            external = rater is not None and rater["kind"] + rater["rater"] == "CE"
            if rater is None or (external and "(" not in rater["rest"]):
                yield _bad_row(where, number, text, f"an incomplete vote on {name.string}, which is left out")
            elif external:
                named = (label.strip() for label in rater["rest"].partition("(")[0].split(";"))
                votes.update({label for label in named if label})
        yield _Evaluation(line, name, dict(sorted(votes.items())))


def _blocks(content: str) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines of each utterance; a blank line or an opening bracket starts the next utterance."""
    block: list[tuple[int, str]] = []
    for number, raw in enumerate(io.StringIO(content, newline=None), start=1):
        line = raw.strip()
        if block and (not line or line.startswith("[")):
            yield block
            block = []
        if line and not line.startswith("%"):
            block.append((number, line))
    if block:
        yield block


def _transcript_lines(content: str, where: str) -> Iterator[re.Match[str] | Rejection]:
    """The lines that begin with an utterance id; a truncated one is rejected."""
    for number, raw in enumerate(io.StringIO(content, newline=None), start=1):
        line = raw.strip()
        found = _TRANSCRIPT_LINE.fullmatch(line)
        if found is not None:
            yield found
        elif line.startswith("Ses"):
            yield _bad_row(where, number, line, "expected name [start-end]: words")


def _transcript(lines: Sequence[re.Match[str]], times_s: tuple[float, float]) -> str | None:
    """The transcript of an utterance: of its lines the one nearest to the times of the label.

    If no line is within ``_NEAR_S`` of them, the first line without times is used.
    """
    start_s, end_s = times_s
    spoken = [line for line in lines if line["words"]]
    timed = [line for line in spoken if line["start"] is not None]
    low_s, high_s = start_s - _NEAR_S, end_s + _NEAR_S
    near = [line for line in timed if float(line["start"]) < high_s and float(line["end"]) > low_s]
    if near:
        nearest = min(near, key=lambda line: abs(float(line["start"]) - start_s) + abs(float(line["end"]) - end_s))
        return str(nearest["words"])
    return next((str(line["words"]) for line in spoken if line["start"] is None), None)


def _bad_row(where: str, number: int, line: str, why: str) -> Rejection:
    return Rejection(where, "bad_row", f"line {number}: {' '.join(line[:80].split())!r}: {why}")
