import io
import json
from dataclasses import replace

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from lalm_mer.core.audio import decode
from lalm_mer.core.errors import CorpusError, OutputError
from lalm_mer.core.schema import Rejection, Utterance
from lalm_mer.corpora import base, load, parts, write_corpus

INTERFACE_COLUMNS = [
    "utterance_id",
    "corpus",
    "audio",
    "audio_sha256",
    "samples_sha256",
    "sampling_rate",
    "start_s",
    "end_s",
    "duration_s",
    "transcript",
    "transcript_source",
    "speaker",
    "gender",
    "age",
    "ethnicity",
    "language",
    "session",
    "dialogue",
    "turn",
    "script",
    "split",
    "label",
    "ratings",
    "valence",
    "arousal",
    "dominance",
    "sentiment",
    "intensities",
    "video_path",
]
INTERFACE_KEYS = [
    "corpus",
    "root_hash",
    "content_hash",
    "loader_version",
    "n_found",
    "n_utterances",
    "n_rejected",
    "labels",
    "speakers",
    "duration_s",
    "tasks",
]


@pytest.fixture
def rows(tone):
    first = Utterance(
        utterance_id="u1", corpus="tiny", audio_path="a/u1.wav", audio_bytes=tone(),
        transcript="Ja, natürlich.", speaker="s1", label="glad", age=31,
        ratings={"sad": 1, "glad": 2}, intensities={"glad": 0.5}, valence=4.0,
    )  # fmt: skip
    second = Utterance(
        utterance_id="u2", corpus="tiny", audio_path="a/u2.wav", audio_bytes=tone(hertz=300), speaker="s2",
    )  # fmt: skip
    return [first, second, Rejection("a/u3.wav", "empty", "the file has no bytes")]


def write(rows, out_dir, **options):
    options = {"processes": 1} | options
    return write_corpus(rows, corpus="tiny", out_dir=out_dir, loader_version="1", **options)


def test_columns_and_keys_are_those_of_the_interface(rows, tmp_path):
    summary = write(rows, tmp_path / "out")
    assert pq.read_schema(tmp_path / "out/utterances/part-00000.parquet").names == INTERFACE_COLUMNS
    assert set(INTERFACE_KEYS) <= set(summary)
    assert summary == json.loads((tmp_path / "out/summary.json").read_text())
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert rejected == [{"path": "a/u3.wav", "reason": "empty", "detail": "the file has no bytes"}]


def test_every_file_found_is_kept_or_rejected(rows, tmp_path):
    summary = write(rows, tmp_path / "out")
    assert (summary["n_found"], summary["n_utterances"], summary["n_rejected"]) == (3, 2, 1)
    assert summary["labels"] == {"glad": 1}
    assert summary["speakers"] == {"s1": 1, "s2": 1}
    assert summary["duration_s"] == 0.4


def test_a_written_corpus_is_loaded_unchanged(rows, tmp_path):
    write(rows, tmp_path / "out")
    prepared = load(tmp_path / "out")
    row = prepared.dataset[0]
    assert prepared.name == "tiny"
    assert row["audio"] == {"path": "a/u1.wav", "bytes": rows[0].audio_bytes}
    assert decode(row["audio"]["bytes"], "u1").duration_s == row["duration_s"]
    assert row["transcript"] == "Ja, natürlich."
    assert row["ratings"] == [{"label": "glad", "votes": 2}, {"label": "sad", "votes": 1}]
    assert row["intensities"] == [{"label": "glad", "intensity": 0.5}]
    assert (row["age"], row["valence"], row["dominance"], row["turn"]) == (31, 4.0, None, None)
    assert prepared.dataset[1]["label"] is None


def test_datasets_opens_the_parquet_and_its_audio(rows, tmp_path):
    write(rows, tmp_path / "out")
    opened = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "out/utterances/*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    ).cast_column("audio", datasets.Audio(decode=False))
    assert opened[1]["audio"]["bytes"] == rows[1].audio_bytes
    assert opened["utterance_id"][:] == ["u1", "u2"]


