"""The YAML files under recipes/, and their headers."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from representatives import slow_except

from lalm_mer.core.config import load_config, recorded
from lalm_mer.corpora.settings import PrepareSettings
from lalm_mer.launch.config.alignment import AlignSettings
from lalm_mer.launch.config.benchmark import BenchmarkSettings
from lalm_mer.launch.config.cross_validation import CrossValidationSettings
from lalm_mer.launch.config.late_fusion import LateFusionSettings
from lalm_mer.launch.config.learning_curve import LearningCurveSettings
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.config.probe_layers import ProbeLayersSettings
from lalm_mer.launch.config.search import SearchSettings
from lalm_mer.launch.config.settings import (
    BaselineSettings,
    FinetuneSettings,
    TinySettings,
    TranscribeSettings,
    ZeroShotSettings,
)

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.yaml"))
CORPORA = ("crema_d", "emodb", "iemocap", "manifest", "meld", "mosei", "msp_podcast", "ravdess")
SERVED = "recipes/remote/zero_shot.yaml"
METHODS = ("baseline", "linear", "lora", "qlora", "zero_shot")
OTHER_METHODS = (*METHODS, "finetuned")
"""Those of some corpora, too."""
PAPERS = ("pathosnet", "pepino", "ravdess_brief")
"""Folders of the networks of papers."""
COMPOSED = [file for file in SHIPPED if Path(file).parent.name == "whisper_smollm2"]
"""Runs of a composed model: ``<corpus>_<method>.yaml``."""
COMPOSED_CLAP = [file for file in SHIPPED if Path(file).parent.name == "whisper_minilm"]
"""Runs of a composed dual encoder."""
OF_TASKS = [
    file for file in SHIPPED if Path(file).stem not in METHODS and Path(file).stem.rpartition("_")[2] in OTHER_METHODS
    and Path(file).parent.name in CORPORA
]  # fmt: skip
"""Runs of other tasks or encoders of a corpus: ``<task or encoder>_<method>.yaml``."""
SCHEMAS = {
    "recipes/prepare_corpus.py": PrepareSettings,
    "recipes/build_tiny_model.py": TinySettings,
    "recipes/zero_shot.py": ZeroShotSettings,
    "recipes/finetune.py": FinetuneSettings,
    "recipes/train_baseline.py": BaselineSettings,
    "recipes/train_linear.py": LinearSettings,
    "recipes/align.py": AlignSettings,
    "recipes/transcribe.py": TranscribeSettings,
    "recipes/benchmark.py": BenchmarkSettings,
    "recipes/cross_validate.py": CrossValidationSettings,
    "recipes/late_fusion.py": LateFusionSettings,
    "recipes/search.py": SearchSettings,
    "recipes/learning_curve.py": LearningCurveSettings,
    "recipes/probe_layers.py": ProbeLayersSettings,
}

QUICK = (
    "recipes/crema_d/zero_shot.yaml",
    "recipes/demo/ravdess_clap_lora.yaml",
    "recipes/emodb/linear.yaml",
    "recipes/iemocap/dimensions_baseline.yaml",
    "recipes/iemocap/qlora.yaml",
    "recipes/manifest/zero_shot.yaml",
    "recipes/meld/baseline.yaml",
    "recipes/mosei/emotions_lora.yaml",
    "recipes/msp_podcast/lora.yaml",
    "recipes/pepino/early_warm.yaml",
    "recipes/ravdess/lora.yaml",
    "recipes/whisper_smollm2/meld_lora.yaml",
    SERVED,
    "recipes/alignment/readings.yaml",
    "recipes/benchmarks/scaling.yaml",
    "recipes/ravdess/cross_validate.yaml",
)
"""What ``make test`` runs, of every corpus at least one; ``make test-all`` also runs the others."""

FEATURES = {"recipes/train_baseline.py": "baseline", "recipes/train_linear.py": "linear"}
"""Recipe -> section with the folder of its features."""
_ON_CPU = "engine.accelerate_config=accelerate_configs/cpu.yaml"
_STEP = ("train.max_steps=1", "train.use_cpu=true", _ON_CPU)
CHANGED = {
    "recipes/zero_shot.py": (
        "model.dtype=float32", "scoring.dataloader_num_workers=0", "scoring.use_cpu=true", _ON_CPU,
    ),
    "recipes/finetune.py": (
        "model.dtype=float32", "adapter.r=2", "train.bf16=false", "train.dataloader_num_workers=0", *_STEP,
    ),
    "recipes/train_baseline.py": ("baseline.processes=1", *_STEP),
    "recipes/train_linear.py": ("linear.audio.feature_set=egemaps", "linear.processes=1", "linear.c=[0.1]"),
    "recipes/transcribe.py": ("model.use_cpu=true",),
}  # fmt: skip
"""Recipe -> everything that tests change in a YAML, except for folders of corpus, model, features and results.

