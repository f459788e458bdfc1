import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from a_gpu import a_gpu

from lalm_mer.launch import doctor
from lalm_mer.models.families import FAMILIES, family_class, is_supported
from lalm_mer.models.families.generic import LIMITS

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_the_command_prints_versions_devices_extras_and_families():
    command = [sys.executable, "-m", "lalm_mer.cli", "doctor", "--families"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    kinds = {"package", "device", "extra", "family", "weights", "contamination,", "single", "other", "limit,"}
    assert {kind for kind, _ in lines} == kinds
    assert [rest.partition(":")[0] for kind, rest in lines if kind == "family"] == list(FAMILIES)
    assert [rest for kind, rest in lines if kind == "limit,"] == list(LIMITS)
    extras = {rest.partition(":")[0] for kind, rest in lines if kind == "extra"}
    assert {"acoustic", "augment", "deepspeed", "mosei", "quant", "synthesis", "video", "dev"} <= extras
    assert any(rest.startswith("torch ") for _, rest in lines)


@pytest.mark.parametrize("name", sorted(filter(is_supported, FAMILIES)))
def test_every_family_runs_or_names_the_missing_package(name):
    required = family_class(name).required_module
    missing = required is not None and importlib.util.find_spec(required) is None
    reason = f"does not run: ConfigError: family {name} needs {required}; pip install -e '.[{name}]'"
    assert doctor.family_status(family_class(name)) == (reason if missing else "runs")


def test_facts_of_families_are_shown_on_request():
    lines = list(doctor.examine(builds=False))
    assert not [line for line in lines if "contamination" in line or "licence A" in line or "limit," in line]
    assert lines[-1] == "            --families lists weights, licences and what is known of their training data"


@pytest.mark.parametrize(
    ("name", "line"), [("mps", "device      mps, 1 GPU(s); torch "), (None, "device      CPU only, ")]
)
def test_every_kind_of_device_is_named(name, line, monkeypatch):
    found = None if name is None else torch.device(name)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (shown,) = doctor._devices()
    assert shown.startswith(line)


@pytest.mark.parametrize(
    ("name", "capability", "says"), [("Tesla T4", (7, 5), "no bfloat16"), ("NVIDIA L4", (8, 9), "bfloat16")]
)
def test_a_gpu_without_bfloat16_is_named_with_what_to_set(name, capability, says, monkeypatch):
    a_gpu(monkeypatch, name, capability)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    device, *advice = doctor._devices()
    assert device == f"device      cuda:0 {name}, 15 GiB, {says}"
    assert len(advice) == (capability < (8, 0))
    for line in advice:
        assert "set model.dtype=float16, and train.bf16=false train.fp16=true" in line
        for path in re.findall(r"[\w-]+/[\w.-]+", line):
            assert (ROOT / path).is_file(), path


def test_a_family_that_does_not_run_gives_the_reason(monkeypatch):
    family = family_class(next(iter(FAMILIES)))

    def broken(*_, **__):
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(family, "build_tiny", broken)
    assert doctor.family_status(family) == "does not run: RuntimeError: no such kernel"


def test_a_family_missing_in_an_older_transformers_does_not_affect_others(monkeypatch):
    monkeypatch.setitem(sys.modules, "lalm_mer.models.families.glmasr", None)
    families = [line for line in doctor.examine(builds=False) if line.startswith("family ")]
    assert len(families) == len(FAMILIES)
    failed = [line for line in families if "does not run" in line and is_supported(line.split()[1].rstrip(":"))]
    assert len(failed) == 1
    assert failed[0].startswith("family      glmasr: does not run: family glmasr: ")
    assert failed[0].endswith("pip install --upgrade transformers")


def test_a_missing_extra_has_its_installation_command(monkeypatch):
    versions = doctor.package_versions
    monkeypatch.setattr(doctor, "package_versions", lambda *names: versions(*names) | {"h5py": None})
    assert "extra       mosei: lacks h5py: pip install -e '.[mosei]'" in list(doctor._extras())