def test_the_parquet_metadata_describes_the_corpus(rows, tmp_path):
    summary = write(rows, tmp_path / "out", synthetic=True, ranges={"valence": [1, 5]})
    metadata = pq.read_metadata(tmp_path / "out/utterances/part-00000.parquet").metadata
    summary = {key: json.loads(metadata[key.encode()]) for key in ("corpus", "synthetic", "loader_version", "ranges")}
    assert summary == {"corpus": "tiny", "synthetic": True, "loader_version": "1", "ranges": {"valence": [1, 5]}}
    assert summary["synthetic"] is True
    assert summary["ranges"] == {"valence": [1, 5]}


def test_the_root_hash_depends_on_content_and_columns_but_not_on_order(rows, tmp_path, tone):
    original = write(rows, tmp_path / "a")["root_hash"]
    assert write(rows[::-1], tmp_path / "b")["root_hash"] == original
    assert write([replace(rows[0], label="sad"), *rows[1:]], tmp_path / "c")["root_hash"] != original
    assert write([replace(rows[0], audio_bytes=tone(hertz=50)), *rows[1:]], tmp_path / "d")["root_hash"] != original
    assert write([replace(rows[0], audio_path="z.wav"), *rows[1:]], tmp_path / "e")["root_hash"] != original


def test_the_second_of_two_equal_ids_is_rejected(rows, tmp_path):
    summary = write([rows[0], replace(rows[1], utterance_id="u1"), rows[2]], tmp_path / "out")
    assert (summary["n_found"], summary["n_utterances"], summary["n_rejected"]) == (3, 1, 2)
    assert summary["rejected"] == {"duplicate_id": 1, "empty": 1}
    rejected = json.loads((tmp_path / "out/rejected.jsonl").read_text().splitlines()[0])
    assert rejected["path"] == "a/u2.wav"
    assert "a/u1.wav" in rejected["detail"]


def test_more_rows_than_fit_into_a_part(rows, tmp_path):
    many = [replace(rows[0], utterance_id=f"u{number}") for number in range(205)]
    write(many, tmp_path / "out")
    files = sorted((tmp_path / "out/utterances").iterdir())
    assert [path.name for path in files] == ["part-00000.parquet", "part-00001.parquet"]
    assert [pq.read_metadata(path).num_rows for path in files] == [128, 77]
    assert load(tmp_path / "out").dataset["utterance_id"][:] == [row.utterance_id for row in many]


