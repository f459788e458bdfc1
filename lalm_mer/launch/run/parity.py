"""Comparison of a server's label scores with the exact scores of the same model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel

from lalm_mer.core.config import recorded
from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.notes import Note, NoteCode, sentence
from lalm_mer.core.output import write_json
from lalm_mer.core.progress import progress
from lalm_mer.core.schema import Input
from lalm_mer.core.settings import naming_keys
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.launch.build.model_run import LoadedRun
from lalm_mer.launch.config.server import ParitySettings
from lalm_mer.launch.config.settings import ZeroShotSettings
from lalm_mer.models.adapters import load_adapter
from lalm_mer.models.families import family_class
from lalm_mer.models.families.base import Family
from lalm_mer.prompting.conversation import Conversation
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.remote.journal import Journal
from lalm_mer.recognizers.remote.messages import joined, without_names
from lalm_mer.recognizers.remote.recognizer import RemoteRecognizer
from lalm_mer.recognizers.scoring import score_inputs
from lalm_mer.sharing.hub import load_adapter_from

__all__ = ["check_parity", "compared"]

_FILE = "parity.json"
_Scores = npt.NDArray[np.float64]


def compared(count: int, limit: int) -> list[int]:
    """Positions of the utterances that are compared: all, or ``limit`` evenly spaced ones.

    Example:
        >>> compared(3, 200), compared(10, 4)
        ([0, 1, 2], [0, 2, 5, 7])
    """
    return list(range(count)) if count <= limit else [count * number // limit for number in range(limit)]


def check_parity(
    loaded: LoadedRun, recognizer: RemoteRecognizer, journal: Journal, inputs: Sequence[tuple[str, Input]], folder: Path
) -> Note:
    """Compare label log-probabilities, print the result, and keep it in the run folder, so that it is done once.

    Args:
        loaded: the run
        recognizer: of the served model
        journal: its answers, with those to ``inputs`` and to the input without content
        inputs: id and input of each utterance that is compared
        folder: the run folder

    Raises:
        ConfigError: if the model on this machine does not take the audio that is sent
        ModelError: if the scores differ by more than the settings allow
    """
    settings = cast(ZeroShotSettings, loaded.settings).parity
    file = folder / _FILE
    if file.is_file():
        return _note(parse(_Parity, read_object(file), str(file)))
    answers = [journal.answers[name] for name, _ in inputs]
    empty = recognizer.content_free
    served = recognizer.average(answers, None if empty is None else journal.answers[empty.utterance_id]).values
    setup = cast(PromptSetup, loaded.setup)
    as_sent = replace(setup, prompts=tuple(_AsSent(**vars(prompt)) for prompt in setup.prompts))
    model, adapted = _open(loaded, settings, [given for _, given in inputs])
    exact, here = (_scores(loaded, LanguageRecognizer(model, each, adapted), inputs) for each in (as_sent, setup))
    result = _Parity(
        recorded(settings).id,
        len(inputs),
        _same(served, exact),
        f"{_differences(served, exact).max():.2g}",
        _same(served, here),
        f"{_differences(served, here).max():.2g}",
    )
    print(f"parity: {sentence(_note(result))}", flush=True)  # noqa: T201 before most is sent
    row, column = divmod(int(_differences(served, exact).argmax()), served.shape[1])
    largest = float(_differences(served, exact)[row, column])
    if largest > settings.max_difference or result.same < settings.min_agreement * len(inputs):
        raise ModelError(
            f"parity: {result.same} of {len(inputs)} predictions are those of {result.model} (parity.min_agreement "
            f"{settings.min_agreement:g}), and {recognizer.label_set.labels[column]!r} of utterance {inputs[row][0]} "
            f"differs by {largest:.2g} (parity.max_difference {settings.max_difference:g}); compare weights, chat "
            "template and data type of the server, or raise these bounds in a new folder"
        )
    write_json(file, asdict(result))
    return _note(result)


@dataclass(frozen=True)
class _Parity:
    """Content of the file; ``here`` is with separately tokenised slots, as in runs on this machine."""

    model: str
    n: int
    same: int
    difference: str
    same_here: int
    difference_here: str


class _AsSent(Prompt):
    """A prompt whose conversations have the texts that are sent."""

    def conversation(self, *arguments: Any, **options: Any) -> Conversation:  # noqa: ANN401 those of the prompt
        """The conversation for one input."""
        return joined(super().conversation(*arguments, **options))


def _note(result: _Parity) -> Note:
    facts = {key: value for key, value in asdict(result).items() if key != "n"}
    return Note(NoteCode.PARITY, "test", result.n, facts=facts)


def _same(served: _Scores, exact: _Scores) -> int:
    """Number of utterances with the same prediction; none without a score is."""
    return int((np.nan_to_num(served, nan=-np.inf).argmax(axis=1) == exact.argmax(axis=1)).sum())


def _differences(served: _Scores, exact: _Scores) -> _Scores:
    """Absolute differences (N, K), infinite without a score."""
    return np.nan_to_num(np.abs(served - exact), nan=np.inf)


def _open(loaded: LoadedRun, settings: ParitySettings, inputs: Sequence[Input]) -> tuple[Family, PeftModel | None]:
    """The model on this machine, with its adapter if it has one."""
    with naming_keys("parity"):
        family = family_class(str(settings.family)).load(
            recorded(settings).id, revision=settings.revision, dtype=settings.dtype, attn_implementation="sdpa"
        )
    _require_audio(family, loaded, inputs)
    if settings.adapter is None:
        return family, None
    return family, load_adapter(family, load_adapter_from(settings.adapter, key="key 'parity.adapter'"))


def _scores(loaded: LoadedRun, exact: LanguageRecognizer, inputs: Sequence[tuple[str, Input]]) -> _Scores:
    """Label log-probabilities of the model on this machine, (N, K)."""
    on_cpu = cast(ZeroShotSettings, loaded.settings).scoring.use_cpu
    device = None if on_cpu else torch.accelerator.current_accelerator(check_available=True)
    exact.to(device or torch.device("cpu")).eval()
    given = (without_names(each) for _, each in inputs)
    return np.stack(list(score_inputs(exact, progress(given, desc="exact", unit="utterances", total=len(inputs)))))


def _require_audio(family: Family, loaded: LoadedRun, inputs: Sequence[Input]) -> None:
    if not loaded.setup.uses("audio"):
        return
    if family.sampling_rate != loaded.model.sampling_rate:
        raise ConfigError(
            f"key 'remote.sampling_rate': {loaded.model.sampling_rate}, but {family.name} takes audio at "
            f"{family.sampling_rate} Hz; send that"
        )
    for given in inputs:
        reason = None if given.waveform is None else family.refuses(given.waveform.duration_s)
        if reason is not None:
            raise ConfigError(
                f"key 'remote.longest_audio_s': utterance {given.utterance_id}: {reason}; lower it to that"
            )
