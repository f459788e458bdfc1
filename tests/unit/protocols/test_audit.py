import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lalm_mer.core.errors import ConfigError, CorpusError
from lalm_mer.core.schema import Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.protocols.audit import UNKNOWN, audit_split, read_split_file
from lalm_mer.protocols.protocol import COLUMNS

REPO_ROOT = Path(__file__).resolve().parents[3]


def ravdess_ids(*actors, emotions=(1, 3, 5)):
    return [f"03-01-{emotion:02d}-01-01-01-{actor:02d}" for actor in actors for emotion in emotions]


def overlap(audit, column, splits=("train", "test")):
    (found,) = [found for found in audit.overlaps if (found.column, found.splits) == (column, splits)]
    return found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.txt", "a\n\nb\n"),
        ("ids.csv", "\ufeffutterance_id,label\r\na,x\r\nb,y\r\n"),
        ("ids.tsv", "emo\tkey\nx\ta\ny\tb\n"),
        ("ids.jsonl", '{"key": "a", "emo": "x"}\n{"key": "b", "emo": "y"}\n'),
        ("ids.json", '{"a": {"emo": "x"}, "b": {"emo": "y"}}'),
        ("list.json", '["a", {"utterance_id": "b"}]'),
    ],
)
def test_files_of_every_form_are_read(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_split_file(tmp_path / name) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.txt", "\n", "no utterance ids"),
        ("ids.txt", "a\na\n", "1 duplicate ids, for example a"),
        ("ids.csv", "who,label\na,x\n", "row 2 has no id; expected one of utterance_id, key"),
        ("ids.jsonl", "{oops}\n", r"not valid \.jsonl"),
        ("ids.jsonl", "7\n", "line 1 has no id"),
        ("ids.json", "5", "neither a list nor an object"),
        ("ids.json", '"abc"', "neither a list nor an object"),
        ("ids.json", "[" * 100_000, r"not valid \.json"),
    ],
)
def test_a_file_without_ids_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_split_file(tmp_path / name)
    with pytest.raises(ConfigError, match=r"gone\.txt: cannot be read"):
        read_split_file(tmp_path / "gone.txt")


def test_facts_of_the_ids_are_compared_for_each_pair_of_splits():
    audit = audit_split({"train": ravdess_ids(1, 2), "dev": ravdess_ids(3), "test": ravdess_ids(2, 4)})
    assert (audit.corpus, audit.n) == ("ravdess", {"train": 6, "dev": 3, "test": 6})
    shared = overlap(audit, "speaker")
    assert (shared.shared, shared.n_values, shared.n_utterances, shared.example) == (1, 2, 3, "02")
    assert overlap(audit, "utterance").shared == 3  # actor 2's clips are in both
    assert overlap(audit, "speaker", ("train", "dev")).shared == 0
    assert overlap(audit, "script").shared == 1
    assert audit.unknown == ["session", "transcript", "audio"]
    assert [line.partition(" share")[0] for line in audit.failures(["speaker"])] == ["train and test"] * 2


def test_other_forms_of_an_id_are_recognised():
    plain, emobox = ravdess_ids(1), [f"ravdess-{name}" for name in ravdess_ids(2)]
    paths = [f"Actor_03/{name}.wav" for name in ravdess_ids(3)]
    audit = audit_split({"train": plain, "dev": emobox, "test": paths})
    assert (audit.corpus, audit.failures(["speaker"])) == ("ravdess", [])


def test_an_utterance_in_two_forms_is_one_utterance():
    (name,) = ravdess_ids(1, emotions=(1,))
    audit = audit_split({"train": [f"Actor_01/{name}.wav"], "test": [f"ravdess-{name}"]})
    assert overlap(audit, "utterance").shared == 1
    with pytest.raises(ConfigError, match="train: 1 duplicate utterances"):
        audit_split({"train": [name, f"{name}.wav"], "test": ravdess_ids(2)})


