"""Help texts in Docker's layout: usage, description, examples, commands, options."""

from collections.abc import Container, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compose_ext.diagnostics import UsageError

if TYPE_CHECKING:
    from compose_ext.pflag import Command

WIDTH = 120
"""Columns of a help text at most."""
_SHORT = len("-c, ")

_OF_COMPOSE = {
    "-f": ("-c", "a compose file is named with -c"),
    "--file": ("-c", "a compose file is named with -c"),
    "up": ("deploy", "a stack is deployed by `docker linkwire deploy -c FILE STACK`"),
    "ls": ("ps", "`docker linkwire ps` lists links, `docker stack ls` stacks"),
    "down": ("deploy", "a stack is removed by `docker stack rm STACK`"),
    "rm": ("deploy", "a stack is removed by `docker stack rm STACK`"),
}
"""A word of `docker compose` and `docker stack` -> what there must be here, and what to type instead."""


def of_compose(word: str, words: Container[str]) -> str:
    """Return what to type here for a word of `docker compose`, if it is one that is often typed.

    Args:
        word: that is unknown here.
        words: flags or commands that are known.
    """
    needed, told = _OF_COMPOSE.get(word, ("", ""))
    return f"; {told}" if needed and needed in words else ""


def write(formatter: click.HelpFormatter, command: "Command", ctx: click.Context) -> None:
    """Write a command's help text."""
    title, line, rest = cleandoc(command.help or "").partition("\n")
    text = click.wrap_text(f"{title.rstrip('.')}{line}{rest}", formatter.width, preserve_paragraphs=True)
    formatter.write(f"Usage:  {command.usage}\n\n{text}\n")
    if isinstance(command, click.Group):
        commands = [(name, summary(command, name, ctx)) for name in command.list_commands(ctx)]
        _section(formatter, "Commands", commands)
    if command.examples:
        formatter.write(f"\nExamples:\n{_indented(cleandoc(command.examples))}\n")
    records = [
        record for one in command.params if isinstance(one, click.Option) and (record := one.get_help_record(ctx))
    ]
    _section(formatter, "Options", [(_aligned(names), text) for names, text in records])
    if command.epilog:
        lines = [click.wrap_text(line, formatter.width) for line in cleandoc(command.epilog).splitlines()]
        formatter.write("\n" + "\n".join(lines) + "\n")


def summary(group: click.Group, name: str, ctx: click.Context) -> str:
    """Return a command in one line."""
    summaries: Mapping[str, str] | None = getattr(group, "summaries", None)
    if summaries is not None:
        return summaries[name]
    command = group.get_command(ctx, name)
    return cleandoc((command and command.help) or "").partition("\n")[0].rstrip(".")


def name_the_file(command: str, words: Sequence[str], *, stack: bool) -> None:
    """Explain `-c` to a user who names a compose file without it. Raises UsageError."""
    file = next((word for word in words if word.endswith((".yml", ".yaml", ".json")) or Path(word).is_file()), None)
    if file:
        end = " STACK" if stack else ""
        raise UsageError(f"a compose file is named with -c: docker linkwire {command} -c {file}{end}")


def _section(formatter: click.HelpFormatter, title: str, rows: Sequence[tuple[str, str]]) -> None:
    if rows:
        formatter.write(f"\n{title}:\n")
        formatter.indent()
        formatter.write_dl(rows, col_max=26)
        formatter.dedent()


def _aligned(names: str) -> str:
    """Put a long name under the long names of flags that have a short one, as Docker does."""
    return names if names[1] != "-" else " " * _SHORT + names


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
