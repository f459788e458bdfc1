import csv
import io
import json
import shutil

import numpy as np
import pytest
import soundfile

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.corpora.parts import SCHEMA
from lalm_mer.corpora.settings import CorpusSettings, OutputSettings, PrepareSettings, prepare
from lalm_mer.quality.check import check_corpus
from lalm_mer.quality.flags import FLAGS, Thresholds, Typical, find_flags, with_settings
from lalm_mer.quality.hypotheses import error_rates
from lalm_mer.quality.measures import measure, measure_sound

RATE = 8000


def flags_of(out):
    with (out / "quality.csv").open(newline="", encoding="utf-8") as file:
        return {row["utterance_id"]: row["flags"].split() for row in csv.DictReader(file)}


def reason_of(quality, flag, name):
    return next(one.finding.reason for one in quality.flagged[flag] if one.row.utterance_id == name)


# ---- real speech, with planted faults


def plant(folder, rows):
    """Seven faults; two are less obvious: clipped and then scaled, and a copy in another container."""
    names = [name for name in rows if rows[name]["speaker"] in ("02", "04")]
    planted = {}
    rows[names[0]]["transcript"] = "Kids are talking by the door, and so it went on for a very long time. " * 8
    planted[names[0]] = "transcript_too_long"
    for number, (gain, scale) in ((1, (1.0, 1.0)), (2, (0.4, 0.4))):
        samples, rate = soundfile.read(folder / rows[names[number]]["path"])
        loud = np.clip(samples / np.abs(samples).max() * 4, -1, 1) * scale
        soundfile.write(folder / rows[names[number]]["path"], loud, rate)
        planted[names[number]] = "clipped"
        assert np.abs(loud).max() == gain
    samples, rate = soundfile.read(folder / rows[names[3]]["path"])
    noise = np.random.default_rng(0).normal(0, 3 / 32768, len(samples))
    soundfile.write(folder / rows[names[3]]["path"], noise, rate)
    planted[names[3]] = "silent"
    shutil.copy(folder / rows[names[4]]["path"], folder / "copy.flac")
    samples, rate = soundfile.read(folder / rows[names[4]]["path"])
    soundfile.write(folder / "padded.wav", np.concatenate([np.zeros(1500), samples, np.zeros(800)]), rate)
    for name, padding in (("copy", 0.0), ("padded", 2300 / rate)):
        path = "copy.flac" if name == "copy" else "padded.wav"
        rows[name] = rows[names[4]] | {"path": path, "end_s": rows[names[4]]["end_s"] + padding}
        planted[name] = "duplicate"
    rows[names[5]]["end_s"] += 1.7
    planted[names[5]] = "duration_mismatch"
    return planted


@pytest.fixture(scope="module")
def real(shared_data_folder, tmp_path_factory):
    """300 real clips as a prepared manifest corpus with planted faults, and the faults."""
    folder = tmp_path_factory.mktemp("real")
    random, rows = np.random.default_rng(0), {}
    for actor in ("01", "02", "03", "04", "05"):
        start_s = 0.0
        for source in sorted((shared_data_folder / "ravdess" / f"Actor_{actor}").glob("*.flac")):
            shutil.copy(source, folder)
            spoken = "Kids are talking by the door." if source.stem[12:14] == "01" else "Dogs are sitting by the door."
            end_s = start_s + soundfile.info(source).duration + random.uniform(-0.05, 0.05)
            rows[source.stem] = {
                "path": source.name, "transcript": spoken, "speaker": actor, "start_s": start_s, "end_s": end_s,
            }  # fmt: skip
            start_s = end_s + 1
    planted = plant(folder, rows)
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "transcript", "speaker", "start_s", "end_s"])
        writer.writeheader()
        writer.writerows(rows.values())
    prepared = tmp_path_factory.mktemp("prepared") / "real"
    settings = CorpusSettings(name="manifest", root=str(folder), manifest="rows.csv", cut=False)
    prepare(PrepareSettings(settings, OutputSettings(str(prepared), processes=1)))
    return load(prepared), planted


