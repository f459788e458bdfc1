"""Every shipped run passes its preflight with its own precision and batch sizes, and with another model or prompt.

The recipe runs in this process, on a miniature of its corpus and with a tiny model, and stops after the preflight. What
else a run does is tested in ``test_shipped_runs``.
"""

import shlex

import pytest
from shipped import CHANGED, of_recipe, opening, script

from lalm_mer.launch.run import preflight

SECTIONS = {"recipes/zero_shot.py": "scoring", "recipes/finetune.py": "train"}
RUNS = of_recipe("zero_shot", "finetune")
_OVERRIDES = {file: shlex.split(opening(file)["One override"]) for file in RUNS}
_CHANGES = ("model.family", "prompt", "objective")
OVERRIDDEN = [file for file, (first, *_) in _OVERRIDES.items() if first.startswith(_CHANGES)]


@pytest.fixture
def checked(monkeypatch, shipped_command, run_script, capsys):
    """Runs a YAML up to the end of its preflight; returns what it printed."""
    whole = preflight.preflight

    def check_and_stop(*arguments):
        whole(*arguments)
        raise SystemExit(0)

    monkeypatch.setattr(preflight, "preflight", check_and_stop)

    def run(file, *overrides):
        section = SECTIONS[script(file)]
        on_cpu = [f"{section}.use_cpu=true", f"{section}.dataloader_num_workers=0"]
        command = [word for word in shipped_command(file, *overrides) if word not in CHANGED[script(file)]]
        assert run_script(*command, *on_cpu) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("file", RUNS)
def test_a_shipped_run_passes_its_preflight(file, checked):
    assert "preflight: done in " in checked(file)


@pytest.mark.parametrize("file", OVERRIDDEN)
def test_it_passes_with_another_model_or_prompt_of_its_header(file, checked):
    assert "preflight: done in " in checked(file, *_OVERRIDES[file])
