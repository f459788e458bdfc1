import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.labels import LabelSet
from lalm_mer.corpora.base import load_tasks
from lalm_mer.examples.transcripts import (
    asr_transcripts,
    load_transcripts,
    make_rows,
    pooled_word_error_rate,
    require_same_corpus,
    simulated_transcript,
    simulated_transcripts,
    word_error_rate,
    words_of,
    write_transcripts,
)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("kids are talking by the door", "kids are talking by the door", 0),
        ("kids are talking by the door", "dogs are talking by the door", 1 / 6),  # substitution
        ("kids are talking by the door", "kids are all talking by the door", 1 / 6),  # insertion
        ("kids are talking by the door", "kids are talking by door", 1 / 6),  # deletion
        ("kids are talking by the door", "dogs are now talking by door", 3 / 6),  # one of each
        ("kids are talking", "", 1),
        ("no", "oh no no no", 3),  # above 1
        ("Kids are TALKING, by the door!", "kids are talking by the door", 0),
        ("Wait \u2014 what?", "wait what", 0),
        ("Don\u2019t", "don't", 0),
        ("don't", "dont", 1),  # the apostrophe is part of the word
        ("the dogs' door", "the 'dogs door'", 0),  # but not at its edge
        ("Stra\u00dfe", "STRASSE", 0),
        ("cafe\u0301", "caf\u00e9", 0),  # composed or not
        ("co\u00adoperate", "cooperate", 0),  # a soft hyphen
        ("twenty-one", "twenty one", 0),
        ("two", "2", 1),
        ("  kids\n\tare ", "kids are", 0),
        ("", "anything", None),
        ("?!", "anything", None),
        ("...", "", None),
        (None, "anything", None),
    ],
)
def test_word_error_rate_by_hand(reference, hypothesis, expected):
    assert word_error_rate(reference, hypothesis) == (None if expected is None else pytest.approx(expected))


def test_words_of_other_scripts_are_not_split():
    assert words_of("\u00bfQu\u00e9 pasa, ni\u00f1o?") == ["qu\u00e9", "pasa", "ni\u00f1o"]
    assert words_of("\u0928\u092e\u0938\u094d\u0924\u0947\u0964") == [
        "\u0928\u092e\u0938\u094d\u0924\u0947"
    ]  # marks are letters here
    assert words_of("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645") == [
        "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"
    ]


def test_the_pooled_rate_is_weighted_by_words():
    references, hypotheses = ["one two three four five", "six"], ["one two three four five", "seven"]
    assert pooled_word_error_rate(references, hypotheses) == pytest.approx(1 / 6)
    assert pooled_word_error_rate([*references, ""], [*hypotheses, "made up"]) == pytest.approx(3 / 6)
    assert pooled_word_error_rate(["", "!"], ["a", "b"]) is None
    assert pooled_word_error_rate([], []) is None
    with pytest.raises(ValueError, match="zip"):
        pooled_word_error_rate(["a"], [])


@pytest.fixture
def rows():
    hypotheses = {"u1": "Kids are talking.", "u2": "", "u3": "hm", "u4": "so"}
    return make_rows(hypotheses, {"u1": "Dogs are talking", "u2": "No, no", "u3": None, "u4": "...", "u5": "left out"})


METADATA = {"model": "openai/whisper-small", "model_digest": "d", "corpus": "toy", "root_hash": "r", "language": None}


def test_the_file_contains_the_rows(rows, tmp_path):
    write_transcripts(tmp_path / "t.parquet", rows, METADATA)
    read = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert read == [
        {"utterance_id": "u1", "hypothesis": "Kids are talking.", "reference": "Dogs are talking",
         "word_error_rate": pytest.approx(1 / 3), "n_reference_words": 3},
        {"utterance_id": "u2", "hypothesis": "", "reference": "No, no", "word_error_rate": 1.0, "n_reference_words": 2},
        {"utterance_id": "u3", "hypothesis": "hm", "reference": None, "word_error_rate": None,
         "n_reference_words": None},
        {"utterance_id": "u4", "hypothesis": "so", "reference": "...", "word_error_rate": None, "n_reference_words": 0},
    ]  # fmt: skip
    table = load_transcripts(tmp_path / "t.parquet")
    assert table.hypotheses == {"u1": "Kids are talking.", "u2": "", "u3": "hm", "u4": "so"}
    assert table.metadata == METADATA
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_no_hypotheses_give_an_empty_table(tmp_path):
    write_transcripts(tmp_path / "t.parquet", make_rows({}, {}), METADATA)
    assert load_transcripts(tmp_path / "t.parquet").hypotheses == {}


