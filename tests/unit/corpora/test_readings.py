import pytest

from lalm_mer.core.audio import decode
from lalm_mer.core.errors import CorpusError
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.corpora import write_corpus
from lalm_mer.corpora.espeak import VOICES
from lalm_mer.corpora.readings import read

TEXTS = [f"{subject} {verb} the {thing}." for subject in ("We", "They", "Somebody") for verb in ("saw", "lost")
         for thing in ("keys", "old letter", "train", "small boat")]  # fmt: skip
OTHERS = {
    "hi": "1 words", "[[h@l'oU]] to you": "has other characters", "we SAW the keys": "has this text",
    "": "no transcript", "C'est déjà fini": "has other characters", " ".join(["so"] * 30): "30 words",
}  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A prepared corpus of transcripts, one of them of its test split."""
    pytest.importorskip("espeakng_loader", reason="the extra `synthesis` is not installed")
    rows = [(f"a{number:02d}", text, "train") for number, text in enumerate(TEXTS)]
    rows += [(f"b{number}", text, "train") for number, text in enumerate(OTHERS)]
    rows.append(("c0", "Nobody reads this one.", "test"))
    out = tmp_path_factory.mktemp("texts") / "data"
    utterances = [
        Utterance(utterance_id=name, corpus="words", transcript=text, transcript_source="human", split=split, label="x")
        for name, text, split in rows
    ]
    write_corpus(utterances, corpus="words", out_dir=out, loader_version="1", keep_missing_audio=True)
    return out


def test_every_text_of_train_is_read_once_in_a_voice_of_its_split(texts):
    rows = list(read(texts))
    read_rows = [row for row in rows if isinstance(row, Utterance)]
    rejected = {row.path: row for row in rows if isinstance(row, Rejection)}
    assert len(read_rows) + len(rejected) == len(TEXTS) + len(OTHERS) + 1
    found = {row.transcript for row in read_rows}
    assert found | {"we SAW the keys", "We saw the keys."} == {*TEXTS, "we SAW the keys"}
    assert len(found) == len(TEXTS)
    assert rejected["c0"].reason == "other_split"
    problems = list(OTHERS.values())
    for name, row in rejected.items():
        if name.startswith("b") and row.reason != "duplicate_text":
            assert problems[int(name[1:])] in row.detail
    voices = {split: {row.speaker for row in read_rows if row.split == split} for split in ("train", "dev", "test")}
    assert not voices["train"] & (voices["dev"] | voices["test"])
    for row in read_rows:
        assert row.gender == VOICES[row.speaker] == row.label
        assert decode(row.audio_bytes, row.utterance_id).duration_s > 0.4


def test_equal_settings_give_equal_samples_and_another_seed_others(texts):
    first, again, other = (
        {row.transcript: row.audio_bytes for row in read(texts, seed) if isinstance(row, Utterance)}
        for seed in (0, 0, 1)
    )
    assert first == again
    assert sum(first[text] == other.get(text) for text in first) < len(first) / 2


def test_a_number_of_texts_is_drawn(texts):
    rows = list(read(texts, utterances=5))
    assert sum(isinstance(row, Utterance) for row in rows) == 5
    assert len(rows) == len(TEXTS) + len(OTHERS) + 1
    assert any(isinstance(row, Rejection) and row.reason == "not_drawn" for row in rows)


def test_a_corpus_without_texts_is_refused(tmp_path):
    row = Utterance(utterance_id="a", corpus="words", transcript="hi", transcript_source="human", label="x")
    write_corpus([row], corpus="words", out_dir=tmp_path / "data", loader_version="1", keep_missing_audio=True)
    with pytest.raises(CorpusError, match="none of its transcripts can be read"):
        list(read(tmp_path / "data"))
