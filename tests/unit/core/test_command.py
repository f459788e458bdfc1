"""The wrapper of every command line."""

import pytest

from lalm_mer.core.command import command_parser, run_command
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


def test_an_interruption_has_the_status_of_shells(capsys):
    assert run_command(failing(KeyboardInterrupt()), options(), error_status=2) == 130
    assert capsys.readouterr().err == "error: interrupted; rerun the same command to resume\n"


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
