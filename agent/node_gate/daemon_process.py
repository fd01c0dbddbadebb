"""Dockerd behind a socket: its process, its configuration file, and work done where it sees its files."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from agent.node_gate.errors import GateError

DEFAULT_CONFIG = "/etc/docker/daemon.json"
_CLONE_NEWNS = 0x00020000
_PEER = struct.Struct("3i")  # struct ucred, unix(7)
_FLAG = "--config-file"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Dockerd:
    """A dockerd that runs.

    Attributes:
        pid: in this process's PID namespace, which is the node's.
        command: its command line.
        path: its PATH, by which it finds a runtime.
        config: the path of its configuration file, as it sees it.
    """

    pid: int
    command: tuple[str, ...]
    path: str
    config: str

    def work(self, function: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Do something in its mount namespace, with its root folder; returns what `function` returns, by JSON.

        In a process of its own: there is no way back out of a mount namespace.

        Raises:
            Refused: `function` did, or failed otherwise.
        """
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _answer(self.pid, function, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        if not text:
            raise GateError("the work in dockerd's mount namespace ended without an answer")
        answer: dict[str, Any] = json.loads(text)
        if "refused" in answer:
            raise GateError(str(answer["refused"]))
        return answer


def find(path: str) -> Dockerd:
    """Find the dockerd that answers on a socket.

    Raises:
        Refused: there is none, or more than one may be it.
    """
    running = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and _is_dockerd(entry)]
    if not running:
        raise GateError("no process dockerd on this node: does it have another name, or run in a virtual machine?")
    listener = _listener(path)
    # Where systemd listens for dockerd, the socket is systemd's. It then is the one of the node's own network.
    own = [pid for pid in running if pid == listener] or [pid for pid in running if _shares_network(pid)]
    if len(own) != 1:
        raise GateError(f"{len(own)} of the {len(running)} dockerd processes may be this node's; cannot choose one")
    return _read(own[0])


def config_file(command: tuple[str, ...], folder: str) -> str:
    """Return the configuration file that a command line names; a relative path is one from `folder`."""
    config = DEFAULT_CONFIG
    for word, following in zip(command, (*command[1:], ""), strict=True):
        if word == _FLAG:
            config = following
        elif word.startswith(f"{_FLAG}="):
            config = word.partition("=")[2]
    return str(PurePosixPath(folder) / config)


def _read(pid: int) -> Dockerd:
    try:
        command = tuple(_words(pid, "cmdline"))
        path = next((variable[5:] for variable in _words(pid, "environ") if variable.startswith("PATH=")), os.defpath)
        folder = str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError as error:
        raise GateError(f"dockerd's process cannot be read: {error.strerror}") from None
    return Dockerd(pid, command, path, config_file(command, folder))


def _words(pid: int, file: str) -> list[str]:
    return Path(f"/proc/{pid}/{file}").read_bytes().decode("utf-8", "surrogateescape").rstrip("\0").split("\0")


def _is_dockerd(process: Path) -> bool:
    try:
        return (process / "comm").read_text().strip() == "dockerd"
    except OSError:
        return False


def _shares_network(pid: int) -> bool:
    # Any of its threads: dockerd's first one may at this moment be in a container's namespace.
    for thread in Path(f"/proc/{pid}/task").glob("*/ns/net"):
        with contextlib.suppress(OSError):
            if thread.samefile("/proc/self/ns/net"):
                return True
    return False


def _listener(path: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise GateError(f"Docker does not answer on {path}: {error.strerror}") from None
        pid: int = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
    return pid


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNS) != 0:  # os.setns came with Python 3.12
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _answer(pid: int, function: Callable[[], Mapping[str, Any]], writing: int) -> None:
    """Enter the namespace, do the work, write its answer, and end the process."""
    try:
        answer: Mapping[str, Any]
        try:
            with Path(f"/proc/{pid}/ns/mnt").open("rb") as namespace:
                _enter(namespace.fileno())
            answer = function()
        except GateError as error:
            answer = {"refused": str(error)}
        except OSError as error:
            answer = {"refused": f"{error.filename or 'its files'}: {error.strerror or error}"}
        os.write(writing, json.dumps(answer).encode())
    except BaseException as error:  # noqa: BLE001 - the parent must hear of it, and this process goes no further
        os.write(writing, json.dumps({"refused": f"{type(error).__name__}: {error}"}).encode())
    finally:
        sys.stdout.flush()
        os._exit(0)
