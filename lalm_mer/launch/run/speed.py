"""One line that says how a run computes, as found in the model after it was loaded and prepared."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.processes import is_first_process
from lalm_mer.launch.run.engine import Engine

__all__ = ["SpeedLine", "check_compiled", "print_speed"]


def print_speed(recognizer: Any, mixed_precision: str) -> None:  # noqa: ANN401 a Recognizer
    """Print attention, data type and more of a recognizer that states them, in the first process."""
    if hasattr(recognizer, "speed") and is_first_process():
        mixed = [] if mixed_precision == "no" else [f"{mixed_precision} mixed precision"]
        print(f"speed: {', '.join([*recognizer.speed(), *mixed])}", flush=True)  # noqa: T201 for the user


class SpeedLine(TrainerCallback):  # type: ignore[misc]
    """Prints the line when a training begins: the Trainer has then prepared the model.

    Args:
        recognizer: the recognizer
        mixed_precision: of accelerate
    """

    def __init__(self, recognizer: Any, mixed_precision: str) -> None:  # noqa: ANN401
        self._recognizer = recognizer
        self._mixed_precision = mixed_precision

    def on_train_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Print it."""
        print_speed(self._recognizer, self._mixed_precision)


def check_compiled(recognizer: Any, engine: Engine) -> None:  # noqa: ANN401
    """Refuse engines that replace the weights of layers while these run.

    Raises:
        ConfigError: if the language model is compiled, and the engine shards it
    """
    compiled = getattr(getattr(recognizer, "family", None), "compiled", ())
    if compiled and engine.distributed_type in ("FSDP", "DEEPSPEED"):
        raise ConfigError(
            f"key 'model.torch_compile': true; layers sharded by {engine.distributed_type} are not compiled; set it "
            "to false"
        )
