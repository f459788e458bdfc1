"""Which transcripts a run reads, what run.json says of them, and which runs a comparison takes."""

import pytest
import yaml

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import write_corpus
from lalm_mer.launch.build.data import input_hashes, open_corpus, open_data
from lalm_mer.launch.config.sections import DataSettings, ModelSettings, OutputSettings, PromptSettings, SplitSettings
from lalm_mer.launch.config.settings import ZeroShotSettings as Settings
from lalm_mer.launch.run.identity import run_identity

LABELS = {"happy": ["joyful", "happy"], "sad": ["sad"]}
PROTOCOL = {
    "name": "p", "version": 1, "source": "tests", "inline_task": {"name": "two", "labels": LABELS},
    "disjoint_in": ["speaker", "transcript"], "folds": {"rule": "grouped", "column": "speaker", "k": 3},
}  # fmt: skip


@pytest.fixture
def opened(tmp_path, tone):
    """Creates runs on a small corpus: its folded data and its record."""

    def make(*, synthetic=False, source="human", modalities="audio+transcript", **data):
        rows = [
            Utterance(
                utterance_id=f"s{speaker}_{label}", corpus="toy", audio_path=f"{speaker}{label}.wav", label=label,
                audio_bytes=tone(hertz=100 * speaker + 100 + len(label)), speaker=f"s{speaker}",
                transcript=f"{speaker} says so.", transcript_source=source,
            )
            for speaker in range(4) for label in ("happy", "sad", "bored")
        ]  # fmt: skip
        write_corpus(rows, corpus="toy", out_dir=tmp_path / "data", loader_version="1", synthetic=synthetic)
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(PROTOCOL))
        settings = Settings(
            DataSettings(str(tmp_path / "data"), **data), SplitSettings(str(tmp_path / "p.yaml")),
            ModelSettings("", ""), OutputSettings(""), PromptSettings(""),
        )  # fmt: skip
        opened = open_corpus(settings.data, settings.split)
        run_data = open_data(opened, settings.split, sampling_rate=None)
        described = run_identity(
            settings, run_data, recognizer="r", base_model=None, modalities=modalities, method="zero_shot",
            hashes={**input_hashes(opened, modalities, None), "prompt": None, "base_model": None},
            notes=[Note(NoteCode.ANSWERED_EXAMPLES, "train", 2)],
        )  # fmt: skip
        return run_data, described

    return make


def read(run_data):
    """Utterance id -> transcript of the fold, by example and by table, which must agree."""
    sides = [
        run_data.train,
        run_data.dev,
        run_data.test.select(range(len(run_data.test))),
        run_data.test.without_waveforms(),
    ]
    by_example = {example.input.utterance_id: example.input.transcript for side in sides for example in side}
    by_table = {row.utterance_id: row.transcript for side in sides for row in side.utterances().itertuples()}
    assert by_example == by_table
    assert len(by_example) == 8
    return by_example


def write_csv(path, without=()):
    names = [
        f"s{speaker}_{label}"
        for speaker in range(4)
        for label in ("happy", "sad")
        if f"s{speaker}_{label}" not in without
    ]
    path.write_text(
        "utterance_id,hypothesis\n" + "".join(f"{name},{name[1]} recognised\n" for name in names) + "other,x\n"
    )
    return str(path)


def test_transcripts_of_the_corpus(opened):
    run_data, described = opened()
    assert read(run_data)["s2_sad"] == "2 says so."
    assert described.transcript_source == "corpus"
    assert "transcripts" not in described.hashes


def test_recognised_transcripts(opened, tmp_path):
    corpus, _ = opened()
    run_data, described = opened(transcript_source="asr", transcripts=write_csv(tmp_path / "t.csv"))
    assert read(run_data) == {name: f"{name[1]} recognised" for name in read(corpus)}
    assert run_data.folded.folds.digest == corpus.folded.folds.digest  # verified with the transcripts of the corpus
    assert described.transcript_source == "asr"
    assert len(described.hashes["transcripts"]) == 64
    assert NoteCode.SIMULATED_TRANSCRIPTS not in [note.code for note in described.notes]


def test_a_missing_transcript_is_refused_and_an_empty_one_allowed(opened, tmp_path):
    file = write_csv(tmp_path / "t.csv", without=["s2_sad"])
    with pytest.raises(CorpusError, match=r"t\.csv: no transcript of 1 of 8 utterances, for example s2_sad"):
        opened(transcript_source="asr", transcripts=file)
    with (tmp_path / "t.csv").open("a") as table:
        table.write("s2_sad,\n")
    run_data, _ = opened(transcript_source="asr", transcripts=file)
    assert read(run_data)["s2_sad"] == ""


@pytest.mark.parametrize("synthetic", [False, True])
def test_simulated_transcripts_name_the_label_and_are_noted(opened, synthetic):
    run_data, described = opened(transcript_source="simulated", synthetic=synthetic)
    assert read(run_data)["s2_sad"] == "I am very sad!"
    assert read(run_data)["s0_happy"] == "I am very joyful!"
    assert described.transcript_source == "simulated"
    assert described.notes[:2] == (Note(NoteCode.SIMULATED_TRANSCRIPTS), Note(NoteCode.ANSWERED_EXAMPLES, "train", 2))


def test_simulated_transcripts_of_a_corpus_are_noted_unless_it_is_synthetic(opened):
    assert opened(source="simulated")[1].transcript_source == "simulated"
    assert opened(source="simulated", synthetic=True)[1].transcript_source == "corpus"


def test_a_run_without_transcripts_has_no_note(opened):
    described = opened(transcript_source="simulated", modalities="audio")[1]
    assert described.transcript_source is None
    assert NoteCode.SIMULATED_TRANSCRIPTS not in [note.code for note in described.notes]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"transcript_source": "asr"}, "'data.transcripts': None with data.transcript_source=asr"),
        ({"transcripts": "t.csv"}, "'data.transcripts': 't.csv' with data.transcript_source=corpus"),
        ({"transcript_source": "simulated", "transcripts": "t.csv"}, "with data.transcript_source=simulated"),
    ],
)
def test_settings_that_do_not_fit_are_refused(opened, data, says):
    with pytest.raises(ConfigError, match=says):
        opened(**data)
