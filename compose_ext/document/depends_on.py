"""The long form of `depends_on`, which Docker refuses in a stack, written as the short one. No I/O here."""

from collections.abc import Collection, Iterator

import yaml

# The one that the files were read with (compose_ext.loader): the one in Python refuses tabs that libyaml takes.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Spot = tuple[int, int]
"""Line and column of a mapping, counted from 1."""


def shortened(text: str, spots: Collection[Spot]) -> str:
    """Write mappings in a YAML text as lists of their keys; every other line keeps its number.

    Args:
        text: a YAML document that has been read without an error.
        spots: where the mappings begin.
    """
    for first, last, names in reversed(list(_found(text, set(spots)))):
        was = text[first:last]
        # A block ends where the next value begins: what stands before that on its line is its indentation.
        last_line = was.rpartition("\n")[2]
        after = "\n" * was.count("\n") + (last_line if not last_line.strip() else "")
        space = "" if text[:first].endswith((" ", "\n")) else " "
        text = f"{text[:first]}{space}[{', '.join(map(_quoted, names))}]{after}{text[last:]}"
    return text


def _found(text: str, spots: set[Spot]) -> Iterator[tuple[int, int, list[str]]]:
    """Where each mapping begins and ends, as offsets, and its keys."""
    keys: list[str] = []
    begun, depth, is_key = -1, 0, True
    for event in yaml.parse(text, Loader=_PARSER):
        assert event.start_mark  # noqa: S101 - every event has its marks
        assert event.end_mark  # noqa: S101 - likewise
        if begun < 0:
            place = event.start_mark.line + 1, event.start_mark.column + 1
            if isinstance(event, yaml.MappingStartEvent) and place in spots:
                begun, depth, is_key, keys = event.start_mark.index, 1, True, []
                begun += len(f"&{event.anchor}") if event.anchor else 0
            continue
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif depth == 1 and is_key and isinstance(event, yaml.ScalarEvent) and event.value != "<<":
            keys.append(event.value)
        if depth == 0:
            yield begun, event.end_mark.index, keys
            begun = -1
        elif depth == 1:
            is_key = not is_key


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
