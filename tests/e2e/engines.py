"""Engines of two processes on this machine, and how they are launched."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from closeness import assert_close

from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import write_corpus

ENGINES = ["ddp", "zero2", "zero3"]
# the same eight examples a step; dropout draws differ between processes
STEPS = ["train.max_steps=2", "train.learning_rate=1e-3", "adapter.lora_dropout=0.0"]
MUTE = ["train.num_train_epochs=1", *STEPS[1:], "data.without_audio=read"]


def free_port() -> int:
    """A port of this machine that nothing uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def torchrun(processes: int = 2) -> list[str]:
    """Processes on this machine, started as accelerate starts them on GPUs."""
    command = [sys.executable, "-m", "torch.distributed.run"]
    return [*command, "--nproc_per_node", str(processes), "--master_port", str(free_port())]


def write_engines(folder: Path) -> dict[str, Path]:
    """Accelerate configs: DDP on processors, ZeRO-2 as shipped, ZeRO-3 as shipped but with everything sharded."""
    two = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "num_processes": 2}
    zero3 = json.loads(Path("accelerate_configs/zero3.json").read_text())
    unsharded = ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance")
    zero3["zero_optimization"] |= {f"stage3_{name}": 0 for name in unsharded}
    (folder / "zero3.json").write_text(json.dumps(zero3))
    deepspeed = {"deepspeed_config_file": str(folder / "zero3.json"), "zero3_init_flag": False}
    contents = {
        "ddp": two | {"distributed_type": "MULTI_CPU", "use_cpu": True},
        "zero3": two | {"distributed_type": "DEEPSPEED", "deepspeed_config": deepspeed},
    }
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    files = {name: folder / f"{name}.yaml" for name in contents}
    return files | {"zero2": Path("accelerate_configs/deepspeed_zero2.yaml")}


def overrides_of(engine: str, files: dict[str, Path], section: str = "train") -> list[str]:
    """Overrides of a run with an engine; skips the test if it cannot be run here."""
    if engine != "ddp":
        if importlib.util.find_spec("deepspeed") is None:
            pytest.skip("deepspeed is not installed: pip install -e '.[deepspeed]'")
        if shutil.which("g++") is None:
            pytest.skip("DeepSpeed compiles with g++ at first use; there is none")
    return [f"{section}.use_cpu=true", f"engine.accelerate_config={files[engine]}"]


def write_mostly_mute(data: Path, folder: Path, shots: int = 0) -> None:
    """The same corpus, but only two training utterances of fold 1 have audio, one per speaker.

    Without the answered examples, 16 remain: accelerate would fill the last step of several processes with others.
    """
    with_audio = {"s5_0", "s6_1"}  # s1 and s2 are the test speakers of fold 1, s3 and s4 those of dev
    utterances = [
        Utterance(
            utterance_id=row.utterance_id, corpus="synthetic_beeps", label=row.label, speaker=row.speaker,
            transcript=row.transcript, audio_path=row.audio["path"] if kept else None,
            audio_bytes=row.audio["bytes"] if kept else None,
        )
        for row in pd.read_parquet(data / "utterances").itertuples()
        if row.utterance_id not in ("s5_8", "s5_9", "s6_8", "s6_9")[shots:]
        for kept in [row.speaker in ("s1", "s2", "s3", "s4") or row.utterance_id in with_audio]
    ]  # fmt: skip
    write_corpus(
        utterances, corpus="synthetic_beeps", out_dir=folder, loader_version="1", synthetic=True,
        keep_missing_audio=True,
    )  # fmt: skip


def history(run: Path) -> pd.DataFrame:
    """Rows of history.jsonl."""
    return pd.read_json(run / "history.jsonl", lines=True)


def assert_equal_predictions(run: Path, other: Path) -> None:
    """The same answers to the same utterances in the same order, and nearly the same log-probabilities."""
    table, expected = (pd.read_parquet(folder / "predictions.parquet") for folder in (run, other))
    assert len(table) == 21
    assert_close(table, expected, 1e-4)


def stored_outputs(folder: Path) -> int:
    """Number of tower outputs in all shards below a folder; one that was stored twice counts twice."""
    return sum(pa.ipc.open_stream(path.read_bytes()).read_all().num_rows for path in folder.rglob("*.arrow"))


def assert_same_files(run: Path, other: Path, names: Sequence[str] = ("predictions.parquet", "metrics.json")) -> None:
    """Files of two run folders are equal byte for byte."""
    for name in names:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
