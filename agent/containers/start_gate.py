"""Start gate: files that tell the node's container runtime which tasks are wired.

A gated container's start waits in deploy/linkwire-runc, which must hold to the same names and words. Below FOLDER,
named by container id:

    gate/ID       `wired NUMBER`: the network namespace of that inode number is wired; `waits for ...`: it is wired,
                  but not every provider that it waits for is ready; anything else: why not yet
    waiting/ID    NUMBER: the start waits, and that is the container's namespace

The number makes sure that what was wired is what starts: where a container is being started its namespace is only
guessed. Nothing here raises: whatever fails, gated containers wait.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import structlog

from agent.containers import netns_discovery

log = structlog.get_logger(__name__)

FOLDER = Path("/run/docker/linkwire")
"""On every node there is /run/docker, and the agent must see its namespaces anyway."""
OLD_S = 86400.0
"""Seconds; no start waits longer."""
WAITS = "waits for"


def open_for(container: str, netns: str) -> None:
    """Let a container start whose namespace at that path is wired: interface, rules and names have been read back."""
    try:
        _write(container, f"wired {Path(netns).stat().st_ino}")
    except OSError as error:
        log.warning("start gate not opened", container=container[:12], error=str(error))


def hold(container: str, providers: Collection[str]) -> None:
    """Let a wired container wait on, for a longer while: none of these services has a ready task yet."""
    shut(container, f"{WAITS} a ready task of {', '.join(providers)}")


def shut(container: str, why: str) -> None:
    """Keep a container from starting; `why` is shown to the user when it has waited in vain."""
    # It ends up in a JSON text that a shell script writes.
    plain = "".join(letter if letter.isprintable() and letter not in "\"'\\%" else " " for letter in why)
    try:
        _write(container, plain[:1000] or "it is not wired")
    except OSError as error:
        log.warning("start gate not closed", container=container[:12], error=str(error))


def drop_stale_files(containers: Collection[str]) -> None:
    """Remove the files of every container but these, which must be all that there are."""
    try:
        for path in _listed(FOLDER / "gate"):
            if path.name not in containers:
                path.unlink(missing_ok=True)
        for path in _listed(FOLDER / "waiting"):
            # One that is no older may be that of a container that came since.
            with contextlib.suppress(FileNotFoundError):
                if path.name not in containers and time.time() - path.stat().st_mtime > OLD_S:
                    path.unlink()
    except OSError as error:  # they are looked for again with the next list
        log.warning("start gate files not removed", file=str(FOLDER), error=str(error))


def waiting() -> Mapping[str, str]:
    """List the containers whose start waits now, with the paths of their namespaces."""
    numbers = {}
    for path in _listed(FOLDER / "waiting"):
        with contextlib.suppress(OSError, ValueError):
            numbers[path.name] = int(path.read_text())
    paths = {}
    for path in _listed(netns_discovery.FOLDER) if numbers else ():
        with contextlib.suppress(OSError):
            paths[path.stat().st_ino] = str(path)
    return {container: paths[number] for container, number in numbers.items() if number in paths}


def _write(container: str, text: str) -> None:
    path = FOLDER / "gate" / container
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == f"{text}\n":
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("start gate folder not listed", file=str(folder), error=str(error))
        return []
