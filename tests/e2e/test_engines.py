"""Packing, the tower cache, answered examples and scoring in two processes give the results of one."""

import os
import re
import subprocess
from pathlib import Path

import closeness
import numpy as np
import pandas as pd
import pytest
from closeness import assert_close
from engines import (
    ENGINES,
    MUTE,
    STEPS,
    assert_equal_predictions,
    assert_same_files,
    history,
    overrides_of,
    stored_outputs,
    torchrun,
    write_engines,
    write_mostly_mute,
)
from safetensors.numpy import load_file
from small_runs import IN_FULL

PACKED = ["train.packing=true", "train.per_device_train_batch_size=4"]
FROZEN = "adapter.towers.audio_tower=[]"
UNEVEN = "scoring.per_device_eval_batch_size=3"  # seven batches of 20 utterances, the last of two


@pytest.fixture(scope="module")
def engine_files(workplace) -> dict[str, Path]:
    """Accelerate configs by engine."""
    return write_engines(workplace.folder)


@pytest.fixture(scope="module")
def of_one_process(workplace, made_once):
    """Trained run folders of one process, without packing and without a cache, by name."""

    def write(folder, shots):
        write_mostly_mute(workplace.data, folder / "data", shots)

    commands = {"audio": STEPS, "frozen": [*STEPS, FROZEN]}
    for shots, name in enumerate(("mute", "shots")):
        folder = made_once(f"with_{shots}_shots", lambda folder, shots=shots: write(folder, shots))
        commands[name] = [*MUTE, FROZEN, f"data.dir={folder / 'data'}", f"prompt.shots={shots}"]
    plain = ["train.per_device_train_batch_size=8", "model.tower_cache=never"]

    def trained(name):
        return commands[name], made_once(
            f"one_{name}", lambda folder: workplace.launch("finetune", folder, *commands[name], *plain)
        )

    return trained


def assert_trained_alike(run, expected):
    found, history_of_one = history(run), history(expected)
    assert list(found["step"]) == list(history_of_one["step"]) == [1, 2, 2]
    np.testing.assert_allclose(found["loss"], history_of_one["loss"], rtol=1e-5)
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (run, expected)]
    for name, tensor in adapters[1].items():
        assert_close(adapters[0][name], tensor, 1e-6, name=name)
    assert max(np.abs(tensor).max() for name, tensor in adapters[1].items() if "lora_B" in name) > 5e-4
    assert_equal_predictions(run, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "data"),
    [("ddp", "audio"), *((engine, data) for engine in ENGINES for data in ("frozen", "mute")), ("zero3", "shots")],
)
def test_packing_and_the_tower_cache_train_like_one_process_with_neither(
    engine, data, engine_files, of_one_process, workplace, tmp_path
):
    """In ``mute``, 16 examples make four batches of two processes; at most two of the four have audio."""
    command, expected = of_one_process(data)
    overrides = [*PACKED, *overrides_of(engine, engine_files), f"model.cache_dir={tmp_path / 'cache'}"]
    done = workplace.launch("finetune", tmp_path / "run", *command, *overrides, launcher=torchrun())
    assert ("tower cache: not used" in done.stdout) == (data == "audio")
    assert_trained_alike(tmp_path / "run", expected)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["fsdp2_round_trip.py", "fsdp2_training.py"])
