"""A declaration is what loading, ``--help`` and resuming read."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from lalm_mer.core.config import build_config, load_config
from lalm_mer.core.errors import AudioError, ConfigError
from lalm_mer.core.settings import changeable_keys, describe_settings, naming_keys, require_declared, setting

COLUMNS = ["speaker", "session"]


@dataclass(frozen=True)
class Noise:
    """Noise that is added."""

    p: float = setting(0.0, at_least=0, below=1, help="probability")
    color: str = setting("white", choices=("white", "pink"), help="of the noise")


@dataclass(frozen=True)
class Output:
    """The folder."""

    dir: str = setting(help="of the run")


@dataclass(frozen=True)
class Run:
    """A run."""

    family: str = setting(choices=("a", "b", "c"), help="architecture")
    output: Output = setting(may_change=True)
    noise: Noise = field(default_factory=Noise)
    steps: int = setting(-1, at_least=1, also_allowed=-1, help="optimiser steps")
    rate: float = setting(0.5, above=0, at_most=1, help="learning rate")
    bits: int | None = setting(None, choices=(4, 8), help="of a weight")
    cap: int | None = setting(None, at_least=1, help="examples at most")
    columns: list[str] = setting([], choices=lambda: COLUMNS, help="to compare")
    towers: dict[str, list[str]] = setting({}, help="what is adapted")
    options: dict[str, Any] = setting({}, help="of peft")
    seed: int = setting(0, at_least=0, at_most=9, may_change=True, help="of the draws")


COMPLETE = "family: a\noutput: {dir: runs}\n"


@pytest.fixture
def load(tmp_path):
    def load_with(content: str = "", *overrides: str) -> Run:
        (tmp_path / "run.yaml").write_text(COMPLETE + content)
        return load_config(Run, tmp_path / "run.yaml", overrides)

    return load_with


WRONG = [
    ("steps", "0", "0; expected 1 or more, or -1"),
    ("steps", "-2", "-2; expected 1 or more, or -1"),
    ("rate", "0", "0; expected more than 0 and at most 1"),
    ("rate", "1.5", "1.5; expected more than 0 and at most 1"),
    ("seed", "-1", "-1; expected 0 to 9"),
    ("seed", "10", "10; expected 0 to 9"),
    ("noise.p", "1.0", "1.0; expected 0 or more and less than 1"),
    ("noise.color", "blue", "'blue'; expected white or pink"),
    ("bits", "5", "5; expected one of 4, 8, null"),
    ("cap", "0", "0; expected 1 or more, or null"),
    ("columns", "[speaker, voice]", "'voice'; expected speaker or session"),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG)
def test_a_value_out_of_range_or_choices_is_refused_with_file_key_and_expected_values(
    load, tmp_path, key, value, expected
):
    section, _, name = key.rpartition(".")
    with pytest.raises(ConfigError) as refused:
        load(f"{section}: {{{name}: {value}}}" if section else f"{key}: {value}")
    assert str(refused.value) == f"{tmp_path / 'run.yaml'}: key {key!r}: {expected}"


@pytest.mark.parametrize(("key", "value", "expected"), WRONG)
def test_an_override_out_of_range_or_choices_is_quoted(load, key, value, expected):
    with pytest.raises(ConfigError) as refused:
        load("", f"{key}={value}")
    assert str(refused.value) == f"override '{key}={value}': key {key!r}: {expected}"


def test_values_in_range_are_loaded(load):
    run = load("steps: 1\nrate: 1\nbits: 8\ncap: null\ncolumns: [session]\nnoise: {p: 0, color: pink}\nseed: 9")
    assert (run.steps, run.rate, run.bits, run.cap, run.columns) == (1, 1.0, 8, None, ["session"])
    assert (run.noise, run.seed) == (Noise(0.0, "pink"), 9)
    assert load("").columns is not load("").columns


def test_a_placeholder_for_a_choice_is_a_missing_key(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(COMPLETE.replace("family: a", "family: ???"))
    assert load_config(Run, file, ["family=b"]).family == "b"
    with pytest.raises(ConfigError, match=r"run\.yaml: key 'family' is missing"):
        load_config(Run, file)


def test_choices_of_a_registry_are_read_when_they_are_needed(load, monkeypatch):
    monkeypatch.setattr(f"{__name__}.COLUMNS", ["dialogue"])
    assert load("columns: [dialogue]").columns == ["dialogue"]
    assert "list of dialogue," in describe_settings(Run)


def test_a_config_of_an_earlier_run_is_checked_too():
    with pytest.raises(ConfigError, match=r"^run\.json: key 'noise\.color': 'blue'; expected white or pink$"):
        build_config(Run, {"family": "a", "output": {"dir": ""}, "noise": {"color": "blue"}}, "run.json")


def test_settings_made_in_python_name_arguments():
    require_declared(Run("a", Output("")))
    with pytest.raises(ConfigError, match=r"^argument 'noise\.p': 2\.0; expected 0 or more and less than 1$"):
        require_declared(Run("a", Output(""), Noise(p=2.0)))
    with pytest.raises(ConfigError, match=r"^argument 'noise\.p': nan; expected"):
        require_declared(Run("a", Output(""), Noise(p=float("nan"))))


def test_an_error_of_a_section_names_the_file(tmp_path):
    @dataclass(frozen=True)
    class Pair:
        low: int = 0
        high: int = 1

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ConfigError("argument 'low': above high")

    (tmp_path / "pair.yaml").write_text("low: 2")
    with pytest.raises(ConfigError, match=r"^.*pair\.yaml: argument 'low': above high$"):
        load_config(Pair, tmp_path / "pair.yaml")


def test_the_description_has_one_line_per_key_by_section():
    assert describe_settings(Run).splitlines() == [
        "  family  a | b | c, required: architecture",
        "  steps  int, 1 or more, or -1, default -1: optimiser steps",
        "  rate  float, more than 0 and at most 1, default 0.5: learning rate",
        "  bits  4 | 8 | null, default null: of a weight",
        "  cap  int | null, 1 or more, default null: examples at most",
        "  columns  list of speaker | session, default []: to compare",
        "  towers  dict[str, list[str]], default {}: what is adapted",
        "  options  dict[str, Any], default {}: of peft",
        "  seed  int, 0 to 9, default 0: of the draws",
        "output: The folder.",
        "  output.dir  str, required: of the run",
        "noise: Noise that is added.",
        "  noise.p  float, 0 or more and less than 1, default 0.0: probability",
        "  noise.color  white | pink, default white: of the noise",
    ]


def test_keys_and_sections_may_be_changeable():
    assert changeable_keys(Run) == {"output", "seed"}


def test_an_error_about_an_argument_names_its_key():
    with pytest.raises(ConfigError, match=r"^key 'adapter\.towers\.projector': no such layer$"), naming_keys("adapter"):
        raise ConfigError("argument 'towers.projector': no such layer")
    with (
        pytest.raises(AudioError, match=r"^key 'prompt\.shots': 40$") as refused,
        naming_keys("prompt", count="shots"),
    ):
        raise AudioError("argument 'count': 40", "empty")
    assert refused.value.reason == "empty"


def test_other_errors_are_unchanged():
    with pytest.raises(ConfigError, match=r"^model x: argument 'y' is missing$"), naming_keys("adapter"):
        raise ConfigError("model x: argument 'y' is missing")
    with pytest.raises(KeyError, match="argument 'x'"), naming_keys("adapter"):
        raise KeyError("argument 'x'")
