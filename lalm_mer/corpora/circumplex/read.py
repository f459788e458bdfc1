"""Reader of the synthetic circumplex corpus, which generates its utterances instead of reading files."""

from __future__ import annotations

from collections.abc import Iterator

from lalm_mer.core.names import SIMULATED
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora.circumplex import design
from lalm_mer.corpora.circumplex.voices import Voices

__all__ = ["LOADER_VERSION", "read"]

LOADER_VERSION = "3"


def read(variant: str = "masked", seed: int = 0, noise: float = 0.0, raters: int = 0) -> Iterator[Utterance]:
    """Generate the utterances of train, dev and test in the order of their ids; bit-identical for equal settings.

    ``script`` is the carrier sentence. The utterance id is the same in all variants and must never be shown to a
    recognizer, since it names word and arousal. ``valence`` and ``arousal`` follow from the design.

    Args:
        variant: one of ``design.VARIANTS``
        seed: seed of the words in train, of the levels and of the noise
        noise: fraction in [0, 0.5] of the (carrier, speaker) pairs whose voice has the other arousal
        raters: number of simulated raters of each utterance, whose votes are of the channel ``design.RATERS``

    Raises:
        CorpusError: if a setting is invalid, or the extra ``synthesis`` is not installed
    """
    design.check(variant, noise)
    voices = Voices(variant, seed)
    rows = (cell for split in design.SPLITS for cell in design.cells(split, seed, noise))
    for cell in sorted(rows, key=lambda cell: cell.utterance_id):
        transcript = design.transcript(variant, cell)
        valence, arousal = design.dimensions(variant, cell)
        votes = design.simulated_votes(variant, cell, raters, seed)
        yield Utterance(
            utterance_id=cell.utterance_id,
            corpus="circumplex",
            audio_path=f"{cell.utterance_id}.wav",
            audio_bytes=voices.wav(cell),
            transcript=transcript,
            transcript_source=None if transcript is None else SIMULATED,
            speaker=cell.speaker.name,
            gender=cell.speaker.gender,
            language="en",
            script=cell.carrier.name,
            split=cell.split,
            label=design.label(variant, cell),
            ratings={f"{design.RATERS}:{name}": n for name, n in votes.items()} or None,
            valence=valence,
            arousal=arousal,
        )
