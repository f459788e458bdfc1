import pytest

from lalm_mer.core.errors import ConfigError, CorpusError, SplitLeakError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.protocols.folded_corpus import fold_corpus
from lalm_mer.protocols.protocol import InlineTask


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
            speaker=f"s{number}", label=("happy", "sad")[number % 2],
        )
        for number in range(5)
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
