"""The wrapper of every command line."""

import argparse
import os
import subprocess
import sys
import time

import pytest

from lalm_mer.core.command import command_parser, path_argument, run_command, source_argument
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError


def failing(error):
    def command(options):
        raise error

    return command


def options(*arguments):
    return command_parser("What it does.").parse_args(arguments)


FULL = "No space left on device; free some space, or write to another folder, and run the same command again"


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_the_exit_status_of_the_command_is_returned(returned, status, capsys):
    assert run_command(lambda _: returned, options()) == status
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("key 'seed': -1; expected 0"), "error: key 'seed': -1; expected 0\n"),
        (CorpusError("no such folder"), "error: no such folder\n"),
        (AudioError("x" * 400), f"error: {'x' * 400}\n"),
        (FileNotFoundError(2, "No such file", "a.csv"), "error: [Errno 2] No such file: 'a.csv'\n"),
        (PermissionError(13, "Permission denied", "a.csv"), "error: [Errno 13] Permission denied: 'a.csv'\n"),
        (OSError(28, "No space left"), f"error: the output: cannot be written: {FULL}\n"),
    ],
)
@pytest.mark.parametrize("status", [1, 2])
def test_an_error_that_the_user_can_mend_is_one_line(error, line, status, capsys):
    assert run_command(failing(error), options(), error_status=status) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("resumes", "advice"), [(True, "; rerun the same command to resume"), (False, "")])
def test_an_interruption_has_the_status_of_shells(resumes, advice, capsys):
    assert run_command(failing(KeyboardInterrupt()), options(), error_status=2, resumes=resumes) == 130
    assert capsys.readouterr().err == f"error: interrupted{advice}\n"


def test_further_processes_print_their_error_only_if_the_first_does_not_end_them(monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert run_command(failing(ConfigError("wrong")), options()) == 1
    assert waited == []
    monkeypatch.setenv("RANK", "1")
    assert run_command(failing(ConfigError("wrong")), options()) == 1
    assert len(waited) == 1
    assert capsys.readouterr().err == "error: wrong\n" * 2


SCRIPT = """
import sys, warnings
from lalm_mer.core.command import command_parser, run_command
from lalm_mer.core.errors import ConfigError

def command(options):
    print("Zo\\u00eb")
    sys.stdout.flush()
    warnings.warn_explicit("soon gone", FutureWarning, "other.py", 1, module="other.package")
    raise ConfigError("Zo\\u00eb is nobody")

sys.exit(run_command(command, command_parser("").parse_args([])))
"""


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("variables", "shown"),
    [({"PYTHONIOENCODING": "ascii"}, "Zo\\xeb"), (C_LOCALE, "Zo\\xeb"), ({"PYTHONIOENCODING": "utf-8"}, "Zoë")],
)
def test_a_console_of_any_encoding_shows_every_line_and_no_futurewarning(variables, shown):
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | variables, capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout.decode() == f"{shown}\n"
    assert done.stderr.decode() == f"error: {shown} is nobody\n"


def test_an_interruption_before_the_command_is_one_line():
    code = "import lalm_mer.core.command\nraise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "error: interrupted\n"
    assert done.returncode in (130, -2)


@pytest.mark.parametrize("argument", [path_argument, source_argument])
def test_paths_of_the_command_line_are_absolute(argument, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert str(argument("~/x")) == str(argument("./x")) == str(tmp_path / "x")
    with pytest.raises(argparse.ArgumentTypeError, match="no such user"):
        argument("~nobody_here/x")


@pytest.mark.parametrize("error", [ConfigError("wrong"), OSError("full"), KeyboardInterrupt()])
def test_debug_shows_the_traceback(error, capsys):
    with pytest.raises(type(error)) as raised:
        run_command(failing(error), options("--debug"))
    assert raised.value is error
    assert capsys.readouterr().err == ""


def test_an_error_of_this_library_keeps_its_traceback():
    with pytest.raises(ValueError, match="never"):
        run_command(failing(ValueError("never")), options())


def test_the_help_shows_the_description_as_it_is_written(capsys):
    with pytest.raises(SystemExit):
        command_parser("First line.\n\n  second: a line", "keys:\n  last").parse_args(["--help"])
    printed = capsys.readouterr().out
    assert "First line.\n\n  second: a line\n" in printed
    assert printed.endswith("keys:\n  last\n")
