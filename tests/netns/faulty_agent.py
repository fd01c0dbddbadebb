"""Server of agents in which calls of an adapter fail or are the last (tests.support.faults.fork_server)."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import assembly, cli, local_tasks, settings
from agent.containers import netns_discovery, start_gate, watcher
from agent.firewall import nft, preflight, source_guard
from agent.holder import processes, sockets
from agent.linux import hosts_file, netlink_socket, netns, sysctl
from agent.state import atomic_file
from agent.wireguard import uapi
from mesh.errors import DeviceNotFoundError, Retryable
from tests.support.faults.fork_server import Order, serve
from tests.support.faults.injection import KILLED, Failure, Injector, Module, give, hanging, raising
from tests.support.faults.kinds import OPEN, READ, WRITE, FaultyPath, Kinds, method, os_error, wrap_clients


def _refused(code: int) -> Failure:
    return raising(lambda: nft._Refused(f"Could not process rule: {os.strerror(code)}"))


NETLINK: Kinds = {
    "busy": ("before", os_error(errno.EBUSY)),
    "no buffers": ("before", os_error(errno.ENOBUFS)),
    "refused": ("before", os_error(errno.EINVAL)),
    "no answer": ("after", hanging(lambda: Retryable("no answer from the kernel within 10 s"))),
    **KILLED,
}
NFT: Kinds = {
    "busy": ("before", _refused(errno.EBUSY)),
    "no buffers": ("before", _refused(errno.ENOBUFS)),
    "refused": ("before", _refused(errno.EINVAL)),
    "ended": ("before", raising(lambda: nft._Broken("it was ended by SIGSEGV; "))),
    "not run": ("before", raising(lambda: Retryable(f"cannot run nft: {os.strerror(errno.ENOMEM)}"))),
    "no answer": ("after", hanging(lambda: Retryable("nft did not end within 60 s"))),
    **KILLED,
}
UAPI: Kinds = {
    "refused": ("before", os_error(errno.EINVAL)),
    "ended": ("after", raising(lambda: DeviceNotFoundError("the wireguard-go ended while it was asked"))),
    "no answer": ("after", hanging(lambda: Retryable("no answer from the wireguard-go within 10 s"))),
    **KILLED,
}
CONNECT: Kinds = {
    "busy": ("before", os_error(errno.EAGAIN)),
    "too many": ("before", os_error(errno.EMFILE)),
    **KILLED,
}
NEVER_S = 86_400.0
SPAWN: Kinds = {"no memory": ("before", os_error(errno.ENOMEM)), **KILLED}


def wrap(injector: Injector) -> None:
    """Wrap all adapters of an agent."""
    wrap_clients(injector)
    for name in ("request", "dump"):
        injector.wrap(netlink_socket.NetlinkSocket, name, "netlink", NETLINK)
    injector.wrap(nft, "_nft", "nft", NFT)
    injector.wrap(uapi, "_exchange", "wireguard-go", UAPI)
    injector.wrap(sockets, "connect", "wireguard-go connect", CONNECT)
    injector.wrap(processes, "_spawn", "wireguard-go start", SPAWN, method("process"))
    kinds = {"open": OPEN, "pread": READ, "pwrite": WRITE, "fsync": WRITE, "fdatasync": WRITE, "fchmod": WRITE}
    for module in (hosts_file, atomic_file, netns):
        others: Any = Module(os, **{name: getattr(os, name) for name in kinds})
        for name, of in kinds.items():
            injector.wrap(others, name, f"file {name}", of)
        give(module, os=others)
    temporary: Any = Module(tempfile, mkstemp=tempfile.mkstemp)
    injector.wrap(temporary, "mkstemp", "file mkstemp", WRITE)
    give(atomic_file, tempfile=temporary, Path=FaultyPath)
    give(settings, Path=FaultyPath)


def _without_second_try() -> None:
    give(preflight, _try_twice=lambda policy: netns.in_scratch_netns(lambda: preflight._try_everything(policy)))


WITHOUT: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "second try": _without_second_try,
}
"""Defences that a test takes away, to see that their lack is noticed."""


def prepare(injector: Injector, order: Order) -> Callable[[], object]:
    """Have an agent look at what is this test's alone, in the namespace of its node."""
    WITHOUT[order["without"]]()
    wrap(injector)
    folder = Path(order["folder"])
    start_gate.FOLDER = FaultyPath(folder / "gate")
    netns_discovery.FOLDER = source_guard.FOLDER = FaultyPath(folder / "sandboxes")
    sysctl.OWN = FaultyPath(sysctl.OWN)
    served = sockets.served
    sockets.served = lambda *_folder: tuple(name for name in served() if name.startswith(order["prefix"]))
    give(assembly, SOCKET=str(folder / "queries" / "socket"))
    local_tasks.SETTLE_S = 0.0
    if order["without"]:
        watcher.RESYNC_S = NEVER_S  # no new list of containers comes to the aid of what nobody tried again
    home = os.open(order["netns"], os.O_RDONLY | os.O_CLOEXEC)
    netns._setns(home)
    os.close(home)
    sys.argv = ["linkwire-agent", "run", *order["arguments"]]
    return cli.main


if __name__ == "__main__":
    serve(prepare)
