"""Checkpoints of a run: the newest complete one, and its check before transformers reads it.

transformers silently continues without a file that is missing, and the training would not be the same.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lalm_mer.core.errors import ModelError, PredictionError, one_line
from lalm_mer.core.strict_json import read_object

__all__ = ["COMPLETE", "TRAINED", "check_checkpoint", "last_complete_checkpoint", "reading", "saved_processes"]

TRAINED = "trained.safetensors"
COMPLETE = "WHOLE"  # file that is written last: a checkpoint without it is incomplete
_STATE = "trainer_state.json"
_NUMBERS = ("global_step", "max_steps", "num_train_epochs")
_CHOOSE = "remove this checkpoint to resume from an earlier one"


def last_complete_checkpoint(folder: Path, *, removes: bool = True) -> Path | None:
    """The newest complete checkpoint; transformers' ``get_last_checkpoint`` also takes an incomplete one.

    Args:
        folder: the checkpoints of a run
        removes: whether this process removes incomplete checkpoints; only one process should
    """
    complete = []
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if (path / COMPLETE).is_file():
            complete.append(path)
        elif removes:
            shutil.rmtree(path)
    return max(complete, key=_step_of, default=None)


def saved_processes(checkpoint: Path) -> int | None:
    """Number of processes that saved a checkpoint, each with its random state; None if states are missing."""
    if (checkpoint / "rng_state.pth").is_file():
        return 1
    names = {path.name for path in checkpoint.glob("rng_state_*.pth")}
    complete = names == {f"rng_state_{number}.pth" for number in range(len(names))}
    return len(names) if complete and len(names) > 1 else None


def check_checkpoint(
    checkpoint: Path, process: int, processes: int, *, deepspeed: bool = False, scales_loss: bool = False
) -> None:
    """Check that a checkpoint has every file of a resumed training, and that its state is one of this run.

    A checkpoint of another number of processes is resumed without their random states.

    Args:
        checkpoint: a folder of ``last_complete_checkpoint``
        process: number of this process
        processes: number of processes now
        deepspeed: whether DeepSpeed saved the optimizer, which checks it itself
        scales_loss: whether the loss is scaled, as in mixed precision with float16

    Raises:
        ModelError: naming the file, and the key if there is one, or if DeepSpeed saved it with another number of
            processes
    """
    names = [TRAINED, _STATE, "scheduler.pt", *(["scaler.pt"] if scales_loss else [])]
    saved = saved_processes(checkpoint)
    if saved in (None, processes):
        names.append("rng_state.pth" if processes == 1 else f"rng_state_{process}.pth")
    elif deepspeed:
        raise ModelError(
            f"{checkpoint}: DeepSpeed split the optimizer between {saved} processes, now there are {processes}; resume "
            f"with {saved}"
        )
    for name in names:
        if not (checkpoint / name).is_file():
            raise ModelError(f"{checkpoint}: no {name}, without which the training would not be the same; {_CHOOSE}")
    if not deepspeed and not any(checkpoint.glob("optimizer*")):
        raise ModelError(f"{checkpoint}: no optimizer.pt, without which the training would not be the same; {_CHOOSE}")
    try:
        state = read_object(checkpoint / _STATE)
    except PredictionError as error:
        raise ModelError(f"{error}; {_CHOOSE}") from error
    _check_state(state, checkpoint)


def _check_state(state: dict[str, Any], checkpoint: Path) -> None:
    where = f"{checkpoint / _STATE}: key"
    if unknown := state.keys() - {field.name for field in fields(TrainerState)}:
        raise ModelError(f"{where} {min(unknown)!r}: unknown; was it written by another version of transformers?")
    for key in _NUMBERS:
        if isinstance(state.get(key), bool) or not isinstance(state.get(key), int):
            raise ModelError(f"{where} {key!r}: {state.get(key)!r}; expected a number; {_CHOOSE}")
    if state["global_step"] != _step_of(checkpoint):
        raise ModelError(f"{where} 'global_step': {state['global_step']}; expected that of the folder; {_CHOOSE}")
    history = state.get("log_history")
    if not isinstance(history, list) or not all(isinstance(row, dict) and "step" in row for row in history):
        raise ModelError(f"{where} 'log_history': expected a list of objects with 'step'; {_CHOOSE}")
    best = state.get("best_model_checkpoint")
    if best is not None and (not isinstance(best, str) or Path(best).resolve().parent != checkpoint.resolve().parent):
        raise ModelError(
            f"{where} 'best_model_checkpoint': {best!r} is not in {checkpoint.parent}; was the run folder moved? Move "
            "it back, or train in another output.dir"
        )


@contextmanager
def reading(checkpoint: str | Path | None) -> Iterator[None]:
    """Turn the errors of a file that is damaged or does not fit into one line.

    Raises:
        ModelError: naming the checkpoint
    """
    try:
        yield
    except ModelError:
        raise
    except (
        OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, SafetensorError,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise ModelError(f"{checkpoint}: cannot be read ({one_line(error)}); {_CHOOSE}") from error


def _step_of(checkpoint: Path) -> int:
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isdecimal() and len(step) < 19 else -1
