"""Several processes give the results of one, with every engine; a run that silently became a single process stops."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.utils import DistributedType
from closeness import assert_close
from engines import (
    ENGINES,
    MUTE,
    STEPS,
    assert_equal_predictions,
    assert_same_files,
    history,
    overrides_of,
    torchrun,
    write_engines,
    write_mostly_mute,
)
from safetensors.numpy import load_file

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.run.engine import Engine, check_accelerator

TOKENS = [
    "train.tokens_per_batch=700", "train.per_device_train_batch_size=null", "train.per_device_eval_batch_size=null",
]  # fmt: skip
# every batch is a part of its own; a run of twenty utterances would otherwise be over before its first part
EVERY_BATCH = """
import runpy, sys
from lalm_mer.recognizers import score_journal
score_journal.PART_S = 0.0
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def engine_files(workplace) -> dict[str, Path]:
    """Accelerate configs by engine."""
    return write_engines(workplace.folder)


@pytest.fixture
def two_processes(request, engine_files) -> tuple[list[str], list[str]]:
    """Overrides and launcher of the engine that a test is parametrized with."""
    return overrides_of(request.param, engine_files), torchrun()


@pytest.fixture(scope="module")
def one_process(workplace) -> Path:
    """Two steps of eight examples in one process."""
    workplace.launch("finetune", workplace.folder / "one_process", *STEPS, "train.per_device_train_batch_size=8")
    return workplace.folder / "one_process"


@pytest.mark.slow
@pytest.mark.parametrize("two_processes", ENGINES, indirect=True)
def test_two_processes_train_and_score_like_one(two_processes, one_process, workplace, tmp_path):
    overrides, launcher = two_processes
    workplace.launch(
        "finetune", tmp_path, *STEPS, "train.per_device_train_batch_size=4", *overrides, launcher=launcher
    )  # fmt: skip
    found, expected = history(tmp_path), history(one_process)
    assert list(found["step"]) == list(expected["step"]) == [1, 2, 2]
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["grad_norm"][:2], expected["grad_norm"][:2], rtol=1e-4)
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (tmp_path, one_process)]
    assert adapters[0].keys() == adapters[1].keys()
    learned = 0.0
    for name, tensor in adapters[1].items():
        assert_close(adapters[0][name], tensor, 1e-6, name=name)
        learned += np.abs(tensor).max() if "lora_B" in name else 0.0
    assert learned > 0.005  # lora_B is zero at first; a step of Adam changes it by the learning rate
    assert_equal_predictions(tmp_path, one_process)


@pytest.fixture(scope="module")
def by_tokens(workplace) -> Path:
    """Two steps of two batches of tokens each in one process."""
    folder = workplace.folder / "by_tokens"
    workplace.launch("finetune", folder, *STEPS, *TOKENS, "train.gradient_accumulation_steps=2")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("two_processes", ENGINES, indirect=True)
def test_two_processes_share_batches_of_tokens(two_processes, by_tokens, workplace, tmp_path):
    overrides, launcher = two_processes
    workplace.launch("finetune", tmp_path, *STEPS, *TOKENS, *overrides, launcher=launcher)
    found, expected = history(tmp_path), history(by_tokens)
    assert list(found["step"]) == list(expected["step"]) == [1, 2, 2]
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)  # of train, and of dev in the last row
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (tmp_path, by_tokens)]
    for name, tensor in adapters[1].items():
        assert_close(adapters[0][name], tensor, 1e-6, name=name)
    assert_equal_predictions(tmp_path, by_tokens)


@pytest.fixture(scope="module")
def mostly_mute(workplace) -> Path:
    """The same corpus, but only two training utterances have audio."""
    write_mostly_mute(workplace.data, workplace.folder / "mute")
    return workplace.folder / "mute"


