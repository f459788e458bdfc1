"""The command line of the recipes."""

import sys
from dataclasses import dataclass

import pytest

from lalm_mer.core.settings import setting
from lalm_mer.launch.arguments import run_recipe


@dataclass(frozen=True)
class Settings:
    seed: int = setting(0, at_least=0, help="of the draws")


def ended(monkeypatch, capsys, folder, recipe, *overrides):
    """Exit status and stderr."""
    config = folder / "run.yaml"
    config.write_text("seed: 1\n")
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--config", str(config), *overrides])
    with pytest.raises(SystemExit) as stopped:
        run_recipe("", Settings, recipe)
    return stopped.value.code, capsys.readouterr().err


def test_an_interrupted_recipe_ends_with_one_line(monkeypatch, capsys, tmp_path):
    def interrupted(settings):
        raise KeyboardInterrupt

    status, error = ended(monkeypatch, capsys, tmp_path, interrupted)
    assert (status, error) == (130, "error: interrupted; rerun the same command to resume\n")


def test_an_operating_system_error_is_one_line(monkeypatch, capsys, tmp_path):
    status, error = ended(monkeypatch, capsys, tmp_path, lambda _: (tmp_path / "run.yaml" / "x").mkdir())
    assert status == 1
    assert error.startswith("error: ")
    assert str(tmp_path / "run.yaml" / "x") in error
    assert error.count("\n") == 1


def test_ranges_are_checked_before_the_recipe_starts(monkeypatch, capsys, tmp_path):
    status, error = ended(monkeypatch, capsys, tmp_path, print, "seed=-1")
    assert (status, error) == (1, "error: override 'seed=-1': key 'seed': -1; expected 0 or more\n")


def test_success_is_exit_status_0(monkeypatch, capsys, tmp_path):
    assert ended(monkeypatch, capsys, tmp_path, lambda settings: None) == (0, "")