def test_planted_faults_are_found_with_few_other_findings(real, tmp_path):
    corpus, planted = real
    assert len(corpus.dataset) == 302
    quality = check_corpus(corpus, tmp_path, processes=1)
    found = flags_of(tmp_path)
    assert {name: flags for name, flags in found.items() if name in planted} == {
        name: [flag] for name, flag in planted.items()
    }
    others = [name for name, flags in found.items() if flags and name not in planted]
    assert len(others) < 0.02 * len(found), others
    assert quality.summary["n_flagged"] == len(planted) + len(others)
    assert "same samples, except for silence at the ends, as utterance" in reason_of(quality, "duplicate", "padded")
    assert "the same audio file as utterance" in reason_of(quality, "duplicate", "copy")


def test_swapped_transcripts_of_real_sentences_are_found(real, tmp_path):
    corpus, planted = real
    transcripts = dict(zip(corpus.dataset["utterance_id"], corpus.dataset["transcript"], strict=True))
    hypotheses = {name: spoken for name, spoken in transcripts.items() if name not in planted}
    swapped = list(hypotheses)[10]
    hypotheses[swapped] = (
        "dogs are sitting by the door" if "Kids" in hypotheses[swapped] else "kids are talking by the door"
    )
    quality = check_corpus(corpus, tmp_path, hypotheses=hypotheses, processes=1)
    assert quality.summary["flags"]["transcript_swapped"] == 1
    assert quality.summary["flags"]["transcript_mismatch"] == 0
    assert "transcript_swapped" in flags_of(tmp_path)[swapped]


@pytest.mark.slow
def test_processes_do_not_change_the_result(real, tmp_path):
    corpus, _ = real
    for processes in (1, 2):
        check_corpus(corpus, tmp_path / str(processes), processes=processes)
    for name in ("quality.csv", "quality.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == ["quality.csv", "quality.json"]


# ---- single faults, in noise with an envelope like that of syllables


def syllables(seconds, seed=0, gain=0.3):
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).uniform(-1, 1, len(time))
    return gain * noise * (0.05 + np.abs(np.sin(2 * np.pi * 2 * time)))


def wav(samples):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def utterance(name, samples=None, transcript="how are you all today", **cells):
    audio = None if samples is None else wav(samples)
    return Utterance(utterance_id=name, corpus="mine", audio_bytes=audio, transcript=transcript, **cells)


def usual(n=25):
    return [utterance(f"usual{i}", syllables(1.5 + 0.05 * i, seed=i)) for i in range(n)]


@pytest.fixture
def check(tmp_path):
    def run(rows, **options):
        folder = tmp_path / "prepared"
        write_corpus(
            iter(rows), corpus="mine", out_dir=folder, loader_version="1", keep_missing_audio=True, processes=1
        )
        quality = check_corpus(load(folder), tmp_path / "out", processes=1, **options)
        return quality, flags_of(tmp_path / "out")

    return run


def test_nothing_is_found_in_a_corpus_without_faults(check):
    quality, found = check(usual())
    assert not any(found.values())
    assert (quality.summary["n_flagged"], set(quality.summary["flags"].values())) == (0, {0, None})


@pytest.mark.parametrize(
    ("flag", "odd"),
    [
        ("missing_audio", utterance("odd")),
        ("too_short", utterance("odd", syllables(0.15), transcript="a")),
        ("far_too_long", utterance("odd", syllables(60), transcript="and so it went on " * 40)),
        ("transcript_empty", utterance("odd", syllables(2, seed=99), transcript="...")),
        ("transcript_too_short", utterance("odd", syllables(9.5), transcript="Oh no.")),
        ("very_quiet", utterance("odd", syllables(2, seed=99, gain=0.002))),
        ("silent", utterance("odd", np.full(2 * RATE, 0.2))),  # an offset is silent
        ("mostly_silence", utterance("odd", np.concatenate([np.zeros(4 * RATE), syllables(0.12)]))),
        ("clipped", utterance("odd", np.clip(8 * syllables(2, seed=99), -1, 1))),
        ("duration_mismatch", utterance("odd", syllables(2, seed=99), start_s=5.0, end_s=6.6)),
    ],
)
def test_an_outlier_among_usual_utterances_is_found(check, flag, odd):
    _, found = check([*usual(), odd])
    assert {name: flags for name, flags in found.items() if flags} == {"odd": [flag]}


