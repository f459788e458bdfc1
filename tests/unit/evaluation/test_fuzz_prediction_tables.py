"""Damaged and hostile tables of predictions: a score or one line of error, quickly, and nothing written elsewhere."""

import importlib.util
import json
import random
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from representatives import slow_except

ROOT = Path(__file__).parents[3]
LABELS = ["ang", "hap", "neu", "sad"]
CASES = 480
BLOCKS = 8
LONGEST_S = 5
MOST_MEMORY = 1_000_000  # KiB of growth
NASTY = [
    "", " ", "=1+1", "+x", "-1", "@cmd", "\x1b[2J\x1b[31m", "\x00", "\u202eabc", "ang ", "a\u200bng", "Zoe\u0301",
    "NaN", "nan", "null", "None", "<unparsed>", "<unscored>", "9" * 4301, "1e999", "-inf", "a,b", 'a"b', "a\nb",
    "a\r\nb", "x" * 200_000, "../../etc/passwd", "${oc.env:HOME}", "{{ 7*7 }}", "\ufeff", "\ud7ff", "😀", "0x10",
    "1_000", "True",
]  # fmt: skip
LABEL_SETS = [None, "", ",", "ang", "ang,hap", "ang,ang", "ang, hap ,neu,sad", "<unparsed>,ang,hap,neu,sad",
              ",".join(f"l{number}" for number in range(3000)), "=1,+2", "\x1b[31m"]  # fmt: skip


