"""Hands compose files, and what goes before and behind them, to the docker program.

The override goes first. Docker's merge of a service that stands in two files keeps one of several ports without a
published one, of several configs or secrets with one source, and of tcp and udp of one port (docker/cli#2407,
docker/cli#6223); but only where the first of the two files has some, and the override has none.

Docker takes paths in compose files from the folder of the first one. Standard input has none, so docker is run in the
folder of the user's first file.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from compose_ext.docker_cli import PWD, Docker, named_folder, private_files
from compose_ext.document.loader import STDIN, Source

_USERS_PWD = "LINKWIRE_PWD"  # noqa: S105 - no password
# $PWD and ${PWD...} in a compose file are the user's folder, also where docker needs another one in its PWD.
_PWD = re.compile(rb"(?<!\$)((?:\$\$)*\$\{?)PWD(?![A-Za-z0-9_])")


@dataclass(frozen=True, slots=True)
class Handover:
    """The docker program, its arguments and its standard input for one run."""

    arguments: tuple[str, ...]
    """One `--compose-file=...` for each file."""
    stdin: bytes | None
    docker: Docker
    """In the folder in which it has to run."""


@contextmanager
def handed(docker: Docker, sources: Sequence[Source], override: str, behind: str = "") -> Iterator[Handover]:
    """Prepare a run of docker with the files; what has to be copied for it is removed afterwards.

    Args:
        docker: the program.
        sources: the user's files, in their order.
        override: what goes before them; empty: nothing, and the files go as they were named.
        behind: what goes behind them; empty: nothing.
    """
    here = named_folder(".")
    last = "last.yml"
    # What is no file any more, or not the same, is copied; a first file that way would move what is relative to it.
    first = override.encode() if override else sources[0].data if sources[0].is_pipe else None
    docker = docker if first is None else docker.within(_base(sources[0].path, here))
    copied = {
        f"{number}.yml": source.data
        for number, source in enumerate(sources)
        if source.is_pipe or (first is not None and source.path == STDIN)
    }
    copied |= {last: behind.encode()} if behind else {}
    if PWD in docker.environment and PWD in os.environ:
        docker = docker.with_variables({_USERS_PWD: os.environ[PWD]})
        copied |= {
            f"{number}.yml": _PWD.sub(rb"\1" + _USERS_PWD.encode(), source.data)
            for number, source in enumerate(sources)
            if _PWD.search(source.data)
        }
        copied |= {last: _PWD.sub(rb"\1" + _USERS_PWD.encode(), copied[last])} if behind else {}
    with private_files(copied) as copies:
        paths = [copies.get(f"{number}.yml", source.path) for number, source in enumerate(sources)]
        stdin = next((source.data for source in sources if source.path == STDIN), None)
        if first is not None:
            rest = paths if override else paths[1:]
            paths = [STDIN, *(os.path.normpath(os.path.join(here, path)) for path in rest)]  # noqa: PTH118 - texts
            stdin = first
        paths += [copies[last]] if behind else []
        yield Handover(tuple(f"--compose-file={_quoted(path)}" for path in paths), stdin, docker)


def _base(path: str, here: str) -> str:
    """Return the folder from which Docker takes relative paths when the first file is this one."""
    return here if path == STDIN else os.path.dirname(os.path.normpath(os.path.join(here, path)))  # noqa: PTH118, PTH120


def _quoted(path: str) -> str:
    """Write a path as a value of --compose-file, which Docker takes for a list with commas."""
    return '"' + path.replace('"', '""') + '"' if set(path) & set(',"\r\n') else path