def test_csv_of_any_usual_form_is_accepted(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(
        '\ufeffhypothesis,score,utterance_id\n"Hello, you",1,001\n,2,NA\nnull,3,u3\n" spaced ",4,u4\n\n',
        encoding="utf-8",
    )
    table = load_transcripts(file)
    assert table.hypotheses == {"001": "Hello, you", "NA": "", "u3": "null", "u4": " spaced "}
    assert table.metadata == {}


def test_parquet_of_another_program_is_accepted(tmp_path):
    pd.DataFrame({"utterance_id": ["a"], "hypothesis": ["b"]}).to_parquet(tmp_path / "t.parquet")
    table = load_transcripts(tmp_path / "t.parquet")
    assert (table.hypotheses, table.metadata) == ({"a": "b"}, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("utterance_id,transcript\nu1,hi\n", "column 'hypothesis' is missing"),
        ("", "column 'utterance_id' is missing"),
        ("utterance_id,hypothesis,hypothesis\nu1,hi,ho\n", "'hypothesis' is missing or duplicate"),
        ("utterance_id,hypothesis\nu1,hi\nu1,ho\n", "row 2: duplicate utterance u1"),
        ("utterance_id,hypothesis\nu1,hi\n,ho\n", "row 2: no utterance_id"),
        ("utterance_id,hypothesis\nu1,Hello, you\n", "row 1: 3 cells under 2 column names"),
        ("utterance_id,hypothesis\nu1\n", "row 1: 1 cells under 2 column names"),
        ('utterance_id,hypothesis\nu1,"never closed\n', "not a CSV file"),
        ("utterance_id,hypothesis\nu1,caf\u00e9\n".encode("latin-1"), "not a CSV file in UTF-8"),
    ],
)
def test_a_malformed_csv_is_refused(tmp_path, content, message):
    file = tmp_path / "t.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorpusError, match=message) as error:
        load_transcripts(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"utterance_id": ["u1"]}, "column 'hypothesis' is missing"),
        ({"utterance_id": ["u1"], "hypothesis": [None]}, "column 'hypothesis' has type null"),
        ({"utterance_id": ["u1", "u2"], "hypothesis": ["a", None]}, "utterance u2: hypothesis is null"),
        ({"utterance_id": [1], "hypothesis": ["a"]}, "column 'utterance_id' has type int64"),
        ({"utterance_id": ["u1", "u1"], "hypothesis": ["a", "b"]}, "row 2: duplicate utterance u1"),
    ],
)
def test_a_malformed_parquet_is_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(CorpusError, match=message):
        load_transcripts(tmp_path / "t.parquet")


def test_files_that_are_not_tables_are_refused(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "t.json").write_text(json.dumps({}))
    for name, message in (
        ("t.parquet", "not a valid Parquet"),
        ("t.json", "a .parquet or .csv file"),
        ("n.csv", "no such"),
    ):
        with pytest.raises(CorpusError, match=message):
            load_transcripts(tmp_path / name)


def test_a_run_uses_the_recognised_transcripts(rows, tmp_path):
    write_transcripts(tmp_path / "t.parquet", rows, METADATA)
    table = load_transcripts(tmp_path / "t.parquet")
    transcripts = asr_transcripts(table, ["u3", "u2"])
    assert transcripts.source == "asr"
    assert transcripts.by_id == {"u2": "", "u3": "hm"}  # nothing recognised is no missing transcript
    assert transcripts.digest == table.digest
    with pytest.raises(CorpusError, match="no transcript of 2 of 3 utterances, for example u7"):
        asr_transcripts(table, ["u9", "u1", "u7"])
    with pytest.raises(CorpusError, match="transcripts of corpus toy, but this is meld"):
        require_same_corpus(table, "meld", METADATA["root_hash"])
    with pytest.raises(CorpusError, match="transcripts of another preparation of toy"):
        require_same_corpus(table, "toy", "another")
    require_same_corpus(table, "toy", METADATA["root_hash"])


def test_a_table_without_a_corpus_is_accepted(tmp_path):
    (tmp_path / "t.csv").write_text("utterance_id,hypothesis\nu1,hi\n")
    assert asr_transcripts(load_transcripts(tmp_path / "t.csv"), ["u1"]).by_id == {"u1": "hi"}


def test_the_digest_follows_the_content(tmp_path):
    for name, word in (("a", "hi"), ("b", "hi"), ("c", "ho")):
        (tmp_path / f"{name}.csv").write_text(f"utterance_id,hypothesis\nu1,{word}\n")
    a, b, c = (load_transcripts(tmp_path / f"{name}.csv").digest for name in "abc")
    assert a == b != c


def test_simulated_transcripts_name_the_label():
    labels = LabelSet(("hap", "sad"), {"hap": ("happy", "excited")})
    made = simulated_transcripts({"u1": "hap", "u2": "sad"}, labels)
    assert made.source == "simulated"
    assert made.by_id == {"u1": "I am very happy!", "u2": "I am very sad!"}
    assert made.digest != simulated_transcripts({"u1": "sad", "u2": "sad"}, labels).digest


def test_simulated_transcripts_distinguish_all_labels_of_a_real_task():
    label_set = load_tasks("ravdess")["ravdess_8"].labels
    made = simulated_transcripts({label: label for label in label_set.labels}, label_set)
    assert len(set(made.by_id.values())) == 8


def test_a_label_without_a_word_has_no_simulated_transcript():
    with pytest.raises(ConfigError, match="empty"):
        simulated_transcript(" ")


def test_ids_of_a_table_are_matched_in_any_spelling(tmp_path):
    (tmp_path / "t.csv").write_text("utterance_id ,hypothesis\n cafe\u0301\u200b,yes\nb,no\n", encoding="utf-8")
    table = load_transcripts(tmp_path / "t.csv")
    assert asr_transcripts(table, ["caf\u00e9", "b"]).by_id == {"caf\u00e9": "yes", "b": "no"}
    (tmp_path / "t.csv").write_text("utterance_id,hypothesis\nb,yes\nb ,no\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="row 2: duplicate utterance b"):
        load_transcripts(tmp_path / "t.csv")
