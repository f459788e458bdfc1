import json

import pytest

from lalm_mer.core.errors import CorpusError
from lalm_mer.core.word_times import WordTime, find_word_times, read_word_times

KIDS, TALK = WordTime("kids", 0.5, 0.75), WordTime("talking", 0.75, 1.25)


def textgrid(*tiers, end=2):
    """A TextGrid in Praat's long form; a tier is (name, [(start, end, label)])."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers, start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end}", f"        intervals: size = {len(intervals)}"]
        for place, (start, stop, label) in enumerate(intervals, start=1):
            lines += [f"        intervals [{place}]:", f"            xmin = {start}", f"            xmax = {stop}"]
            lines += [f'            text = "{label}"']
    return "\n".join(lines) + "\n"


WORDS = ("words", [(0, 0.5, ""), (0.5, 0.75, "kids"), (0.75, 1.25, "talking"), (1.25, 2, "sp")])
PHONES = ("phones", [(0, 0.5, "sil"), (0.5, 2, "K")])


def read(folder, name, content, utterance_id="u1", encoding="utf-8"):
    (folder / name).write_text(content, encoding=encoding)
    return read_word_times(folder / name, utterance_id)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "tiers", [(WORDS,), (PHONES, WORDS), (("speaker 1 - words", WORDS[1]), PHONES), (("of mine", WORDS[1]),)]
)
def test_textgrid_of_praat_and_of_mfa(tmp_path, tiers, encoding):
    assert read(tmp_path, "u1.TextGrid", textgrid(*tiers), encoding=encoding) == (KIDS, TALK)


@pytest.mark.parametrize(
    ("tiers", "message"),
    [
        ((("one", WORDS[1]), ("two", PHONES[1])), "the tier with the words of u1 is not clear; found one, two"),
        ((("a - words", WORDS[1]), ("b - words", WORDS[1])), "the words of u1 is not clear"),
    ],
)
def test_a_textgrid_without_a_clear_tier_of_words_is_refused(tmp_path, tiers, message):
    with pytest.raises(CorpusError, match="is not clear") as error:
        read(tmp_path, "u1.TextGrid", textgrid(*tiers))
    assert message in str(error.value)


@pytest.mark.parametrize("content", ["", "hello", textgrid(WORDS)[:150], textgrid(WORDS).replace("0.75", "x")])
def test_a_broken_textgrid_is_named(tmp_path, content):
    with pytest.raises(CorpusError, match=r"u1\.TextGrid: "):
        read(tmp_path, "u1.TextGrid", content)


def test_ctm_reads_only_the_lines_of_the_utterance(tmp_path):
    content = ";; made by an aligner\nu0 1 0.1 0.2 well\nu1 1 0.0 0.5 <eps>\nu1 1 0.50 0.25 kids 0.99\n\n"
    content += "u1 1 0.75 0.50 talking\nu10 1 0.0 9.0 other\n"
    assert read(tmp_path, "u1.ctm", content) == (KIDS, TALK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("u1 1 0.5 0.2 kids\nu1 1 0.7 talking\n", "line 2: 4 fields; expected utterance, channel, start"),
        ("u1 1 zero 0.2 kids\n", "line 1: start 'zero' and duration '0.2' are not numbers"),
        ("u1 1 0.5 -0.2 kids\n", "line 1: word 'kids' from 0.5 to 0.3 s; expected 0 <= start <= end"),
        ("u1 1 nan 0.2 kids\n", "line 1: word 'kids' has start nan"),
        ("u2 1 0.5 0.2 kids\n", "no line of utterance u1; found utterance u2"),
    ],
)
def test_ctm_errors_name_the_line(tmp_path, content, message):
    with pytest.raises(CorpusError) as error:
        read(tmp_path, "u1.ctm", content)
    assert str(error.value).startswith(f"{tmp_path / 'u1.ctm'}: {message}")


def test_all_forms_of_json_are_read(tmp_path):
    words = [{"word": "kids", "start": 0.5, "end": 0.75}, {"word": "talking", "start": 0.75, "end": 1.25}]
    seconds = [{"word": word["word"], "start_s": word["start"], "end_s": word["end"]} for word in words]
    for content in (words, seconds, {"transcript": "kids talking", "words": words}):
        assert read(tmp_path, "u1.json", json.dumps(content)) == (KIDS, TALK)


def test_a_word_that_gentle_did_not_find_has_no_times(tmp_path):
    words = [
        {"case": "success", "word": "kids", "start": 0.5, "end": 0.75},
        {"case": "not-found-in-audio", "word": "uh"},
    ]
    assert read(tmp_path, "u1.json", json.dumps({"words": words})) == (KIDS, WordTime("uh", None, None))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"word": "kids",\n]', "line 3: not JSON"),
        ('{"segments": []}', "expected a list of words"),
        ('[{"start": 0, "end": 1}]', "word 1 of utterance u1: \"{'start': 0"),
        ('[{"word": "kids", "start": 0.5}]', "word 1 of utterance u1: word 'kids' has end None"),
        ('[{"word": "kids", "start": true, "end": 2}]', "word 1 of utterance u1: word 'kids' has start True"),
        ('[{"word": "a", "start": 0, "end": 1}, {"word": "b", "start": "1", "end": 2}]', "word 2 of utterance u1"),
        ('[{"word": 7, "start": 0, "end": 1}]', "word 1 of utterance u1: the word is 7"),
    ],
)
def test_json_errors_name_line_or_word(tmp_path, content, message):
    with pytest.raises(CorpusError) as error:
        read(tmp_path, "u1.json", content)
    assert str(error.value).startswith(f"{tmp_path / 'u1.json'}: {message}")


def test_other_files_and_other_encodings_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"expected word times in \.TextGrid"):
        read(tmp_path, "u1.lab", "0 1 kids")
    with pytest.raises(CorpusError, match="byte 13 is not UTF-8"):
        read(tmp_path, "u1.ctm", "u1 1 0.5 0.2 é\n", encoding="latin-1")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_word_times(tmp_path / "absent.ctm", "absent")


def test_files_are_found_by_the_utterance_id(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "u1.json").write_text("[]")
    assert find_word_times(tmp_path, "deep/u1") == tmp_path / "deep" / "u1.json"
    assert find_word_times(tmp_path, "u2") is None
    (tmp_path / "deep" / "u1.ctm").write_text("")
    with pytest.raises(CorpusError, match="is also named after utterance deep/u1"):
        find_word_times(tmp_path, "deep/u1")


def test_an_id_or_a_link_to_another_folder_is_refused(tmp_path):
    (tmp_path / "secret.json").write_text("[]")
    folder = tmp_path / "times"
    folder.mkdir()
    (folder / "u1.json").symlink_to(tmp_path / "secret.json")
    for name in ("../secret", "u1"):
        with pytest.raises(CorpusError, match="points outside"):
            find_word_times(folder, name)


def test_a_file_of_another_unicode_form_is_found(tmp_path):
    """Ids are stored in NFC; macOS names files in NFD."""
    (tmp_path / "cafe\u0301.ctm").write_text("cafe\u0301 1 0.0 0.5 yes\n", encoding="utf-8")
    path = find_word_times(tmp_path, "caf\u00e9")
    assert path is not None
    assert [word.word for word in read_word_times(path, "caf\u00e9")] == ["yes"]