@pytest.fixture(scope="module")
def score_predictions():
    specification = importlib.util.spec_from_file_location("score_predictions", ROOT / "eval/score_predictions.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def valid(generator: random.Random) -> pd.DataFrame:
    """A valid table of one or two folds and seeds, with predictions or probabilities."""
    folds, seeds, speakers = generator.choice([1, 2]), generator.choice([1, 2]), generator.choice([1, 2, 5, 9])
    utterances, rows = generator.choice([4, 12, 40]), []
    for seed in range(seeds):
        for number in range(utterances):
            truth = LABELS[number % 4]
            weights = np.array([generator.random() + (label == truth) for label in LABELS])
            row = {"utterance_id": f"u{number}", "truth": truth, "speaker": f"s{number % speakers}"}
            row |= {"fold": str(number % folds), "seed": str(seed), "prediction": LABELS[int(weights.argmax())]}
            rows.append(row | dict(zip([f"prob_{label}" for label in LABELS], weights / weights.sum(), strict=True)))
    frame = pd.DataFrame(rows).astype(str)
    kept = generator.choice(["both", "prediction", "probabilities"])
    if kept == "prediction":
        frame = frame.drop(columns=[name for name in frame if name.startswith("prob_")])
    if kept == "probabilities":
        frame = frame.drop(columns="prediction")
    optional = ("speaker", "fold", "seed") if seeds == 1 else ("speaker", "fold")
    return frame.drop(columns=[name for name in optional if generator.random() < 0.2])


def change_table(frame: pd.DataFrame, generator: random.Random) -> pd.DataFrame:
    """One change of rows, cells or columns."""
    kind = generator.randrange(11)
    name, row = generator.choice(list(frame.columns)), generator.randrange(len(frame))
    if kind == 0:
        frame.iloc[row, frame.columns.get_loc(name)] = generator.choice(NASTY)
    elif kind == 1:
        frame[name] = [generator.choice(NASTY) for _ in range(len(frame))]
    elif kind == 2:
        frame = frame.drop(columns=name)
    elif kind == 3:
        frame = frame.rename(columns={name: generator.choice([*NASTY, *frame.columns])})
    elif kind == 4:
        frame = pd.concat([frame, frame.sample(frac=0.5, random_state=row)])
    elif kind == 5:
        frame = frame.drop(index=frame.index[row:])
    elif kind == 6:
        frame["condition"] = generator.choice(["none", "x"]) if generator.random() < 0.5 else frame[name]
    elif kind == 7:
        frame[name] = frame[name].astype(str) + generator.choice([" ", "\u200b", "\u00a0"])
        frame = pd.concat([frame, frame])
    elif kind == 8:
        frame = pd.concat([frame.assign(fold=str(number)) for number in range(3)])
    elif kind == 9 and len(frame) <= 100:
        truth = [f"label{number}" for number in range(len(frame) * 90)]
        frame = pd.DataFrame({"utterance_id": truth, "truth": truth, "prediction": truth, "speaker": truth})
    else:
        frame = frame.sample(frac=1, random_state=row)
    return frame.reset_index(drop=True)


def write_csv(frame: pd.DataFrame, path: Path, generator: random.Random) -> None:
    """Write as CSV, perhaps with damaged lines or bytes."""
    content = frame.to_csv(index=generator.random() < 0.1, lineterminator=generator.choice(["\n", "\r\n"])).encode()
    kind = generator.randrange(20)
    place = generator.randrange(len(content) + 1)
    if kind == 0:
        content = content[:place]
    elif kind == 1:
        content = content[:place] + bytes(generator.randrange(256) for _ in range(5)) + content[place:]
    elif kind == 2:
        content = content.replace(b"\n", b",\n")
    elif kind == 3:
        first, rest = content.split(b"\n", 1)
        content = first + b"\n" + rest.replace(b"\n", b",\n")
    elif kind == 4:
        content = content[:place] + b'"' + content[place:]
    elif kind == 5:
        content = b"\xef\xbb\xbf" + content
    elif kind == 6:
        content = content.decode().encode(generator.choice(["utf-16", "utf-32"]))
    elif kind == 7:
        content = content.replace(b",", generator.choice([b";", b"\t", b",,"]))
    elif kind == 8:
        content = content[:place] + b"\x00" * 20 + content[place:]
    elif kind == 9:
        content = generator.choice([b"", b"\n" * 1000, b",,,\n", content.split(b"\n")[0], b"PAR1" + content])
    path.write_bytes(content)


def write_parquet(frame: pd.DataFrame, path: Path, generator: random.Random) -> None:
    """Write as Parquet, perhaps with columns of other types, a doubled column or damaged bytes."""
    others = [list(range(len(frame))), [1.5] * len(frame), [None] * len(frame), [["a"]] * len(frame),
              [{"a": 1}] * len(frame), [True] * len(frame), [b"\xff"] * len(frame), [float("nan")] * len(frame),
              pd.Series(["ang"] * len(frame), dtype="category"),
              pd.Series(["2020-01-01"] * len(frame)).astype("M8[ns]")]  # fmt: skip
    if generator.random() < 0.6:
        frame = frame.assign(**{generator.choice(list(frame.columns)): generator.choice(others)})
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError):
        table = pa.table({"utterance_id": pa.array(["u"]), "truth": pa.array([["a"]])})
    if generator.random() < 0.2:
        table = table.append_column(generator.choice(table.column_names), table.column(0))
    if generator.random() < 0.2:
        table = table.replace_schema_metadata({b"pandas": b"{not json", b"lalm_mer": b"[1, 2"})
    pq.write_table(table, path)
    if generator.random() < 0.3:
        content = bytearray(path.read_bytes())
        for _ in range(generator.choice([1, 10, 1000])):
            content[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(content[: generator.choice([len(content), generator.randrange(len(content))])])


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("block", slow_except(range(BLOCKS), [0]))
def test_every_damaged_table_gives_a_score_or_one_line(block, score_predictions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    statuses = {0: 0, 1: 0}
    for number in range(CASES // BLOCKS):
        generator = random.Random(f"{block}/{number}")
        frame = valid(generator)
        for _ in range(generator.choice([0, 0, 1, 1, 2, 3])):
            if len(frame) and len(frame.columns):
                frame = change_table(frame, generator)
        as_parquet = generator.random() < 0.3
        path = tmp_path / f"{number}{'.parquet' if as_parquet else '.csv'}"
        (write_parquet if as_parquet else write_csv)(frame, path, generator)
        labels = generator.choice([None] * 15 + LABEL_SETS)
        arguments = [str(path), "--out", "scores.json", "--values", "values.csv"]
        (tmp_path / "scores.json").unlink(missing_ok=True)
        before, start = tree(tmp_path), time.perf_counter()
        status = score_predictions.main(arguments if labels is None else [*arguments, f"--labels={labels}"])
        assert time.perf_counter() - start < LONGEST_S, number
        printed, error = capsys.readouterr()
        statuses[status] += 1
        assert "\x1b" not in printed + error, number
        if status == 1:
            assert error.startswith("error: "), number
            assert error.count("\n") == 1, number
            assert str(path) in error or "--labels" in error, number
            assert tree(tmp_path) == before, number
            continue
        scores = json.loads((tmp_path / "scores.json").read_text())
        assert scores["n"] == scores["n_scored"] + scores["n_unparsed"] + scores["n_unscored"], number
        assert 0 <= scores["uar"]["value"] <= 1, number
        assert scores["uar"]["low"] is None or scores["uar"]["low"] < scores["uar"]["high"], number
        assert tree(tmp_path) - before <= {tmp_path / "scores.json", tmp_path / "values.csv"}, number
    assert min(statuses.values()) >= 5  # both ends occur
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MOST_MEMORY
