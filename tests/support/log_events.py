"""The log events of the code, and their page, docs/logging.md.

The events are read from the source: every call of a level on a module's logger. The page has one table of events a
package, and one of fields. `python -m tests.support.log_events --write` renews the columns that follow from the
code, and keeps those that a person has written, by the name of the event. A renamed event inherits the text of the
one that it most resembles; the program prints these, so that a person checks them, and every row without a text.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("mesh", "agent", "controller", "compose_ext")
PAGE = PROJECT / "docs" / "logging.md"
BEGIN, END = "<!-- from the code: begin -->", "<!-- from the code: end -->"
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
_ALIKE = 0.35
"""Of 1: the least likeness at which a new event inherits the text of one that is gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """An event of one package: its levels, fields and modules, from all calls that log it."""

    package: str
    name: str
    levels: frozenset[str]
    fields: frozenset[str]
    modules: frozenset[str]

    def merged(self, other: Self) -> Self:
        """The same event, logged in two places."""
        return dataclasses.replace(
            self,
            levels=self.levels | other.levels,
            fields=self.fields | other.fields,
            modules=self.modules | other.modules,
        )

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of its row that follow from the code."""
        return (
            f"`{self.name}`",
            ", ".join(sorted(self.levels)),
            ", ".join(f"`{name}`" for name in sorted(self.fields)),
            ", ".join(f"`{module}`" for module in sorted(self.modules)),
        )


def modules() -> Iterator[tuple[str, Path]]:
    """Each module of the packages, with its package's name."""
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            yield package, path


@functools.cache
def events() -> tuple[dict[tuple[str, str], Event], list[str]]:
    """All events by package and name; and the calls whose event or fields cannot be read from the source."""
    found: dict[tuple[str, str], Event] = {}
    unreadable: list[str] = []
    for package, path in modules():
        module = str(path.relative_to(PROJECT / package))
        tree = ast.parse(path.read_text())
        for call, level, around in _calls(tree, _loggers(tree)):
            names = _constants(call.args[0]) if call.args else None
            fields = _fields(call, around)
            if names is None or fields is None:
                unreadable.append(f"{path.relative_to(PROJECT)}:{call.lineno}")
                continue
            for name in names:
                event = Event(package, name, frozenset({level}), frozenset(fields), frozenset({module}))
                known = found.get((package, name))
                found[package, name] = known.merged(event) if known else event
    return found, unreadable


def _loggers(tree: ast.Module) -> frozenset[str]:
    """The names that `structlog.get_logger()` or a `bind()` is assigned to."""
    made = (node for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call))
    return frozenset(
        ast.unparse(target)
        for node in made
        for target in node.targets
        if ast.unparse(node.value).startswith(("structlog.get_logger(", "log.bind("))
    )


def _calls(tree: ast.Module, loggers: frozenset[str]) -> Iterator[tuple[ast.Call, str, ast.AST]]:
    """Each call of a level on a logger, with the level and the innermost function around it."""
    pending: list[tuple[ast.AST, ast.AST]] = [(tree, tree)]
    while pending:
        node, around = pending.pop()
        inner = node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else around
        pending += [(child, inner) for child in ast.iter_child_nodes(node)]
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in LEVELS:
            continue
        if ast.unparse(node.func.value).split(".bind(")[0] in loggers:
            yield node, LEVELS[node.func.attr], around


def _constants(node: ast.expr) -> tuple[str, ...] | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if isinstance(node, ast.IfExp):
        one, other = _constants(node.body), _constants(node.orelse)
        return None if one is None or other is None else one + other
    return None


def _fields(call: ast.Call, around: ast.AST) -> set[str] | None:
    """The fields that a call gives, those of a `**mapping` and of a `bind()` in the same function too."""
    fields = {keyword.arg for keyword in call.keywords if keyword.arg}
    for keyword in (keyword for keyword in call.keywords if keyword.arg is None):
        keys = _keys(keyword.value, around)
        if keys is None:
            return None
        fields |= keys
    assert isinstance(call.func, ast.Attribute)
    logger = call.func.value
    assigned = [
        node.value
        for node in ast.walk(around)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == ast.unparse(logger)
    ]
    for bound in [logger, *assigned]:
        if isinstance(bound, ast.Call) and ast.unparse(bound.func).endswith(".bind"):
            fields |= {keyword.arg for keyword in bound.keywords if keyword.arg}
    return fields - {"exc_info"}


