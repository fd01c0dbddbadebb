"""Misplaced `x-wireguard` keys, and misspelt ones. No I/O here."""

from collections.abc import Iterator
from difflib import SequenceMatcher

from compose_ext.document import tree
from compose_ext.document.cursor import Cursor
from compose_ext.language.project import EXTENSION

SETTINGS = ("keys", "links", "expose", "strict", "gate", "allow", "accept", "from")
"""Keys of `x-wireguard`, at the top or in a service."""

_ALIKE = 0.85
_OURS = ("wireguard", "linkwire")
_SHORT = "x-wg"
_FREE = frozenset(
    {
        "annotations",
        "args",
        "driver_opts",
        "environment",
        "extra_hosts",
        "labels",
        "options",
        "storage_opt",
        "sysctls",
    }
)
"""Keys of compose whose values are mappings with keys of the user's own."""


def report_misplaced(root: Cursor) -> None:
    """Report every `x-wireguard` that is neither at the top nor in a service, and every near miss anywhere."""
    services = root.get("services")
    inside = {id(service.tree) for _, service in services.children()} if services else set()
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        cursor = waiting.pop()
        if id(cursor.tree) in seen:  # an alias leads here again
            continue
        seen.add(id(cursor.tree))
        if isinstance(cursor.tree, tree.Sequence):
            waiting += [item for item in cursor.items() if not isinstance(item.tree, tree.Scalar)]
            continue
        is_service = id(cursor.tree) in inside
        for key, value in cursor.children():
            if key[:1] in ("x", "X"):
                _judge(cursor, key, value, allowed=is_service or cursor is root)
            elif key not in _FREE and not isinstance(value.tree, tree.Scalar):
                waiting.append(value.of_service(key) if services and cursor.tree is services.tree else value)


def _judge(cursor: Cursor, key: str, value: Cursor, *, allowed: bool) -> None:
    if key == EXTENSION:
        if cursor.path == ("services",) and cursor.service is None:
            message = f"{EXTENSION} is no service: it stands at the top of the file, or in one of the services"
            cursor.error(message, value.key_place)
        elif not allowed and cursor.path != ("deploy",):  # that one has an error of its own
            cursor.error(f"{EXTENSION} stands at the top of the file or in a service, not here", value.key_place)
        return
    setting = key.lower().replace("_", "-").removeprefix(f"{EXTENSION}-")
    if setting in SETTINGS:
        cursor.error(f"unknown key {key!r}: write `{EXTENSION}: {{{setting}: ...}}`", value.key_place)
    elif _resembles(key):
        cursor.error(f"unknown key {key!r}; did you mean {EXTENSION!r}?", value.key_place)


def _resembles(key: str) -> bool:
    lowered = key.lower().replace("_", "-")
    if any(name in lowered for name in _OURS) or lowered == _SHORT or lowered.startswith(f"{_SHORT}-"):
        return True
    # No longer or shorter one is alike.
    if not len(EXTENSION) - 3 <= len(key) <= len(EXTENSION) + 3:
        return False
    return SequenceMatcher(None, lowered, EXTENSION).ratio() >= _ALIKE


def plain_links(roots: list[Cursor]) -> Iterator[tuple[Cursor, str]]:
    """Go through the services of files without `x-wireguard` that have links: each `links` key, with its service."""
    for root in roots:
        services = root.get("services")
        for name, service in services.children() if services else ():
            for key in ("links", "external_links"):
                value = service.of_service(name).get(key)
                if value and isinstance(value.tree, tree.Sequence) and value.tree.items:
                    yield value, name
