"""The writer stores texts in one form, and a hash of what is decoded."""

import io
from dataclasses import replace

import soundfile

from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus


def write(rows, out_dir):
    return write_corpus(rows, corpus="tiny", out_dir=out_dir, loader_version="1", processes=1)


def test_spellings_of_a_value_are_joined_and_counted(tmp_path, tone):
    spellings = ["spk1", "spk1 ", "spk1\u200b", "Zo\u00e9", "Zoe\u0301", "Bob", "bob"]
    rows = [
        Utterance(
            utterance_id=f"u{number} ", corpus="tiny", audio_path=f"{number}.wav", audio_bytes=tone(), speaker=speaker,
            transcript=" Nai\u0308f.\u200b", transcript_source="human", label="sad\ufeff" if number else "sad",
        )
        for number, speaker in enumerate(spellings)
    ]  # fmt: skip
    rows.append(replace(rows[0], utterance_id="u0", transcript="\u200b", session=" "))
    summary = write(rows, tmp_path / "out")
    assert summary["speakers"] == {"Bob": 1, "Zo\u00e9": 2, "bob": 1, "spk1": 3}
    assert summary["labels"] == {"sad": 7}
    assert summary["joined_spellings"] == {"speaker": {"Zo\u00e9": 2, "spk1": 3}, "label": {"sad": 2}}
    assert summary["similar_spellings"] == {"speaker": [["Bob", "bob"]]}
    assert summary["rejected"] == {"duplicate_id": 1}  # "u0 " and "u0"
    rows = load(tmp_path / "out").dataset
    assert (rows["utterance_id"][0], rows["transcript"][0], rows["session"][0]) == ("u0", "Na\u00eff.", None)
    write([replace(spoken(tone), transcript="\u200b")], tmp_path / "alone")
    (row,) = load(tmp_path / "alone").dataset
    assert (row["transcript"], row["transcript_source"]) == (None, None)


def spoken(tone):
    return Utterance(
        utterance_id="a",
        corpus="tiny",
        audio_path="a.wav",
        audio_bytes=tone(),
        transcript="Ja.",
        transcript_source="human",
    )


def test_the_hash_of_the_samples_depends_on_what_is_decoded_only(tmp_path, tone):
    wav, flac = tone(), io.BytesIO()
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="int16")
    soundfile.write(flac, samples, rate, format="FLAC")
    contents = [wav, wav + b"\0\0junk", flac.getvalue(), tone(channels=2), tone(hertz=201), tone(rate=16000)]
    rows = [replace(spoken(tone), utterance_id=str(n), audio_bytes=content) for n, content in enumerate(contents)]
    write(rows, tmp_path / "out")
    hashes = load(tmp_path / "out").dataset["samples_sha256"][:]
    assert len(set(hashes[:4])) == 1
    assert len(set(hashes)) == 3
