"""Missing and rare classes of the splits are refused, or stated with counts."""

from dataclasses import replace

import pandas as pd
import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.notes import Note, NoteCode, sentence
from lalm_mer.protocols.classes import class_notes, count_classes, describe_classes, require_classes
from lalm_mer.protocols.protocol import FoldRule, Protocol, load_protocol

LABELS = ("happy", "sad", "angry")
PROTOCOL = Protocol("p", 1, "here", FoldRule("grouped", "speaker"), [])


@pytest.fixture
def counts():
    """Two folds: dev of the first has no angry utterance and three sad ones, test of the second no sad one."""
    sizes = {
        (1, "train"): (6, 5, 5), (1, "dev"): (6, 3, 0), (1, "test"): (6, 5, 5),
        (2, "train"): (6, 5, 5), (2, "dev"): (6, 5, 5), (2, "test"): (6, 0, 5),
    }  # fmt: skip
    rows = [
        (f"{fold}_{split}_{label}_{number}", fold, split, label)
        for (fold, split), of_split in sizes.items()
        for label, n in zip(LABELS, of_split, strict=True)
        for number in range(n)
    ]
    frame = pd.DataFrame(rows, columns=["utterance_id", "fold", "split", "truth"])
    truths = dict(zip(frame.pop("utterance_id"), frame.pop("truth"), strict=True))
    return count_classes(
        frame.assign(utterance_id=list(truths)), {name: [label] for name, label in truths.items()}, LABELS
    )


def test_every_class_of_every_split_is_counted(counts):
    assert counts[1]["dev"] == {"happy": 6, "sad": 3, "angry": 0}
    assert counts[2]["test"] == {"happy": 6, "sad": 0, "angry": 5}


def test_a_missing_class_is_an_error_unless_the_protocol_allows_it(counts):
    with pytest.raises(ConfigError) as error:
        require_classes(counts, PROTOCOL, LABELS)
    assert str(error.value) == (
        "protocol p: fold 1: dev has no angry; fold 2: test has no sad; choose fewer folds, another seed or other "
        "groups, or allow it in the protocol: may_lack: {dev: [angry], test: [sad]}"
    )
    with pytest.raises(ConfigError, match="protocol p: fold 2: test has no sad; "):
        require_classes(counts, replace(PROTOCOL, may_lack={"dev": ["angry"]}), LABELS)
    require_classes(counts, replace(PROTOCOL, may_lack={"dev": ["angry"], "test": ["sad"]}), LABELS)
    with pytest.raises(ConfigError, match=r"key 'may_lack': 'fear' is not one of \['happy', 'sad', 'angry'\]"):
        require_classes(counts, replace(PROTOCOL, may_lack={"dev": ["fear"]}), LABELS)


def test_missing_and_rare_classes_are_stated_with_counts(counts):
    assert describe_classes(counts) == [
        "classes without an utterance, as the protocol allows: fold 1, dev: angry; fold 2, test: sad",
        "WARNING: classes with fewer than 5 utterances: fold 1, dev: sad 3",
    ]
    notes = class_notes(counts[1])
    assert notes == [
        Note(NoteCode.MISSING_CLASSES, "dev", 1, facts={"classes": "angry"}),
        Note(NoteCode.FEW_UTTERANCES, "dev", 1, facts={"classes": "sad 3"}),
    ]
    assert sentence(notes[1]) == "1 classes have few utterances in dev: sad 3."
    assert class_notes(counts[2]) == [Note(NoteCode.MISSING_CLASSES, "test", 1, facts={"classes": "sad"})]


@pytest.mark.parametrize(
    ("line", "says"),
    [("may_lack: {tset: [sad]}", "key 'may_lack': found tset"), ("name: ../p", "key 'name': '../p'; expected letters")],
)
def test_a_protocol_with_another_split_or_a_path_as_name_is_refused(tmp_path, line, says):
    content = "version: 1\nsource: here\ndisjoint_in: []\nfolds: {rule: test}\n"
    name = "" if line.startswith("name") else "name: p\n"
    (tmp_path / "p.yaml").write_text(f"{name}{content}{line}\n")
    with pytest.raises(ConfigError, match=says):
        load_protocol(tmp_path / "p.yaml")
