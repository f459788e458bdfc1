import pickle

import datasets
import numpy as np
import pytest

from lalm_mer.core.errors import AudioError, CorpusError
from lalm_mer.core.provenance import hash_bytes
from lalm_mer.core.schema import Turn
from lalm_mer.examples.dataset import ExampleSource, InputDataset
from lalm_mer.protocols.folded_corpus import fold_corpus


def test_columns_are_read_once(toy_corpus, toy_protocol, monkeypatch):
    opened = toy_corpus()
    folded = fold_corpus(opened, toy_protocol())
    read = []
    columns = type(opened).columns
    monkeypatch.setattr(type(opened), "columns", lambda self, names: read.append(names) or columns(self, names))
    for split in ("train", "dev", "test"):
        assert len(ExampleSource(folded).examples(1, split, None)) == len(folded.folds.ids(1, split))
    assert len(folded.truths) == 10
    assert len(folded.with_audio) == 10
    assert ExampleSource(folded).transcript_source == "corpus"
    assert len(read) == 1


def test_the_examples_of_a_split_are_in_the_order_of_ids(toy_corpus, toy_protocol):
    folded = fold_corpus(toy_corpus(), toy_protocol())
    train = ExampleSource(folded).examples(1, "train", sampling_rate=None)
    examples = list(train)
    assert examples == [train[index] for index in range(len(train))]
    assert [example.input.utterance_id for example in examples] == folded.folds.ids(1, "train")
    assert len(examples) == 6
    assert {example.label for example in examples} == {"happy", "sad"}
    for example in examples:
        speaker, number = example.input.utterance_id.split("_")
        assert example.label == {"0": "happy", "1": "sad"}[number]
        assert example.input.speaker == speaker
        assert example.input.transcript == f"{speaker[1:]} says {number}."
        assert example.input.waveform is None


def test_inputs_are_those_of_the_examples_without_their_truths(toy_corpus, toy_protocol):
    train = ExampleSource(fold_corpus(toy_corpus(), toy_protocol())).examples(1, "train", sampling_rate=None)
    inputs = InputDataset(train)
    assert len(inputs) == len(train)
    assert list(inputs) == [example.input for example in train]
    assert not hasattr(inputs[0], "label")


def test_lengths_are_those_of_audio_and_words_without_decoding(toy_corpus, toy_protocol, monkeypatch):
    source = ExampleSource(fold_corpus(toy_corpus(), toy_protocol()))
    with_audio, without = (source.examples(1, "train", sampling_rate=rate) for rate in (16000, None))
    monkeypatch.setattr("lalm_mer.examples.dataset.waveform_of", None)
    words = [0.25 * len(transcript) for transcript in with_audio.utterances()["transcript"]]
    assert without.lengths() == words
    assert with_audio.lengths() == InputDataset(with_audio).lengths() == pytest.approx([10 + each for each in words])
    name = with_audio.utterances()["utterance_id"][0]
    in_dialogue = ExampleSource(source.folded, context={name: (Turn(None, "twelve signs"),)})
    assert in_dialogue.examples(1, "train", None).lengths() == [words[0] + 3, *words[1:]]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_audio_has_the_requested_rate(toy_corpus, toy_protocol, rate):
    test = ExampleSource(fold_corpus(toy_corpus(rate), toy_protocol())).examples(1, "test", sampling_rate=16000)
    for index in range(len(test)):
        given = test[index].input
        assert given.waveform.sampling_rate == 16000
        assert given.waveform.samples.shape == (6400,)
        spectrum = np.abs(np.fft.rfft(given.waveform.samples))
        speaker, number = given.utterance_id[1:].split("_")
        assert abs(spectrum.argmax() / 0.4 - (100 + 10 * int(speaker) + int(number))) <= 1.25  # half a bin


def test_an_utterance_without_required_audio_is_named(toy_corpus, toy_protocol, examples_of_rows):
    utterances = toy_corpus().dataset
    one = datasets.Dataset.from_list(
        [{name: utterances[name][0] for name in utterances.column_names} | {"audio": None}]
    )
    task = toy_protocol().resolve_task({})
    assert examples_of_rows(one, [0], task, None)[0].input.waveform is None
    with pytest.raises(AudioError, match="utterance s0_0 has no audio"):
        examples_of_rows(one, [0], task, 8000)[0]


def test_damaged_audio_names_the_utterance(toy_corpus, toy_protocol, examples_of_rows):
    utterances = toy_corpus().dataset
    row = {name: utterances[name][0] for name in utterances.column_names}
    row["audio"] = {"path": "s0_0.wav", "bytes": row["audio"]["bytes"][:500]}
    row["audio_sha256"] = hash_bytes(row["audio"]["bytes"])
    with pytest.raises(AudioError, match=r"utterance s0_0 \(s0_0.wav\)"):
        examples_of_rows(datasets.Dataset.from_list([row]), [0], toy_protocol().resolve_task({}), 8000)[0]


def test_an_utterance_outside_the_task_is_an_error(toy_corpus, toy_protocol, examples_of_rows):
    utterances = toy_corpus().dataset
    bored = list(utterances["label"]).index("bored")
    with pytest.raises(CorpusError, match="label 'bored' is not in task two"):
        examples_of_rows(utterances, [bored], toy_protocol().resolve_task({}), None)[0]


def test_durations_and_tables_need_no_decoding(toy_corpus, toy_protocol):
    test = ExampleSource(fold_corpus(toy_corpus(), toy_protocol())).examples(2, "test", sampling_rate=16000)
    assert test.durations_s() == [0.4] * len(test)
    frame = test.utterances()
    assert list(frame.columns) == ["utterance_id", "speaker", "transcript", "truth"]
    assert list(frame["utterance_id"]) == [test[index].input.utterance_id for index in range(len(test))]
    assert list(frame["truth"]) == [test[index].label for index in range(len(test))]


def test_a_selection_keeps_the_given_order(toy_corpus, toy_protocol):
    train = ExampleSource(fold_corpus(toy_corpus(), toy_protocol())).examples(1, "train", sampling_rate=None)
    chosen = train.select([3, 0])
    assert [example.input.utterance_id for example in chosen] == [train[index].input.utterance_id for index in (3, 0)]
    assert len(chosen) == 2


def test_examples_are_picklable_for_worker_processes(toy_corpus, toy_protocol):
    test = ExampleSource(fold_corpus(toy_corpus(), toy_protocol())).examples(1, "test", sampling_rate=8000)
    copy = pickle.loads(pickle.dumps(test))  # noqa: S301 our own bytes
    np.testing.assert_array_equal(copy[0].input.waveform.samples, test[0].input.waveform.samples)
