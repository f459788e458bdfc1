"""Fixtures that every tier shares."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

REPO_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data_folder() -> Path:
    """Folder with real data; what needs it is skipped where it is absent."""
    folder = Path(os.environ.get("LALM_MER_DATA", REPO_ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set LALM_MER_DATA to a folder that has it")
    return folder


@pytest.fixture
def shared_data(shared_data_folder: Path) -> Path:
    """The same, for a single test."""
    return shared_data_folder


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


@pytest.fixture(scope="session")
def tiny_whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multilingual Whisper with random weights and a window of 2 s."""
    from tiny_whisper import build_tiny_whisper  # here, so that other tests do not load torch

    folder = tmp_path_factory.mktemp("tiny_whisper")
    build_tiny_whisper(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A maker of tiny models with random weights and a window of 2 s; each family is built once a session."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            from lalm_mer.models.families import family_class  # here, so that other tests do not load torch
            from lalm_mer.models.tiny import build_tiny

            if needs := family_class(family).needs:
                pytest.importorskip(needs, reason=f"the extra `{family}` is not installed")
            folder = tmp_path_factory.mktemp(f"tiny_{family}")
            prompts = sorted((REPO_ROOT / "prompts").glob("*.yaml"))
            words = [line for path in prompts for line in path.read_text("utf-8").splitlines()]
            build_tiny(
                family,
                folder,
                words=[*words, "happy angry calm sad joyful full of joy"],
                window_s=2,
                hidden_size=32,
                initializer_range=0.1,  # wide enough for answers to differ
            )
            made[family] = folder
        return made[family]

    return make
