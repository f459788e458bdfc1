"""Names that settings, files and code share: modalities, sources of transcripts, conditions of a test, methods."""

from __future__ import annotations

__all__ = [
    "ADAPTERS",
    "ASR",
    "AUDIO",
    "AUDIO_SWAPPED",
    "AUDIO_TRANSCRIPT",
    "BASELINE",
    "CONDITIONS",
    "FROM_CORPUS",
    "HUMAN",
    "METHODS",
    "MODALITIES",
    "SIMULATED",
    "TRANSCRIPT",
    "TRANSCRIPT_SOURCES",
    "UNCHANGED",
    "UTTERANCE_TRANSCRIPT_SOURCES",
    "ZERO_SHOT",
    "modalities_of",
    "uses_audio",
    "uses_transcript",
]

AUDIO = "audio"
TRANSCRIPT = "transcript"
AUDIO_TRANSCRIPT = "audio+transcript"
MODALITIES = (AUDIO, TRANSCRIPT, AUDIO_TRANSCRIPT)
"""What a recognizer may be given of an utterance."""

HUMAN = "human"
FROM_CORPUS = "corpus"
ASR = "asr"
SIMULATED = "simulated"
UTTERANCE_TRANSCRIPT_SOURCES = (HUMAN, ASR, SIMULATED)
"""Column ``transcript_source`` of utterances: who wrote the transcript. A simulated one is made from the label."""
TRANSCRIPT_SOURCES = (FROM_CORPUS, ASR, SIMULATED)
"""Key ``transcript_source`` of a run: the transcripts that it uses."""

UNCHANGED = "none"
AUDIO_SWAPPED = "audio_swapped"
CONDITIONS = (UNCHANGED, AUDIO_SWAPPED)
"""Column ``condition`` of predictions: inputs as they are, or with the audio of another utterance."""

ZERO_SHOT = "zero_shot"
BASELINE = "baseline"
ADAPTERS = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "vera": "VeRA", "ia3": "(IA)³", "oft": "OFT"}
"""Methods that train an adapter -> how they are written."""
METHODS = (ZERO_SHOT, *ADAPTERS, BASELINE)
"""How a recognizer was made."""


def uses_audio(modalities: str) -> bool:
    """Whether one of ``MODALITIES`` includes audio."""
    return AUDIO in modalities.split("+")


def uses_transcript(modalities: str) -> bool:
    """Whether one of ``MODALITIES`` includes the transcript."""
    return TRANSCRIPT in modalities.split("+")


def modalities_of(*, audio: bool, transcript: bool) -> str:
    """The one of ``MODALITIES`` that includes what is used; empty where nothing is.

    Example:
        >>> modalities_of(audio=True, transcript=True), modalities_of(audio=False, transcript=True)
        ('audio+transcript', 'transcript')
    """
    return "+".join(name for name, used in ((AUDIO, audio), (TRANSCRIPT, transcript)) if used)