@pytest.fixture(scope="module")
def one_mute_process(workplace, mostly_mute) -> Path:
    """An epoch over them in one process."""
    folder = workplace.folder / "one_mute_process"
    workplace.launch("finetune", folder, *MUTE, f"data.dir={mostly_mute}", "train.per_device_train_batch_size=8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("two_processes", ENGINES, indirect=True)
def test_a_batch_without_audio_in_one_process_only(two_processes, one_mute_process, mostly_mute, workplace, tmp_path):
    """16 examples make four batches of two processes; at most two of the four have audio."""
    overrides, launcher = two_processes
    workplace.launch(
        "finetune", tmp_path, *MUTE, f"data.dir={mostly_mute}", "train.per_device_train_batch_size=4", *overrides,
        launcher=launcher,
    )  # fmt: skip
    found, expected = history(tmp_path), history(one_mute_process)
    assert list(found["step"]) == list(expected["step"]) == [1, 2, 2]
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (tmp_path, one_mute_process)]
    for name, tensor in adapters[1].items():
        assert_close(adapters[0][name], tensor, 1e-6, name=name)
    learned = [
        np.abs(tensor).max() for name, tensor in adapters[1].items() if "lora_B" in name and "audio_tower" in name
    ]
    assert max(learned) > 5e-4  # the audio tower was trained
    assert_equal_predictions(tmp_path, one_mute_process)


@pytest.mark.slow
@pytest.mark.parametrize("two_processes", ENGINES, indirect=True)
def test_two_killed_processes_resume_to_identical_results(two_processes, workplace, wait_for, tmp_path):
    overrides, launcher = two_processes
    overrides += ["train.eval_strategy=steps", "train.eval_steps=4", "train.save_total_limit=5"]
    workplace.launch("finetune", tmp_path / "uninterrupted", *overrides, launcher=launcher)
    run = tmp_path / "run"
    launched = workplace.start("finetune", f"output.dir={run}", *overrides, launcher=torchrun())
    second = run / "checkpoints" / "checkpoint-8" / "WHOLE"  # in the middle of the second epoch
    wait_for(launched, second.exists)
    launched.kill()
    assert not (run / "checkpoints" / "checkpoint-12" / "WHOLE").exists()
    written = second.stat().st_mtime_ns
    workplace.launch("finetune", run, *overrides, launcher=torchrun())
    assert second.stat().st_mtime_ns == written
    assert (run / "history.jsonl").read_text() == (tmp_path / "uninterrupted" / "history.jsonl").read_text()
    adapter, expected = (
        (folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (run, tmp_path / "uninterrupted")
    )
    assert adapter == expected
    # a checkpoint has the adapter, never the base model
    base = (workplace.folder / "model" / "model.safetensors").stat().st_size
    assert all(path.stat().st_size < base / 2 for path in (run / "checkpoints").rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("batch", [["train.per_device_train_batch_size=4"], ["train.gradient_accumulation_steps=2"]])
def test_a_training_of_two_processes_is_resumed_by_one(batch, engine_files, workplace, wait_for, tmp_path):
    overrides = ["train.use_cpu=true", f"engine.accelerate_config={engine_files['ddp']}"]
    steps = ["train.eval_strategy=steps", "train.eval_steps=4", "train.save_total_limit=5", "adapter.lora_dropout=0.0"]
    workplace.run("finetune", tmp_path / "uninterrupted", *steps, *batch)
    run = tmp_path / "run"
    launched = workplace.start("finetune", f"output.dir={run}", *steps, *overrides, launcher=torchrun())
    kept = run / "checkpoints" / "checkpoint-8" / "WHOLE"  # in the middle of the second epoch
    wait_for(launched, kept.exists)
    launched.kill()
    assert not (run / "checkpoints" / "checkpoint-12" / "WHOLE").exists()
    written = kept.stat().st_mtime_ns
    done = workplace.launch("finetune", run, *steps, *batch)
    assert kept.stat().st_mtime_ns == written
    assert f"resuming from step 8: {kept.parent} (of 2 process(es); " in done.stdout
    found, expected = history(run), history(tmp_path / "uninterrupted")
    assert list(found["step"]) == list(expected["step"])
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)
    adapter, weights = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (run, tmp_path / "uninterrupted")
    )
    for name, tensor in weights.items():
        assert_close(adapter[name], tensor, 1e-3, name=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("began", "options"),
    [(2, ["scoring.per_device_eval_batch_size=2"]), (1, ["scoring.per_device_eval_batch_size=3"]),
     (2, ["scoring.per_device_eval_batch_size=2", "answering.mode=generation"])],
)  # fmt: skip
def test_scoring_is_resumed_by_another_number_of_processes(
    began, options, workplace, engine_files, wait_for, tmp_path, capsys
):
    every_batch = workplace.folder / "every_batch.py"
    every_batch.write_text(EVERY_BATCH)
    launchers = {1: workplace.accelerate_launch(), 2: torchrun()}
    overrides = {1: [], 2: ["scoring.use_cpu=true", f"engine.accelerate_config={engine_files['ddp']}"]}
    options = [*options, "preflight=false"]
    workplace.run("zero_shot", tmp_path / "uninterrupted", *options)
    run = tmp_path / "run"

    def kept():
        file = run / "scores" / "test.jsonl"
        lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
        return [position for line in lines for position in json.loads(line)["positions"]]

    launcher = [*launchers[began], str(every_batch)]
    launched = workplace.start("zero_shot", f"output.dir={run}", *options, *overrides[began], launcher=launcher)
    wait_for(launched, lambda: len(kept()) >= 3)
    launched.kill()
    already = kept()
    assert len(set(already)) == len(already)
    assert len(already) in range(3, 20)
    done = workplace.launch("zero_shot", run, *options, *overrides[3 - began], launcher=launchers[3 - began])
    assert f"resuming: {len(already)} of 20 test utterances are scored\n" in done.stdout
    assert_same_files(run, tmp_path / "uninterrupted")  # the batches are the same


