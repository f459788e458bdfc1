"""Names that settings, files and code share are defined in one module."""

import ast
from functools import cache
from pathlib import Path

import pytest

from lalm_mer.core import names
from lalm_mer.core.names import AUDIO_TRANSCRIPT, MODALITIES, modalities_of, uses_audio, uses_transcript

PACKAGE = Path(__file__).parents[3] / "lalm_mer"


@pytest.mark.parametrize("modalities", MODALITIES)
def test_modalities_are_named_by_their_inputs(modalities):
    audio, transcript = uses_audio(modalities), uses_transcript(modalities)
    assert modalities_of(audio=audio, transcript=transcript) == modalities
    assert audio or transcript
    assert (audio and transcript) == (modalities == AUDIO_TRANSCRIPT)


def test_no_input_has_an_empty_name():
    assert modalities_of(audio=False, transcript=False) == ""
    assert not uses_audio("")


@pytest.mark.parametrize("name", ["audio+transcript", "audio_swapped", "human", "asr", "simulated"])
def test_no_other_module_spells_a_name(name):
    assert [file for file, value in spelt() if value == name] == [Path(names.__file__).relative_to(PACKAGE).as_posix()]


@cache
def spelt():
    """File and value of every string in the code."""
    return [
        (path.relative_to(PACKAGE).as_posix(), node.value)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
