"""What was said before an utterance, in the same dialogue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Turn
from lalm_mer.corpora import PreparedCorpus

__all__ = ["dialogue_context"]


def dialogue_context(
    corpus: PreparedCorpus, turns: int, transcript_of: Callable[[str, str | None], str | None] | None = None
) -> dict[str, tuple[Turn, ...]]:
    """The turns before each utterance; nothing that comes after it, and no label.

    A turn is any earlier utterance of the dialogue, whether or not a protocol takes it. One without a transcript is
    passed over.

    Args:
        corpus: whose utterances have a dialogue, and a turn or a start in seconds
        turns: how many at most
        transcript_of: utterance id and the corpus's transcript -> what is read in its place; None for the corpus's

    Returns:
        utterance id -> its turns, the nearest last; () where a dialogue begins

    Raises:
        ConfigError: if an utterance has no dialogue, or the dialogues no order
    """
    table = corpus.columns(["utterance_id", "dialogue", "turn", "start_s", "speaker", "transcript"])
    lost = table.loc[table["dialogue"].isna(), "utterance_id"]
    if len(lost):
        raise ConfigError(
            f"argument 'turns': {turns}, but corpus {corpus.name} says no dialogue of {len(lost)} "
            f"utterances, for example {min(lost)}; set it to 0"
        )
    order = next((column for column in ("turn", "start_s") if table[column].notna().all()), None)
    if order is None:
        raise ConfigError(
            f"argument 'turns': {turns}, but corpus {corpus.name} gives its utterances neither a turn nor a "
            "start, so nothing tells what came before; set it to 0"
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
