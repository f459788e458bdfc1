"""The engine and device that a run expects, checked before anything is loaded."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from a_gpu import a_gpu
from accelerate.utils import DistributedType

from lalm_mer.core.errors import ConfigError
from lalm_mer.launch.config.sections import EngineSettings, ScoringSettings, TrainSettings
from lalm_mer.launch.run.engine import Engine, check_accelerator, expected_engine

ONE_GPU = EngineSettings("accelerate_configs/single_gpu.yaml")


@pytest.fixture(autouse=True)
def _plain_start(monkeypatch, request):
    """In the repository, without a launcher."""
    monkeypatch.chdir(request.config.rootpath)
    for name in ("WORLD_SIZE", "ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def accelerator(monkeypatch):
    """Sets the accelerator that torch finds; None for a machine without one."""
    return lambda found: monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: found
    )


@pytest.fixture
def one_gpu(accelerator, monkeypatch):
    """Sets name and compute capability of the only GPU."""
    accelerator(torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)

    def be(name, capability):
        a_gpu(monkeypatch, name, capability)

    return be


@pytest.mark.parametrize("sizes", [ScoringSettings(use_cpu=True), TrainSettings(bf16=True, use_cpu=True)])
def test_a_run_for_one_gpu_starts_on_a_machine_without_a_gpu_if_it_uses_the_cpu(accelerator, sizes):
    accelerator(None)
    precision = "bf16" if sizes.bf16 else "no"
    assert expected_engine(ONE_GPU, sizes) == Engine(ONE_GPU.accelerate_config, "NO", 1, None, precision)


@pytest.mark.parametrize(("sizes", "section"), [(ScoringSettings(), "scoring"), (TrainSettings(bf16=True), "train")])
@pytest.mark.parametrize("name", ["single_gpu", "multi_gpu", "fsdp2", "deepspeed_zero2"])
def test_a_run_for_a_gpu_is_refused_on_a_machine_without_one(accelerator, sizes, section, name):
    accelerator(None)
    with pytest.raises(ConfigError) as refused:
        expected_engine(EngineSettings(f"accelerate_configs/{name}.yaml"), sizes)
    assert str(refused.value) == (
        f"engine.accelerate_config=accelerate_configs/{name}.yaml is for a GPU, but no GPU is found; set "
        f"{section}.use_cpu=true to run on the CPU"
    )


def test_more_processes_than_gpus_are_refused(accelerator, monkeypatch):
    accelerator(torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"started as 2 processes on this machine, which has 1 GPU\(s\)"):
        expected_engine(EngineSettings("accelerate_configs/multi_gpu.yaml"), ScoringSettings())


def test_mixed_precision_needs_a_gpu_or_use_cpu(accelerator, monkeypatch):
    accelerator(None)
    with pytest.raises(ConfigError) as refused:
        expected_engine(EngineSettings(), TrainSettings(bf16=True))
    assert str(refused.value) == (
        "key 'train.bf16': true, but no GPU is found; set train.use_cpu=true to run on the CPU, or train.bf16=false"
    )
    accelerator(torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert expected_engine(ONE_GPU, TrainSettings(bf16=True)).num_processes == 1


IN_BFLOAT16, EMULATED = "key 'model.dtype': bfloat16", "Tesla T4 (7.5) has no bfloat16, and its emulation is slow"
SEE = "(see docs/free-gpus.md)"


@pytest.mark.parametrize(
    ("sizes", "dtype", "found", "advice"),
    [
        (
            TrainSettings(bf16=True),
            "bfloat16",
            f"{IN_BFLOAT16}, key 'train.bf16': true",
            "model.dtype=float16 train.bf16=false train.fp16=true",
        ),
        (TrainSettings(fp16=True), "bfloat16", IN_BFLOAT16, "model.dtype=float16 train.fp16=true"),
        (TrainSettings(bf16=True), None, "key 'train.bf16': true", "train.bf16=false train.fp16=true"),
        (ScoringSettings(), "bfloat16", IN_BFLOAT16, "model.dtype=float16"),
        (ScoringSettings(bf16=True), "float16", "key 'scoring.bf16': true", "scoring.bf16=false scoring.fp16=true"),
    ],
)
def test_a_gpu_that_emulates_bfloat16_is_not_asked_for_it(one_gpu, sizes, dtype, found, advice):
    one_gpu("Tesla T4", (7, 5))
    with pytest.raises(ConfigError) as refused:
        expected_engine(ONE_GPU, sizes, dtype)
    assert str(refused.value) == f"{found}; {EMULATED}; set {advice} {SEE}"
    one_gpu("NVIDIA A100-SXM4-40GB", (8, 0))
    assert expected_engine(ONE_GPU, replace(sizes, fp16=sizes.fp16 or dtype == "float16", bf16=False), dtype)


def test_a_cpu_beside_such_a_gpu_has_bfloat16(one_gpu):
    one_gpu("Tesla T4", (7, 5))
    assert expected_engine(ONE_GPU, TrainSettings(bf16=True, use_cpu=True), "bfloat16").mixed_precision == "bf16"


@pytest.mark.parametrize("sizes", [TrainSettings(fp16=True), ScoringSettings(fp16=True)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_t4_runs_in_float16_by_its_own_engine(one_gpu, sizes, dtype):
    one_gpu("Tesla T4", (7, 5))
    settings = EngineSettings("accelerate_configs/t4.yaml")
    assert expected_engine(settings, sizes, dtype) == Engine(settings.accelerate_config, "NO", 1, None, "fp16")
    with pytest.raises(ConfigError, match=r"t4\.yaml says mixed_precision fp16, but section '\w+' says no"):
        expected_engine(settings, replace(sizes, fp16=False), "float32")


def test_float16_is_not_trained_without_a_scaled_loss(one_gpu):
    one_gpu("Tesla T4", (7, 5))
    with pytest.raises(ConfigError, match=r"key 'model.dtype': float16; .* set train\.fp16=true on a GPU, or"):
        expected_engine(ONE_GPU, TrainSettings(), "float16")
    assert expected_engine(ONE_GPU, ScoringSettings(), "float16").mixed_precision == "no"


def test_a_plain_start_of_a_run_for_several_processes_is_refused(accelerator, monkeypatch):
    accelerator(torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(
        ConfigError, match=r"started as 1 process\(es\), but engine\.accelerate_config=\S+ says 2; launch"
    ):
        expected_engine(EngineSettings("accelerate_configs/multi_gpu.yaml"), ScoringSettings())


@pytest.fixture
def config(tmp_path):
    """A maker of accelerate configs for one process on the CPU, with other values."""

    def make(**changes):
        content = yaml.safe_load(Path("accelerate_configs/cpu.yaml").read_text(encoding="utf-8")) | changes
        (tmp_path / "engine.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return EngineSettings(str(tmp_path / "engine.yaml"))

    return make


@pytest.mark.parametrize(
    ("stated", "sizes", "says"),
    [
        ("bf16", ScoringSettings(), "says mixed_precision bf16, but section 'scoring' says no; remove mixed_precision"),
        ("bf16", TrainSettings(), "section 'train' says no; remove mixed_precision from that file, or set train.bf16="),
        ("fp16", TrainSettings(bf16=True, use_cpu=True), "says mixed_precision fp16, but section 'train' says bf16"),
        ("fp8", TrainSettings(), "says mixed_precision fp8, but section 'train' says no"),
    ],
)
def test_the_precision_of_a_run_is_not_that_of_its_accelerate_config(config, stated, sizes, says):
    with pytest.raises(ConfigError, match=says):
        expected_engine(config(mixed_precision=stated), sizes)


@pytest.mark.parametrize("stated", ["no", False, None, "bf16"])
def test_an_accelerate_config_may_repeat_the_precision_of_the_run(config, stated):
    sizes = TrainSettings(bf16=True, use_cpu=True)
    assert expected_engine(config(mixed_precision=stated), sizes).mixed_precision == "bf16"


def test_two_precisions_are_refused(config):
    with pytest.raises(ConfigError, match="section 'scoring': bf16 and fp16 are both true"):
        expected_engine(config(), ScoringSettings(bf16=True, fp16=True, use_cpu=True))


@pytest.mark.parametrize("sizes", [ScoringSettings(fp16=True), TrainSettings(fp16=True, use_cpu=True)])
def test_a_cpu_has_no_fp16(accelerator, config, sizes):
    accelerator(None if not sizes.use_cpu else torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"key '\w+\.fp16': true, but the run uses the CPU, which has no fp16"):
        expected_engine(config(), sizes)


@pytest.mark.parametrize(
    ("content", "variable", "value"),
    [
        ({}, "ACCELERATE_MIXED_PRECISION", "bf16"),
        ({}, "ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
        ({"fsdp_config": {"fsdp_version": 2}}, "FSDP_VERSION", "1"),
        ({"deepspeed_config": {"deepspeed_config_file": "zero2.json"}}, "ACCELERATE_DEEPSPEED_CONFIG_FILE", "x.json"),
    ],
)
def test_a_launch_with_another_accelerate_config_is_refused(config, monkeypatch, content, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=rf"launched with {variable}={value}, but engine\.accelerate_config=\S+ says"):
        expected_engine(config(**content), ScoringSettings(use_cpu=True))


def test_a_launch_with_the_same_accelerate_config_is_accepted(config, monkeypatch):
    for name, value in (("ACCELERATE_MIXED_PRECISION", "no"), ("ACCELERATE_DYNAMO_BACKEND", "NO")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "true")
    sharded = config(fsdp_config={"fsdp_reshard_after_forward": True})
    assert expected_engine(sharded, ScoringSettings(use_cpu=True)).mixed_precision == "no"


def test_the_precision_that_accelerate_set_up_is_compared():
    found = SimpleNamespace(distributed_type=DistributedType.NO, num_processes=1, mixed_precision="bf16")
    check_accelerator(Engine("engine.yaml", "NO", 1, None, "bf16"), found)
    with pytest.raises(ConfigError, match="accelerate set up mixed precision bf16, but the settings of the run say no"):
        check_accelerator(Engine("engine.yaml", "NO", 1, None), found)


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("cpu", {"optim": "paged_adamw_8bit"}, "key 'train.optim': paged_adamw_8bit; the run uses the CPU, from whose"),
        (
            "deepspeed_zero2",
            {"optim": "adamw_bnb_8bit"},
            "adamw_bnb_8bit; accelerate_configs/deepspeed_zero2.yaml shards",
        ),
        (
            "fsdp2",
            {"optim": "paged_adamw_32bit"},
            "shards the state of the optimiser by FSDP, which bitsandbytes does not",
        ),
        (
            "fsdp2",
            {"auto_find_batch_size": True},
            "key 'train.auto_find_batch_size': true, but accelerate_configs/fsdp2",
        ),
        (
            "cpu",
            {"auto_find_batch_size": True, "tokens_per_batch": 4096},
            "key 'train.auto_find_batch_size': true, but train.tokens_per_batch makes the batches; set it to false",
        ),
    ],
)
def test_an_optimizer_or_a_search_that_is_not_possible_is_refused(accelerator, monkeypatch, name, changed, says):
    accelerator(None if name == "cpu" else torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: package)
    with pytest.raises(ConfigError) as refused:
        expected_engine(EngineSettings(f"accelerate_configs/{name}.yaml"), TrainSettings(**changed))
    assert says in str(refused.value)


def test_a_missing_bitsandbytes_names_its_extra(accelerator, monkeypatch):
    accelerator(None)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r"'train\.optim': adamw_bnb_8bit needs bitsandbytes; pip install .*quant"):
        expected_engine(EngineSettings("accelerate_configs/cpu.yaml"), TrainSettings(optim="adamw_bnb_8bit"))
