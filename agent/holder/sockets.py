"""Control sockets of wireguard-go: their folder, and the process at each. Small, since the holder loads this."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from agent.linux.netlink_socket import explained
from mesh.errors import DeviceNotFoundError

SOCKETS = Path("/var/run/wireguard")
"""Compiled into wireguard-go (ipc/uapi_unix.go)."""
PREFIX = "lw"
"""Of the names of our devices."""
NODE_DEVICES = frozenset({f"{PREFIX}node", f"{PREFIX}node2"})
"""The node's own, for node encryption: one, and while its keys rotate two."""
ANSWER_SECONDS = 10.0
_PEERCRED = struct.Struct("=iII")  # struct ucred, linux/socket.h


def socket_path(name: str, folder: Path = SOCKETS) -> Path:
    """Return the path of a device's control socket; there is one folder for all namespaces."""
    return folder / f"{name}.sock"


def process(name: str, folder: Path = SOCKETS) -> int | None:
    """Return the process id of the wireguard-go that serves a device, or None when none does.

    It is 0 where that process is in no PID namespace that is seen from here (unix(7)).

    Raises:
        Retryable, Terminal: it could not be asked.
    """
    try:
        with explained(f"ask who serves {name}"), connect(name, folder) as connection:
            pid, _, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    except DeviceNotFoundError:
        return None
    return int(pid)


def served(folder: Path = SOCKETS) -> tuple[str, ...]:
    """Return the names of the devices of ours that a wireguard-go serves, sorted."""
    names = (path.name.removesuffix(".sock") for path in folder.glob(f"{PREFIX}*.sock"))
    return tuple(sorted(name for name in names if process(name, folder) is not None))


def connect(name: str, folder: Path = SOCKETS) -> socket.socket:
    """Connect to a device's wireguard-go. Raises DeviceNotFoundError, OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.connect(str(socket_path(name, folder)))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connection.close()
        raise DeviceNotFoundError(f"no wireguard-go serves {name}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def peer_user(connection: socket.socket) -> int:
    """Return the id of the user at the other end of a connection."""
    _, user, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return int(user)
