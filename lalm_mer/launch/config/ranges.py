"""What numbers of a config may be, asked before anything is loaded: torch and transformers would fail hours later."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from lalm_mer.core.errors import ConfigError

__all__ = ["require_ranges"]

_LEAST = {
    "shots": 0, "context_turns": 0, "label_orders": 1, "max_new_tokens": 1,
    "per_device_eval_batch_size": 1, "per_device_train_batch_size": 1, "batch_size": 1,
    "dataloader_num_workers": 0, "num_processes": 1, "processes": 1,
    "gradient_accumulation_steps": 1, "eval_steps": 1, "logging_steps": 1, "early_stopping_patience": 1,
    "learning_rate": 0, "weight_decay": 0, "max_grad_norm": 0, "warmup_steps": 0,
    "hidden_size": 1, "layers": 1, "vocabulary": 1, "window_s": 1, "seed": 0,
}  # fmt: skip
_ABOVE_0 = ("num_train_epochs", "push_timeout_s")
_LARGEST_SEED = 2**32 - 1  # numpy's


def require_ranges(settings: Any, section: str = "") -> None:  # noqa: ANN401 any dataclass of settings
    """Check every number whose range is known by its key.

    Args:
        settings: a dataclass of settings, sections in it included
        section: its key and a dot

    Raises:
        ConfigError: naming key, value and range

    Example:
        >>> from lalm_mer.launch.config.settings import ScoringSettings
        >>> try:
        ...     require_ranges(ScoringSettings(per_device_eval_batch_size=0), "scoring.")
        ... except ConfigError as error:
        ...     print(error)
        key 'scoring.per_device_eval_batch_size': 0; expected 1 or more
    """
    for name in (field.name for field in fields(settings)):
        value = getattr(settings, name)
        if is_dataclass(value):
            require_ranges(value, f"{section}{name}.")
            continue
        if not isinstance(value, int | float):
            continue
        expected = None
        if value < _LEAST.get(name, value):
            expected = f"{_LEAST[name]} or more"
        elif name in _ABOVE_0 and value <= 0:
            expected = "more than 0"
        elif name == "max_steps" and (value == 0 or value < -1):
            expected = "1 or more, or -1 for as many as train.num_train_epochs takes"
        elif name == "seed" and value > _LARGEST_SEED:
            expected = f"at most {_LARGEST_SEED}"
        if expected:
            raise ConfigError(f"key '{section}{name}': {value}; expected {expected}")