def test_nothing_found_and_everything_rejected_are_errors_that_write_nothing(rows, tmp_path):
    with pytest.raises(CorpusError, match=r"found no audio files of the corpus; recipes/corpora/ states its files"):
        write([], tmp_path / "out")
    with pytest.raises(CorpusError, match=r"all 1 files or rows found were rejected, the first one a/u3\.wav: empty"):
        write(rows[2:], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_preparation_keeps_the_earlier_corpus(rows, tmp_path):
    before = write(rows, tmp_path / "out")

    def broken():
        yield rows[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(broken(), tmp_path / "out")
    assert load(tmp_path / "out").summary == before
    write(rows, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_remains_of_a_killed_process_are_repaired(rows, tmp_path):
    (tmp_path / ".out.partial/utterances").mkdir(parents=True)
    write(rows, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.old")  # killed between the two renames
    with pytest.raises(CorpusError, match="rejected"):
        write(rows[2:], tmp_path / "out")
    assert load(tmp_path / "out").summary["n_utterances"] == 2


def test_preparing_again_replaces_with_the_same_bytes(rows, tmp_path):
    write(rows, tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    write(rows, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == first


def test_a_folder_with_other_content_is_not_changed(rows, tmp_path):
    (tmp_path / "out").mkdir()
    write(rows, tmp_path / "out")  # an empty folder is fine
    (tmp_path / "out/thesis.tex").write_text("mine")
    with pytest.raises(
        CorpusError, match=r"contains something other than a prepared corpus; choose another output\.dir"
    ):
        write(rows, tmp_path / "out")
    assert (tmp_path / "out/thesis.tex").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_named(rows, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: cannot be written: File exists; choose a path below a folder"):
        write(rows, tmp_path / "file" / "out")


def test_load_names_the_fault(rows, tmp_path):
    with pytest.raises(CorpusError, match=r"no such folder; prepare it with"):
        load(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"not a prepared corpus .*prepare_corpus\.py"):
        load(tmp_path)
    write(rows, tmp_path / "out")
    part = tmp_path / "out/utterances/part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["split"]), part)
    with pytest.raises(CorpusError, match="prepared by another version of this library"):
        load(tmp_path / "out")
    part.write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match="damaged"):
        load(tmp_path / "out")


def test_labels_outside_a_task_are_counted_as_unmapped(rows, tmp_path):
    happy = replace(rows[0], corpus="ravdess", label="happy")
    bored = replace(rows[0], corpus="ravdess", label="bored", utterance_id="u9")
    unlabelled = replace(rows[1], corpus="ravdess")
    summary = write_corpus([happy, bored, unlabelled], corpus="ravdess", out_dir=tmp_path / "out", loader_version="1")
    counts = summary["tasks"]["ravdess_8"]
    assert (counts["happy"], counts["sad"], counts["unmapped"]) == (1, 0, 2)
    assert sum(counts.values()) == summary["n_utterances"] == 3


def test_several_processes_write_the_same_as_one(rows, tmp_path):
    many = [replace(rows[0], utterance_id=f"u{number}", label=str(number % 3)) for number in range(300)]
    many.insert(140, rows[2])
    for processes in (1, 3):
        write(many, tmp_path / str(processes), processes=processes)
    one, three = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "1", tmp_path / "3")
    )
    assert one == three
    assert len(one) == 3 + 2


def test_a_killed_preparation_resumes(rows, tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / f"{number}.wav").write_bytes(rows[number % 2].audio_bytes)
    many = [
        replace(rows[0], utterance_id=f"u{number}", audio_path=f"{number}.wav", audio_bytes=None)
        for number in range(300)
    ]

    def broken():
        yield from many[:290]
        raise KeyboardInterrupt

    complete = write(many, tmp_path / "complete", root=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write(broken(), tmp_path / "out", root=tmp_path)
    read = []
    monkeypatch.setattr(parts, "read_audio", lambda *args: read.append(args) or base.read_audio(*args))
    assert write(many, tmp_path / "out", root=tmp_path) == complete
    assert len(read) == 300 - 2 * 128  # two parts were complete
    for name in ("part-00000", "part-00001", "part-00002"):
        one, two = (tmp_path / out / f"utterances/{name}.parquet" for out in ("complete", "out"))
        assert one.read_bytes() == two.read_bytes()
    (tmp_path / "3.wav").write_bytes(rows[0].audio_bytes[:100])  # a changed row replaces the part of an earlier run
    (tmp_path / "300.wav").write_bytes(rows[0].audio_bytes)
    added = replace(many[0], utterance_id="u300", audio_path="300.wav")
    changed = write([*many, added], tmp_path / "out", root=tmp_path)
    assert (changed["n_utterances"], changed["rejected"]) == (300, {"truncated": 1})


def test_an_utterance_without_audio_is_kept_only_on_request(rows, tmp_path):
    spoken = replace(rows[0], audio_bytes=None, audio_path="gone.wav")
    written = Utterance(utterance_id="u9", corpus="tiny", transcript="Hello.", label="glad")
    there = rows[1]
    summary = write([spoken, written, there], tmp_path / "reject", root=tmp_path)
    assert (summary["n_utterances"], summary["rejected"], summary["n_without_audio"]) == (1, {"missing_audio": 2}, 0)
    summary = write([spoken, written, there], tmp_path / "keep", root=tmp_path, keep_missing_audio=True)
    assert (summary["n_utterances"], summary["n_rejected"], summary["n_without_audio"]) == (3, 0, 2)
    row = load(tmp_path / "keep").dataset[1]
    assert (row["audio"], row["duration_s"], row["sampling_rate"], row["transcript"]) == (None, None, None, "Hello.")


def test_a_part_of_a_recording_is_cut_out_to_the_sample(rows, tmp_path, tone):
    (tmp_path / "long.wav").write_bytes(tone(2.0, rate=16000))
    cut = [
        replace(rows[0], utterance_id=f"u{start}", audio_path="long.wav", audio_bytes=None, cut=True, start_s=start,
                end_s=start + 0.5)
        for start in (0.25, 1.0, 1.75)
    ]  # fmt: skip
    uncut = replace(cut[0], utterance_id="complete", cut=False)
    summary = write([*cut, uncut], tmp_path / "out", root=tmp_path)
    assert summary["rejected"] == {"truncated": 1}
    complete = decode((tmp_path / "long.wav").read_bytes(), "long").samples
    table = {row["utterance_id"]: row for row in load(tmp_path / "out").dataset}
    for name, start in (("u0.25", 0.25), ("u1.0", 1.0)):
        decoded = decode(table[name]["audio"]["bytes"], name).samples
        np.testing.assert_array_equal(decoded, complete[int(start * 16000) : int((start + 0.5) * 16000)])
        assert (table[name]["start_s"], table[name]["duration_s"]) == (start, 0.5)
    assert table["complete"]["duration_s"] == 2.0


def test_datasets_streams_the_parts(rows, tmp_path):
    many = [replace(rows[0], utterance_id=f"u{number}") for number in range(300)]
    write(many, tmp_path / "out")
    files = str(tmp_path / "out/utterances/*.parquet")
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert [row["utterance_id"] for row in stream] == [row.utterance_id for row in many]


def test_two_preparations_of_one_folder_exclude_each_other(rows, tmp_path):
    def slow():
        yield rows[0]
        with pytest.raises(OutputError, match="out: another process is writing it"):
            write(rows, tmp_path / "out")
        yield rows[1]

    assert write(slow(), tmp_path / "out")["n_utterances"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_counts_of_another_run_are_not_reused(rows, tmp_path, monkeypatch):
    """Run A ends after a part, run B replaces it and is killed before its counts are written, and A is repeated."""
    made = parts.Part(0, rows, None, False, {"corpus": "tiny"}, {})
    other = parts.Part(0, [replace(rows[0], label="sad")], None, False, {"corpus": "tiny"}, {})
    first = parts.make_part(made, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(parts, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            parts.make_part(other, tmp_path)
    assert parts.make_part(made, tmp_path) == first
    assert pq.read_table(tmp_path / "part-00000.parquet")["label"].to_pylist() == ["glad", None]


def test_impossible_file_names_reject_only_their_rows(rows, tmp_path):
    odd = [
        replace(rows[0], utterance_id=f"u{number}", audio_path=path, audio_bytes=None)
        for number, path in enumerate(("x" * 300 + ".wav", "a\0b.wav"))
    ]
    summary = write([*odd, rows[1]], tmp_path / "out", root=tmp_path)
    assert (summary["n_utterances"], summary["rejected"]) == (1, {"unreadable": 2})


def test_a_full_disk_is_an_error_of_one_line(rows, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts, "write_json", full)
    with pytest.raises(OutputError, match="out: cannot be written: No space left on device; free some space"):
        write(rows, tmp_path / "out")


def test_samples_beyond_full_scale_are_kept(rows, tmp_path):
    file = io.BytesIO()
    loud = np.linspace(-1.5, 1.5, 8000, dtype=np.float32)
    soundfile.write(file, loud, 8000, format="WAV", subtype="FLOAT")
    (tmp_path / "loud.wav").write_bytes(file.getvalue())
    cut = replace(rows[0], audio_path="loud.wav", audio_bytes=None, cut=True, start_s=0.0, end_s=0.5)
    write([cut], tmp_path / "out", root=tmp_path)
    (row,) = load(tmp_path / "out").dataset
    np.testing.assert_array_equal(decode(row["audio"]["bytes"], "loud").samples, loud[:4000])


def test_a_cache_that_cannot_be_written_is_not_a_damaged_corpus(rows, tmp_path, monkeypatch):
    write(rows, tmp_path / "out")
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    prepared = load(tmp_path / "out")
    assert list(prepared.columns(["utterance_id"])["utterance_id"]) == ["u1", "u2"]  # needs no cache
    with pytest.raises(CorpusError, match="set HF_DATASETS_CACHE to another folder"):
        _ = prepared.dataset
