"""Manifests made to harm: each ends in one line or in a corpus, and nothing is written outside of it."""

import json
import os
import random

import pytest
from harmful import prepared
from representatives import slow_except

from lalm_mer.corpora import manifest

MANIFESTS_IN_A_BLOCK = 80
# fmt: off
COLUMNS = ("path", "utterance_id", "label", "transcript", "speaker", "age", "turn", "valence", "start_s", "end_s",
           "split", "transcript_source", "video_path")
VALID = {"path": ("a.wav", "b.wav", "deep/c.wav"), "age": ("", "31"), "turn": ("", "2"), "valence": ("", "3.5"),
         "start_s": ("", "0.01"), "end_s": ("", "0.09"), "transcript_source": ("", "human"), "video_path": ("",)}
PATHS = ("./a.wav", "deep//c.wav", "deep\\c.wav", ".", "..", "/", "./", "../outside.wav", "/etc/passwd", "link.wav",
         "folder", "deep", "pipe.wav", "none.wav", "A.WAV", " a.wav ", "~/a.wav", "caf\u00e9.wav", "cafe\u0301.wav",
         "a.wav\u200b", "a\0.wav", "x" * 300 + ".wav", "y/" * 3000, "con", "C:\\a.wav", "http://x/a.wav", "-", "",
         "nan", "null", "\ufeffa.wav", "a.wav/..", "m.csv", "a.wav?x=1")
CELLS = ("", "x", "y", "1", "-1", "0", "3.5", "3,5", "1e999", "-1e999", "nan", "inf", "1_000", "2147483648",
         "-2147483649", "9" * 4301, "9" * 4300, "0" * 5000, "1e308", "1e-400", "true", "null", "\u0661\u0662", "=1+1",
         "'", '"', '""', '"""', "two\nlines", "cr\rcr", "\u2028", "\0", "\x1b[31m", "\ufffe", "a,b,c", "a;b", "a\tb",
         "z" * 140_000, "\u202e", "\U0001f600", "human", "asr", "Speaker ", "<script>", "{{ x }}", "../../x", "%s%n",
         "\\", "\\x00")
VALUES = (None, True, False, 0, 1, -1, 2**31, 2**63, 10**308, 1.5, float("nan"), float("inf"), [], {}, ["a.wav"],
          {"a": 1}, "\ud800", "x" * 100_000)
LINES = ("[" * 100_000, "null", '"a.wav"', "[1, 2]", '{"path": NaN}', "{}", '{"path": "a.wav", "path": "b.wav"}',
         '{"path": "a.wav", "age": ' + "1" * 4301 + "}")
# fmt: on


def columns_of(chance):
    columns = [name for name in COLUMNS if chance.random() < 0.3]
    if chance.random() < 0.95:
        columns = ["path", "utterance_id", *(name for name in columns if name not in ("path", "utterance_id"))]
    if chance.random() < 0.05:
        columns += [chance.choice(COLUMNS), "", "other"]
    return columns


def cell_of(column, chance):
    if chance.random() < 0.75:
        return chance.choice(VALID.get(column, ("", "x", "y", "a word")))
    return chance.choice(PATHS if column in ("path", "video_path") else CELLS)


def csv_text(chance):
    """Rows whose cells are quoted, half quoted or not at all, with lines that are cut, doubled or of another width."""
    delimiter, newline = chance.choice(",,,;\t|"), chance.choice(("\n", "\n", "\r\n", "\r"))
    columns = columns_of(chance)
    lines = [delimiter.join(columns)]
    for _ in range(chance.randrange(8)):
        cells = []
        for column in columns:
            cell = cell_of(column, chance)
            quoting = chance.random()
            cells.append(
                '"' + cell.replace('"', '""') + '"' if quoting < 0.5 else '"' + cell if quoting < 0.55 else cell
            )
        lines.append(delimiter.join(cells))
        if chance.random() < 0.2:
            lines[-1] = chance.choice(
                ("", lines[-1][: len(lines[-1]) // 2], lines[-1] + delimiter + "more", lines[-1] * 2, '"')
            )
    return newline.join(lines) + newline * chance.randrange(3)


def jsonl_text(chance):
    lines = []
    for _ in range(chance.randrange(8)):
        cells = {name: cell_of(name, chance) for name in columns_of(chance)}
        for name in list(cells):
            if chance.random() < 0.1:
                cells[name] = chance.choice(VALUES)
        line = json.dumps(cells)
        if chance.random() < 0.3:
            line = chance.choice((line[:-1], line + line, *LINES))
        lines.append(line)
    return "\n".join(lines) + "\n"


def content_of(chance):
    """The name and bytes of a manifest."""
    name, text = chance.choice((("m.csv", csv_text), ("m.csv", csv_text), ("m.tsv", csv_text), ("m.jsonl", jsonl_text)))
    content = text(chance).encode("utf-8", "surrogatepass")
    match chance.randrange(12):
        case 0:
            content = bytearray(content)
            for _ in range(5):
                content[chance.randrange(len(content))] = chance.randrange(256)
        case 1:
            content = content[: chance.randrange(len(content))]
        case 2:
            content = chance.randbytes(chance.randrange(3000))
        case 3:
            content = content.decode("utf-8", "replace").encode(
                chance.choice(("utf-16", "utf-8-sig", "utf-32", "utf-7"))
            )
        case 4:
            content = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    return name, bytes(content)


@pytest.fixture
def root(tmp_path, tone):
    folder = tmp_path / "corpus"
    for name in ("a.wav", "b.wav", "deep/c.wav", "caf\u00e9.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(tone(0.1, hertz=100 + 100 * len(name)))
    (folder / "folder").mkdir()
    (tmp_path / "outside.wav").write_bytes(tone(0.1))
    (folder / "link.wav").symlink_to(tmp_path / "outside.wav")
    os.mkfifo(folder / "pipe.wav")
    os.mkdir(os.fsencode(folder) + b"/caf\xe9")  # noqa: PTH102 a name that is not UTF-8
    return folder


@pytest.mark.parametrize("seed", slow_except(range(int(os.environ.get("FUZZ_SEEDS", "4"))), [0]))
def test_no_manifest_does_harm(root, tmp_path, seed):
    chance = random.Random(seed)
    outcomes = []
    for number in range(MANIFESTS_IN_A_BLOCK):
        name, content = content_of(chance)
        (root / name).write_bytes(content)
        options = {"delimiter": chance.choice((None, None, ",", "", ",,", "\n"))} if chance.random() < 0.2 else {}
        options |= {"cut": chance.random() < 0.8, "labels": chance.choice((None, None, None, ["x", "y", "a word"]))}

        def rows(name=name, options=options):
            return manifest.read(root, name, **options)

        outcomes.append(prepared(rows, root, tmp_path / f"out{number}", tmp_path))
        (root / name).unlink()
    made = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    assert len(made) > MANIFESTS_IN_A_BLOCK // 10
    assert len(made) < len(outcomes)
    assert any(summary["n_rejected"] for summary in made)
