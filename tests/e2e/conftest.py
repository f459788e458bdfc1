"""A small synthetic corpus and a very tiny model, made once, and the command lines that users write."""

from __future__ import annotations

import csv
import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import shipped
import soundfile
import yaml
from chat_server import Words, serve

from lalm_mer.core.provenance import hash_bytes
from lalm_mer.corpora import load
from lalm_mer.protocols.protocol import SPLITS, load_protocol

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("angry", "content", "happy", "sad")
SPEAKERS = ("s1", "s2", "s3", "s4", "s5", "s6")
CLIPS_A_SPEAKER = 10
TOO_LONG = "s1_too_long"
RATE = 16_000


@dataclass
class Launched:
    """A recipe that runs, with all its children."""

    process: subprocess.Popen[str]

    def kill(self) -> None:
        """SIGKILL to launcher and recipe; torchrun's children have sessions of their own, so each is named."""
        launcher = psutil.Process(self.process.pid)
        launcher.suspend()  # or it would start others in their place
        for process in [*launcher.children(recursive=True), launcher]:
            process.kill()
        self.process.communicate()

    def result(self, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Wait for its end; whatever still runs then is killed."""
        try:
            stdout, stderr = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, stdout, stderr)


@dataclass(frozen=True)
class Workplace:
    """Where the corpus, the model and the YAML files lie, and how recipes are started on them."""

    folder: Path
    own: Mapping[str, Path] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The prepared corpus."""
        return self.folder / "data"

    def config(self, recipe: str) -> Path:
        """The YAML of ``finetune`` or ``zero_shot``, or that of ``with_config``."""
        return self.own.get(recipe, self.folder / f"{recipe}.yaml")

    def with_config(self, recipe: str, content: Mapping[str, Any], folder: Path) -> Workplace:
        """The same with a YAML of its own, since all worker processes share ``folder`` of this one."""
        file = folder / f"{recipe}.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        return replace(self, own={**self.own, recipe: file})

    @staticmethod
    def accelerate_launch(config: str | Path = "accelerate_configs/cpu.yaml") -> list[str]:
        """The launcher that every recipe is started with."""
        return [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(config)]

    def start(
        self, recipe: str, *overrides: str, launcher: Sequence[str] | None = None, **environment: str
    ) -> Launched:
        """Start a recipe as a user would."""
        command = [
            *(launcher or self.accelerate_launch()),
            f"recipes/{recipe}.py",
            "--config",
            str(self.config(recipe)),
            *overrides,
        ]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Launched(process)

    @staticmethod
    def environment() -> dict[str, str]:
        """What every process is started with."""
        return clean_environment()

    def launch(self, recipe: str, out: Path, *overrides: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a recipe by the launcher until it ends, without an error."""
        done = self.start(recipe, f"output.dir={out}", *overrides, **options).result()
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    def run(self, recipe: str, out: Path, *overrides: str) -> None:
        """Run a recipe in this process, on the CPU, without an error; it saves the start of two processes."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ACCELERATE_USE_CPU", "true")  # as the launcher sets it for accelerate_configs/cpu.yaml
            assert self.again(recipe, f"output.dir={out}", *overrides) == 0

    def again(self, recipe: str, *overrides: str) -> int:
        """Run a recipe in this process and return its exit status."""
        return in_process(f"recipes/{recipe}.py", "--config", str(self.config(recipe)), *overrides)

    def script(self, script: str, *arguments: str) -> int:
        """Run any script of the repository in this process."""
        return in_process(script, *arguments)

    def corpus_without_transcripts(self, folder: Path) -> Path:
        """Another corpus of the same clips."""
        write_clips(folder / "clips", transcripts=False)
        prepare(folder / "clips", folder / "data")
        return folder / "data"


def clean_environment() -> dict[str, str]:
    """This environment without what an outer launcher may have left in it, one thread, no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    # beside the interpreter lie ninja and torchrun
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PATH": path}


def in_process(script: str, *arguments: str) -> int:
    """Run a script of the repository in this process and return its exit status: the same lines, no start-up."""
    earlier, folder = sys.argv, Path.cwd()
    sys.argv = [script, *arguments]
    os.chdir(ROOT)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = earlier
        os.chdir(folder)
    return 0


def protocol_of_a_miniature(file: str, data: Path, folder: Path) -> Path:
    """A copy of a shipped protocol that allows every class to lack: a miniature is too small for all of them."""
    protocol = load_protocol(ROOT / file)
    task = protocol.resolve_task(load(data).tasks)
    content = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    content["may_lack"] = {split: [] if task.kind == "scalar" else list(task.targets) for split in SPLITS}
    folder.mkdir(exist_ok=True)
    copy = folder / Path(file).name
    if protocol.folds.file:
        shutil.copy(protocol.folds.file, folder)
    copy.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return copy


def write_clips(root: Path, *, transcripts: bool = True) -> None:
    """Noise and a tone a label, six speakers, and one clip of 40 s; a manifest names them all."""
    random, rows = np.random.default_rng(0), []
    root.mkdir(parents=True)
    for speaker_number, speaker in enumerate(SPEAKERS):
        for clip in range(CLIPS_A_SPEAKER):
            label = LABELS[clip % len(LABELS)]
            seconds = random.uniform(0.4, 1.2)
            rows.append(
                (f"{speaker}_{clip}", speaker, label, seconds, 150 * (1 + LABELS.index(label)) + speaker_number)
            )
    rows.append((TOO_LONG, "s1", "sad", 40.0, 600))
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "speaker", "label", *(["transcript"] if transcripts else [])])
        for number, (name, speaker, label, seconds, hertz) in enumerate(rows):
            time_s = np.arange(round(seconds * RATE)) / RATE
            samples = 0.2 * np.sin(2 * np.pi * hertz * time_s) + 0.05 * random.standard_normal(len(time_s))
            soundfile.write(root / f"{name}.wav", samples, RATE, subtype="PCM_16")
            sentence = [f"The door is number {number % 5}."] if transcripts else []
            table.writerow([f"{name}.wav", speaker, label, *sentence])


def prepare(root: Path, out: Path) -> None:
    """Prepare the clips of ``root`` by the recipe."""
    overrides = [f"corpus.root={root}", "corpus.alias=synthetic_beeps", f"output.dir={out}"]
    assert in_process("recipes/prepare_corpus.py", "--config", "recipes/corpora/manifest.yaml", *overrides) == 0


@pytest.fixture(scope="session")
def run_script() -> Callable[..., int]:
    """A runner of a script of the repository in this process."""
    return in_process


@pytest.fixture(scope="session")
def miniature(made_once: Callable[..., Path]) -> Callable[..., Path]:
    """A maker of prepared corpora from miniature releases, by their shipped YAML; each is made once."""

    def build(folder: Path, corpus: str, overrides: tuple[str, ...]) -> None:
        from miniatures import RELEASES, small_circumplex  # here, so that other tests do not need what they need

        options = ["--config", f"recipes/corpora/{corpus}.yaml", f"output.dir={folder / 'data'}", *overrides]
        with small_circumplex() if corpus == "circumplex" else nullcontext():
            if corpus != "circumplex":
                RELEASES[corpus](folder / "release")
                options.append(f"corpus.root={folder / 'release'}")
            assert in_process("recipes/prepare_corpus.py", *options) == 0

    @cache
    def make(corpus: str, *overrides: str) -> Path:
        name = hash_bytes(repr((corpus, overrides)).encode())[:16]
        return made_once(f"{corpus}_{name}", lambda folder: build(folder, corpus, overrides)) / "data"

    return make


@pytest.fixture(scope="session")
def demo_model(miniature: Callable[..., Path], made_once: Callable[..., Path]) -> Callable[[str], Path]:
    """A maker of the tiny models of the demos, by the folder that their YAML names; each is built once."""
    files = shipped.tiny_models()

    @cache
    def make(folder: str) -> Path:
        def build(out: Path) -> None:
            data, file = miniature(*shipped.corpus_of(files[folder])), shipped.load(files[folder]).split.protocol
            options = [f"data.dir={data}", f"output.dir={out}"]
            options.append(f"split.protocol={protocol_of_a_miniature(file, data, out / 'protocol')}")
            assert in_process("recipes/build_tiny_model.py", "--config", files[folder], *options) == 0

        return made_once(f"demo_{Path(folder).name}", build)

    return make


@pytest.fixture
def served_url() -> Iterator[str]:
    """Address of a server that serves any model."""
    pytest.importorskip("openai", reason="the extra `remote` is not installed")
    with serve(Words(), LABELS, gives=("prompt_logprobs", "top_logprobs")) as server:
        yield server.url


@pytest.fixture
def shipped_command(
    miniature: Callable[..., Path],
    demo_model: Callable[[str], Path],
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Callable[..., list[str]]:
    """A maker of the command that runs a YAML on its miniature, with a tiny model, below ``tmp_path``."""

    def make(file: str, *overrides: str) -> list[str]:
        settings, recipe = shipped.load(file, *overrides), shipped.script(file)
        changed = list(shipped.CHANGED[recipe])
        data = miniature(*shipped.corpus_of(file))
        options = [f"data.dir={data}", f"output.dir={tmp_path / settings.output.dir}"]
        if recipe != "recipes/transcribe.py":
            protocol = protocol_of_a_miniature(settings.split.protocol, data, tmp_path / "protocol")
            options.append(f"split.protocol={protocol}")
        if recipe in ("recipes/zero_shot.py", "recipes/finetune.py"):
            options.append(f"model.cache_dir={tmp_path_factory.getbasetemp() / 'cache'}")
        if recipe in shipped.FEATURES:
            options.append(f"{shipped.FEATURES[recipe]}.cache_dir={tmp_path_factory.getbasetemp() / 'features'}")
            options += shipped.replaced_parts(settings)
        elif file == shipped.SERVED:
            options.append(f"model.url={request.getfixturevalue('served_url')}")
            changed.remove("model.dtype=float32")  # the server has one
        elif settings.model.id in shipped.tiny_models():
            options.append(f"model.id={demo_model(settings.model.id)}")
        else:  # a published or composed model
            family = settings.model.family
            options.append(f"model.id={tiny_folder('qwen2_audio' if family == 'generic' else family)}")
        return [recipe, "--config", file, *changed, *options, *overrides]

    return make


@pytest.fixture
def run_shipped(shipped_command: Callable[..., list[str]], tmp_path: Path) -> Callable[..., Path]:
    """A runner of a YAML, in this process; the run folder, relative to ``tmp_path``."""

    def run(file: str, *overrides: str) -> Path:
        earlier = set(tmp_path.rglob("predictions.parquet"))
        assert in_process(*shipped_command(file, *overrides)) == 0
        (table,) = set(tmp_path.rglob("predictions.parquet")) - earlier
        return table.parent.relative_to(tmp_path)

    return run


def build_workplace(folder: Path) -> None:
    """Write corpus, protocol, model and the two YAML files."""
    write_clips(folder / "clips")
    prepare(folder / "clips", folder / "data")
    protocol = {
        "name": "synthetic_beeps_3fold",
        "version": 1,
        "source": "tests",
        "inline_task": {"name": "synthetic_beeps_4", "labels": {label: [label] for label in LABELS}},
        "disjoint_in": ["speaker"],
        "shared_in": ["transcript"],
        "folds": {"rule": "listed", "column": "speaker", "test": {1: ["s1", "s2"], 2: ["s3", "s4"], 3: ["s5", "s6"]}},
    }
    shared = {
        "data": {"dir": str(folder / "data")},
        "split": {"protocol": str(folder / "protocol.yaml")},
        "prompt": {"file": "prompts/audio_transcript.yaml"},
        "model": {
            "family": "qwen2_audio",
            "id": str(folder / "model"),
            "dtype": "float32",
            "cache_dir": str(folder / "cache"),
        },
        "output": {"dir": str(folder / "unused")},
    }
    towers = {"language_model": ["q_proj", "v_proj", "up_proj"], "projector": ["linear"], "audio_tower": ["fc1"]}
    train = {
        "num_train_epochs": 3,
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 4,
        "logging_steps": 1,
    }
    files: dict[str, dict[str, Any]] = {
        "protocol": protocol,
        "zero_shot": shared,
        "finetune": shared | {"adapter": {"towers": towers, "r": 4, "lora_dropout": 0.3}, "train": train},
        "tiny": {
            "data": shared["data"],
            "split": shared["split"],
            "output": {"dir": str(folder / "model")},
            "window_s": 2,
            "hidden_size": 32,
            "layers": 1,
            "vocabulary": 400,
            "initializer_range": 0.1,
        },
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    assert in_process("recipes/build_tiny_model.py", "--config", str(folder / "tiny.yaml")) == 0


@pytest.fixture(scope="session")
def workplace(made_once: Callable[..., Path]) -> Workplace:
    """Corpus, protocol, model and the two YAML files."""
    return Workplace(made_once("e2e", build_workplace))


@pytest.fixture(scope="session")
def uninterrupted(workplace: Workplace, made_once: Callable[..., Path]) -> Path:
    """Run folder of a fine-tuning run that was not interrupted; every other one must equal it."""
    return made_once("uninterrupted", lambda folder: workplace.launch("finetune", folder))


@pytest.fixture(scope="session")
def prompted(workplace: Workplace, made_once: Callable[..., Path]) -> Path:
    """Run folder of a zero-shot run."""
    return made_once("prompted", lambda folder: workplace.launch("zero_shot", folder))


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """A waiter for what happens on disk while a recipe runs."""

    def wait(launched: Launched, happened: Callable[[], bool], timeout_s: float = 180) -> None:
        end = time.monotonic() + timeout_s
        while not happened():
            assert launched.process.poll() is None, "the recipe ended first"
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.002)

    return wait