def test_missing_values_stay_missing_and_are_counted(check):
    quality, found = check([*usual(), utterance("without", syllables(2, seed=99), transcript=None, start_s=1.0)])
    assert found["without"] == []
    summary = quality.summary
    assert (summary["n_without_transcript"], summary["n_without_label_times"]) == (1, 26)


def test_duplicates_name_the_first_and_silence_is_no_duplicate(check):
    sound = syllables(2, seed=99)
    odd = [utterance("again", sound), utterance("quiet1", np.zeros(RATE)), utterance("quiet2", np.zeros(RATE))]
    quality, found = check([utterance("first", sound), *usual(), *odd])
    assert (found["first"], found["again"]) == ([], ["duplicate"])
    assert "as utterance first" in reason_of(quality, "duplicate", "again")
    assert found["quiet1"] == found["quiet2"] == ["silent"]


def test_the_same_audio_at_another_gain_is_not_a_duplicate(check):
    sound = syllables(2, seed=99)
    _, found = check([*usual(), utterance("loud", sound), utterance("soft", 0.5 * sound)])
    assert found["soft"] == []


def test_few_utterances_have_no_outliers(check):
    _, found = check([*usual(3), utterance("long", syllables(60), transcript="and so it went on " * 40)])
    assert found["long"] == []


def test_known_defects_of_missing_utterances_are_listed_with_their_source(check):
    defects = {"usual3": "silent at the end (README of the release)", "gone": "corrupt (README of the release)"}
    quality, found = check(usual(), known_defects=defects)
    assert found["usual3"] == ["known_defect"]
    assert "README of the release" in reason_of(quality, "known_defect", "usual3")
    assert quality.summary["known_defects_elsewhere"] == {"gone": defects["gone"]}


# ---- against speech recognition


def spoken(dialogues=("d1", "d2")):
    lines = ["where did you put the keys", "i never said that to him", "what a lovely morning it is",
             "please close the window behind you", "she left without saying a word"]  # fmt: skip
    return [
        utterance(f"{dialogue}_{i}", syllables(2, seed=10 * d + i), transcript=line, dialogue=dialogue, speaker="s1")
        for d, dialogue in enumerate(dialogues)
        for i, line in enumerate(lines)
    ]


def test_two_swapped_transcripts_name_each_other_in_their_own_dialogue(check):
    rows = spoken()
    hypotheses = {row.utterance_id: row.transcript for row in rows}
    hypotheses["d2_0"], hypotheses["d2_1"] = "I never said that to them.", "Where did you put my keys?"
    quality, found = check(rows, hypotheses=hypotheses)
    assert {name for name, flags in found.items() if flags} == {"d2_0", "d2_1"}
    assert "matches d2_1" in reason_of(quality, "transcript_swapped", "d2_0")
    assert "matches d2_0" in reason_of(quality, "transcript_swapped", "d2_1")


def test_other_words_are_a_mismatch_and_usual_errors_are_not(check):
    rows = spoken()
    hypotheses = {row.utterance_id: row.transcript for row in rows}
    hypotheses |= {"d1_0": "buy two tickets for the circus", "d1_1": "i ever said that to m", "d1_2": ""}
    _, found = check(rows, hypotheses=hypotheses)
    assert {name: flags for name, flags in found.items() if flags} == {
        "d1_0": ["transcript_mismatch"],
        "d1_2": ["transcript_mismatch"],
    }


def test_a_misrecognised_short_answer_is_not_a_finding(check):
    rows = [
        utterance("yes", syllables(2), transcript="Yes."),
        utterance("oh", syllables(2, seed=1), transcript="Oh no."),
    ]
    _, found = check([*rows, *usual()], hypotheses={"yes": "oh no", "oh": "yes"})
    assert not any(found.values())


def test_hypotheses_of_another_corpus_are_refused(check):
    with pytest.raises(CorpusError, match="hypotheses: none of the ids is in the corpus, for example 'x'"):
        check(usual(), hypotheses={"x": "hello"})


def test_error_rates_count_words_and_characters():
    both = error_rates("Kids are TALKING, by the door!", "dogs are sitting by the door")
    assert (both.wer, both.n_errors, both.n_words) == (2 / 6, 2, 6)
    assert both.cer == pytest.approx(7 / 28)  # 3 of kids, 4 of talking
    assert error_rates("...", "hello") is None
    assert error_rates("no", "").wer == 1.0


# ---- word times


