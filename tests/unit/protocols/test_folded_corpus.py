import unicodedata

import pytest

from lalm_mer.core.errors import ConfigError, CorpusError, SplitLeakError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.protocols.folded_corpus import fold_corpus
from lalm_mer.protocols.protocol import InlineTask, load_protocol


def test_unmapped_utterances_are_counted_and_in_no_fold(toy_corpus, toy_protocol):
    folded = fold_corpus(toy_corpus(), toy_protocol())
    assert folded.unmapped == 10
    assert len(folded.folds.frame) == 5 * 10
    assert not folded.folds.frame["utterance_id"].str.endswith(("_2", "_3")).any()


def test_the_same_audio_under_two_names_is_a_leak(toy_protocol, tmp_path, tone):
    rows = [
        Utterance(
            utterance_id=f"u{number}", corpus="toy", audio_path=f"{number}.wav",
            audio_bytes=tone(hertz=100 if number < 2 else 100 + number),
            speaker=f"s{number % 5}", label=("happy", "sad")[number // 5],
        )
        for number in range(10)
    ]  # fmt: skip
    write_corpus(rows, corpus="toy", out_dir=tmp_path / "twice", loader_version="1", synthetic=True)
    with pytest.raises(SplitLeakError, match="values of audio are in two splits"):
        fold_corpus(load(tmp_path / "twice"), toy_protocol())
    declared = toy_protocol(disjoint_in=["speaker"], shared_in=["audio"])
    assert fold_corpus(load(tmp_path / "twice"), declared).unmapped == 0


def test_a_protocol_for_another_corpus_is_refused(toy_corpus, toy_protocol):
    with pytest.raises(ConfigError, match="protocol p is for corpus ravdess, but this is toy"):
        fold_corpus(toy_corpus(), toy_protocol(corpus="ravdess"))
    assert fold_corpus(toy_corpus(), toy_protocol(corpus="toy")).corpus.name == "toy"


def test_a_task_that_maps_nothing_is_refused(toy_corpus, toy_protocol):
    task = InlineTask("two", {"calm": ["calm"], "angry": ["angry"]})
    with pytest.raises(CorpusError, match="corpus toy: no utterance has a label of task two"):
        fold_corpus(toy_corpus(), toy_protocol(inline_task=task))


def test_a_label_of_the_task_that_no_utterance_has_is_refused_with_the_nearest(toy_corpus, toy_protocol):
    task = InlineTask("three", {"happy": ["happy"], "sad": ["sad"], "bor": ["bored"]})
    with pytest.raises(CorpusError) as error:
        fold_corpus(toy_corpus(), toy_protocol(inline_task=task))
    assert str(error.value) == (
        "corpus toy: no utterance has the label 'bor' of task three; 5 utterances have the label 'bored'; correct the "
        "labels or their map, or allow it in the protocol: may_lack: {train: [bor], dev: [bor], test: [bor]}"
    )
    allowed = {split: ["bor"] for split in ("train", "dev", "test")}
    folded = fold_corpus(toy_corpus(), toy_protocol(inline_task=task, may_lack=allowed))
    (line,) = [line for line in folded.describe() if line.startswith("classes without")]
    assert line.startswith("classes without an utterance, as the protocol allows: fold 1, dev: bor; fold 1, test: bor")


def test_labels_that_are_left_out_are_stated_with_counts_and_the_nearest(toy_corpus, toy_protocol):
    folded = fold_corpus(toy_corpus(), toy_protocol())
    assert folded.unmapped_labels == {"bored": 5}
    assert folded.describe()[-1] == "not in task two, left out: 10 utterances: 5 'bored', 5 without a label"
    task = InlineTask("two", {"board": ["board"], "sad": ["sad"]}, {"bored": "board", "sad": "sad"})
    assert (
        fold_corpus(toy_corpus(), toy_protocol(inline_task=task))
        .describe()[-1]
        .startswith("not in task two, left out: 10 utterances: 5 'happy', 5 without")
    )
    task = InlineTask("two", {"happ": ["happ"], "sad": ["sad"]}, {"bored": "happ", "sad": "sad"})
    assert (
        "5 'happy' (nearest label of the task: 'happ')"
        in (fold_corpus(toy_corpus(), toy_protocol(inline_task=task)).describe()[-1])
    )


def test_a_map_is_applied_whatever_the_spelling_of_its_labels(tmp_path):
    content = {"nfd": unicodedata.normalize("NFD", "m\u00fcde"), "nfc": unicodedata.normalize("NFC", "m\u00fcde")}
    for name, written in content.items():
        folds = f"{{rule: listed, column: speaker, test: {{1: [{written}]}}}}"
        task = f"{{name: t, labels: {{a: [a], b: [b]}}, map: {{{written}: a, y: b}}}}"
        text = f"name: {name}\nversion: 1\nsource: here\ndisjoint_in: []\nfolds: {folds}\ninline_task: {task}\n"
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    first, second = (load_protocol(tmp_path / f"{name}.yaml") for name in content)
    assert first.resolve_task({}).label_of("m\u00fcde") == second.resolve_task({}).label_of("m\u00fcde") == "a"
    assert first.folds == second.folds
