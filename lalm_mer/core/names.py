"""Names that settings, files and code share: modalities, transcript sources, conditions, methods, and ways to load,
train and score a model. This module imports nothing, so that ``--help`` can list them quickly.
"""

from __future__ import annotations

__all__ = [
    "ADAPTERS", "ASR", "ATTENTION", "AUDIO", "AUDIO_SWAPPED", "AUDIO_TRANSCRIPT", "BASELINE", "COMPOSED_OF",
    "CONDITIONS", "DTYPES", "FIRST_TOKEN", "FROM_CORPUS", "FULL", "FUSION_RULES", "GENERATION", "HUMAN", "LABEL_SCORES",
    "LATE_FUSION", "LIKELIHOOD", "LINEAR", "LOSSES", "LOSSES_OF", "METHODS", "MODALITIES", "NORMALISATIONS",
    "OBJECTIVES", "OPTIMIZERS", "PROMPT_LOGPROBS", "QUANTIZATIONS", "SERVED_SCORES", "SIMULATED", "TASK_KINDS",
    "TOWER_CACHE", "TRANSCRIPT", "TRANSCRIPT_SOURCES", "UNCHANGED", "UTTERANCE_TRANSCRIPT_SOURCES", "ZERO_SHOT",
    "input_text", "modalities_of", "uses_audio", "uses_transcript",
]  # fmt: skip

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
"""Column ``transcript_source`` of utterances: origin of the transcript. A simulated one is made from the label."""
TRANSCRIPT_SOURCES = (FROM_CORPUS, ASR, SIMULATED)
"""Key ``transcript_source`` of a run: which transcripts it uses."""

UNCHANGED = "none"
AUDIO_SWAPPED = "audio_swapped"
CONDITIONS = (UNCHANGED, AUDIO_SWAPPED)
"""Column ``condition`` of predictions: inputs as they are, or with the audio of another utterance."""

ZERO_SHOT = "zero_shot"
BASELINE = "baseline"
ADAPTERS = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "vera": "VeRA", "ia3": "(IA)³", "oft": "OFT"}
"""Method that trains an adapter -> its name in text."""
FULL = "full"
"""Method that trains every weight of chosen towers, without an adapter."""
LINEAR = "linear"
LATE_FUSION = "late_fusion"
METHODS = (ZERO_SHOT, *ADAPTERS, FULL, BASELINE, LINEAR, LATE_FUSION)
"""How a recognizer was made."""
FUSION_RULES = ("mean", "logits", "weighted", "vote", "stacking")
"""How the label log-probabilities of the members of a late fusion are combined."""
DTYPES = ("float32", "bfloat16", "float16")
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flex_attention")
"""Implementations of attention, by their names in transformers."""
QUANTIZATIONS = ("nf4",)
"""QLoRA: the language model, or the text tower of a dual encoder, in 4 bits."""
TOWER_CACHE = ("auto", "require", "never")
"""Use of stored outputs of the audio tower: where it gives the same results, or else an error, or not at all."""
LIKELIHOOD = "likelihood"
GENERATION = "generation"
"""How a label is predicted."""
OBJECTIVES = ("cross_entropy", "contrastive")
"""Losses that a dual encoder computes itself."""
TASK_KINDS = ("single", "multi", "scalar")
"""Kind of a task, column ``task`` of predictions: one label an utterance, several, or numbers."""
LOSSES_OF = {
    "single": ("cross_entropy", "kl", "focal", "contrastive"),
    "multi": ("binary_cross_entropy", "focal"),
    "scalar": ("ccc", "mse"),
}
"""Kind of a task -> its training losses, the default first."""
LOSSES = tuple(dict.fromkeys(name for names in LOSSES_OF.values() for name in names))
OPTIMIZERS = (
    "adamw_torch_fused", "adamw_torch", "adafactor", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit",
)  # fmt: skip
"""Names in transformers; the first is its default."""
PROMPT_LOGPROBS = "prompt_logprobs"
FIRST_TOKEN = "first_token"
SERVED_SCORES = (PROMPT_LOGPROBS, FIRST_TOKEN)
"""How labels are scored by a server: every token of each answer, or the first token among the most probable ones."""
LABEL_SCORES = ("sum", "mean", "pmi")
"""How the token log-probabilities of an answer become the score of its label."""

NORMALISATIONS = ("train", "speaker", "none")
"""Which utterances give mean and standard deviation of the features: those of train, those of a speaker, or none."""

COMPOSED_OF = "composed_of"
"""Key of a model's config, by which one of class Qwen2-Audio is of family composed: its parts"""


def uses_audio(modalities: str) -> bool:
    """Whether one of ``MODALITIES`` includes audio."""
    return AUDIO in modalities.split("+")


def uses_transcript(modalities: str) -> bool:
    """Whether one of ``MODALITIES`` includes the transcript."""
    return TRANSCRIPT in modalities.split("+")


def input_text(modalities: str, transcript_source: str | None, condition: str) -> str:
    """Modalities for a table, with the source of transcripts other than those of the corpus, and a changed condition.

    Example:
        >>> input_text("audio", None, "none"), input_text("audio+transcript", "asr", "audio_swapped")
        ('audio', 'audio+transcript (asr, audio_swapped)')
    """
    special = [name for name in (transcript_source, condition) if name not in (None, FROM_CORPUS, UNCHANGED)]
    return f"{modalities} ({', '.join(map(str, special))})" if special else modalities


def modalities_of(*, audio: bool, transcript: bool) -> str:
    """The one of ``MODALITIES`` with the given inputs; empty if there are none.

    Example:
        >>> modalities_of(audio=True, transcript=True), modalities_of(audio=False, transcript=True)
        ('audio+transcript', 'transcript')
    """
    return "+".join(name for name, used in ((AUDIO, audio), (TRANSCRIPT, transcript)) if used)
