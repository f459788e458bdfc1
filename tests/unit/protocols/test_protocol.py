import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.protocols.protocol import FoldRule, InlineTask, Protocol, load_protocol

COMPLETE = """
name: p
version: 1
source: here
task: two
disjoint_in: [speaker]
folds: {rule: grouped, column: speaker, k: 3}
"""
TWO = Task("two", LabelSet(("a", "b")), {"a": "a"})


def protocol(**changes):
    return Protocol("p", 1, "here", FoldRule("grouped", "speaker"), ["speaker"], **changes)


def test_a_complete_file_is_read(tmp_path):
    (tmp_path / "p.yaml").write_text(COMPLETE)
    loaded = load_protocol(tmp_path / "p.yaml")
    assert (loaded.name, loaded.folds.k, loaded.disjoint_in, loaded.primary_metric) == ("p", 3, ["speaker"], "uar")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("rule: grouped", "rule: random", "folds.rule"),
        ("column: speaker", "column: speakers", "folds.column"),
        ("disjoint_in: [speaker]", "disjoint_in: [speakers]", "disjoint_in"),
        ("disjoint_in: [speaker]", "disjoint_in: [speaker]\nunknown_in: [session]", "unknown_in"),
        ("rule: grouped, column: speaker, k: 3", "rule: file, column: session, file: ../x.csv", "folds.file"),
        ("disjoint_in: [speaker]", "disjoint_in: [speaker]\nshared_in: [words]", "shared_in"),
        ("disjoint_in: [speaker]", "disjoint_in: [speaker]\nshared_in: [speaker]", "shared_in"),
        ("version: 1\n", "", "version"),
        ("k: 3", "k: three", "folds.k"),
        ("k: 3", "folds: 3", "folds.folds"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, old, new, key):
    assert old in COMPLETE
    (tmp_path / "p.yaml").write_text(COMPLETE.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_protocol(tmp_path / "p.yaml")
    assert str(tmp_path / "p.yaml") in str(caught.value)
    assert repr(key) in str(caught.value)


def test_a_task_of_the_corpus_is_found_by_name():
    assert protocol(task="two").resolve_task({"two": TWO}) is TWO
    with pytest.raises(ConfigError, match=r"no task 'two'; the corpus has \['four'\]"):
        protocol(task="two").resolve_task({"four": TWO})
    with pytest.raises(ConfigError, match="the corpus has none"):
        protocol(task="two").resolve_task({})


def test_an_inline_task_is_read():
    spelled = InlineTask("mine", {"hap": ["happy", "glad"], "sad": ["sad"]})
    task = protocol(inline_task=spelled).resolve_task({})
    assert (task.name, task.label_set.labels, task.label_set.forms_of("hap")) == (
        "mine",
        ("hap", "sad"),
        ("happy", "glad"),
    )
    assert (task.label_of("sad"), task.label_of("angry")) == ("sad", None)
    merged = protocol(inline_task=InlineTask("mine", spelled.labels, {"exc": "hap"})).resolve_task({})
    assert (merged.label_of("exc"), merged.label_of("hap")) == ("hap", None)


def test_exactly_one_task_is_required():
    spelled = InlineTask("mine", {"hap": ["happy"], "sad": ["sad"]})
    for wrong in (protocol(), protocol(task="two", inline_task=spelled)):
        with pytest.raises(ConfigError, match="either 'task' or 'inline_task'"):
            wrong.resolve_task({"two": TWO})
