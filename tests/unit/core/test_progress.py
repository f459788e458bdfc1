import sys

import pytest

from lalm_mer.core import progress as module
from lalm_mer.core.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when the test says so."""
    now = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def run(clock, seconds, **options):
    for _ in progress(range(3), desc="features", unit="utterances", total=3, **options):
        clock[0] += seconds


def test_a_log_has_a_line_from_time_to_time(clock, capsys):
    run(clock, module.LOG_INTERVAL_S + 1)
    written = capsys.readouterr().err
    assert "features:" in written
    assert "1/3" in written
    assert "2/3" in written
    assert "utterances" in written


def test_short_work_writes_nothing_into_a_log(clock, capsys):
    run(clock, 1.0)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_at_once(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(clock, 1.0)
    written = capsys.readouterr().err
    assert "0/3" in written
    assert "2/3" in written


def test_only_the_first_process_of_a_run_shows_its_progress(clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run(clock, 100.0)
    assert capsys.readouterr().err == ""
