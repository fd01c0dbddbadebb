"""Arguments of several commands: compose files, and the name of a stack."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from compose_ext.completion import ANY_FILE, COMPOSE_FILE
from compose_ext.diagnostics import UsageError
from mesh.model.labels.link_labels import check_service_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compose_ext.language.compose_files import Named


def compose_files(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `-c` and `--env-file` to a command."""
    files = click.option(
        "-c",
        "--compose-file",
        metavar="FILE",
        multiple=True,
        type=COMPOSE_FILE,
        help='Path to a compose file, or "-" for standard input; may be given several times',
    )
    variables = click.option(
        "--env-file",
        metavar="FILE",
        multiple=True,
        type=ANY_FILE,
        help="Read variables from it, as docker compose does; may be given several times",
    )
    return files(variables(function))


def named_files(paths: Sequence[str], env_files: Sequence[str]) -> Named:
    """Return the files of a command line; where it names none those of COMPOSE_FILE, as docker compose does.

    Raises:
        UsageError: no file is named, or standard input twice.
    """
    # Half of a start: a command that takes the name of a stack alone does not read files.
    from compose_ext.language.compose_files import Named, from_environment, split  # noqa: PLC0415

    found = [] if paths else from_environment()
    if found:
        print(f"linkwire: no -c: taking COMPOSE_FILE, {' '.join(found)}", file=sys.stderr)
    return Named(tuple(found or split(paths)), tuple(env_files))


def stack_name(name: str) -> str:
    """Check a stack's name: it begins the names of its services.

    Raises:
        UsageError: Swarm would refuse it.
    """
    try:
        check_service_name(name)
    except ValueError as error:
        raise UsageError(f"{name!r} cannot name a stack: {error}") from None
    return name
