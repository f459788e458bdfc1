"""A run of a model on a server: what leaves this machine is printed first, and answers are kept as they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.labels import UNPARSED
from lalm_mer.core.names import FIRST_TOKEN, GENERATION
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.progress import progress
from lalm_mer.launch.build.model_run import LoadedRun
from lalm_mer.launch.config.server import RemoteSettings
from lalm_mer.launch.config.settings import ZeroShotSettings
from lalm_mer.launch.run.answering import Answering, open_answering
from lalm_mer.launch.run.engine import Engine
from lalm_mer.launch.run.identity import loaded_identity
from lalm_mer.launch.run.parity import check_parity, compared
from lalm_mer.launch.run.run_folder import RunFolder, open_run
from lalm_mer.models.chat_client import ChatClient, ServerAddress
from lalm_mer.recognizers.remote.journal import JOURNAL, Journal
from lalm_mer.recognizers.remote.label_scores import LISTED
from lalm_mer.recognizers.remote.recognizer import RemoteRecognizer
from lalm_mer.recognizers.remote.replies import Usage
from lalm_mer.recognizers.training import Inputs

__all__ = ["cost", "score_remotely", "what_leaves"]

_SLOTS = {
    "audio": "audio", "transcript": "transcript", "context": "preceding turns with numbered speakers",
    "descriptors": "description of the voice",
}  # fmt: skip


def score_remotely(loaded: LoadedRun, folder: Path, method: str, inputs: Inputs, engine: Engine) -> None:
    """Score the test inputs by the server and finish the run; if it was interrupted, only those without an answer.

    Args:
        loaded: the run
        folder: the run folder
        method: ``zero_shot``, or the kind of the served adapter
        inputs: the test inputs that are short enough, in order
        engine: the expected engine

    Raises:
        ConfigError: if the server does not support the way of scoring, or there are several processes
        ModelError: if the server does not have the model, cannot be reached, or differs from the exact scores
    """
    settings = cast(ZeroShotSettings, loaded.settings)
    if engine.num_processes > 1:
        raise ConfigError(
            f"{engine.source}: {engine.num_processes} processes; family remote has one, with several threads"
        )
    recognizer = cast(RemoteRecognizer, loaded.recognizer())
    answering, notes = None, _notes(settings)
    if settings.answering.mode == GENERATION:
        answering = open_answering(cast(Any, recognizer), loaded.data, settings.answering)
        notes += answering.notes()
    run = open_run(
        folder, loaded_identity(loaded, method, notes, settings.scoring.condition), ZeroShotSettings, writes=True
    )
    names = list(loaded.data.scored_test.utterances()["utterance_id"])
    journal = Journal(folder / JOURNAL, prompts=len(recognizer.prompts), labels=len(recognizer.label_set))
    with closing(recognizer.client):
        print(what_leaves(loaded, names, journal), flush=True)  # noqa: T201 before anything is sent
        _require_served(recognizer.client, settings)
        reported = recognizer.prepare(journal.model)
        run.add_notes(_served(settings, reported))
        empty = recognizer.content_free
        if empty is not None and empty.utterance_id not in journal.answers:
            journal.add(recognizer.answer(empty))
        if settings.parity.family is not None:
            chosen = compared(len(names), settings.parity.utterances)
            _answer(recognizer, journal, inputs, names, chosen, settings.remote)
            run.add_notes(
                check_parity(loaded, recognizer, journal, [(names[each], inputs[each]) for each in chosen], folder)
            )
        _answer(recognizer, journal, inputs, names, range(len(names)), settings.remote)
    _finish(run, loaded, recognizer, answering, journal, names)


def what_leaves(loaded: LoadedRun, names: Sequence[str], journal: Journal) -> str:
    """The line that is printed before anything is sent: what of how many utterances, and where to."""
    settings, setup = cast(ZeroShotSettings, loaded.settings), loaded.setup
    address = ServerAddress.parse(settings.model.url or "")
    sent = " and ".join(words for slot, words in _SLOTS.items() if setup.uses(slot))
    left = sum(name not in journal.answers for name in names)
    before = f" ({len(names) - left} were answered before)" if left < len(names) else ""
    shots = f"; with each, {len(setup.shots)} training utterances and their labels" if setup.shots else ""
    how = "encrypted" if address.encrypted else "not encrypted"
    return (
        f"remote: to {address.host} ({address.url}, {how}) go the prompt and the {sent} of {left} test utterances of "
        f"{loaded.data.folded.corpus.name}{before}{shots}; no ids, paths or names of speakers"
    )


def cost(usage: Usage, settings: RemoteSettings) -> str:
    """Cost of a run as text; unknown without both prices.

    Example:
        >>> cost(Usage(10, 2_000_000, 10), RemoteSettings(prompt_token_price=2.5, completion_token_price=10.0))
        '5.0001 USD'
    """
    prompt, completion = settings.prompt_token_price, settings.completion_token_price
    if prompt is None or completion is None:
        return "unknown without remote.prompt_token_price and completion_token_price"
    return f"{(usage.prompt_tokens * prompt + usage.completion_tokens * completion) / 1e6:.4f} {settings.currency}"


def _notes(settings: ZeroShotSettings) -> list[Note]:
    notes = [] if settings.model.adapter is None else [Note(NoteCode.UNKNOWN_TRAINING_DATA)]
    if settings.answering.mode != GENERATION and settings.remote.label_scores == FIRST_TOKEN:
        notes.append(Note(NoteCode.FIRST_TOKEN, facts={"listed": LISTED}))
    return notes


def _served(settings: ZeroShotSettings, reported: str) -> Note:
    model = settings.model
    name = model.id if model.adapter is None else f"{model.id} with adapter {model.adapter}"
    return Note(NoteCode.SERVED_MODEL, facts={"url": str(model.url), "model": name, "reported": reported})


def _require_served(client: ChatClient, settings: ZeroShotSettings) -> None:
    """Compare the names of the run with the server's list of models, if it has one."""
    served, model = client.served_models(), settings.model
    if served is None:
        return
    for key, name in (("id", model.id), ("adapter", model.adapter)):
        if name is not None and name not in served and ":" not in name:  # SGLang's base:adapter is not listed
            listed = ", ".join(sorted(served)[:10])
            raise ModelError(f"key 'model.{key}': {client.address.host} does not serve {name!r}; it serves {listed}")
    if model.adapter is not None and served.get(model.adapter) not in (None, model.id):
        raise ModelError(f"key 'model.adapter': {model.adapter!r} is an adapter of {served[model.adapter]!r} there")


