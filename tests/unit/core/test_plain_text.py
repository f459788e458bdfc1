"""Texts of other people are printed as text, and are no formulas in a CSV file."""

import io

import pandas as pd
import pytest

from lalm_mer.core.command import command_parser, run_command
from lalm_mer.core.errors import PredictionError
from lalm_mer.core.plain_text import PlainOutput, from_cell, plain_cells, printable, to_cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\uff1d1", "'=1", "''-x", "'", "it's", "", "a=b"])
def test_a_cell_is_no_formula_and_is_read_back(text):
    cell = to_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\uff1d"))
    assert from_cell(cell) == text


def test_numbers_and_missing_values_are_kept():
    frame = pd.DataFrame({"-a": ["-1", None], "n": [-1.5, 2.0], "i": [-1, 3], "b": [True, False], "m": [None, "=x"]})
    assert plain_cells(frame).to_csv(index=False) == "'-a,n,i,b,m\n'-1,-1.5,-1,True,\n,2.0,3,False,'=x\n"


def test_control_characters_are_escapes_and_letters_are_kept():
    assert printable("\x1b[2Jred\x07\x9b\u202e") == "\\x1b[2Jred\\x07\\x9b\\u202e"
    assert (
        printable("Zo\u00e9 \U0001f600\tline\nend \u0645\u06cc\u200c\u0634")
        == "Zo\u00e9 \U0001f600\tline\nend \u0645\u06cc\u200c\u0634"
    )
    stream = io.StringIO()
    print("a\rb\x1b]0;title\x07", file=PlainOutput(stream))
    assert stream.getvalue() == "a\\rb\\x1b]0;title\\x07\n"


def test_no_command_lets_a_text_control_the_terminal(capsys):
    def fails(_):
        print("label \x1b[31mred")  # noqa: T201 as commands do
        raise PredictionError("utterance 'u\x1b[2J'\nis wrong")

    assert run_command(fails, command_parser("").parse_args([])) == 1
    printed, error = capsys.readouterr()
    assert printed == "label \\x1b[31mred\n"
    assert error == "error: utterance 'u\\x1b[2J' is wrong\n"
