"""Which values of a parameter ``make test`` runs; the others are marked slow and run by ``make test-all``."""

import pytest

QUICK_FAMILIES = ("granite_speech", "qwen2_5_omni")
"""Two kinds: a Q-former with an adapter of its own, and a model inside another; ``qwen2_audio`` is in most of e2e/."""


def slow_except(values, quick):
    """Parameters of all values, tuples for several names; those that are not in ``quick`` are marked slow."""
    unknown = set(quick) - set(values)
    assert not unknown, f"{unknown} are not among {values}"
    return [
        pytest.param(*value if isinstance(value, tuple) else (value,), marks=() if value in quick else pytest.mark.slow)
        for value in values
    ]