def _answer(
    recognizer: RemoteRecognizer,
    journal: Journal,
    inputs: Inputs,
    names: Sequence[str],
    chosen: Iterable[int],
    settings: RemoteSettings,
) -> None:
    """Send the chosen inputs that have no answer yet, and keep each answer as it arrives."""
    missing = [each for each in chosen if names[each] not in journal.answers]
    arriving = recognizer.answers((inputs[each] for each in missing), concurrency=settings.concurrency)
    for answer in progress(arriving, desc="remote", unit="utterances", total=len(missing)):
        journal.add(answer)


def _finish(
    run: RunFolder,
    loaded: LoadedRun,
    recognizer: RemoteRecognizer,
    answering: Answering | None,
    journal: Journal,
    names: Sequence[str],
) -> None:
    settings, usage = cast(ZeroShotSettings, loaded.settings), journal.usage()
    numbers = {key: getattr(usage, key) for key in ("requests", "prompt_tokens", "completion_tokens")}
    run.add_notes(Note(NoteCode.SERVER_TOKENS, facts={**numbers, "cost": cost(usage, settings.remote)}))
    answers = [journal.answers[name] for name in names]
    if answering is not None:
        texts: list[str | None] = [None] * len(loaded.data.test)
        for position, answer in zip(loaded.data.scored, answers, strict=True):
            texts[position] = answer.text or ""
        parsed = [UNPARSED if text is None else answering.parse(text) for text in texts]
        run.finish_answers(loaded.data, texts, parsed)
        return
    empty = recognizer.content_free
    scores = recognizer.average(answers, None if empty is None else journal.answers[empty.utterance_id])
    run.finish(loaded.data, scores)
