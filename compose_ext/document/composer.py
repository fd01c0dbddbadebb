"""The tree of one YAML document, composed from parser events in bounded time. No I/O here.

PyYAML's own composer takes nine times as long on a 10 MB file, recurses as deep as the file nests, and checks neither
duplicate keys nor what aliases expand to.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

from compose_ext.document.tree import Entry, Mapping, Scalar, Sequence, Tree

MAX_DEPTH = 200
MAX_EXPANDED = 1_000_000
"""Values that aliases and merge keys may add to those which are written out."""
MAX_PROBLEMS = 100

_MERGE = "<<"
_YAML_VERSION = (1, 1)


class DocumentError(Exception):
    """The document cannot be read beyond this place (line and column count from 1)."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


class TooDeepError(DocumentError):
    """The document nests deeper than MAX_DEPTH."""


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been seen."""

    tree: Sequence | Mapping
    anchor: str | None
    size: int = 1
    """Values in it, with what its aliases stand for."""
    key: Scalar | None = None
    merged: list[Tree] = field(default_factory=list)
    before_merge: frozenset[str] = frozenset()
    """The keys that stand before `<<`."""


class Composer:
    """Composes one document; use one object per file."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, int, int]] = []
        """Messages with line and column, for what does not stop the reading."""
        self.warnings: list[tuple[str, int, int]] = []
        """The same, for what is as it should be in some docker programs only."""
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Tree, int] | _Open] = {}
        self._root: Tree | None = None
        self._expanded = 0

    def compose(self, events: Iterable[yaml.Event]) -> Tree:
        """Return the document's root.

        Raises:
            DocumentError: there is no document, or more than one, or it is built so that it cannot be used.
            yaml.YAMLError: from the events, if the text is not YAML.
        """
        events = iter(events)
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end()
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                _check_version(event)
                if self._root is not None:
                    _expect_nothing(events, event)
                    break
            elif isinstance(event, yaml.StreamEndEvent) and self._root is None:
                raise DocumentError("the file is empty", *_place(event))
        assert self._root is not None  # noqa: S101 - every stream ends with the event that checks it
        return self._root

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        tree = Scalar(*_place(event), event.value, not event.style)
        if event.anchor:
            self._anchors[event.anchor] = (tree, 1)
        self._put(tree, 1)

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        line, column = _place(event)
        if len(self._open) >= MAX_DEPTH:
            raise TooDeepError(f"nested more than {MAX_DEPTH} deep", line, column)
        tree: Sequence | Mapping
        tree = Mapping(line, column, {}) if isinstance(event, yaml.MappingStartEvent) else Sequence(line, column, [])
        begun = _Open(tree, event.anchor)
        if event.anchor:
            self._anchors[event.anchor] = begun
        self._open.append(begun)

    def _end(self) -> None:
        done = self._open.pop()
        if isinstance(done.tree, Mapping):
            for source in done.merged:
                self._warn_of_order(done, source)
                self._merge(done.tree, source)
        if done.anchor and self._anchors[done.anchor] is done:  # else a value within it took the name over
            self._anchors[done.anchor] = (done.tree, done.size)
        self._put(done.tree, done.size)

    def _alias(self, event: yaml.AliasEvent) -> None:
        line, column = _place(event)
        anchored = self._anchors.get(event.anchor or "")
        if anchored is None:
            raise DocumentError(f"no anchor &{event.anchor} stands before this alias", line, column)
        if isinstance(anchored, _Open):
            raise DocumentError(f"the alias *{event.anchor} stands within what it stands for", line, column)
        tree, size = anchored
        self._expand(size, line, column)
        self._put(tree, size)

    def _put(self, tree: Tree, size: int) -> None:
        """Give a finished value to what it stands in."""
        if not self._open:
            self._root = tree
            return
        above = self._open[-1]
        above.size += size
        if isinstance(above.tree, Sequence):
            above.tree.items.append(tree)
        elif above.key is None:
            if not isinstance(tree, Scalar):
                raise DocumentError("a key must be a single value, not a list or a mapping", tree.line, tree.column)
            above.key = tree
        else:
            self._enter(above, above.key, tree)
            above.key = None

    def _enter(self, above: _Open, key: Scalar, value: Tree) -> None:
        """Add a key to a mapping that is not finished."""
        assert isinstance(above.tree, Mapping)  # noqa: S101 - only mappings have keys
        entries = above.tree.entries
        if key.text == _MERGE and key.plain:
            if above.merged:
                self._problem("'<<' stands twice in this mapping: merge several as <<: [*a, *b]", key)
            above.merged = value.items if isinstance(value, Sequence) else [value]
            above.before_merge = frozenset(entries)
        elif key.text in entries:
            first = entries[key.text].key
            self._problem(f"{key.text!r} is here for the second time, first on line {first.line}", key)
        else:
            entries[key.text] = Entry(key, value)

    def _merge(self, into: Mapping, source: Tree) -> None:
        """Apply `<<`: what is written out wins, and what was merged first."""
        if not isinstance(source, Mapping):
            self._problem("'<<' takes a mapping, or a list of mappings", source)
            return
        # A second limit, since every use copies the keys.
        self._expand(len(source.entries), source.line, source.column)
        for name, entry in source.entries.items():
            into.entries.setdefault(name, entry)

    def _warn_of_order(self, into: _Open, source: Tree) -> None:
        """Warn of keys that Docker CLI 20.10 (yaml.v2) takes from a `<<` that stands after them."""
        both = into.before_merge & source.entries.keys() if isinstance(source, Mapping) else ()
        if both and isinstance(into.tree, Mapping) and len(self.warnings) < MAX_PROBLEMS:
            names = ", ".join(repr(name) for name in sorted(both))
            message = f"Docker CLI 20.10 takes {names} from '<<', newer ones what is written here: write '<<' first"
            first = min((into.tree.entries[name].key for name in both), key=lambda key: (key.line, key.column))
            self.warnings.append((message, first.line, first.column))

    def _expand(self, size: int, line: int, column: int) -> None:
        self._expanded += size
        if self._expanded > MAX_EXPANDED:
            message = f"the aliases up to here stand for more than {MAX_EXPANDED:,} values"
            raise DocumentError(message, line, column)

    def _problem(self, message: str, tree: Tree) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append((message, tree.line, tree.column))


def _check_version(event: yaml.DocumentStartEvent) -> None:
    if event.version and tuple(event.version) != _YAML_VERSION:
        written = ".".join(map(str, event.version))
        raise DocumentError(f"Docker reads YAML 1.1 alone: take the line '%YAML {written}' out", *_place(event))


def _expect_nothing(events: Iterable[yaml.Event], start: yaml.Event) -> None:
    """Read on to the end; Docker does not, so whatever else stands there would be lost without a word."""
    for event in events:
        empty = isinstance(event, yaml.ScalarEvent) and not event.value and not event.style
        if isinstance(event, yaml.NodeEvent) and not empty:
            message = "a second document begins here: Docker reads only the first; put it in a file of its own"
            raise DocumentError(message, *_place(start))
        if isinstance(event, yaml.DocumentStartEvent):
            start = event


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