def _keys(node: ast.expr, around: ast.AST) -> set[str] | None:
    """The constant keys of a mapping: a literal, or a name that the function gives one."""
    if isinstance(node, ast.Dict):
        keys = {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
        return keys if len(keys) == len(node.keys) else None
    if isinstance(node, ast.Name):
        for other in ast.walk(around):
            if isinstance(other, ast.Assign) and ast.unparse(other.targets[0]) == node.id:
                return _keys(other.value, around)
    return None


def tables(page: str) -> tuple[dict[tuple[str, str], list[str]], dict[str, list[str]]]:
    """The rows that the page has: of events by package and name, and of fields by name; all cells of each."""
    of_events: dict[tuple[str, str], list[str]] = {}
    of_fields: dict[str, list[str]] = {}
    section = ""
    for line in page.partition(BEGIN)[2].partition(END)[0].splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").replace(r"\|", "\0").split("|")]
            cells = [cell.replace("\0", r"\|") for cell in cells]
            if section == "Fields":
                of_fields[cells[0].strip("`")] = cells
            else:
                of_events[section, cells[0].strip("`")] = cells
    return of_events, of_fields


def rendered(page: str) -> tuple[str, list[str]]:
    """The page with its tables as the code has them; and remarks on texts that are inherited, dropped or missing."""
    current, _ = events()
    of_events, of_fields = tables(page)
    texts = {key: cells[-2:] for key, cells in of_events.items()}
    remarks = _inherit(current, of_events, texts)
    lines: list[str] = []
    for package in PACKAGES:
        rows = sorted((event for event in current.values() if event.package == package), key=lambda event: event.name)
        if not rows:
            continue
        lines += ["", f"## {package}", "", "| event | level | fields | module | when | what to do |"]
        lines.append("| --- | --- | --- | --- | --- | --- |")
        for event in rows:
            text = texts.get((package, event.name), ["", ""])
            lines.append(_line(*event.row, *text))
            if not text[0]:
                remarks.append(f"no text: {package}: {event.name!r} ({', '.join(sorted(event.modules))})")
    lines += ["", "## Fields", "", "| field | is |", "| --- | --- |"]
    for name in sorted({name for event in current.values() for name in event.fields}):
        text = of_fields.get(name, ["", ""])[-1:]
        lines.append(_line(f"`{name}`", *text))
        if not text[0]:
            remarks.append(f"no text: field {name!r}")
    head, tail = page.partition(BEGIN)[0], page.partition(END)[2]
    return "\n".join([head + BEGIN, *lines, "", END + tail]), remarks


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _inherit(
    current: dict[tuple[str, str], Event],
    of_events: dict[tuple[str, str], list[str]],
    texts: dict[tuple[str, str], list[str]],
) -> list[str]:
    """Give events that are new the texts of the most similar ones that are gone, best first."""
    gone = {key: cells for key, cells in of_events.items() if key not in current and cells[-2]}
    new = {key: event for key, event in current.items() if key not in of_events}
    pairs = sorted(
        (
            (_likeness(event, of_events[old]), key, old)
            for key, event in new.items()
            for old in gone
            if old[0] == key[0]
        ),
        reverse=True,
    )
    remarks: list[str] = []
    for likeness, key, old in pairs:
        if likeness >= _ALIKE and key in new and old in gone:
            texts[key] = gone.pop(old)[-2:]
            del new[key]
            remarks.append(f"inherited ({likeness:.2f}): {key[0]}: {key[1]!r} from {old[1]!r}")
    return remarks + [f"dropped: {old[0]}: {old[1]!r}: {cells[-2]} / {cells[-1]}" for old, cells in gone.items()]


def _likeness(event: Event, cells: list[str]) -> float:
    """Between 0 and 1, by module, level, fields and words."""
    name, levels, fields, where = event.row
    same_fields = set(fields.split(", ")) ^ set(cells[2].split(", "))
    all_fields = set(fields.split(", ")) | set(cells[2].split(", "))
    return (
        0.3 * (where.rpartition("/")[2] == cells[3].rpartition("/")[2])
        + 0.1 * (levels == cells[1])
        + 0.3 * (1 - len(same_fields) / len(all_fields))
        + 0.3 * difflib.SequenceMatcher(None, name, cells[0]).ratio()
    )


def main() -> None:
    """Renew the page, or say how it differs from the code."""
    parser = argparse.ArgumentParser(description="Compare docs/logging.md with the log events of the code.")
    parser.add_argument("--write", action="store_true", help="renew the page's tables")
    write = parser.parse_args().write
    page = PAGE.read_text()
    text, remarks = rendered(page)
    print(*remarks, *events()[1], sep="\n")
    if write:
        PAGE.write_text(text)
    elif text != page:
        sys.exit("docs/logging.md is not what the code has: --write renews it")


if __name__ == "__main__":
    main()
