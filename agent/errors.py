"""Errors of a node that another program or the operator must settle. No I/O here."""

from __future__ import annotations

from mesh.errors import Retryable, Terminal


class PortTakenError(Terminal):
    """The UDP port is in use on the node: the device needs another one."""


class RouteClashError(Terminal):
    """A network of the mesh overlaps a route that the task already has; the text names the route."""


class RulesRefusedError(Terminal):
    """The kernel does not take the task's rules, or nft could not bear them."""


class RulesTooLargeError(Retryable):
    """The kernel is short of memory for the task's rules: it may be their size, and it may pass."""


class HostsFileMissingError(Retryable):
    """The container's hosts file is not there: not made yet, or gone with the container."""


class NotNetnsError(Retryable):
    """The file is not a network namespace: not yet, or no longer.

    Docker makes the file first and mounts the namespace on it then. At the end it unmounts the namespace at once and
    removes the file up to 60 s later (libnetwork, osl/namespace_linux.go: gpmCleanupPeriod).
    """
