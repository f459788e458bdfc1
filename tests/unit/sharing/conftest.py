"""A finished run to share."""

import shutil

import pytest
from shared_run import write_run


@pytest.fixture(scope="session")
def finished(tiny_folder, tmp_path_factory):
    """Run folder of a LoRA run; no test may change it."""
    return write_run(tmp_path_factory.mktemp("home_of_jane") / "run", tiny_folder("qwen2_audio"))


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"