def test_an_unknown_value_proves_nothing():
    audit = audit_split({"train": ravdess_ids(1), "test": ravdess_ids(2)})
    assert audit.failures(["speaker"]) == []
    assert audit.failures(["session"]) == [
        "session of any utterance is not known, so nothing is proven; give --data or --corpus"
    ]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["u1"], ["u2"]),
        (["cafe-12-P-2-5", "cafe-11-P-2-5"], ["cafe-10-P-2-5"]),  # eleven characters and a number, as in MOSEI
        (["cafe_12_P_2_5"], ["cafe_10_P_2_5"]),
        (ravdess_ids(1), ["u2"]),  # all ids of both splits have to fit
        (ravdess_ids(1), ["1001_DFA_ANG_XX"]),
        ([f"cafe-{name}" for name in ravdess_ids(1)], [f"cafe-{name}" for name in ravdess_ids(2)]),
    ],
)
def test_ids_that_are_not_all_of_one_corpus_are_unknown_and_prove_nothing(train, test):
    audit = audit_split({"train": train, "test": test})
    assert (audit.corpus, audit.unknown) == (UNKNOWN, list(COLUMNS))
    for column in COLUMNS:
        (line,) = audit.failures([column])
        assert line == f"{column} of any utterance is not known, so nothing is proven; give --data or --corpus"
    assert overlap(audit_split({"train": [*train, "same "], "test": [*test, "same "]}), "utterance").shared == 1


def test_ids_of_no_corpus_or_of_another_are_refused():
    with pytest.raises(ConfigError, match="'u1' is not an utterance id of ravdess; is --corpus right"):
        audit_split({"train": ["u1"], "test": ["u2"]}, "ravdess")
    with pytest.raises(ConfigError, match=r"corpus 'fau_aibo' has no naming rule for ids; expected one of .*ravdess"):
        audit_split({"train": ["u1"], "test": ["u2"]}, "fau_aibo")


@pytest.fixture
def prepared(tmp_path, tone):
    rows = [
        Utterance(
            utterance_id=f"u{n}", corpus="mine", audio_path=f"{n}.wav", audio_bytes=tone(hertz=100 + 50 * min(n, 4)),
            transcript=("Yes.", "yes. ", "No.", "Maybe so.", "I see.", "We do.")[n], label="a",
            speaker=None if n == 5 else f"s{n}",
        )
        for n in range(6)
    ]  # fmt: skip
    write_corpus(rows, corpus="mine", out_dir=tmp_path / "mine", loader_version="1", processes=1)
    return tmp_path / "mine"


def test_a_prepared_corpus_has_transcripts_and_audio(prepared):
    corpus = load(prepared)
    audit = audit_split({"train": ["u0", "u2", "u4"], "test": ["u1", "u3", "u5"]}, prepared=corpus)
    assert (overlap(audit, "transcript").shared, overlap(audit, "transcript").example) == (1, "yes")
    assert (overlap(audit, "audio").shared, overlap(audit, "speaker").shared) == (1, 0)
    assert overlap(audit, "audio").example == "u4 and u5"  # the utterances, instead of the hash of their audio
    assert overlap(audit, "speaker").n_unknown == 1
    assert audit.failures(["speaker"])[0].startswith("speaker of 1 utterances is not known")
    with pytest.raises(CorpusError, match=r"1 ids are not in the prepared corpus mine, .* for example u9"):
        audit_split({"train": ["u0"], "test": ["u9"]}, prepared=corpus)


