"""The second try: who gets one, how it is told, and that it is no way around a test that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import again

PROJECT = Path(__file__).parents[2]
CONFTEST = """
from tests.support.again import SecondTries
from tests.support import gathered
def pytest_configure(config):
    config.pluginmanager.register(gathered)
    config.pluginmanager.register(SecondTries(config))
"""
PASSES_THE_SECOND_TIME = """
import pathlib, pytest
def tries(name):
    with open(pathlib.Path(__file__).parent / name, "a+") as file:
        file.write("x")
        file.seek(0)
        return len(file.read())
"""
IN_THE_TEST = PASSES_THE_SECOND_TIME + "def test_it():\n    assert tries('a') > 1, 'not yet'\n"
IN_ITS_FIXTURE = PASSES_THE_SECOND_TIME + (
    "@pytest.fixture\ndef it():\n    assert tries('a') > 1, 'not ready'\n    return 7\n"
    "def test_it(it):\n    assert it == 7\n"
)
NEVER = "def test_it():\n    assert False, 'as ever'\n"
MANY = PASSES_THE_SECOND_TIME + "".join(
    f"def test_{n}():\n    assert tries('{n}') > 1\n" for n in range(again.AT_MOST + 1)
)


def run(folder: Path, suite: str, text: str, *options: str, **environment: str) -> str:
    where = folder / "tests" / suite
    where.mkdir(parents=True)
    (where / "test_one.py").write_text(text)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        f"--rootdir={folder}",
    ]
    done = subprocess.run(
        [*argv, *options, str(where)],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT), **environment},
    )
    return done.stdout


@pytest.mark.parametrize(
    ("text", "when"), [(IN_THE_TEST, "call: AssertionError: not yet"), (IN_ITS_FIXTURE, "setup:")]
)
def test_passing_at_second_try_is_named(tmp_path: Path, text: str, when: str) -> None:
    said = run(tmp_path, "lab", text)
    assert "1 passed" in said
    assert "failed," not in said
    assert f"tried twice: 1 of at most {again.AT_MOST}" in said
    assert f"first failed at {when}" in said


def test_one_that_fails_twice_has_failed(tmp_path: Path) -> None:
    said = run(tmp_path, "lab", NEVER)
    assert "1 failed" in said
    assert "tried twice: 1" in said


def test_more_than_a_few_are_no_accident(tmp_path: Path) -> None:
    assert f"1 failed, {again.AT_MOST} passed" in run(tmp_path, "lab", MANY)


def test_all_workers_share_the_same_few_tries(tmp_path: Path) -> None:
    said = run(tmp_path, "lab", MANY, "-n", "2")
    assert f"1 failed, {again.AT_MOST} passed" in said
    assert f"tried twice: {again.AT_MOST} of at most {again.AT_MOST}" in said
    assert said.count("first failed at call:") == again.AT_MOST


def test_unit_tests_have_one_try(tmp_path: Path) -> None:
    said = run(tmp_path, "unit", IN_THE_TEST)
    assert "1 failed" in said
    assert "tried twice" not in said


def test_one_try_can_be_asked_for(tmp_path: Path) -> None:
    assert "1 failed" in run(tmp_path, "lab", IN_THE_TEST, LINKWIRE_ONE_TRY="1")
