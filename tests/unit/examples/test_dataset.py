import pickle

import numpy as np
import pytest

from lalm_mer.core.errors import AudioError, ConfigError, CorpusError, SplitLeakError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.examples.dataset import ExampleDataset, fold_corpus
from lalm_mer.protocols.protocol import FoldRule, InlineTask, Protocol

LABELS = {"happy": ["happy"], "sad": ["sad"]}


@pytest.fixture
def corpus(tmp_path, tone):
    """Five synthetic speakers: a happy, a sad and a bored utterance each, and one that nobody labelled."""

    def make(rate=8000):
        rows = []
        for speaker in range(5):
            for number, label in enumerate(("happy", "sad", "bored", None)):
                rows.append(
                    Utterance(
                        utterance_id=f"s{speaker}_{number}", corpus="toy", audio_path=f"s{speaker}_{number}.wav",
                        audio_bytes=tone(seconds=0.4, rate=rate, hertz=100 + 10 * speaker + number, channels=2),
                        transcript=f"{speaker} says {number}.",
                        speaker=f"s{speaker}", label=label,
                    )
                )  # fmt: skip
        folder = tmp_path / f"toy_{rate}"
        write_corpus(rows, corpus="toy", out_dir=folder, loader_version="1", synthetic=True)
        return load(folder)

    return make


def protocol(**changes):
    inline_task = InlineTask("two", LABELS)
    settings = {"disjoint_in": ["speaker", "audio", "transcript"], "inline_task": inline_task} | changes
    return Protocol("p", 1, "here", FoldRule("grouped", "speaker", k=5), **settings)


def test_unmapped_utterances_are_counted_and_in_no_fold(corpus):
    folded = fold_corpus(corpus(), protocol())
    assert folded.unmapped == 10
    assert len(folded.folds.frame) == 5 * 10
    assert not folded.folds.frame["utterance_id"].str.endswith(("_2", "_3")).any()


def test_columns_are_read_once(corpus, monkeypatch):
    opened = corpus()
    folded = fold_corpus(opened, protocol())
    read = []
    columns = type(opened).columns
    monkeypatch.setattr(type(opened), "columns", lambda self, names: read.append(names) or columns(self, names))
    for split in ("train", "dev", "test"):
        assert len(folded.examples(1, split, None)) == len(folded.folds.ids(1, split))
    assert len(folded.truths) == 10
    assert len(folded.heard) == 10
    assert folded.transcript_source == "corpus"
    assert len(read) == 1


def test_the_examples_of_a_side_in_the_order_of_ids(corpus):
    folded = fold_corpus(corpus(), protocol())
    train = folded.examples(1, "train", sampling_rate=None)
    examples = list(train)
    assert examples == [train[index] for index in range(len(train))]
    assert [example.utterance_id for example in examples] == folded.folds.ids(1, "train")
    assert len(examples) == 6
    assert {example.label for example in examples} == {"happy", "sad"}
    for example in examples:
        speaker, number = example.utterance_id.split("_")
        assert example.speaker == speaker
        assert example.transcript == f"{speaker[1:]} says {number}."
        assert example.waveform is None


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_audio_comes_at_the_rate_asked_for(corpus, rate):
    test = fold_corpus(corpus(rate), protocol()).examples(1, "test", sampling_rate=16000)
    for index in range(len(test)):
        example = test[index]
        assert example.waveform.sampling_rate == 16000
        assert example.waveform.samples.shape == (6400,)
        spectrum = np.abs(np.fft.rfft(example.waveform.samples))
        speaker, number = example.utterance_id[1:].split("_")
        assert abs(spectrum.argmax() / 0.4 - (100 + 10 * int(speaker) + int(number))) <= 1.25  # half a bin


def test_an_utterance_without_audio_is_named_where_it_is_to_be_heard(corpus):
    utterances = corpus().dataset
    row = {name: utterances[name][0] for name in utterances.column_names} | {"audio": None}
    task = protocol().resolve_task({})
    assert ExampleDataset([row], [0], task, None)[0].waveform is None
    with pytest.raises(AudioError, match="utterance s0_0 has no audio"):
        ExampleDataset([row], [0], task, 8000)[0]


def test_damaged_audio_names_the_utterance(corpus):
    utterances = corpus().dataset
    row = {name: utterances[name][0] for name in utterances.column_names}
    row["audio"] = {"path": "s0_0.wav", "bytes": row["audio"]["bytes"][:500]}
    with pytest.raises(AudioError, match=r"utterance s0_0 \(s0_0.wav\)"):
        ExampleDataset([row], [0], protocol().resolve_task({}), 8000)[0]


def test_an_utterance_outside_the_task_is_an_error_and_not_a_guess(corpus):
    utterances = corpus().dataset
    bored = list(utterances["label"]).index("bored")
    with pytest.raises(CorpusError, match="label 'bored' is not in task two"):
        ExampleDataset(utterances, [bored], protocol().resolve_task({}), None)[0]


def test_durations_and_tables_need_no_decoding(corpus):
    test = fold_corpus(corpus(), protocol()).examples(2, "test", sampling_rate=16000)
    assert test.durations_s() == [0.4] * len(test)
    frame = test.utterances()
    assert list(frame.columns) == ["utterance_id", "speaker", "transcript", "truth"]
    assert list(frame["utterance_id"]) == [test[index].utterance_id for index in range(len(test))]
    assert list(frame["truth"]) == [test[index].label for index in range(len(test))]


def test_a_selection_keeps_the_order_asked_for(corpus):
    train = fold_corpus(corpus(), protocol()).examples(1, "train", sampling_rate=None)
    chosen = train.select([3, 0])
    assert [chosen[index].utterance_id for index in (0, 1)] == [train[3].utterance_id, train[0].utterance_id]
    assert len(chosen) == 2


def test_examples_travel_to_worker_processes(corpus):
    test = fold_corpus(corpus(), protocol()).examples(1, "test", sampling_rate=8000)
    copy = pickle.loads(pickle.dumps(test))  # noqa: S301 our own bytes
    np.testing.assert_array_equal(copy[0].waveform.samples, test[0].waveform.samples)


def test_the_same_sound_under_two_names_is_a_leak(corpus, tmp_path, tone):
    rows = [
        Utterance(
            utterance_id=f"u{number}", corpus="toy", audio_path=f"{number}.wav",
            audio_bytes=tone(hertz=100 if number < 2 else 100 + number),
            speaker=f"s{number}", label=("happy", "sad")[number % 2],
        )
        for number in range(5)
    ]  # fmt: skip
    write_corpus(rows, corpus="toy", out_dir=tmp_path / "twice", loader_version="1", synthetic=True)
    with pytest.raises(SplitLeakError, match="values of audio stand on two sides"):
        fold_corpus(load(tmp_path / "twice"), protocol())
    assert fold_corpus(load(tmp_path / "twice"), protocol(disjoint_in=["speaker"], shared_in=["audio"])).unmapped == 0


def test_a_protocol_for_another_corpus_is_refused(corpus):
    with pytest.raises(ConfigError, match="protocol p is for corpus ravdess, but this is toy"):
        fold_corpus(corpus(), protocol(corpus="ravdess"))
    assert fold_corpus(corpus(), protocol(corpus="toy")).corpus.name == "toy"


def test_a_task_that_maps_nothing_is_refused(corpus):
    nothing = InlineTask("two", {"calm": ["calm"], "angry": ["angry"]})
    with pytest.raises(CorpusError, match="corpus toy: no utterance has a label of task two"):
        fold_corpus(corpus(), protocol(inline_task=nothing))
