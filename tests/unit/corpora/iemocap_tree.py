"""Writes synthetic IEMOCAP releases of any size: its layout and published counts, with invented words."""

import itertools
import random
from collections import defaultdict
from dataclasses import dataclass

from small_release import put

LABELS = {
    "xxx": 2507, "fru": 1849, "neu": 1708, "ang": 1103, "sad": 1084, "exc": 1041, "hap": 595, "sur": 107, "fea": 40,
    "oth": 3, "dis": 2,
}  # fmt: skip
FOUR = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}
SESSIONS = {1: 1085, 2: 1023, 3: 1151, 4: 1031, 5: 1241}
"""Utterances of the four classes in each session."""

_PARTS = [f"impro0{number}" for number in range(1, 9)]
_PARTS += ["script01_1", "script01_2", "script01_3", "script02_1", "script02_2", "script03_1", "script03_2"]


@dataclass(frozen=True)
class Line:
    """One utterance; ``part`` is the dialogue without session and marker."""

    session: int
    marker: str
    part: str
    letter: str
    number: int
    label: str
    transcript: str

    @property
    def dialogue(self):
        return f"Ses0{self.session}{self.marker}_{self.part}"

    @property
    def name(self):
        return f"{self.dialogue}_{self.letter}{self.number:03d}"

    @property
    def script(self):
        return self.part[:8] if self.part.startswith("script") else None


def published():
    """10,039 utterances with the published counts of labels and, for the four classes, of sessions."""
    four, others = (
        [label for label, n in LABELS.items() if (label in FOUR) == wanted for _ in range(n)]
        for wanted in (True, False)
    )
    for labels in (four, others):
        random.Random(0).shuffle(labels)
    rest, lines = iter(four), []
    for session, n in SESSIONS.items():
        labels = list(itertools.islice(rest, n)) + others[session - 1 :: 5]
        random.Random(session).shuffle(labels)
        slots = itertools.cycle(itertools.product("FM", _PARTS))
        numbers = defaultdict(itertools.count)
        for label, (marker, part) in zip(labels, slots, strict=False):
            turn = next(numbers[marker, part])
            letter, number = "FM"[turn % 2], turn // 2
            # a play has the same words in every session; improvised words occur once
            words = f"{part} line {turn}" if part.startswith("script") else f"session {session} {marker} {part} {turn}"
            lines.append(Line(session, marker, part, letter, number, label, f"Synthetic: {words}."))
    return lines


def write(root, lines, audio=None):
    """Write the release of ``lines``: evaluations, transcriptions and, if given, ``audio`` for each."""
    dialogues = defaultdict(list)
    for line in lines:
        dialogues[line.session, line.dialogue].append(line)
    for (session, dialogue), said in dialogues.items():
        labels, words = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"], []
        for turn, line in enumerate(said):
            start, end = 3.0 * turn + 1, 3.0 * turn + 3.5
            labels.append(f"[{start:.4f} - {end:.4f}]\t{line.name}\t{line.label}\t[2.5000, 3.0000, 3.5000]")
            labels.append("C-E2:\tNeutral;\t()\nC-F1:\tAnger;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n")
            words.append(f"{line.name} [{start:08.4f}-{end:08.4f}]: {line.transcript}")
        folder = root / f"Session{session}"
        put(folder / f"dialog/EmoEvaluation/{dialogue}.txt", "\n".join(labels))
        put(folder / f"dialog/transcriptions/{dialogue}.txt", "\n".join(words) + "\n")
        for line in said if audio is not None else ():
            put(folder / f"sentences/wav/{dialogue}/{line.name}.wav", audio)
