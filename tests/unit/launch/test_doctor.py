import importlib.util
import subprocess
import sys

import pytest

from lalm_mer.launch import doctor
from lalm_mer.models.families import FAMILIES, family_class
from lalm_mer.models.families.generic import LIMITS


def test_the_command_tells_versions_devices_extras_and_families():
    done = subprocess.run([sys.executable, "-m", "lalm_mer.cli", "doctor"], capture_output=True, text=True, check=True)
    told = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    kinds = {"package", "device", "extra", "family", "weights", "contamination,", "one", "other", "limit,"}
    assert {kind for kind, _ in told} == kinds
    assert [rest.partition(":")[0] for kind, rest in told if kind == "family"] == list(FAMILIES)
    assert [rest for kind, rest in told if kind == "limit,"] == list(LIMITS)
    extras = {rest.partition(":")[0] for kind, rest in told if kind == "extra"}
    assert {"acoustic", "augment", "deepspeed", "mosei", "quant", "synthesis", "video", "dev"} <= extras
    assert any(rest.startswith("torch ") for _, rest in told)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_runs_here_or_says_what_it_needs(name):
    required = family_class(name).required_module
    lacks = required is not None and importlib.util.find_spec(required) is None
    told = f"does not run: ConfigError: family {name} needs {required}; pip install 'lalm-mer[{name}]'"
    assert doctor.family_status(family_class(name)) == (told if lacks else "runs")


def test_a_family_that_does_not_run_says_why(monkeypatch):
    family = family_class(next(iter(FAMILIES)))

    def broken(*_, **__):
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(family, "build_tiny", broken)
    assert doctor.family_status(family) == "does not run: RuntimeError: no such kernel"


def test_a_family_that_an_older_transformers_lacks_stops_no_other(monkeypatch):
    monkeypatch.setitem(sys.modules, "lalm_mer.models.families.glmasr", None)
    families = [line for line in doctor.examine(builds=False) if line.startswith("family ")]
    assert len(families) == len(FAMILIES)
    lost = [line for line in families if "does not run" in line]
    assert len(lost) == 1
    assert lost[0].startswith("family      glmasr: does not run: family glmasr: ")
    assert lost[0].endswith("pip install --upgrade transformers")


def test_a_missing_extra_says_how_to_get_it(monkeypatch):
    versions = doctor.package_versions
    monkeypatch.setattr(doctor, "package_versions", lambda *names: versions(*names) | {"h5py": None})
    assert "extra       mosei: lacks h5py: pip install 'lalm-mer[mosei]'" in list(doctor._extras())
