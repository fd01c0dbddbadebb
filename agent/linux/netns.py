"""Network namespace of a task, worked in from outside through sockets kept open in it.

No process is forked and no thread kept: a short-lived thread enters the namespace (Linux namespaces are per thread),
opens what is needed there and ends. An open socket keeps the namespace alive, and with it every device in it:
whoever opens a TaskNetns closes it when the task has gone.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from agent.errors import NotNetnsError
from agent.linux.netlink_socket import TRY_AGAIN, NetlinkSocket
from mesh.errors import NetnsGoneError, Retryable, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

OWN_NETNS = "/proc/self/ns/net"
CLONE_NEWNET = 0x40000000  # linux/sched.h
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h, since Linux 4.11

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class TaskNetns:
    """A network namespace, held open by its file until `close`.

    It goes by the file, as Docker does: when the file is unlinked, or another namespace lies there, the namespace
    counts as gone even while our own descriptors keep the kernel from destroying it.

    Args:
        path: such as /run/docker/netns/ID or /proc/PID/ns/net.

    Raises:
        NetnsGoneError: there is no such file.
        NotNetnsError: the file is not a namespace, not yet or no longer.
        Retryable: the agent has too many files open, for the moment.
        Terminal: the file may not be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._sockets: dict[int, NetlinkSocket] = {}
        self._owned: dict[type, Any] = {}
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NetnsGoneError(f"there is no network namespace {path}") from error
        except OSError as error:
            kind = Retryable if error.errno in TRY_AGAIN else Terminal
            raise kind(f"cannot open the network namespace {path}: {error.strerror}") from error
        status = os.fstat(self._fd)
        self._identity = (status.st_dev, status.st_ino)
        if not _is_netns(self._fd):
            self.close()
            raise NotNetnsError(
                f"{path} is not a network namespace (yet): is its folder bound into the agent with rslave?"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TaskNetns({self.path!r})"

    def fileno(self) -> int:
        """Return the open descriptor, for IFLA_NET_NS_FD. Raises NetnsGoneError."""
        self.check()
        return self._fd

    def check(self) -> None:
        """Raise NetnsGoneError unless the file still names the namespace that was opened."""
        if self._fd < 0:
            raise NetnsGoneError(f"{self.path} was closed")
        try:
            status = Path(self.path).stat()
        except FileNotFoundError:
            raise NetnsGoneError(f"the network namespace {self.path} has ended") from None
        if (status.st_dev, status.st_ino) != self._identity:
            raise NetnsGoneError(f"the network namespace {self.path} has ended, and its name is another's now")

    def run(self, function: Callable[[], T]) -> T:
        """Call a function in a thread of its own in this namespace. Raises NetnsGoneError, and what it raises."""
        self.check()
        return _in_thread(lambda: _setns(self._fd), function)

    def socket(self, protocol: int) -> NetlinkSocket:
        """Return the one socket of NETLINK_ROUTE or NETLINK_GENERIC, opened at first use. Raises NetnsGoneError."""
        with self._lock:
            opened = self._sockets.get(protocol)
            if opened is None:
                opened = self._sockets[protocol] = self.run(lambda: NetlinkSocket(protocol))
        self.check()
        return opened

    def own(self, kind: type[T], made: T | None = None) -> T:
        """Return the one object of a class that belongs to this namespace and ends with it.

        Args:
            kind: made without arguments at first use.
            made: used instead, where there is none yet.
        """
        owned: T | None = self._owned.get(kind)
        if owned is None:  # of two threads that are here at once both get the same object
            owned = self._owned.setdefault(kind, kind() if made is None else made)
        return owned

    def close(self) -> None:
        """Let go of the namespace: from then on the kernel may destroy it. May be called twice."""
        with self._lock:
            for opened in self._sockets.values():
                opened.close()
            self._sockets.clear()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def in_scratch_netns(function: Callable[[], T]) -> T:
    """Call a function in a thread that has a new, empty namespace, which ends with it whatever happens."""
    return _in_thread(lambda: _checked(_libc.unshare(CLONE_NEWNET)), function)


def _in_thread(enter: Callable[[], None], function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            enter()
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=body, name="netns", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the node, or the agent's container, may have no more threads
        raise Retryable(f"cannot enter a network namespace: {error}") from error
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _setns(fd: int) -> None:
    # os.setns came with Python 3.12.
    _checked(_libc.setns(fd, CLONE_NEWNET))


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        hint = " (the agent needs SYS_ADMIN)" if code == errno.EPERM else ""
        raise Terminal(f"cannot enter a network namespace: {os.strerror(code)}{hint}")


def _is_netns(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False