@pytest.fixture
def of_files(tmp_path, tone):
    """A prepared folder of files with ids as a manifest without a column of ids gives them."""
    names = ["Neutral/1.wav", "Neutral/2.wav", "Angry/1.wav", "Angry/x-3.wav"]
    rows = [
        Utterance(
            utterance_id=name.removesuffix(".wav"), corpus="urdu", audio_path=name, audio_bytes=tone(hertz=100 + place),
            speaker=f"s{place}", label="a",
        )
        for place, name in enumerate(names)
    ]  # fmt: skip
    write_corpus(rows, corpus="urdu", out_dir=tmp_path / "urdu", loader_version="1", processes=1)
    return load(tmp_path / "urdu")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Neutral/2", "Neutral/2"),
        ("Neutral/2.wav", "Neutral/2"),
        ("./Neutral/2.wav", "Neutral/2"),
        ("Neutral\\1.wav", "Neutral/1"),
        ("/data/urdu/Angry/1.wav", "Angry/1"),
        ("2.wav", "Neutral/2"),
        ("2", "Neutral/2"),
        ("urdu-2", "Neutral/2"),
        ("x-3.wav", "Angry/x-3"),
        ("urdu-x-3", "Angry/x-3"),
    ],
)
def test_split_files_may_name_the_files_of_a_prepared_corpus(of_files, written, found):
    audit = audit_split({"train": [found], "test": [written]}, prepared=of_files)
    assert (overlap(audit, "utterance").shared, overlap(audit, "speaker").shared) == (1, 1)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("1.wav", "'1.wav' fits 'Angry/1' and 'Neutral/1' of the prepared corpus urdu; give ids"),
        ("urdu-1", "'urdu-1' fits 'Angry/1' and 'Neutral/1'"),
        ("9.wav", "1 ids are not in the prepared corpus urdu, which has ids such as Neutral/1, for example 9.wav"),
    ],
)
def test_a_file_name_that_fits_no_or_several_utterances_is_refused(of_files, written, says):
    with pytest.raises(CorpusError, match=says):
        audit_split({"train": ["Angry/x-3"], "test": [written]}, prepared=of_files)


@pytest.fixture
def audited(capsys):
    """Run the script's ``main``."""
    specification = importlib.util.spec_from_file_location("audit_split", REPO_ROOT / "eval" / "audit_split.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)

    def audit(*arguments):
        status = script.main([*map(str, arguments)])
        return SimpleNamespace(returncode=status, **capsys.readouterr()._asdict())

    return audit


def test_the_script_exits_with_the_status_of_the_audit(tmp_path):
    (tmp_path / "train.txt").write_text("03-01-01-01-01-01-01\n")
    (tmp_path / "test.txt").write_text("03-01-02-01-01-01-01\n")
    files = ["--train", tmp_path / "train.txt", "--test", tmp_path / "test.txt"]
    command = [sys.executable, "eval/audit_split.py", *map(str, files), "--corpus", "ravdess"]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("FAILS       train and test share 1 of 1 values of speaker, for example 01\n")


def test_the_exit_status_of_the_command_states_the_result(tmp_path, prepared, audited):
    files = {}
    for name, ids in {
        "train": ravdess_ids(1, 2),
        "clean": ravdess_ids(3),
        "leaking": ravdess_ids(2, emotions=(7,)),
    }.items():
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps({"key": f"ravdess-{name}", "emo": "x"}) + "\n" for name in ids))
    clean = audited("--train", files["train"], "--test", files["clean"])
    assert (clean.returncode, clean.err) == (0, "")
    assert "passes      disjoint in speaker" in clean.out
    leaking = audited("--train", files["train"], "--test", files["leaking"])
    assert leaking.returncode == 1
    assert "speaker     1 of 1 of test are also in train (1 utterances of test)" in leaking.out
    assert "speaker-dependent: results are not comparable" in leaking.out
    assert audited("--train", files["train"], "--test", files["clean"], "--require", "speaker,script").returncode == 1
    wrong = audited("--train", files["train"], "--test", files["clean"], "--require", "voice")
    assert (wrong.returncode, wrong.err) == (
        2,
        "error: --require voice: expected some of speaker, session, script, transcript, audio\n",
    )
    assert audited("--train", files["train"], "--test", files["clean"], "--require", ",").returncode == 2
    (tmp_path / "cafe.txt").write_text("cafe-12-P-2-5\n")
    (tmp_path / "cafe2.txt").write_text("cafe-11-P-2-5\n")
    unknown = audited("--train", tmp_path / "cafe.txt", "--test", tmp_path / "cafe2.txt", "--require", "session")
    assert unknown.returncode == 1
    assert "corpus      unknown" in unknown.out
    assert "FAILS       session of any utterance is not known" in unknown.out
    known = audited("--train", files["train"], "--test", files["clean"], "--data", prepared)
    assert known.returncode == 2
    assert "not in the prepared corpus mine" in known.err