def test_word_times_are_compared_with_audio_and_transcript(check, tmp_path):
    folder = tmp_path / "times"
    folder.mkdir()
    words = ["how", "are", "you", "all", "today"]

    def write(name, end_s, spoken):
        step = end_s / len(spoken)
        content = [{"word": word, "start": i * step, "end": (i + 1) * step} for i, word in enumerate(spoken)]
        (folder / f"{name}.json").write_text(json.dumps(content))

    write("usual0", 1.5, ["How", "are", "you", "all", "to-day"])
    write("usual1", 1.9, words)
    write("usual2", 1.5, [*words, "then"])
    (folder / "usual3.ctm").write_text("usual3 1 0 1\n")
    quality, found = check(usual(), word_times=folder)
    assert {name: flags for name, flags in found.items() if flags} == {
        "usual1": ["words_outside_audio"],
        "usual2": ["words_mismatch"],
        "usual3": ["word_times_unreadable"],
    }
    assert "usual3.ctm: line 1: 4 fields" in reason_of(quality, "word_times_unreadable", "usual3")
    assert quality.summary["n_with_word_times"] == 4


def test_a_folder_without_word_times_of_the_corpus_is_refused(check, tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(CorpusError, match="no file is named"):
        check(usual(), word_times=tmp_path)


# ---- measures and thresholds


def test_levels_and_silence_of_a_known_sound():
    time = np.arange(RATE) / RATE
    sine = np.sin(2 * np.pi * 200 * time)
    sound = measure_sound(Waveform(np.concatenate([sine, 0 * sine]).astype(np.float32), RATE))
    assert sound.loudest_dbfs == pytest.approx(-3.01, abs=0.01)
    assert sound.level_dbfs == pytest.approx(-6.02, abs=0.01)
    assert sound.silence_share == pytest.approx(0.5)


def test_clipping_is_found_at_any_level():
    loud = np.clip(2 * syllables(1, gain=1.0), -1, 1).astype(np.float32)
    clipped, scaled = (measure_sound(Waveform(gain * loud, RATE)) for gain in (np.float32(1), np.float32(0.5)))
    assert clipped.clipped_share > 0.05
    assert scaled.clipped_share == 0
    assert scaled.flat_share == pytest.approx(clipped.flat_share) != 0
    natural = measure_sound(Waveform(syllables(1).astype(np.float32), RATE))
    assert (natural.clipped_share, natural.flat_runs) == (0, 0)


def test_thresholds_are_set_by_name(check):
    rows = [*usual(), utterance("odd", syllables(0.15), transcript="a")]
    _, found = check(rows, thresholds=with_settings(Thresholds(), ["shortest_s=0.1"]))
    assert found["odd"] == []


@pytest.mark.parametrize("setting", ["shortest=1", "shortest_s=soon", "shortest_s", "shortest_s=nan"])
def test_a_malformed_setting_is_refused(setting):
    with pytest.raises(ConfigError, match="shortest"):
        with_settings(Thresholds(), [setting])


def test_every_flag_is_in_the_summary(check):
    quality, _ = check(usual())
    assert list(quality.summary["flags"]) == list(FLAGS)


def test_an_unchecked_flag_has_no_count(check):
    unchecked, _ = check(usual())
    assert [flag for flag, n in unchecked.summary["flags"].items() if n is None] == [
        "duration_mismatch", "transcript_swapped", "transcript_mismatch", "word_times_unreadable", "words_mismatch",
        "words_outside_audio",
    ]  # fmt: skip
    checked, _ = check(usual(), hypotheses={"usual0": "how are you all today"})
    assert checked.summary["flags"]["transcript_swapped"] == 0


def test_audio_damaged_since_it_was_prepared_is_a_finding():
    row = dict.fromkeys(SCHEMA.names) | {
        "utterance_id": "u",
        "transcript": "hello",
        "audio_sha256": "ab" * 32,
    }
    row["audio"] = {"path": "u.wav", "bytes": wav(syllables(1))[:-500]}
    damaged = measure(row)
    assert (damaged.duration_s, damaged.sound) == (None, None)
    findings = list(find_flags(damaged, Typical(None, None, None), Thresholds()))
    assert [finding.flag for finding in findings] == ["unreadable_audio"]
    assert "bytes of the" in findings[0].reason
