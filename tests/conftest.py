"""Fixtures that every tier shares."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

REPO_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shared_data() -> Path:
    """Folder with real data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("LALM_MER_DATA", REPO_ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set LALM_MER_DATA to a folder that has it")
    return folder


@pytest.fixture
def tone() -> Callable[..., bytes]:
    """A maker of encoded tones."""

    def make(
        seconds: float = 0.2, rate: int = 8000, channels: int = 1, container: str = "WAV", hertz: float = 200.0
    ) -> bytes:
        time = np.arange(round(seconds * rate)) / rate
        samples = np.repeat(0.3 * np.sin(2 * np.pi * hertz * time)[:, None], channels, axis=1)
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format=container, subtype="PCM_16")
        return file.getvalue()

    return make
