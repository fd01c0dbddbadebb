"""Lines of Linkwire's logs, as Docker hands them on: read, chosen, put in order, written. Pure."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from compose_ext.terminal import line as one_line
from compose_ext.terminal import words

LEVELS = ("debug", "info", "warning", "error")
_RANKS = {**{name: rank for rank, name in enumerate(LEVELS)}, "warn": 2, "critical": 3, "fatal": 3, "panic": 3}
_DOCKERS = re.compile(r"(\S+) (\S+?)(?:@(\S+))?\s*\| ?(.*)", re.DOTALL)
_ID = re.compile(r"(?<![a-z0-9])[a-z0-9]{25}(?![a-z0-9])")
"""An id of Swarm's."""
_NOT_FIELDS = frozenset({"event", "msg", "level", "timestamp", "ts"})


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log."""

    at: float
    """Seconds since 1970, by the clock of its node."""
    node: str
    component: str
    """`controller`, `agent` or `etcd`."""
    task: str
    """Of the component, as Docker names it."""
    level: str
    event: str
    fields: Mapping[str, Any]
    text: str
    """As it was written."""

    @property
    def rank(self) -> int:
        """Return its level as a number; a level that is not known counts as info."""
        return _RANKS.get(self.level, 1)


def read(text: str, component: str) -> Line | None:
    """Read a line of `docker service logs --timestamps`; None for anything else."""
    found = _DOCKERS.fullmatch(text.rstrip("\r\n"))
    at = _moment(found[1]) if found else None
    if found is None or at is None:
        return None
    said: dict[str, Any] = {}
    try:
        loaded = json.loads(found[4])
        said = loaded if isinstance(loaded, dict) else {}
    except (ValueError, RecursionError):
        pass  # a traceback, or another program's own words
    event = one_line(str(said.get("event") or said.get("msg") or found[4]))
    fields = {one_line(name): value for name, value in said.items() if name not in _NOT_FIELDS}
    level = str(said.get("level") or "info").lower()
    return Line(at, one_line(found[3] or "?"), component, one_line(found[2]), level, event, fields, found[4])


def _moment(text: str) -> float | None:
    try:
        # Docker writes nanoseconds, which Python 3.11 cuts off by itself.
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def document(line: Line) -> str:
    """Write a line as a JSON document."""
    return json.dumps(
        {
            "time": datetime.fromtimestamp(line.at, UTC).isoformat(timespec="microseconds"),
            "node": line.node,
            "component": line.component,
            "task": line.task,
            "level": line.level,
            "event": line.event,
            "fields": dict(line.fields),
        }
    )


def text(line: Line) -> str:
    """Write a line for people, with the local time."""
    at = datetime.fromtimestamp(line.at, UTC).astimezone().isoformat(timespec="milliseconds")
    level = one_line(line.level)
    said = f"{at}  {line.node}  {line.component:<10}  {level:<7}  {line.event}  {words(line.fields)}"
    return said.rstrip()


@dataclass(slots=True)
class Subject:
    """A stack, service or task, and how lines name it.

    Attributes:
        name: as the user gave it.
        is_stack: whether the names of services begin with it.
        ids: Swarm's ids of its services and tasks; those of tasks that lines name are added.
    """

    name: str
    is_stack: bool = False
    ids: set[str] = field(default_factory=set)
    _pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        """Compile the pattern by which its name is found: `shop` is not in `workshop_db`."""
        end = r"(?:_[A-Za-z0-9_-]+)" if self.is_stack else ""
        self._pattern = re.compile(
            rf"(?<![A-Za-z0-9_.-]){re.escape(self.name)}{end}(?![A-Za-z0-9_-])(?:\.[A-Za-z0-9]+)?(?:\.([a-z0-9]{{25}}))?"
        )

    def is_in(self, text: str) -> bool:
        """Tell whether a line is about it."""
        named = False
        for found in self._pattern.finditer(text):
            named = True
            if found[1]:
                self.ids.add(found[1])
        return named or not self.ids.isdisjoint(_ID.findall(text))


@dataclass(frozen=True, slots=True)
class Choice:
    """The lines that are wanted."""

    subject: Subject | None = None
    level: str = LEVELS[0]

    @property
    def is_all(self) -> bool:
        """Whether no line is left out."""
        return self.subject is None and self.level == LEVELS[0]

    def takes(self, line: Line) -> bool:
        """Tell whether a line is wanted."""
        return line.rank >= _RANKS[self.level] and (self.subject is None or self.subject.is_in(line.text))


class Backlog:
    """The newest lines of a log that may be longer than anybody wants to hold.

    Args:
        most: lines.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: list[Line] = []
        self.dropped = 0

    def add(self, line: Line) -> None:
        """Add a line; older ones may be dropped."""
        self._lines.append(line)
        if len(self._lines) >= 2 * self._most:
            self._cut()

    def _cut(self) -> None:
        self._lines.sort(key=lambda line: line.at)
        surplus = max(0, len(self._lines) - self._most)
        self.dropped += surplus
        del self._lines[:surplus]

    def take(self) -> list[Line]:
        """Return its lines in the order of time, and hold none."""
        self._cut()
        lines, self._lines = self._lines, []
        return lines


def silent(expected: Iterable[str], heard: Collection[str]) -> list[str]:
    """Return the nodes whose lines should be there and are not."""
    return sorted(set(expected).difference(heard))
