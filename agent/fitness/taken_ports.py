"""Sockets of a node: the ports that are taken, from /proc/net. Parsing is pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc/self/net")
_LISTENING = "0A"
"""TCP_LISTEN (include/net/tcp_states.h)."""


def ports(table: str, *, listening: bool) -> frozenset[int]:
    """Return the local ports in a table of /proc/net (proc_pid_net(5)).

    Args:
        table: the contents of `udp`, `udp6`, `tcp` or `tcp6`.
        listening: only those of sockets that listen, as TCP's do.
    """
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and (not listening or fields[3] == _LISTENING):  # noqa: PLR2004 - the state's place
            found.add(int(fields[1].rpartition(":")[2], 16))
    return frozenset(found)


def taken(protocol: str) -> frozenset[int]:
    """Return the taken ports of this process's network namespace, in both families; none where it cannot say."""
    files = (PROC / protocol, PROC / f"{protocol}6")
    tables = (file.read_text() for file in files if file.exists())
    return frozenset().union(*(ports(table, listening=protocol == "tcp") for table in tables))


def spans(numbers: Iterable[int]) -> list[list[int]]:
    """Return numbers as first and last of each run, in their order."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs
