import sys
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path

import pytest

from lalm_mer.core.config import load_config, read_yaml, to_dict
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting


@dataclass(frozen=True)
class Model:
    id: str


@dataclass(frozen=True)
class Train:
    learning_rate: float = 1e-4
    steps: int = 10
    bf16: bool = False
    stops_at: int | None = setting(None, replaces=("steps",))


@dataclass(frozen=True)
class Run:
    name: str
    model: Model
    train: Train = field(default_factory=Train)
    towers: dict[str, list[str]] = field(default_factory=dict)
    folds: dict[int, list[str]] = field(default_factory=dict)
    seed: int | None = None


COMPLETE = "name: a\nmodel: {id: m}\n"


@pytest.fixture
def written(tmp_path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "run.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_complete_file_fills_the_schema(written):
    run = load_config(
        Run, written(COMPLETE + "train: {learning_rate: 2e-5}\ntowers: {projector: [linear]}\nfolds: {1: [x]}")
    )
    assert run == Run("a", Model("m"), Train(2e-5, 10), {"projector": ["linear"]}, {1: ["x"]})
    assert type(run.train.learning_rate) is float
    with pytest.raises(FrozenInstanceError):
        run.name = "b"


def test_to_dict_is_plain_data(written):
    plain = to_dict(load_config(Run, written(COMPLETE)))
    assert plain["model"] == {"id": "m"}
    assert plain["seed"] is None


@pytest.mark.parametrize(
    ("content", "key", "fragment"),
    [
        ("nmae: b", "nmae", "unknown key 'nmae'; expected one of name, model"),
        ("train: {lr: 1.0}", "train.lr", "expected one of learning_rate, steps"),
        ("train: {steps: many}", "train.steps", "expected int, found str 'many'"),
        ("train: {steps: '16'}", "train.steps", "expected int, found str '16'"),
        ("train: {steps: 1.5}", "train.steps", "expected int, found float"),
        ("train: {steps: 010}", "train.steps", "expected int, found str '010'"),
        ("train: {steps: 1:30}", "train.steps", "expected int, found str '1:30'"),
        ("train: {steps: true}", "train.steps", "expected int, found bool"),
        ("train: {steps: }", "train.steps", "expected int, found NoneType"),
        ("train: {bf16: 1}", "train.bf16", "expected bool, found int"),
        ("train: {bf16: yes}", "train.bf16", "expected bool, found str 'yes'"),
        ("train: {learning_rate: 2e-5x}", "train.learning_rate", "expected float, found str"),
        ("train: {learning_rate: .nan}", "train.learning_rate", "expected float, found str"),
        ("train: 3", "train", "expected a mapping, found int"),
        ("train: ", "train", "expected a mapping, found NoneType"),
        ("towers: [a]", "towers", "expected a mapping, found list"),
        ("towers: {projector: linear}", "towers.projector", "expected a list, found str"),
        ("towers: {projector: [1]}", "towers.projector[0]", "expected str, found int"),
        ("towers: {1: [linear]}", "towers.1", "expected str, found int"),
        ("folds: {one: [a]}", "folds.one", "expected int, found str"),
        ("seed: early", "seed", "expected int, found str"),
        ("towers: {projector: ['${oc.env:HOME}']}", "towers.projector[0]", "interpolation"),
    ],
)
def test_a_wrong_key_or_type_is_named(written, content, key, fragment):
    path = written(COMPLETE + content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert repr(key) in message
    assert fragment in message


def test_a_wrong_type_of_a_mandatory_key(written):
    assert "key 'name': expected str, found int 16" in refusal(written("name: 16\nmodel: {id: m}"))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("model: {id: m}", "name"),
        ("name: a", "model"),
        ("name: a\nmodel: {}", "model.id"),
        ("name: '???'\nmodel: {id: m}", "name"),
    ],
)
def test_a_missing_mandatory_key_names_file_and_key(written, content, key):
    path = written(content)
    assert refusal(path).startswith(f"{path}: key {key!r} is missing")


@pytest.mark.parametrize("content", ["name: b\nname: b", "name: b\nmodel: {id: m}\ntrain:\n  steps: 1\n  steps: 2"])
def test_a_duplicate_key_is_refused_at_any_depth(written, content):
    message = refusal(written(content))
    assert "duplicate key" in message
    assert f"line {content.count(chr(10)) + 1}" in message
    assert "run.yaml" in message


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"name: \xff\xfe", "cannot be read"),
        (b"name: [a", "not valid YAML"),
        (b"- a\n- b", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"1: a", "expected a mapping"),
        (b"? [a]\n: b", "line 1: a key is a list"),
        (b"name: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"name: a\ntrain: {<<: {steps: 1}}", "not valid YAML"),
    ],
)
def test_a_file_that_is_not_a_mapping_of_strings_is_refused(written, content, fragment):
    path = written(content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert fragment in message


def test_a_missing_file(tmp_path):
    assert "no.yaml: no such file" in refusal(tmp_path / "no.yaml")


def test_strings_and_numbers_keep_their_types(written):
    content = (
        "no: off\nyes: on\nday: 2026-11-20\ncode: 010\nrate: 2e-5\nhalf: .5\nbig: 1E3\nminus: -3\nnull_: ~\ntruth: True"
    )
    assert read_yaml(written(content)) == {
        "no": "off", "yes": "on", "day": "2026-11-20", "code": "010", "rate": 2e-5, "half": 0.5, "big": 1000.0,
        "minus": -3, "null_": None, "truth": True,
    }  # fmt: skip


def test_a_byte_order_mark_is_ignored(written):
    assert read_yaml(written(b"\xef\xbb\xbfname: a")) == {"name": "a"}


def test_overrides_take_precedence_and_the_last_one_most(written):
    run = load_config(Run, written(COMPLETE), ["train.steps=3", "train.steps=4", "model.id=n=1", "seed=7", "seed="])
    assert (run.train.steps, run.model.id, run.seed) == (4, "n=1", None)


def test_a_key_that_replaces_another_is_given_alone(written):
    by_steps = written(COMPLETE + "train: {steps: 3}\n")
    message = refusal(by_steps, "train.stops_at=7")
    assert "run.yaml: key 'train.steps': 3, but train.stops_at=7 is given, which replaces it; remove it" in message
    assert "or give train.steps=null" in message
    assert "override 'train.steps=4': key 'train.steps': 4" in refusal(
        written(COMPLETE), "train={stops_at: 7}", "train.steps=4"
    )
    by_steps = written(COMPLETE + "train: {steps: 3}\n")
    train = load_config(Run, by_steps, ["train.stops_at=7", "train.steps=null"]).train
    assert (train.stops_at, train.steps) == (7, 10)
    assert load_config(Run, by_steps, ["train.stops_at=null"]).train.steps == 3
    assert "expected int, found NoneType" in refusal(by_steps, "train.steps=null")


def test_an_override_can_give_a_mandatory_key(written):
    assert load_config(Run, written("name: a"), ["model.id=m"]).model.id == "m"


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("train.steps", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("train.stepz=3", "unknown key 'train.stepz'"),
        ("train.steps=three", "key 'train.steps': expected int, found str"),
        ("train.steps=", "key 'train.steps': expected int, found NoneType"),
        ("train={steps: 1, steps: 2}", "duplicate key 'steps'"),
        ("towers={a: [", "not valid YAML"),
        ("name=${oc.env:HOME}", "interpolation"),
        ("name.first=a", "key 'name': expected str, found dict"),
    ],
)
def test_a_wrong_override_is_quoted(written, override, fragment):
    message = refusal(written(COMPLETE), override)
    assert f"override {override!r}" in message
    assert fragment in message


def test_reading_yaml_executes_nothing(written, monkeypatch):
    monkeypatch.setattr(sys, "exit", lambda *_: pytest.fail("ran"))
    with pytest.raises(ConfigError):
        read_yaml(written("a: !!python/object/apply:sys.exit [1]"))
