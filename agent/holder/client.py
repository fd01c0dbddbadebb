"""Client of a node's holder: its wireguard-go processes as this process's own, for the userspace backend."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog

from agent.holder import sockets
from agent.holder.server import LEAVES_S, SOCKET
from mesh.errors import DeviceNotFoundError, LinkwireError, Retryable, Terminal

log = structlog.get_logger(__name__)

OTHER_VERSION = "of another version"
"""As `HeldProcesses.problem`: it has devices, so it stays until they are gone."""
LOOK_S = 5.0
"""Seconds between two looks at whether a holder is there and answers."""
UPGRADE_S = 600.0
"""Seconds for which another version is no problem: controllers are upgraded after agents, and an older one could not
read a status that names it."""
_PROBE = f"hears {sockets.PREFIX}probe 1"
"""A request that changes nothing."""
_READY_S = 20.0
"""Seconds for a holder that was made to answer."""
_ANSWER_S = 15.0
"""The same for one request: to start wireguard-go may take five."""
_RETRY_S = 0.1


class Container(Protocol):
    """The holder's container. All calls raise Retryable, Terminal."""

    def make(self) -> bool:
        """Make one, unless one is there, be it about to end; tells whether it did."""

    def is_current(self) -> bool:
        """Tell whether the one that is there is of this agent's image."""


class HeldProcesses:
    """The Processes that a holder has.

    Args:
        folder: of its socket, and of wireguard-go's.
        container: of the holder.
    """

    def __init__(self, folder: Path, container: Container) -> None:
        self.folder = folder
        self._container = container
        self._lock = threading.Lock()
        self._presence: socket.socket | None = None
        self._is_known = False
        self._other_since: float | None = None
        self._problem = self._failure = ""
        self._closed = threading.Event()

    @property
    def problem(self) -> str:
        """Words on what is wrong with the holder, as `watch` saw it last: OTHER_VERSION, or why none answers."""
        since = self._other_since
        is_other = since is not None and time.monotonic() - since > UPGRADE_S
        return self._problem or (OTHER_VERSION if is_other else "")

    def watch(self) -> None:
        """From now on have a holder made where there is none, and one of another version leave, as soon as it can."""
        threading.Thread(target=self._watch, name="holder-watch", daemon=True).start()

    def start(self, name: str) -> None:
        """See Processes."""
        self.ready()
        self._ask(f"start {name}")

    def end(self, name: str) -> None:
        """See Processes. Without a holder there is none to end."""
        with suppress(DeviceNotFoundError):
            self._ask(f"end {name}")

    def hears(self, name: str, port: int) -> bool:
        """See Processes."""
        try:
            return self._ask(f"hears {name} {port}") == "yes"
        except DeviceNotFoundError:
            return False

    def reap(self) -> None:
        """See Processes. They are children of the holder's."""

    def close(self) -> None:
        """See Processes."""
        self._closed.set()
        with self._lock:
            if self._presence is not None:
                self._presence.close()

    def ready(self) -> None:
        """Make sure that a holder is there, and stays for as long as this process does.

        One of another image is replaced if it has no device left.

        Raises:
            Retryable, Terminal.
        """
        with self._lock:
            if self._presence is not None:
                if _is_open(self._presence):
                    return
                self._presence.close()
                self._presence = self._other_since = None
                log.warning("holder ended")
            if not self._is_known:
                self._replace_other()
                self._is_known = True
            self._presence = self._connect_or_make()
            self._presence.setblocking(False)

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:
                # Whatever it is: devices are made all the same, and by that the holder.
                log.exception("holder watch crashed, retrying")
                self._problem = f"internal error: {type(error).__name__}"

    def look(self) -> None:
        """Look once: at whether there is a holder that answers, and at whether one of another version can leave."""
        try:
            if self._other_since is not None and not sockets.served(self.folder):
                with self._lock:
                    self._is_known = False
                    if self._presence is not None:
                        self._presence.close()
                        self._presence = None
            self.ready()
            self._ask(_PROBE)
            self._problem = self._failure = ""
        except LinkwireError as error:
            # One that has just ended may fail once, and is made again.
            self._problem, self._failure = str(error) if self._failure else "", str(error)

    def _replace_other(self) -> None:
        """Have a holder of another image leave, if it can."""
        since, self._other_since = self._other_since, None
        try:
            self._connect().close()
        except DeviceNotFoundError:
            return
        if self._container.is_current():
            log.info("holder adopted", devices=len(sockets.served(self.folder)))
            return
        try:
            self._ask("leave")
        except LinkwireError as error:
            self._other_since = since or time.monotonic()
            log.info("holder of another version adopted", reason=str(error))
            return
        log.info("holder of another version left")
        time.sleep(2 * LEAVES_S)

    def _connect_or_make(self) -> socket.socket:
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                return self._connect()
            except DeviceNotFoundError as error:
                if time.monotonic() > deadline:
                    raise Retryable(f"the holder of wireguard-go did not answer within {_READY_S:.0f} s") from error
            try:
                if self._container.make():
                    log.info("holder made")
            except Retryable:  # such as of Docker, whose container of that name is on its way out
                if time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_S)

    def _connect(self) -> socket.socket:
        """Connect. Raises DeviceNotFoundError where there is no holder; Retryable."""
        try:
            return sockets.connect(SOCKET, self.folder)
        except OSError as error:
            raise Retryable(f"cannot reach the holder of wireguard-go: {error.strerror or error}") from error

    def _ask(self, request: str) -> str:
        """Return what follows `ok`. Raises DeviceNotFoundError where there is no holder; Retryable, Terminal."""
        with self._connect() as connection:
            connection.settimeout(_ANSWER_S)
            try:
                connection.sendall(f"1 {request}\n".encode())
                with connection.makefile("rb") as lines:
                    answer = lines.readline().decode(errors="replace")
            except OSError as error:
                raise Retryable(f"no answer from the holder of wireguard-go: {error.strerror or error}") from error
        word, _, rest = answer.removesuffix("\n").partition(" ")
        match word:
            case "ok":
                return rest
            case "failed":
                raise Terminal(rest)
            case _:
                raise Retryable(rest or "the holder of wireguard-go ended while it was asked")


def _is_open(connection: socket.socket) -> bool:
    """Tell whether the other end has not ended; it sends nothing unasked."""
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
