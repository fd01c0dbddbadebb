"""The count of attacks: what is not shown to be stopped fails the run, whatever else passes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TRIED = """
def test_one(attempt):
    tried = attempt("a forged endpoint")
    tried.works({works})
    {stopped}
"""


def run(folder: Path, works: str, stopped: str, *options: str) -> tuple[int, str]:
    """A pytest run of its own."""
    test = folder / "test_tried.py"
    test.write_text(TRIED.format(works=works, stopped=stopped))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.support.attacks",
        "--rootdir",
        str(folder),
        *options,
    ]
    done = subprocess.run(
        [*command, "-c", "/dev/null", str(test)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return done.returncode, done.stdout


def test_an_attack_that_is_stopped_is_counted(tmp_path: Path) -> None:
    code, told = run(tmp_path, "True", "tried.stopped(True)")
    assert code == 0, told
    assert "attacks: 1 tried, 1 stopped; 1 shown to work with the defence off" in told
    assert "stopped; works with the defence off: a forged endpoint (test_tried.py::test_one)" in told


def test_a_workers_attacks_are_counted_by_who_reports(tmp_path: Path) -> None:
    workers = ("-p", "tests.support.gathered", "-n", "2")
    code, told = run(tmp_path, "True", "tried.stopped(True)", *workers)
    assert code == 0, told
    assert "attacks: 1 tried, 1 stopped; 1 shown to work with the defence off" in told
    code, told = run(tmp_path, "True", "pass", *workers)
    assert code == 1, told
    assert "NOT STOPPED" in told


@pytest.mark.parametrize(
    ("works", "stopped", "why"),
    [
        ("True", "tried.stopped(False)", "a forged endpoint: not stopped"),
        ("True", "pass", "tried, and not shown to be stopped: a forged endpoint"),
        ("False", "tried.stopped(True)", "it does nothing even where nothing stops it"),
    ],
)
def test_attack_not_shown_stopped_fails_the_run(tmp_path: Path, works: str, stopped: str, why: str) -> None:
    code, told = run(tmp_path, works, stopped)
    assert code == 1, told
    assert why in told
    assert "attacks: 1 tried, 0 stopped" in told
    assert "NOT STOPPED" in told
