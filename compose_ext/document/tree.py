"""A YAML document as a tree in which every value knows its line and column. No I/O here.

Scalars are kept as the text that was written: whether `on`, `0x10` or `3.10` is a text or a number differs between
YAML versions, and between Docker's own releases.
"""

from typing import NamedTuple

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


class Scalar(NamedTuple):
    """One value; `plain` means that it was written without quotes."""

    line: int
    column: int
    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        """Whether this is no value at all, as in `key:` with nothing behind."""
        return self.plain and self.text in _NULLS


class Sequence(NamedTuple):
    """A list."""

    line: int
    column: int
    items: "list[Tree]"


class Mapping(NamedTuple):
    """A mapping; merge keys (`<<`) are already resolved."""

    line: int
    column: int
    entries: "dict[str, Entry]"


Tree = Scalar | Sequence | Mapping


class Entry(NamedTuple):
    """One key of a mapping with its value."""

    key: Scalar
    value: Tree


def kind(tree: Tree) -> str:
    """Name the kind of a value in the user's words."""
    if isinstance(tree, Scalar):
        return "nothing" if tree.is_null else "a single value"
    return "a list" if isinstance(tree, Sequence) else "a mapping"