Batch sizes are not among it: the preflight checks them.
"""
_PREPARED = {
    "outputs/demo/data": ("circumplex",),
    "outputs/demo_ravdess/data": ("ravdess",),
    "outputs/data/circumplex_votes": ("circumplex", "corpus.raters=5"),
    "outputs/data/circumplex_spoken": ("circumplex", "corpus.variant=spoken"),
    "outputs/data/circumplex_sarcastic": ("circumplex", "corpus.variant=sarcastic"),
    "outputs/data/mine": ("manifest",),
}


def quick_or_slow(files: list[str]) -> list[Any]:
    """Parameters of files; those that are not in ``QUICK`` are marked slow."""
    return slow_except(files, set(QUICK) & set(files))


def replaced_parts(settings: BaselineSettings | LinearSettings) -> list[str]:
    """Overrides of the parts of a baseline or linear model that need a download, a file or another run."""
    if isinstance(settings, LinearSettings):
        return ["linear.audio.kind=log_mel"] if settings.linear.audio.kind == "pretrained" else []
    parts, changes = settings.baseline, []
    if parts.transcript.encoder.kind in ("pretrained", "finetuned", "static"):
        changes.append("baseline.transcript.encoder.kind=scratch")
    if parts.audio.encoder.kind == "pretrained":
        changes.append("baseline.audio.encoder.kind=log_mel")
    for modality, branch in parts.branches.items():
        if branch.start_from is not None:
            changes += [f"baseline.{modality}.start_from=null", f"baseline.{modality}.frozen=false"]
    if settings.data.transcripts is not None:
        changes += ["data.transcript_source=corpus", "data.transcripts=null"]
    return changes


def header(file: str) -> list[str]:
    """The lines of the comment at the beginning of a YAML."""
    comment = re.match(r"(?:#.*\n)+", (ROOT / file).read_text(encoding="utf-8"))
    assert comment, f"{file}: no comment at its head"
    return comment[0].splitlines()


def opening(file: str) -> dict[str, str]:
    """Content of that comment by the first word of a line: Needs, Launch, One override."""
    found = re.findall(r"^# (Needs|Launch|One override): (.+)$", "\n".join(header(file)), re.MULTILINE)
    assert [name for name, _ in found] == ["Needs", "Launch", "One override"], file
    return dict(found)


def script(file: str) -> str:
    """The recipe in the launch line."""
    (found,) = [word for word in shlex.split(opening(file)["Launch"]) if re.fullmatch(r"recipes/\w+\.py", word)]
    return found


def of_recipe(*names: str) -> list[str]:
    """The files of the recipes with these names."""
    return [file for file in SHIPPED if Path(script(file)).stem in names]


@cache
def load(file: str, *overrides: str):
    """The settings of a YAML, with the paths as they are written there."""
    return recorded(load_config(SCHEMAS[script(file)], ROOT / file, overrides))


@cache
def tiny_models() -> dict[str, str]:
    """Folder of each tiny model of a demo -> the YAML that builds it."""
    return {load(file).output.dir: file for file in of_recipe("build_tiny_model")}


def corpus_of(file: str) -> tuple[str, ...]:
    """Name of the prepared corpus in a YAML, and the overrides of its preparation."""
    folder = load(file).data.dir
    return _PREPARED.get(folder, (Path(folder).name,))
