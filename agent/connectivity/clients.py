"""Clients of the connectivity test: one that the links allow, and one that they do not."""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from agent.connectivity.cases import Result, forbidden, of_pair, request, tried, words
from agent.connectivity.servers import PORT

ANSWER = "answer"
"""The service with a task on every node, each with its own address: the name of the first link."""
ROLLED = "rolled"
"""The service with a virtual IP that is updated under load."""
BOARD = "board"
"""The service that keeps the answering tasks' addresses for those that must not reach them."""
MOST_FAILED = 40
"""Failures that are told one by one: Docker cuts a line of its log after 16 KiB."""
LONGEST = 200
_AT_ONCE = 8
_PAUSE_S = 0.2
_LOAD_EVERY_S = 0.05
_LOAD_S = 180.0
_SETTLED_S = 3.0
"""Seconds with answers of the new tasks alone after which an update under load is over."""


@dataclass(slots=True)
class Provider:
    """One answering task: its node's name, its own address on the link, and all that it says it has."""

    node: str
    address: str
    addresses: dict[str, list[str]] = field(default_factory=dict)


def find(count: int, seconds: float) -> tuple[dict[str, Provider], str]:
    """Ask every address of the link's name until so many nodes have answered.

    Returns:
        Those that did within the time, by node; and the last thing that went wrong, in words.
    """
    deadline = time.monotonic() + seconds
    found: dict[str, Provider] = {}
    error = "its name is not known"
    while len(found) < count and time.monotonic() < deadline:
        try:
            targets = socket.getaddrinfo(ANSWER, PORT, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as failed:
            targets, error = [], f"the name {ANSWER}: {failed.strerror}"
        # The first address may be the service's virtual IP: whoever answers there says which one is its own.
        known = {provider.address for provider in found.values()}
        for address in {str(target[0]) for *_, target in targets} - known:
            try:
                document = request(address)
                node = str(document["node"])
                found[node] = Provider(node, str(document["address"]), document["addresses"])
            except (OSError, ValueError, KeyError, TypeError) as failed:
                error = f"{address}: {words(failed)}"
        time.sleep(_PAUSE_S)
    return found, error


def try_pairs(providers: Iterable[Provider]) -> list[Result]:
    """Try all cases with every answering task, by each of its addresses on the link."""
    targets = [(one.node, a) for one in providers for a in (one.address, *one.addresses.get("link", ()))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [result for results in pool.map(lambda target: of_pair(*target), targets) for result in results]


def try_virtual() -> list[Result]:
    """Try the virtual IP, of each family that the link's name has."""
    results = []
    for family, name in ((socket.AF_INET, "IPv4"), (socket.AF_INET6, "IPv6")):
        try:
            (*_, target), *_ = socket.getaddrinfo(ROLLED, PORT, family, socket.SOCK_STREAM)
        except OSError as error:
            if family == socket.AF_INET:
                results.append(Result("a virtual IP, IPv4", ROLLED, ok=False, said=f"its name: {words(error)}"))
            continue
        address = str(target[0])
        results.append(tried(f"a virtual IP, {name}", ROLLED, lambda: request(address)))  # noqa: B023 - called here
    return results


def post(providers: Iterable[Provider], seconds: float) -> None:
    """Post the providers' addresses for the strangers, as far as the board can be reached in time."""
    deadline = time.monotonic() + seconds
    left = [json.dumps({"node": one.node, "address": one.address, **one.addresses}) for one in providers]
    while left and time.monotonic() < deadline:
        try:
            request(BOARD, text=f"put {left[-1]}")
            left.pop()
        except (OSError, ValueError):
            time.sleep(_PAUSE_S)


@dataclass(slots=True)
class Load:
    """Requests to the virtual IP, one after another, while its service is updated.

    Attributes:
        requests: that were made.
        lost: those without an answer.
        longest: ms without an answer, at most.
        said: what went wrong last.
    """

    requests: int = 0
    lost: int = 0
    longest: float = 0.0
    said: str = ""
    updated: bool = False
    """Whether the update was seen to end."""

    def run(self, generation: str) -> None:
        """Ask until only tasks of another generation have answered for a while, or it takes too long."""
        deadline = time.monotonic() + _LOAD_S
        answered = last_old = time.monotonic()
        new = 0
        while time.monotonic() < deadline:
            began = time.monotonic()
            self.requests += 1
            try:
                is_old = request(ROLLED)["generation"] == generation
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.lost += 1
                self.said = words(error)
            else:
                answered, before = time.monotonic(), answered
                self.longest = max(self.longest, (answered - before) * 1000)
                last_old = answered if is_old else last_old
                new += not is_old
                if new and answered > last_old + _SETTLED_S:
                    self.updated = True
                    return
            time.sleep(max(0.0, began + _LOAD_EVERY_S - time.monotonic()))

    def as_record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "requests": self.requests,
            "lost": self.lost,
            "longest_gap_ms": round(self.longest, 1),
            "said": self.said[:LONGEST],
            "updated": self.updated,
        }


def fetch(count: int, seconds: float) -> list[dict[str, Any]]:
    """Fetch what is posted until so many providers are, or the time is over."""
    deadline = time.monotonic() + seconds
    posted: list[dict[str, Any]] = []
    while len(posted) < count and time.monotonic() < deadline:
        try:
            texts = [json.loads(text) for text in request(BOARD, text="list")]
            posted = [text for text in texts if isinstance(text, dict)]
        except (OSError, ValueError, TypeError):
            posted = []
        time.sleep(_PAUSE_S)
    return posted


def try_forbidden(posted: Iterable[dict[str, Any]], node: str) -> list[Result]:
    """Try to reach the answering tasks, which no link allows, over the mesh and, on the same node, beside it."""
    targets: list[tuple[str, str, str]] = []
    for one in posted:
        to, link = str(one.get("node")), [str(one.get("address")), *map(str, one.get("link", ()))]
        targets += [("a service without a link, by its address on the mesh", to, address) for address in link]
        if to == node:
            beside = sorted({str(address) for address in one.get("other", ())} - set(link))
            targets += [("a service without a link, on the same node, beside it", to, a) for a in beside]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda target: forbidden(target[0], target[1], target[2], PORT), targets))


def summed(results: Sequence[Result]) -> dict[str, Any]:
    """Sum results up: by case, how many were tried, how many were as they should be, and the median ms."""
    cases: dict[str, dict[str, Any]] = {}
    for case in dict.fromkeys(result.case for result in results):
        of_case = [result for result in results if result.case == case]
        took = [result.ms for result in of_case if result.ms is not None]
        good = sum(result.ok for result in of_case)
        cases[case] = {"tried": len(of_case), "ok": good, "ms": round(statistics.median(took), 2) if took else None}
    failed = [result for result in results if not result.ok]
    told = [{"case": one.case, "to": one.to[:LONGEST], "said": one.said[:LONGEST]} for one in failed[:MOST_FAILED]]
    return {"cases": cases, "failed": told}


def in_background(load: Load, generation: str) -> threading.Thread:
    """Begin a load in a thread of its own."""
    thread = threading.Thread(target=load.run, args=(generation,), daemon=True)
    thread.start()
    return thread