@pytest.mark.slow
def test_one_process_instead_of_two_is_an_error(workplace, engine_files, tmp_path):
    launcher = workplace.accelerate_launch(engine_files["ddp"])  # accelerate silently starts one
    overrides = [f"output.dir={tmp_path / 'run'}", f"engine.accelerate_config={engine_files['ddp']}"]
    done = workplace.start("finetune", *overrides, launcher=launcher).result()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "started as 1 process(es)" in line
    assert "ddp.yaml says 2" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "environment", "says"),
    [
        ("zero2", {"ACCELERATE_USE_CPU": "true"}, "2 process(es) by MULTI_CPU"),  # DeepSpeed replaced by DDP
        ("ddp", {}, "accelerate set up 1 process(es)"),  # two unconnected copies
    ],
)
def test_an_engine_that_was_silently_replaced_is_an_error(engine, environment, says, workplace, engine_files, tmp_path):
    if engine == "zero2" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: pip install -e '.[deepspeed]'")
    overrides = [f"output.dir={tmp_path / 'run'}", f"engine.accelerate_config={engine_files[engine]}"]
    overrides += ["train.use_cpu=true"] if environment else []
    done = workplace.start("finetune", *overrides, launcher=torchrun(), **environment).result()
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "error: " in line and says in line]
    assert lines, done.stderr[-3000:]
    assert not list(tmp_path.rglob("predictions.parquet"))


@pytest.mark.parametrize(
    ("wanted", "processes", "found", "running", "fits"),
    [
        ("NO", 1, "NO", 1, True),
        ("MULTI_GPU", 2, "MULTI_GPU", 2, True),
        ("MULTI_GPU", 2, "MULTI_GPU", 1, False),
        ("DEEPSPEED", 2, "MULTI_CPU", 2, False),
        ("FSDP", 2, "NO", 1, False),
        ("NO", 1, "MULTI_GPU", 1, False),
    ],
)
def test_the_engine_is_compared_with_the_expected_one(wanted, processes, found, running, fits):
    engine = Engine("some.yaml", wanted, processes, None)
    accelerator = SimpleNamespace(distributed_type=DistributedType(found), num_processes=running, mixed_precision="no")
    if fits:
        check_accelerator(engine, accelerator)
        return
    with pytest.raises(ConfigError, match=rf"some\.yaml says {processes} by {wanted}"):
        check_accelerator(engine, accelerator)
