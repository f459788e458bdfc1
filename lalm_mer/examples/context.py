"""Earlier turns of the dialogue of an utterance, and an input of these turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Input, Turn
from lalm_mer.corpora import PreparedCorpus

__all__ = ["context_input", "dialogue_context"]


def context_input(given: Input) -> Input | None:
    """The turns before an utterance as one transcript, without audio; None if there are none.

    Example:
        >>> turns = (Turn("A", "Where is it?"), Turn("B", "Gone."))
        >>> context_input(Input("u1", "Oh no!", None, context=turns)).transcript
        'Where is it? Gone.'
    """
    transcript = " ".join(turn.transcript for turn in given.context)
    return Input(given.utterance_id, transcript, None) if given.context else None


def dialogue_context(
    corpus: PreparedCorpus, turns: int, transcript_of: Callable[[str, str | None], str | None] | None = None
) -> dict[str, tuple[Turn, ...]]:
    """The turns before each utterance.

    A turn is any earlier utterance of the dialogue that has a transcript, whether or not it is in a fold.

    Args:
        corpus: corpus whose utterances have a dialogue, and a turn or a start in seconds
        turns: largest number of turns
        transcript_of: utterance id and transcript of the corpus -> transcript to use; None for those of the corpus

    Returns:
        Utterance id -> its turns, the most recent last; () at the beginning of a dialogue

    Raises:
        ConfigError: if an utterance has no dialogue, or the utterances of a dialogue have no order
    """
    table = corpus.columns(["utterance_id", "dialogue", "turn", "start_s", "speaker", "transcript"])
    missing = table.loc[table["dialogue"].isna(), "utterance_id"]
    if len(missing):
        raise ConfigError(
            f"argument 'turns': {turns}, but corpus {corpus.name} has no dialogue for {len(missing)} "
            f"utterances, for example {min(missing)}; set it to 0"
        )
    order = next((column for column in ("turn", "start_s") if table[column].notna().all()), None)
    if order is None:
        raise ConfigError(
            f"argument 'turns': {turns}, but corpus {corpus.name} has neither turn nor start for all utterances, "
            "so their order is unknown; set it to 0"
        )
    context: dict[str, tuple[Turn, ...]] = {}
    for _, dialogue in table.sort_values(["dialogue", order, "utterance_id"]).groupby("dialogue", sort=False):
        before: deque[Turn] = deque(maxlen=turns)
        for row in dialogue.itertuples():
            name, own = str(row.utterance_id), row.transcript if isinstance(row.transcript, str) else None
            context[name] = tuple(before)
            transcript = own if transcript_of is None else transcript_of(name, own)
            if transcript:
                before.append(Turn(row.speaker if isinstance(row.speaker, str) else None, transcript))
    return context
