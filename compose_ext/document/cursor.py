"""A value of a compose file with its place and path, so that every misreading is reported. No I/O here."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from compose_ext.diagnostics import Place, Problem, Report
from compose_ext.document import tree
from compose_ext.document.interpolate import interpolate, unset
from compose_ext.document.tree import Entry, Scalar, Tree

_LISTED = re.compile(r"[\w.:*/-]{1,63}")
"""A name or a port, which can be shown again as an entry of a list."""
_BOOLEANS = ("true", "false", "yes", "no", "on", "off")


@dataclass(frozen=True, slots=True)
class Context:
    """The report and the variables that reading needs besides the values."""

    report: Report
    environment: Mapping[str, str]
    unset_hint: str = ""
    """Hint to append where a variable is not set."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A value, its file, and the way of keys that leads to it."""

    context: Context
    file: str
    tree: Tree
    service: str | None = None
    path: tuple[str, ...] = ()
    key: Scalar | None = None
    """The key it stands behind; None in a list and at the top."""

    @property
    def place(self) -> Place:
        """Where the value stands."""
        return Place(self.file, self.tree.line, self.tree.column)

    @property
    def key_place(self) -> Place:
        """Where its key stands, or itself if it has none."""
        return Place(self.file, self.key.line, self.key.column) if self.key else self.place

    @property
    def is_null(self) -> bool:
        """Whether nothing is written behind the key."""
        return isinstance(self.tree, tree.Scalar) and self.tree.is_null

    def of_service(self, name: str) -> Self:
        """Return the same value as that of a service: the way begins there."""
        return replace(self, service=name, path=())

    def error(self, message: str, place: Place | None = None) -> None:
        """Report what is wrong with this value, and which of its variables are not set."""
        unset_variables = self._unset()
        if unset_variables:
            self.context.report.drop(self._problem(unset_variables, None, warning=True))
            message = f"{message}; {unset_variables}"
        self._add(message, place, warning=False)

    def warn(self, message: str, place: Place | None = None) -> None:
        """Report what the user should know of this value."""
        self._add(message, place, warning=True)

    def children(self) -> Iterator[tuple[str, Self]]:
        """Go through a mapping's entries; anything else has none."""
        if isinstance(self.tree, tree.Mapping):
            for name, entry in self.tree.entries.items():
                yield name, self._behind(name, entry)

    def get(self, key: str) -> Self | None:
        """Return the value behind a key; None if there is no such key or this is no mapping."""
        entry = self.tree.entries.get(key) if isinstance(self.tree, tree.Mapping) else None
        return self._behind(key, entry) if entry else None

    def entries(
        self, known: Collection[str] | None = None, hints: Mapping[str, str] | None = None, instead: str = ""
    ) -> Iterator[tuple[str, Self]]:
        """Go through a mapping; report another kind of value, and keys that are not known.

        Args:
            known: the keys there may be; None: any.
            hints: what to say of certain unknown keys instead of a suggestion.
            instead: of another kind of value, what to write in its place.
        """
        if not isinstance(self.tree, tree.Mapping):
            self.error(f"must be a mapping, not {tree.kind(self.tree)}{': ' if instead else ''}{instead}")
            return
        for name, entry in self.tree.entries.items():
            if known is None or name in known:
                yield name, self._behind(name, entry)
            else:
                more = f": {hints[name]}" if hints and name in hints else self.context.report.suggestion(name, known)
                self.error(f"unknown key {name!r}{more}", self._behind(name, entry).key_place)

    def items(self) -> Iterator[Self]:
        """Go through a list; report another kind of value."""
        if not isinstance(self.tree, tree.Sequence):
            self.error(f"must be a list, not {tree.kind(self.tree)}{self._listed()}")
            return
        for item in self.tree.items:
            yield replace(self, tree=item, key=None)

    def text(self) -> str | None:
        """Return a single value with its variables replaced; report anything else."""
        if not isinstance(self.tree, tree.Scalar) or self.tree.is_null:
            self.error(f"must be a single value, not {tree.kind(self.tree)}")
            return None
        try:
            text = interpolate(self.tree.text, self.context.environment)
        except ValueError as error:
            self.error(f"{self.tree.text!r}: {error}")
            return None
        unset_variables = self._unset()
        if unset_variables:
            self.warn(unset_variables)
        return text

    def _behind(self, name: str, entry: Entry) -> Self:
        return replace(self, tree=entry.value, path=(*self.path, name), key=entry.key)

    def _listed(self) -> str:
        """Say how a single value is written as a list of one, if it is short."""
        if not isinstance(self.tree, tree.Scalar) or self.tree.is_null or not _LISTED.fullmatch(self.tree.text):
            return ""
        return f': write ["{self.tree.text}"]' if self.tree.text.lower() not in _BOOLEANS else ""

    def _unset(self) -> str:
        """Say which variables of a single value are not set, if there are any."""
        if not isinstance(self.tree, tree.Scalar):
            return ""
        names = unset(self.tree.text, self.context.environment)
        if not names:
            return ""
        are = "is" if len(names) == 1 else "are"
        return f"{' and '.join(names)} {are} not set{self.context.unset_hint}"

    def _add(self, message: str, place: Place | None, *, warning: bool) -> None:
        self.context.report.add(self._problem(message, place, warning=warning))

    def _problem(self, message: str, place: Place | None, *, warning: bool) -> Problem:
        return Problem(
            message, place=place or self.place, service=self.service, key=".".join(self.path) or None, warning=warning
        )