def test_weights_sharded_by_fsdp2(script, workplace, tmp_path):
    run_sharded(workplace, script, workplace.folder / "model", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_audio", "glmasr"])  # whose output layer is tied to the embeddings
def test_a_model_sharded_by_fsdp2_is_trained_in_full(family, workplace, tiny_folder, tmp_path):
    run_sharded(workplace, "fsdp2_full.py", family, tiny_folder(family), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_is_trained_in_full_by_two_processes_like_by_one(engine, engine_files, workplace, made_once, tmp_path):
    """The audio tower is frozen, so that ZeRO-3 must also gather what is not trained."""
    command = [*IN_FULL, "adapter.full=[language_model,projector]", *STEPS[:2]]
    one = ["train.per_device_train_batch_size=8", "model.tower_cache=never"]
    expected = made_once("one_in_full", lambda folder: workplace.launch("finetune", folder, *command, *one))
    two = ["train.per_device_train_batch_size=4", *overrides_of(engine, engine_files)]
    cache = f"model.cache_dir={tmp_path / 'cache'}"
    workplace.launch("finetune", tmp_path / "run", *command, *two, cache, launcher=torchrun())
    np.testing.assert_allclose(history(tmp_path / "run")["loss"], history(expected)["loss"], rtol=1e-5)
    tensors, others = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "run", expected))
    assert tensors.keys() == others.keys()
    for name, tensor in others.items():
        assert_close(tensors[name], tensor, 1e-4, name=name)
    assert_equal_predictions(tmp_path / "run", expected)
    assert (tmp_path / "run" / "model" / "merged_from.json").is_file()


def run_sharded(workplace, script, *arguments):
    command = [*torchrun(), str(Path(__file__).with_name(script)), *map(str, arguments)]
    environment = workplace.environment()
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(closeness.__file__).parent), environment.get("PYTHONPATH", "")]
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero3"])
@pytest.mark.parametrize(
    "options",
    [[], ["prompt.label_orders=2", "prompt.label_score=pmi", "model.tower_cache=never"], ["prompt.shots=1"]],
)
def test_scores_of_two_processes_are_those_of_one_byte_for_byte(engine, options, workplace, engine_files, tmp_path):
    own_cache = {count: f"model.cache_dir={tmp_path / str(count)}" for count in (1, 2)}
    overrides = overrides_of(engine, engine_files, "scoring")
    workplace.launch("zero_shot", tmp_path / "one", UNEVEN, *options, own_cache[1])
    done = workplace.launch(
        "zero_shot", tmp_path / "two", UNEVEN, *options, own_cache[2], *overrides, launcher=torchrun()
    )
    assert_same_files(tmp_path / "two", tmp_path / "one")
    assert "error" not in done.stderr
    cached = "model.tower_cache=never" not in options
    encoded = re.findall(r"tower cache: (\d+) utterances encoded by this process, 20 stored in", done.stdout)
    assert len(encoded) == cached
    assert all(0 < int(count) < 20 and int(count) % 3 in (0, 2) for count in encoded)  # whole batches, by both together
    assert [stored_outputs(tmp_path / str(count)) for count in (1, 2)] == [20 * cached, 20 * cached]  # each once


@pytest.mark.slow
def test_answers_of_two_processes_are_those_of_one_byte_for_byte(workplace, engine_files, tmp_path):
    words = ["answering.mode=generation", "model.dtype=float32", UNEVEN]
    workplace.launch("zero_shot", tmp_path / "one", *words)
    two = overrides_of("ddp", engine_files, "scoring")
    workplace.launch("zero_shot", tmp_path / "two", *words, *two, launcher=torchrun())
    assert_same_files(tmp_path / "two", tmp_path / "one")
    assert pd.read_parquet(tmp_path / "two" / "predictions.parquet")["answer"].nunique() > 1


@pytest.mark.slow
def test_a_trained_model_is_scored_by_two_processes_like_by_one(workplace, engine_files, tmp_path):
    """The checkpoint is that of one process; what follows the training is done again by each number."""
    steps = ["train.max_steps=2", "train.per_device_eval_batch_size=3", "preflight=false"]
    workplace.launch("finetune", tmp_path / "run", *steps)
    for name in ("predictions.parquet", "metrics.json"):
        (tmp_path / "run" / name).rename(tmp_path / name)
    two = [*overrides_of("ddp", engine_files), "train.per_device_train_batch_size=1"]
    done = workplace.launch("finetune", tmp_path / "run", *steps, *two, launcher=torchrun())
    assert "resuming from step 2: " in done.stdout
    assert_same_files(tmp_path / "run", tmp_path)
