"""A disk that cannot be written: one line that names the file, and the next try is not blocked."""

import contextlib
import resource

import pytest


@contextlib.contextmanager
def files_of_at_most(size):
    """As on a full disk, no file can grow beyond this size, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def line(capsys):
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    assert len(found) == 1
    return found[0]


FULL = "File too large; free some space, or write to another folder, and run the same command again"


@pytest.mark.parametrize(
    ("recipe", "size", "file"),
    [
        ("zero_shot", None, "predictions.parquet"),  # a little less than that file, whose size depends on the processor
        pytest.param("finetune", 600, "run.json", marks=pytest.mark.slow),
        pytest.param("finetune", 8_000, "checkpoints", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_line_and_the_same_command_resumes(
    workplace, prompted, tmp_path, capsys, recipe, size, file
):
    out, size = tmp_path / "run", size or (prompted / file).stat().st_size - 50
    command = [recipe, f"output.dir={out}", "model.tower_cache=never"]
    command += ["train.max_steps=2"] if recipe == "finetune" else []
    with files_of_at_most(size):
        assert workplace.again(*command) == 1
    assert line(capsys) == f"error: {out / file}: cannot be written: {FULL}"
    assert workplace.again(*command) == 0
    assert (out / "metrics.json").is_file()


def test_a_tower_cache_that_cannot_be_written_is_one_line(workplace, tmp_path, capsys):
    command = ["zero_shot", f"output.dir={tmp_path / 'run'}", f"model.cache_dir={tmp_path / 'cache'}"]
    with files_of_at_most(5_200):
        assert workplace.again(*command) == 1
    last = line(capsys)
    assert last.startswith(f"error: {tmp_path / 'cache'}/audio_tower-")
    assert last.endswith(f".arrow: cannot be written: {FULL}")
    assert workplace.again(*command) == 0
    assert (tmp_path / "run/metrics.json").is_file()


@pytest.mark.slow
def test_a_merge_that_cannot_be_written_leaves_nothing(workplace, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "model"
    assert workplace.again("finetune", f"output.dir={run}", "train.max_steps=2") == 0
    command = ["recipes/merge_adapter.py", str(run), "--out", str(out)]
    capsys.readouterr()
    with files_of_at_most(6_000):
        assert workplace.script(*command) == 1
    assert line(capsys) == f"error: {out}: cannot be written: {FULL}"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert workplace.script(*command) == 0


def test_a_folder_that_is_a_file_is_one_line(workplace, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert workplace.again("zero_shot", f"output.dir={tmp_path / 'file/run'}") == 1
    assert line(capsys).endswith("cannot be written: File exists; choose a path below a folder")
