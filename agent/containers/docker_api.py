"""Docker's API, asked over one connection: a failure becomes the error that the caller acts on.

Single objects are asked for beside each other (`Questions`): Docker may be slow, or fail, for one of them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import docker
import docker.errors
import requests

from mesh.errors import LinkwireError, Retryable
from mesh.model.net import IPNetwork
from mesh.process import docker_version
from mesh.topology.policy import Exit

_NO_ADDRESS = "com.docker.network.bridge.inhibit_ipv4"
THREADS = 8
"""Questions that are asked at once."""
PATIENCE_S = 2.0
"""Seconds without any answer after which the questions that are left are waited for no longer."""

T = TypeVar("T")


def connect(url: str, timeout: float | None) -> docker.APIClient:
    """Connect a client of the version by `mesh.process.docker_version`; `timeout` in seconds, None for none.

    Raises what docker and requests raise.
    """
    arguments: dict[str, Any] = {"timeout": None if timeout is None else int(timeout)}
    with contextlib.closing(docker.APIClient(url, version=docker_version.TRIED, **arguments)) as first:
        daemon = first.version(api_version=False)
    version = docker_version.choose(daemon["ApiVersion"], daemon.get("MinAPIVersion") or "")
    return docker.APIClient(url, version=version, **arguments)


class Docker:
    """One Docker engine, connected when first asked.

    Args:
        url: of the engine.
        timeout: in seconds, for one request; None for none.
        error: raised for every failure.
    """

    def __init__(self, url: str, timeout: float | None, error: type[Exception] = Retryable) -> None:
        self._url = url
        self._timeout = timeout
        self._error = error
        self._client: docker.APIClient | None = None

    @contextlib.contextmanager
    def asked_to(self, do: str) -> Iterator[docker.APIClient]:
        """Lend the client; a failure of what is done with it becomes `error`, with `do` in front of its text."""
        try:
            client = self._client  # another thread may disconnect meanwhile
            if client is None:
                client = self._client = connect(self._url, self._timeout)
            yield client
        except docker.errors.APIError as error:
            raise self._error(f"cannot {do}: {error.explanation or error}") from error
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise self._error(f"cannot {do}: {error}") from error

    def inspect(
        self, kind: Literal["container", "network"], name: str, *, lenient: bool = False
    ) -> dict[str, Any] | None:
        """Inspect an object; None where Docker has none of that name.

        Args:
            kind: of the object.
            name: its name or id.
            lenient: whether any refusal counts as if there were none.
        """
        with self.asked_to(f"inspect the {kind} {name}") as client:
            try:
                answer: dict[str, Any] = getattr(client, f"inspect_{kind}")(name)
            except docker.errors.NotFound:
                return None
            except docker.errors.APIError:
                if not lenient:
                    raise
                return None
        return answer

    def inspect_lenient(self, network: str) -> dict[str, Any]:
        """Inspect a network; nothing where Docker has none such, or refuses: it went as quickly as it came."""
        return self.inspect("network", network, lenient=True) or {}

    def disconnect(self) -> None:
        """Choose the version anew when next asked: an engine that was upgraded may refuse the old one."""
        self._client = None


@dataclass(slots=True)
class _Question(Generic[T]):
    """A question that is under way, or whose answer nobody has taken yet."""

    ask: Callable[[], T]
    answer: T | LinkwireError | None = None
    is_answered: bool = False
    is_late: bool = False
    is_stale: bool = False
    """Whether it was asked again meanwhile: its answer may be that of before."""


class Questions(Generic[T]):
    """Questions to Docker in a few threads. One that has no answer holds up no other, and is asked once at a time.

    Args:
        late: called from a thread, with the key of a question, when there is an answer that was waited for no longer.
    """

    def __init__(self, late: Callable[[str], None] = lambda _key: None) -> None:
        self._late = late
        self._changed = threading.Condition()
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._open: dict[str, _Question[T]] = {}
        self._answered = 0
        self._threads = 0

    def ask(self, questions: Mapping[str, Callable[[], T]]) -> dict[str, T | LinkwireError]:
        """Ask; wait as long as answers come. Of a question that has none yet the result is an error, and it goes on.

        Args:
            questions: by key; each may raise. One that is under way is not begun again, and not waited for.
        """
        with self._changed:
            asked = {key for key, question in questions.items() if self._begin(key, question)}
            self._start_threads()
            while any(not self._open[key].is_answered for key in asked):
                before = self._answered
                if not self._changed.wait_for(lambda: self._answered > before, PATIENCE_S):  # noqa: B023
                    break
            return {key: self._take(key) for key in questions}

    def forget(self, but: Collection[str]) -> None:
        """Forget all answers that nobody has taken, but those of these keys."""
        with self._changed:
            self._open = {key: one for key, one in self._open.items() if key in but or not one.is_answered}

    def _begin(self, key: str, question: Callable[[], T]) -> bool:
        """Begin a question that is not open; tell whether it did."""
        if (one := self._open.get(key)) is not None:
            one.is_stale = one.is_stale or not one.is_answered
            return False
        self._open[key] = _Question(question)
        self._queue.put(key)
        return True

    def _start_threads(self) -> None:
        with contextlib.suppress(RuntimeError):  # no more threads for now: those that are there do it
            while self._threads < min(THREADS, len(self._open)):
                threading.Thread(target=self._run, name="docker-questions", daemon=True).start()
                self._threads += 1

    def _take(self, key: str) -> T | LinkwireError:
        one = self._open[key]
        if not one.is_answered or one.answer is None:
            one.is_late = True
            return Retryable("Docker has not answered yet")
        del self._open[key]
        if one.is_stale:
            self._begin(key, one.ask)
            self._open[key].is_late = True
        return one.answer

    def _run(self) -> None:
        while True:
            key = self._queue.get()
            with self._changed:
                one = self._open[key]
            answer: T | LinkwireError
            try:
                answer = one.ask()
            except LinkwireError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - whatever Docker says that makes no sense
                answer = Retryable(f"Docker's answer makes no sense ({type(error).__name__}: {error})")
            with self._changed:
                one.answer, one.is_answered, is_late = answer, True, one.is_late
                self._answered += 1
                self._changed.notify_all()
            if is_late:
                self._late(key)


def through_node(network: Mapping[str, Any]) -> tuple[IPNetwork, ...] | None:
    """Return a network's subnets, if it leads elsewhere by this node; None if it may lead past it, as macvlan does.

    From an overlay tasks leave by docker_gwbridge, a bridge. A bridge without an address of its own has its gateway
    somewhere else.
    """
    options = network.get("Options") or {}
    if network.get("Driver") not in ("bridge", "overlay", "null") or options.get(_NO_ADDRESS) == "true":
        return None
    subnets: list[IPNetwork] = []
    for config in (network.get("IPAM") or {}).get("Config") or ():
        if any(name.startswith("DefaultGateway") for name in config.get("AuxiliaryAddresses") or ()):
            return None  # libnetwork's DefaultGatewayIPv4 and DefaultGatewayIPv6: another router than this node
        try:
            subnets.append(ipaddress.ip_network(config.get("Subnet") or "", strict=False))
        except ValueError:
            return None
    return tuple(subnets)


def exits_of(network: Mapping[str, Any]) -> Iterator[Exit]:
    """Yield the ends of a bridge, one for each IP version."""
    for config in (network.get("IPAM") or {}).get("Config") or ():
        with contextlib.suppress(ValueError):
            subnet = ipaddress.ip_network(config.get("Subnet") or "")
            # Where none was asked for, libnetwork takes the first address.
            yield Exit(subnet, ipaddress.ip_address(config.get("Gateway") or subnet[1]))
