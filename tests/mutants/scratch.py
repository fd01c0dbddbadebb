"""A copy of the project to take defences away in, one at a time."""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.mutants.mutant import PROJECT, Mutant

FOLDERS = ("mesh", "controller", "agent", "compose_ext", "tests", "deploy", "docs", "requirements")
FILES = ("pyproject.toml", "CHANGELOG.md", "README.md", "CONTRIBUTING.md", "Makefile")
TIMEOUT_S = 300.0
"""Of one mutant's tests."""
EACH_S = 20.0
"""For each test, where very many are run together."""
_PASSED, _FAILED = 0, 1
"""Exit codes of pytest; every other one says that it did not get so far as to run the tests."""

Outcome = Literal["noticed", "not noticed", "broken"]


@dataclass(frozen=True, slots=True)
class Result:
    """One mutant's end: `broken` if no test could say anything."""

    mutant: Mutant
    outcome: Outcome
    seconds: float
    output: str


class Scratch:
    """The copy, in which one mutant at a time is tried."""

    def __init__(self, folder: Path) -> None:
        """Copy the project into an empty folder."""
        self._folder = folder
        for name in FOLDERS:
            if (PROJECT / name).is_dir():
                shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            shutil.copy2(PROJECT / name, folder / name)
        self._compile()

    def _compile(self) -> None:
        """Compile all once, not in each mutant's process; by hashes, so that a mutant's source counts as changed."""
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        for name in FOLDERS:
            compileall.compile_dir(self._folder / name, quiet=2, invalidation_mode=mode)

    def passes(self, tests: Sequence[str]) -> tuple[bool, str]:
        """Run tests with all defences on; without this, a test that always fails would notice every mutant."""
        code, output = self._pytest(tests, PYTHONDONTWRITEBYTECODE="")  # pytest keeps its own of the tests
        return code == _PASSED, output

    def tried(self, mutant: Mutant) -> Result:
        """Take one defence away, run its tests, and put it back. Raises MutantError."""
        path = self._folder / mutant.file
        source = path.read_text()
        path.write_text(mutant.applied(source))
        began = time.monotonic()
        try:
            code, output = self._pytest(["--exitfirst", *mutant.tests])
        finally:
            path.write_text(source)
        outcomes: dict[int, Outcome] = {_PASSED: "not noticed", _FAILED: "noticed"}
        outcome = outcomes.get(code, "broken")
        if outcome == "noticed" and " failed" not in output:  # an error of a fixture is no test that noticed
            outcome = "broken"
        return Result(mutant, outcome, time.monotonic() - began, output)

    def _pytest(self, arguments: Sequence[str], **more: str) -> tuple[int, str]:
        # No bytecode of a mutant is kept: a file of the same length and second would count as unchanged.
        environment = {
            **os.environ,
            "PYTHONPATH": str(self._folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LINKWIRE_ONE_TRY": "1",
            **more,
        }
        for name in [name for name in environment if name.startswith("PYTEST_")]:
            del environment[name]  # of the run that this one is a part of
        options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=unshrunk")
        command, timeout = (
            [sys.executable, "-m", "pytest", *options, *arguments],
            max(TIMEOUT_S, EACH_S * len(arguments)),
        )
        try:
            done = subprocess.run(
                command,
                cwd=self._folder,
                env=environment,
                check=False,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return -1, f"no end within {timeout:.0f} s"
        return done.returncode, done.stdout


@contextmanager
def scratch() -> Iterator[Scratch]:
    """Make a copy, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="linkwire-mutants-") as folder:
        yield Scratch(Path(folder))
