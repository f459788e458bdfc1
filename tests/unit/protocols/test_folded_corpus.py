import unicodedata
from dataclasses import replace

import pytest

from lalm_mer.core.errors import ConfigError, CorpusError, SplitLeakError
from lalm_mer.core.labels import LabelSet, Task
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.examples.dataset import ExampleSource
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


def voted_corpus(folder, tone, *, transcripts=True):
    """Five speakers with four utterances: two with a consensus, a tie, and one whose raters voted for other labels."""
    votes = ({"happy": 3, "sad": 1}, {"sad": 3}, {"happy": 2, "sad": 2}, {"bored": 4})
    rows = [
        Utterance(
            utterance_id=f"s{speaker}_{number}", corpus="toy", audio_path=f"{speaker}_{number}.wav",
            audio_bytes=tone(hertz=100 + 10 * speaker + number), speaker=f"s{speaker}", ratings=given,
            transcript="it is so" if number == 2 and not transcripts else f"words {speaker} {number}",
        )
        for speaker in range(5) for number, given in enumerate(votes)
    ]  # fmt: skip
    write_corpus(rows, corpus="toy", out_dir=folder, loader_version="1", synthetic=True)
    return load(folder)


def voted_protocol(toy_protocol, **changes):
    """A protocol on what most raters voted for."""
    task = Task(
        "two", LabelSet(("happy", "sad")), {"happy": "happy", "sad": "sad"}, columns=("ratings",)
    )  # fmt: skip
    return replace(toy_protocol(**changes), inline_task=None, task="two"), {"two": task}


def test_utterances_without_consensus_are_in_train_with_their_speakers(tmp_path, tone, toy_protocol, monkeypatch):
    corpus = voted_corpus(tmp_path / "voted", tone)
    protocol, tasks = voted_protocol(toy_protocol)
    monkeypatch.setattr(type(corpus), "tasks", tasks)
    hard, soft = (fold_corpus(corpus, protocol, soft_labels=soft) for soft in (False, True))
    assert hard.folds.digest == soft.folds.digest
    assert not hard.folds.extra_train
    for fold, extra in soft.folds.extra_train.items():
        train = {name[:2] for name in soft.folds.ids(fold, "train")}
        assert extra == tuple(sorted(f"{speaker}_2" for speaker in train))  # never the one without a vote of the task
    source = ExampleSource(soft, soft_labels=True)
    train, dev = source.examples(1, "train", None), source.examples(1, "dev", None)
    targets = {example.input.utterance_id[-1]: example for example in train}
    assert [targets[number].target for number in "012"] == [(0.75, 0.25), (0.0, 1.0), (0.5, 0.5)]
    assert [targets[number].label for number in "012"] == ["happy", "sad", "happy"]
    assert {example.target for example in dev} == {(1.0, 0.0), (0.0, 1.0)}
    assert not any(name.endswith("_2") for name in dev.utterances()["utterance_id"])
    assert dev.votes().tolist() == [[0.75, 0.25], [0.0, 1.0]] * (len(dev) // 2)


def test_what_an_utterance_without_consensus_shares_with_test_is_a_leak(tmp_path, tone, toy_protocol, monkeypatch):
    corpus = voted_corpus(tmp_path / "voted", tone, transcripts=False)
    protocol, tasks = voted_protocol(toy_protocol, disjoint_in=["speaker", "transcript"])
    monkeypatch.setattr(type(corpus), "tasks", tasks)
    fold_corpus(corpus, protocol, soft_labels=True)  # only train has the sentence
    changed = replace(corpus, summary=corpus.summary)
    monkeypatch.setattr(type(changed), "columns", _same_sentence(type(corpus).columns))
    with pytest.raises(SplitLeakError, match="values of transcript are in two splits"):
        fold_corpus(changed, protocol, soft_labels=True)
    fold_corpus(changed, protocol)


def _same_sentence(columns):
    """The columns of a corpus in which the first utterance of a speaker has the sentence of a tie."""

    def read(self, names):
        frame = columns(self, names)
        if "transcript" in frame:
            frame.loc[frame["utterance_id"] == "s0_0", "transcript"] = "it is so"
        return frame

    return read
