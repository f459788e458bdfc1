import re
from dataclasses import replace
from pathlib import Path

import pytest

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError, SplitLeakError
from lalm_mer.corpora import load, write_corpus
from lalm_mer.corpora.base import load_tasks
from lalm_mer.corpora.circumplex import design
from lalm_mer.corpora.ravdess import LOADER_VERSION, read
from lalm_mer.corpora.settings import PrepareSettings, prepare
from lalm_mer.examples.dataset import ExampleSource
from lalm_mer.protocols.folded_corpus import fold_corpus
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS, make_folds

PROTOCOLS = Path(__file__).resolve().parents[3] / "eval" / "protocols"


@pytest.fixture(scope="module")
def prepared_ravdess(shared_data_folder, tmp_path_factory):
    if not (shared_data_folder / "ravdess").is_dir():
        pytest.skip(f"no RAVDESS in {shared_data_folder}")
    folder = tmp_path_factory.mktemp("ravdess")
    write_corpus(
        read(shared_data_folder / "ravdess"),
        corpus="ravdess",
        root=shared_data_folder / "ravdess",
        out_dir=folder / "out",
        loader_version=LOADER_VERSION,
    )
    return load(folder / "out")


@pytest.fixture(scope="module")
def ravdess(prepared_ravdess):
    return fold_corpus(prepared_ravdess, load_protocol(PROTOCOLS / "ravdess_6fold.yaml"))


@pytest.mark.slow
def test_ravdess_folds_are_those_published(ravdess):
    sizes = {fold: [len(ravdess.folds.ids(fold, split)) for split in SPLITS] for fold in range(1, 7)}
    assert sizes[1] == [960, 240, 240]
    assert sizes == {fold: [960, 240, 240] for fold in range(1, 7)}
    assert ravdess.unmapped == 0
    tested = [name for fold in range(1, 7) for name in ravdess.folds.ids(fold, "test")]
    assert len(set(tested)) == len(tested) == 1440
    assert ravdess.folds.digest == "1e35bc61f2c1f50c40712b1c3050c6d0fe7d10ba23c84bf961987dade40070f2"


def test_the_first_fold_of_ravdess_has_these_actors(ravdess):
    actors = {split: {name[-2:] for name in ravdess.folds.ids(1, split)} for split in SPLITS}
    assert actors["test"] == {"01", "11", "20", "21"}
    assert actors["dev"] == {"04", "10", "12", "14"}
    assert len(actors["train"]) == 16


def test_a_split_of_ravdess_has_these_labels(ravdess):
    truth = ExampleSource(ravdess).examples(3, "test", sampling_rate=None).utterances()["truth"].value_counts()
    assert truth.to_dict() == {"neutral": 16} | {
        label: 32 for label in ravdess.task.label_set.labels if label != "neutral"
    }


def test_ravdess_shares_its_two_sentences_and_states_it(prepared_ravdess):
    protocol = load_protocol(PROTOCOLS / "ravdess_6fold.yaml")
    with pytest.raises(SplitLeakError, match=r"fold 1: 2 values of (script|transcript)"):
        fold_corpus(prepared_ravdess, replace(protocol, shared_in=[]))


def test_there_is_no_seventh_fold_of_ravdess(ravdess):
    with pytest.raises(ConfigError, match="no fold 7"):
        ExampleSource(ravdess).examples(7, "test", sampling_rate=None)


@pytest.mark.parametrize(("name", "variant"), [("circumplex", "masked"), ("circumplex_sarcastic", "sarcastic")])
def test_circumplex_splits_share_nothing_that_is_claimed(circumplex_table, name, variant):
    frame = circumplex_table(variant)
    protocol = load_protocol(PROTOCOLS / f"{name}.yaml")
    folds = make_folds(frame, protocol)
    for split in SPLITS:
        assert folds.ids(1, split) == sorted(cell.utterance_id for cell in design.cells(split, 0, 0.0))
    task = protocol.resolve_task(load_tasks("circumplex"))
    assert set(frame["label"]) == set(task.label_set.labels) == set(design.labels(variant))
    # the claim is checked: one carrier in two splits breaks it
    first_test = frame.index[frame["split"] == "test"][0]
    frame.loc[first_test, "script"] = frame.loc[frame["split"] == "train", "script"].iloc[0]
    with pytest.raises(SplitLeakError, match="values of script"):
        make_folds(frame, protocol)


def test_a_test_set_is_fully_crossed_so_each_word_occurs_with_each_voice(circumplex_table):
    frame = circumplex_table("masked")
    test = frame[frame["split"] == "test"]
    assert test["label"].value_counts().nunique() == 1
    assert (test.groupby("transcript")["label"].nunique() == 2).all()
    assert (test.groupby("audio")["label"].nunique() == 2).all()


def test_speakers_5fold_is_for_any_corpus():
    protocol = load_protocol(PROTOCOLS / "speakers_5fold.yaml")
    assert protocol.corpus is None
    assert protocol.resolve_task({}).label_set.labels == ("angry", "happy", "neutral", "sad")


def test_test_only_is_for_any_corpus_with_its_labels():
    protocol = load_protocol(PROTOCOLS / "test_only.yaml")
    assert (protocol.corpus, protocol.folds.rule, protocol.disjoint_in) == (None, "test", [])
    assert len(protocol.resolve_task({}).labels) == 4


def test_no_shipped_protocol_allows_a_missing_class():
    assert [file.name for file in sorted(PROTOCOLS.glob("*.yaml")) if load_protocol(file).may_lack] == []


def test_the_protocol_of_the_documentation_fits_the_folder_that_it_describes(tmp_path, tone):
    page = (PROTOCOLS.parents[1] / "docs/protocols.md").read_text("utf-8")
    (written,) = re.findall(r"^```yaml\n(# my_protocol.yaml\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (header,) = re.findall(r"^```\n(path,.*)$", page, re.MULTILINE)
    (tmp_path / "my_protocol.yaml").write_text(written, encoding="utf-8")
    root = tmp_path / "folder"
    root.mkdir()
    lines = [header]
    for place, speaker in enumerate(("anna", "ben", "cleo")):
        for number, label in enumerate(("happy", "cheerful", "sad", "neutral", "bored") * 2):
            (root / f"{speaker}{number}.wav").write_bytes(tone(hertz=100 + 20 * place + number))
            lines.append(f"{speaker}{number}.wav,{speaker},{label},Good morning.")
    (root / "manifest.csv").write_text("\n".join(lines))
    out = tmp_path / "data"
    overrides = [f"corpus.root={root}", f"output.dir={out}", "output.processes=1"]
    prepare(load_config(PrepareSettings, PROTOCOLS.parents[1] / "recipes/corpora/manifest.yaml", overrides))
    folded = fold_corpus(load(out), load_protocol(tmp_path / "my_protocol.yaml"))
    assert folded.describe() == [
        "protocol my_speakers_3fold, version 1: 3 folds, 24 utterances tested",
        "train, dev and test are disjoint in: speaker, audio; they share: transcript (1 values)",
        "WARNING: classes with fewer than 5 utterances: "
        + "; ".join(
            f"fold {fold}, {split}: {'happy 4, ' if split else ''}sad 2, neutral 2"
            for fold in (1, 2, 3)
            for split in ("dev", "test", "train")
        ),
        "not in task mine_3, left out: 6 utterances: 6 'bored'",
    ]
