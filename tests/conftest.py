"""Fixtures that every tier shares."""

import gc
import io
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from lalm_mer.core.labels import Task
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import PreparedCorpus, load, write_corpus
from lalm_mer.examples.dataset import ExampleDataset, ExampleSource
from lalm_mer.protocols.folded_corpus import FoldedCorpus
from lalm_mer.protocols.protocol import FoldRule, InlineTask, Protocol

REPO_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def frozen_imports() -> None:
    """Before each module: accelerate collects garbage after every run, half a second over all imports if not frozen."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes of models are kept in the user's cache: here in a folder of the tests, also for processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A maker of a named folder that all xdist workers share: the first that needs it builds it."""
    folder_of_worker = tmp_path_factory.getbasetemp()
    shared = folder_of_worker.parent if "PYTEST_XDIST_WORKER" in os.environ else folder_of_worker

    def make(name: str, build: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker whose build failed
                folder.mkdir()
                build(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def shared_data_folder() -> Path:
    """Folder with real data, which LALM_MER_DATA names; what needs it is skipped without it."""
    folder = os.environ.get("LALM_MER_DATA")
    if not folder:
        pytest.skip("LALM_MER_DATA is not set: it names a folder with real data")
    if not Path(folder).is_dir():
        pytest.fail(f"LALM_MER_DATA={folder}: no such folder")
    return Path(folder)


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
def examples_of_rows() -> Callable[..., ExampleDataset]:
    """A maker of examples of some rows of an utterance table, whatever fold they are in."""

    def make(utterances: Any, rows: list[int], task: Task, sampling_rate: int | None) -> ExampleDataset:
        columns = None if isinstance(utterances, list) else utterances.to_pandas().__getitem__
        corpus: Any = SimpleNamespace(dataset=utterances, columns=columns)
        folds: Any = None
        return ExampleDataset(ExampleSource(FoldedCorpus(corpus, task, folds, unmapped=0)), rows, sampling_rate)

    return make


@pytest.fixture
def toy_corpus(tmp_path: Path, tone: Callable[..., bytes]) -> Callable[..., PreparedCorpus]:
    """Five synthetic speakers: a happy, a sad and a bored utterance each, and one without a label."""

    def make(rate: int = 8000) -> PreparedCorpus:
        rows = []
        for speaker in range(5):
            for number, label in enumerate(("happy", "sad", "bored", None)):
                rows.append(
                    Utterance(
                        utterance_id=f"s{speaker}_{number}", corpus="toy", audio_path=f"s{speaker}_{number}.wav",
                        audio_bytes=tone(seconds=0.4, rate=rate, hertz=100 + 10 * speaker + number, channels=2),
                        transcript=f"{speaker} says {number}.",
                        speaker=f"s{speaker}", label=label,
                    )
                )  # fmt: skip
        folder = tmp_path / f"toy_{rate}"
        write_corpus(rows, corpus="toy", out_dir=folder, loader_version="1", synthetic=True)
        return load(folder)

    return make


@pytest.fixture
def toy_protocol() -> Callable[..., Protocol]:
    """A maker of protocols for it: five folds by speaker, happy against sad."""

    def make(**changes: Any) -> Protocol:
        inline_task = InlineTask("two", {"happy": ["happy"], "sad": ["sad"]})
        settings = {"disjoint_in": ["speaker", "audio", "transcript"], "inline_task": inline_task} | changes
        return Protocol("p", 1, "here", FoldRule("grouped", "speaker", k=5), **settings)

    return make


@pytest.fixture(scope="session")
def real_weights() -> Callable[[str], Path]:
    """Folders of small published models by name, in the folder that LALM_MER_WEIGHTS names; skipped without it."""
    folder = os.environ.get("LALM_MER_WEIGHTS")

    def named(name: str) -> Path:
        if not folder:
            pytest.skip("LALM_MER_WEIGHTS is not set: it names a folder with small published models")
        if not (Path(folder) / name / "config.json").is_file():
            pytest.skip(f"LALM_MER_WEIGHTS has no {name}")
        return Path(folder) / name

    return named


@pytest.fixture(scope="session")
def tiny_whisper_folder(made_once: Callable[..., Path]) -> Path:
    """A multilingual Whisper with random weights and a window of 2 s."""
    from tiny_whisper import build_tiny_whisper  # here, so that other tests do not load torch

    return made_once("tiny_whisper", build_tiny_whisper)


@pytest.fixture
def make_toy() -> Any:
    """A maker of toy families, from a processor and a model of one's own where wanted."""
    from toy_family import make_toy  # here, so that other tests do not load torch

    return make_toy


@pytest.fixture
def toy(make_toy: Any) -> Any:
    """A family without a network, countable by hand."""
    return make_toy()


@pytest.fixture(scope="session")
def tiny_folder(made_once: Callable[..., Path]) -> Callable[[str], Path]:
    """A maker of tiny models with random weights and a window of 2 s; each family is built once."""

    def build(family: str, folder: Path) -> None:
        from lalm_mer.models.tiny import build_tiny  # here, so that other tests do not load torch

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

    @cache
    def make(family: str) -> Path:
        from lalm_mer.models.families import is_supported
        from lalm_mer.models.registry import model_class

        if not is_supported(family):
            pytest.skip(f"{family} needs a newer transformers")
        if required := getattr(model_class(family), "required_module", None):
            pytest.importorskip(required, reason=f"the extra `{family}` is not installed")
        return made_once(f"tiny_{family}", lambda folder: build(family, folder))

    return make
