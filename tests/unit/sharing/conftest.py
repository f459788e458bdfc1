"""A finished run to share."""

import shutil

import pytest
from shared_baseline import write_baseline_run
from shared_run import write_run

from lalm_mer.sharing.hub_folder import assemble


@pytest.fixture(scope="session")
def finished(tiny_folder, tmp_path_factory):
    """Run folder of a LoRA run; no test may change it."""
    return write_run(tmp_path_factory.mktemp("home_of_jane") / "run", tiny_folder("qwen2_audio"))


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="session")
def finished_baseline(tmp_path_factory):
    """Run folder of log-mel bands and a small BERT; no test may change it."""
    return write_baseline_run(tmp_path_factory.mktemp("home_of_jane") / "run")


@pytest.fixture
def baseline(finished_baseline, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(finished_baseline, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="session")
def assembled(finished_baseline, tmp_path_factory):
    """The folder that is pushed; no test may change it."""
    out = tmp_path_factory.mktemp("assembled") / "out"
    return assemble(finished_baseline, out, repo_id="jane/baseline", push_vocabulary=True)


@pytest.fixture
def shared(assembled, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(assembled, tmp_path / "shared")
    return tmp_path / "shared"
