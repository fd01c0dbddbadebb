"""A mutant: one defence, the text that makes it up, and the tests that notice when it is gone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


class MutantError(Exception):
    """A mutant does not fit the code: its text has changed, or its test has another name."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defence to take away.

    Attributes:
        name: the defence, in words.
        file: of the product, relative to the project.
        old: text that stands in the file exactly once.
        new: text in its place, with which the program runs, and does without the defence.
        tests: ids of pytest; at least one of them must fail.
        quick: whether it is of the sample that `make test` tries: its tests take two seconds at most, and no rights.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    quick: bool = False

    def applied(self, source: str) -> str:
        """Return the file's text without the defence. Raises MutantError."""
        count = source.count(self.old)
        if count != 1:
            raise MutantError(
                f"{self.name}: {self.file} has its text {count} times, and must have it once: {self.old}"
            )
        text = source.replace(self.old, self.new)
        if text == source:
            raise MutantError(f"{self.name}: it changes nothing")
        if self.file.endswith(".py"):
            try:
                compile(text, self.file, "exec")
            except SyntaxError as error:
                raise MutantError(f"{self.name}: {self.file} is no program then: {error}") from None
        return text

    def check(self, project: Path = PROJECT) -> None:
        """Check that it applies, and that its tests are there. Raises MutantError."""
        path = project / self.file
        if not path.is_file():
            raise MutantError(f"{self.name}: there is no {self.file}")
        self.applied(path.read_text())
        for test in self.tests:
            file, _, name = test.partition("::")
            found = project / file
            if not found.is_file() or not re.search(
                rf"^def {name.partition('[')[0]}\(", found.read_text(), re.MULTILINE
            ):
                raise MutantError(f"{self.name}: there is no test {test}")
