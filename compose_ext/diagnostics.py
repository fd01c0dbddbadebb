"""Diagnostics: problems in a user's files, each with its place, and the errors of a run."""

from collections.abc import Collection
from dataclasses import dataclass, field

from mesh.model.labels.link_labels import suggestion

_NAMED = 8
"""Names that are listed in place of one that does not exist."""
_SUGGESTED = 100
_CANDIDATES = 2000


INCOMPLETE = 3
"""Exit code: it was done, and something is left to do or to come, which the last lines name."""


class UsageError(Exception):
    """The command line cannot be understood; the text is for the user."""


class AbsentError(UsageError):
    """The command line names something that the Swarm does not have; nothing was done. The text is for the user."""


class DockerError(Exception):
    """Docker, or the agent asked through it, gave no good answer; the text is for the user.

    Attributes:
        output: what docker wrote on standard output before it failed, which is no text for the user by itself.
    """

    def __init__(self, text: str = "", output: str = "") -> None:
        super().__init__(text)
        self.output = output


class UnknownNameError(DockerError):
    """Nothing linked has a name, and a worker's Docker knows of nothing else; the text is for the user."""


class BadFilesError(Exception):
    """The files have errors, which have been printed."""


def absent(kind: str, name: str, names: Collection[str]) -> AbsentError:
    """Say that the Swarm does not have what was named, and what may have been meant.

    Args:
        kind: of thing, such as `node`.
        name: as it was given.
        names: those that there are, which are listed where none is near, if they are few.
    """
    listed = f"; there are: {', '.join(sorted(names))}" if 0 < len(names) <= _NAMED else ""
    return AbsentError(f"this Swarm has no {kind} {name!r}{suggestion(name, names) or listed}")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A spot in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in the files, printed as `file:line:column: service 'web': links: message`."""

    message: str
    """A sentence in the user's words, with the value and, where there is one, a suggestion."""
    file: str | None = None
    place: Place | None = None
    service: str | None = None
    key: str | None = None
    """The path within the service, or within the file if there is no service: `x-wireguard.links.db.ports`."""
    warning: bool = False

    def as_record(self) -> dict[str, str | int | None]:
        """Return it for machines: file, line, column, service, key, message; None where it has none."""
        place = self.place
        return {
            "file": place.file if place else self.file,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "service": self.service,
            "key": self.key,
            "message": self.message,
        }

    def __str__(self) -> str:
        parts = [str(self.place) if self.place else self.file]
        parts += ["warning" if self.warning else None]
        parts += [f"service {self.service!r}" if self.service is not None else None, self.key, self.message]
        return ": ".join(part for part in parts if part)


@dataclass(slots=True)
class Report:
    """All problems of a run; reading continues after each, so that the user gets all of them at once."""

    files: list[str] = field(default_factory=list)
    """The files in the order of the command line, which is that of the problems."""
    _problems: dict[Problem, None] = field(default_factory=dict)

    def add(self, problem: Problem) -> None:
        """Add a problem; the same problem is reported once, however many aliases lead to it."""
        self._problems[problem] = None

    def drop(self, problem: Problem) -> None:
        """Remove a problem, for another that says more."""
        self._problems.pop(problem, None)

    def suggestion(self, word: str, known: Collection[str]) -> str:
        """Return `; did you mean 'db'?` if something is like it. After many problems it searches no more."""
        return suggestion(word, known) if len(self) < _SUGGESTED and len(known) < _CANDIDATES else ""

    @property
    def errors(self) -> list[Problem]:
        """Return the problems that stop a run."""
        return self._ordered(warning=False)

    @property
    def warnings(self) -> list[Problem]:
        """Return the problems that stop nothing."""
        return self._ordered(warning=True)

    def __len__(self) -> int:
        return len(self._problems)

    def _ordered(self, *, warning: bool) -> list[Problem]:
        order = {file: number for number, file in reversed(list(enumerate(self.files)))}

        def position(problem: Problem) -> tuple[int, int, int]:
            place = problem.place
            file = place.file if place else problem.file or ""
            return order.get(file, -1), place.line if place else 0, place.column if place else 0

        return sorted((problem for problem in self._problems if problem.warning == warning), key=position)
