"""A prepared corpus is what was prepared, or it is not opened."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lalm_mer.core.errors import AudioError, CorpusError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, waveform_of, write_corpus


@pytest.fixture
def prepared(tmp_path, tone):
    rows = [
        Utterance(
            utterance_id=f"u{number}", corpus="mine", audio_path=f"{number}.wav", audio_bytes=tone(hertz=100 + number),
            transcript="Yes.", transcript_source="human", speaker=f"s{number % 2}", label=("happy", "sad")[number % 2],
            age=30, valence=number, ratings={"sad": 1}, intensities={"glad": 1}, split="train",
        )
        for number in range(4)
    ]  # fmt: skip
    write_corpus(rows, corpus="mine", out_dir=tmp_path / "mine", loader_version="1", synthetic=True, processes=1)
    return tmp_path / "mine"


def with_column(folder, name, change):
    """Write a column of the Parquet file anew, as an editor of it would."""
    (part,) = (folder / "utterances").glob("*.parquet")
    table = pq.read_table(part)
    place = table.schema.get_field_index(name)
    values = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
    pq.write_table(table.set_column(place, table.schema.field(place), values), part)


def with_summary(folder, change):
    file = folder / "summary.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def test_rows_that_were_not_changed_are_opened_whatever_numbers_they_have(prepared):
    corpus = load(prepared)
    assert corpus.audio_paths() == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert waveform_of(corpus.dataset[0], 8000).duration_s == 0.2


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("label", "happy"), ("transcript", "No."), ("speaker", "s9"), ("split", "test"), ("valence", 9.0), ("age", 31),
        ("ratings", [{"label": "sad", "votes": 2}]), ("utterance_id", "u9"), ("audio_sha256", "0" * 64),
        ("samples_sha256", "0" * 64), ("duration_s", 1.0),
    ],
)  # fmt: skip
def test_a_changed_cell_is_refused(prepared, column, value):
    with_column(prepared, column, lambda cells: [*cells[:3], value])
    with pytest.raises(CorpusError, match=r"_hash is .* by its Parquet files, but .* in summary.json: one of them was"):
        load(prepared)


def test_removed_rows_are_refused(prepared):
    (part,) = (prepared / "utterances").glob("*.parquet")
    pq.write_table(pq.read_table(part).slice(0, 3), part)
    with pytest.raises(CorpusError, match=r"n_utterances is 3 by its Parquet files, but 4 in summary\.json"):
        load(prepared)


def test_changed_audio_is_refused_when_it_is_decoded(prepared):
    with_column(prepared, "audio", lambda cells: [cells[0] | {"bytes": cells[1]["bytes"]}, *cells[1:]])
    corpus = load(prepared)
    assert waveform_of(corpus.dataset[1], 8000).duration_s == 0.2
    with pytest.raises(AudioError, match="utterance u0: its audio is not the one that was prepared"):
        waveform_of(corpus.dataset[0], 8000)


def test_a_hash_of_the_summary_never_becomes_a_path(prepared, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache" / "a" / "b")
    before = sorted(tmp_path.rglob("*"))
    with_summary(prepared, lambda summary: summary | {"root_hash": "../../../escaped"})
    with pytest.raises(CorpusError, match=r"root_hash is \w{64} by its Parquet files, but '../../../escaped' in"):
        assert load(prepared).dataset is None
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: [], "expected a JSON object, found list"),
        (lambda _: None, "expected a JSON object, found NoneType"),
        (lambda summary: dict.fromkeys(summary), "key 'corpus': Input should be a valid string"),
        (lambda summary: {key: summary[key] for key in summary if key != "content_hash"}, "'content_hash' is missing"),
        (lambda summary: summary | {"synthetic": False}, "synthetic is True in part-00000.parquet, but False in"),
        (lambda summary: summary | {"corpus": "../x"}, "corpus is 'mine' in part-00000.parquet, but '../x' in"),
        (lambda summary: summary | {"declared_labels": "ab"}, "key 'declared_labels'"),
        (
            lambda summary: summary | {"declared_labels": ["a"]},
            "declared_labels is None in part-00000",
        ),
    ],
)
def test_a_summary_of_another_shape_or_of_another_corpus_is_refused_in_one_line(prepared, change, says):
    with_summary(prepared, change)
    with pytest.raises(CorpusError) as error:
        load(prepared)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_corpus_of_another_version_is_not_mistaken(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "older")
    (part,) = (tmp_path / "older/utterances").glob("*.parquet")
    pq.write_table(pq.read_table(part).drop_columns("samples_sha256"), part)
    with pytest.raises(CorpusError, match="prepared by another version of this library, with other columns"):
        load(tmp_path / "older")
