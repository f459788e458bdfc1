import importlib.util
import subprocess
import sys

import pytest

from lalm_mer.launch import doctor
from lalm_mer.models.families import FAMILIES, family_class
from lalm_mer.models.families.generic import LIMITS


def test_the_command_prints_versions_devices_extras_and_families():
    done = subprocess.run([sys.executable, "-m", "lalm_mer.cli", "doctor"], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    kinds = {"package", "device", "extra", "family", "weights", "contamination,", "single", "other", "limit,"}
    assert {kind for kind, _ in lines} == kinds
    assert [rest.partition(":")[0] for kind, rest in lines if kind == "family"] == list(FAMILIES)
    assert [rest for kind, rest in lines if kind == "limit,"] == list(LIMITS)
    extras = {rest.partition(":")[0] for kind, rest in lines if kind == "extra"}
    assert {"acoustic", "augment", "deepspeed", "mosei", "quant", "synthesis", "video", "dev"} <= extras
    assert any(rest.startswith("torch ") for _, rest in lines)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_runs_or_names_the_missing_package(name):
    required = family_class(name).required_module
    missing = required is not None and importlib.util.find_spec(required) is None
    reason = f"does not run: ConfigError: family {name} needs {required}; pip install -e '.[{name}]'"
    assert doctor.family_status(family_class(name)) == (reason if missing else "runs")


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
    failed = [line for line in families if "does not run" in line]
    assert len(failed) == 1
    assert failed[0].startswith("family      glmasr: does not run: family glmasr: ")
    assert failed[0].endswith("pip install --upgrade transformers")


def test_a_missing_extra_has_its_installation_command(monkeypatch):
    versions = doctor.package_versions
    monkeypatch.setattr(doctor, "package_versions", lambda *names: versions(*names) | {"h5py": None})
    assert "extra       mosei: lacks h5py: pip install -e '.[mosei]'" in list(doctor._extras())
