"""Harmful run folders, given to the commands that read them: each ends well or with one line."""

import importlib.util
import json
import random
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fabricated import LABELS
from mutations import changed_bytes, changed_json, other_kind_of_file, survives, tree
from shared_run import write_run

from lalm_mer import cli
from lalm_mer.core.command import command_parser, run_command
from lalm_mer.core.config import build_config, to_dict
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.run_record import Balance, Counts, read_record
from lalm_mer.evaluation.runs import read_run
from lalm_mer.launch.config.settings import FinetuneSettings
from lalm_mer.launch.run.run_folder import is_finished, open_run
from lalm_mer.models.digest import base_digest
from lalm_mer.sharing.hub_folder import complete_adapter

ROOT = Path(__file__).resolve().parents[3]
READ_BY_ALL = ("run.json",) * 5
OF_COMPARISON = ("metrics.json", "history.jsonl", "predictions.parquet")
OF_ADAPTER = (
    "adapter/adapter_model.safetensors", "adapter/labels.json", "adapter/labels.json", "adapter/prompt.yaml",
)  # fmt: skip
OF_PUSH = ("../my_prompt.yaml", "../speaker_folds.yaml")
FILES = {
    "read": (*READ_BY_ALL, *OF_COMPARISON * 2),
    "resume": READ_BY_ALL,
    "push": (*READ_BY_ALL, *OF_COMPARISON, *OF_PUSH * 2),
    "predict": (*READ_BY_ALL, *OF_ADAPTER),
    "predict_adapter": ("run.json", *OF_ADAPTER),
    "merge": (*READ_BY_ALL, *OF_ADAPTER),
}  # fmt: skip
"""Command -> the files that it reads."""
CASES = {"read": 80, "resume": 60, "push": 25, "predict": 25, "predict_adapter": 15, "merge": 10}


def script(name):
    """The ``main`` of a script."""
    specification = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """A finished run with all optional parts of its record, its prompt and protocol beside it, and a recording."""
    home = tmp_path_factory.mktemp("whole")
    base = tiny_folder("qwen2_audio")
    run = write_run(home / "run", base)
    content = json.loads((run / "run.json").read_text())
    counts = Counts(96, dict.fromkeys(LABELS, 24), {label: {"s1": 24} for label in LABELS})
    record = read_record(run / "run.json")
    note = Note(NoteCode.FOLD_SIZE, "train", 3, facts={"fold": 1, "expected": 4})
    content |= {
        "balance": json.loads(json.dumps(Balance(counts, counts), default=vars)),
        "class_weights": dict.fromkeys(LABELS, 0.5),
        "notes": json.loads(json.dumps([vars(item) for item in (*record.notes, note)])),
        "hashes": content["hashes"] | {"base_model": base_digest(str(base), None)},
        "config": to_dict(build_config(FinetuneSettings, content["config"], "run.json")),
    }
    (run / "run.json").write_text(json.dumps(content))
    complete_adapter(run)
    soundfile.write(home / "a.wav", np.zeros(8000, dtype=np.float32), 16_000)
    return home


def copy_of(whole, folder, generator, files):
    """The run with one harmful file."""
    shutil.copytree(whole, folder)
    run = folder / "run"
    content = (run / "run.json").read_text().replace(str(whole), str(folder))
    (run / "run.json").write_text(content)
    file = run / generator.choice(files)
    if generator.random() < 0.06:
        other_kind_of_file(file, generator)
    elif file.suffix == ".json":
        file.write_bytes(changed_json(file.read_bytes(), generator))
    elif file.suffix == ".jsonl":
        lines = file.read_bytes().splitlines()
        place = generator.randrange(len(lines))
        lines[place] = changed_json(lines[place], generator)
        file.write_bytes(b"\n".join(lines))
    else:
        file.write_bytes(changed_bytes(file.read_bytes(), generator))
    return run


def reads(run):
    """As eval/compare.py reads each run."""
    return run_command(lambda _: read_run(run) and None, command_parser("").parse_args([]))


def resumes(run, record, settings):
    """As a recipe finds the folder that its output.dir names."""

    def resume(_):
        is_finished(run, settings, record.hashes)
        open_run(run, record, FinetuneSettings, writes=True)

    return run_command(resume, command_parser("").parse_args([]))


@pytest.fixture(scope="module")
def commands(whole):
    """Name -> the command on a run, which may write into a folder."""
    push, merge = script("recipes/push_adapter.py"), script("recipes/merge_adapter.py")
    recording = str(whole / "a.wav")
    record = read_record(whole / "run" / "run.json")
    settings = build_config(FinetuneSettings, record.config, "run.json")
    pushed = ["--repo", "jane/adapter", "--push-vocabulary", "--dry-run"]
    on_cpu = ["--device", "cpu", "--transcript", "kids"]

    def predict(run, out):
        return cli.main(["predict", recording, "--run", str(run), "--out", f"{out}.csv", *on_cpu])

    return {
        "read": lambda run, out: reads(run),
        "resume": lambda run, out: resumes(run, record, settings),
        "push": lambda run, out: push([str(run), *pushed, "--out", str(out)]),
        "predict": predict,
        "predict_adapter": lambda run, out: predict(run / "adapter", out),
        "merge": lambda run, out: merge([str(run), "--out", str(out)]),
    }


def test_there_are_enough_cases():
    assert sum(CASES.values()) > 200


@pytest.mark.parametrize("command", CASES)
def test_the_whole_run_is_accepted(whole, commands, tmp_path, capsys, command):
    shutil.copytree(whole, tmp_path / "copy")
    assert survives(lambda: commands[command](tmp_path / "copy" / "run", tmp_path / "out"), capsys, longest_s=30) == 0


@pytest.mark.parametrize("command", CASES)
def test_a_harmful_run_ends_well_or_with_one_line(whole, commands, tmp_path, capsys, command):
    memory, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(CASES[command]):
        generator, place = random.Random(f"{command} {number}"), tmp_path / str(number)
        run = copy_of(whole, place / "home", generator, FILES[command])
        before, outside = tree(place), tree(whole)
        refused += survives(lambda run=run, place=place: commands[command](run, place / "out"), capsys)
        written = {name for name, state in tree(place).items() if before.get(name, "new") != state}
        allowed = ("out", "home/run/run.json") if command == "resume" else ("out",)
        assert all(name.startswith(allowed) or name == "home/run" for name in written), number
        assert tree(whole) == outside
        shutil.rmtree(place)
    assert refused > CASES[command] // 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # KiB


def test_a_harmful_run_is_compared_or_refused(whole, tmp_path, capsys):
    compare, accepted, number = script("eval/compare.py"), 0, 0
    while accepted < 2:
        number += 1
        generator = random.Random(f"compare {number}")
        run = copy_of(whole, tmp_path / f"{number}", generator, ("run.json", "metrics.json", "history.jsonl"))
        before = tree(run)
        accepted += survives(lambda run=run: compare([str(run), "--out", str(tmp_path / "out")]), capsys) == 0
        assert tree(run) == before
    assert number > 2
