"""Preparation of real speech at one and at ten times its size, with and without interruption."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

REPO_ROOT = Path(__file__).resolve().parents[2]
MEASURED = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as done:
    assert not done.code
(own,) = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
# not ru_maxrss: that of a started process begins with what its parent held
print("peak_mib", max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024)
"""


def arguments(root, out_dir):
    return [
        "recipes/prepare_corpus.py", "--config", "recipes/corpora/manifest.yaml", f"corpus.root={root}",
        "corpus.manifest=rows.csv", f"output.dir={out_dir}",
    ]  # fmt: skip


def prepared(root, out_dir):
    return measured(arguments(root, out_dir))


def measured(recipe):
    """Seconds and the largest resident set of any of its processes, in MiB."""
    began = time.monotonic()
    command = [sys.executable, "-c", MEASURED, *recipe]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=True)
    return time.monotonic() - began, float(done.stdout.split()[-1])


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copies(source, root, times):
    """The clips of RAVDESS ``times`` over: new ids, and seeded noise so that no two files are alike."""
    root.mkdir()
    generator = np.random.default_rng(0)
    rows = ["path,speaker,label"]
    for path in sorted(source.glob("*/*.flac")):
        samples, rate = soundfile.read(path, dtype="float32")
        for number in range(times):
            noisy = samples + 0.001 * generator.standard_normal(len(samples)).astype("float32")
            name = f"{path.stem}_{number}.flac"
            soundfile.write(root / name, noisy, rate)
            rows.append(f"{name},{path.stem[-2:]},{path.stem[6:8]}")
    (root / "rows.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_ten_times_the_speech_takes_ten_times_as_long_and_no_more_memory(shared_data, tmp_path):
    copies(shared_data / "ravdess", tmp_path / "one", 1)
    copies(shared_data / "ravdess", tmp_path / "ten", 10)
    seconds, peak_mib = prepared(tmp_path / "one", tmp_path / "out1")
    ten_seconds, ten_peak_mib = prepared(tmp_path / "ten", tmp_path / "out10")
    assert json.loads((tmp_path / "out10/summary.json").read_text())["n_utterances"] == 14_400
    figures = f"1440: {seconds:.1f} s, {peak_mib:.0f} MiB; 14400: {ten_seconds:.1f} s, {ten_peak_mib:.0f} MiB"
    assert ten_seconds <= 11 * seconds, figures
    assert ten_peak_mib <= 1.1 * peak_mib, figures


@pytest.mark.slow
def test_a_killed_preparation_is_resumed_to_the_same_bytes_and_finds_added_files(shared_data, tmp_path):
    copies(shared_data / "ravdess", tmp_path / "root", 2)
    prepared(tmp_path / "root", tmp_path / "uninterrupted")
    for n_parts in (1, 7, 15):
        process = subprocess.Popen(
            [sys.executable, *arguments(tmp_path / "root", tmp_path / "out")], cwd=REPO_ROOT, start_new_session=True
        )
        while len(list((tmp_path / ".out.partial/utterances").glob("part-*.json"))) < n_parts:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out").exists()
    prepared(tmp_path / "root", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "uninterrupted")
    good = (tmp_path / "root/03-01-01-01-01-01-01_0.flac").read_bytes()
    (tmp_path / "root/new.flac").write_bytes(good)
    (tmp_path / "root/bad.flac").write_bytes(good[:3000])
    with (tmp_path / "root/rows.csv").open("a") as rows:
        rows.write("new.flac,01,01\nbad.flac,01,01\n")
    prepared(tmp_path / "root", tmp_path / "out")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["n_found"], summary["n_utterances"], summary["rejected"]) == (2882, 2881, {"truncated": 1})


@pytest.mark.slow
def test_real_speech_is_prepared_within_its_time_and_memory(shared_data, tmp_path):
    """RAVDESS as shipped: under 30 s on 2 cores and under 1 GiB, the limits of a laptop."""
    of_ravdess = [
        "recipes/prepare_corpus.py", "--config", "recipes/corpora/ravdess.yaml",
        f"corpus.root={shared_data / 'ravdess'}", f"output.dir={tmp_path / 'out'}",
    ]  # fmt: skip
    seconds, peak_mib = measured(of_ravdess)
    assert (seconds < 30, peak_mib < 1024) == (True, True), (seconds, peak_mib)
