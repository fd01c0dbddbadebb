"""Who may open what: every pair, address, port, protocol and family, as the compose file says and as measured."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from tests.chaos.killer import WORKER, processes
from tests.lab import checker, programs
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.programs import Task
from tests.lab.test_links import addresses

Figure = Callable[[str], None]
TCP = (80, 443, 7999, 8000, 8002, 8003)
UDP = (53, 54, 8001)
SPOOFED = 55  # listened on by all, and asked by nobody under an address of its own
KINDS = (*(("tcp", port) for port in TCP), *(("udp", port) for port in UDP), ("icmp", 0))
REPLICAS = {"a": 1, "b": 1, "c": 2, "d": 2}
LINKS: dict[str, dict[str, Any]] = {
    # A list; and what c exposes.
    "a": {"links": ["b", "c"], "x-wireguard": {"links": {"b": {"ports": ["80/tcp", "443/tcp", "53/udp"]}}}},
    # A range; and everything, since a exposes nothing by name: a cycle.
    "b": {"links": ["c", "a"], "x-wireguard": {"links": {"c": {"ports": ["8000-8002/tcp"]}}}},
    # Its own replicas.
    "c": {
        "links": ["c"],
        "x-wireguard": {"expose": ["80/tcp", "8001/udp"], "links": {"c": {"ports": ["443/tcp"]}}},
    },
    # Everything of b; nobody links to it, nor does it to itself.
    "d": {"links": ["b"]},
}
# Its rules are gone, and would be again; its own let everything pass, and claim d's address for it.
HOSTILE = """
nft delete table inet linkwire
nft list table inet hostile >/dev/null || nft -f - <<END
table inet hostile {
    chain in { type filter hook input priority -500; policy accept; }
    chain out { type filter hook output priority 500; policy accept; }
    chain claim {
        type nat hook postrouting priority 100
        oifname "lw*" meta nfproto ipv4 udp dport 55 counter snat ip to ANOTHER4
        oifname "lw*" meta nfproto ipv6 udp dport 55 counter snat ip6 to ANOTHER6
    }
}
END
"""


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt: from a task of a service to a task of another, or (task none) to its VIP."""

    consumer: str
    own: Task
    provider: str
    task: Task | None
    protocol: str
    port: int
    version: int

    def __str__(self) -> str:
        target = programs.hostname(self.task) if self.task else "VIP"
        own = programs.hostname(self.own)
        return f"{self.consumer} {own} -> {self.provider} {target} {self.port}/{self.protocol} IPv{self.version}"


def may_open(one: Try) -> bool:
    """What the compose file means: the link's ports, else what is exposed, else all; ICMP echo over every link."""
    if one.provider not in LINKS[one.consumer]["links"]:
        return False
    of_link = LINKS[one.consumer].get("x-wireguard", {}).get("links", {}).get(one.provider, {}).get("ports")
    allowed = of_link or LINKS[one.provider].get("x-wireguard", {}).get("expose")
    if one.protocol == "icmp" or allowed is None:
        return True
    for entry in allowed:
        span, _, protocol = entry.partition("/")
        first, _, last = span.partition("-")
        if protocol == one.protocol and int(first) <= one.port <= int(last or first):
            return True
    return False


def tries(consumer: str, own: Task, tasks: Mapping[str, list[Task]]) -> Iterator[Try]:
    """Everything that a task can try, but for itself: its own address, and a VIP that leads there too."""
    for provider, theirs in tasks.items():
        for target in [*theirs, None]:
            if target == own or (target is None and provider == consumer in LINKS[consumer]["links"]):
                continue
            for protocol, port in KINDS:
                yield from (Try(consumer, own, provider, target, protocol, port, version) for version in (4, 6))


def deploy(stacks: Deployment) -> dict[str, list[Task]]:
    """The four services; their tasks."""
    ports = [
        f"--{protocol}={','.join(map(str, ports))}" for protocol, ports in (("tcp", TCP), ("udp", (*UDP, SPOOFED)))
    ]
    services = {
        name: {
            **programs.service(stacks.images.demo, "listen", name, *ports, **links),
            "cap_add": ["NET_ADMIN"] if name == "a" else [],
            "deploy": {"replicas": REPLICAS[name]},
        }
        for name, links in LINKS.items()
    }
    stacks.deploy("matrix", programs.stack(services))
    tasks = {name: stacks.wait_running(f"matrix_{name}", REPLICAS[name]) for name in LINKS}
    checker.settle(stacks.lab)
    return tasks


def places(stacks: Deployment, tasks: Mapping[str, list[Task]]) -> dict[Task | str, dict[int, str]]:
    """The addresses of every task and the VIPs of every service, by IP version, as the tasks themselves have them.

    Only d's VIP nobody resolves: that one is looked up in the store.
    """
    found: dict[Task | str, dict[int, str]] = {
        task: programs.addresses(task) for theirs in tasks.values() for task in theirs
    }
    found |= {provider: programs.resolved(tasks["b"][0], provider) for provider in ("a", "c")}
    found["b"] = programs.resolved(tasks["a"][0], "b")
    vips = {address for address, holder in addresses(stacks).items() if (holder or "").startswith("service/")}
    (unknown,) = vips - {found[name][4] for name in "abc"}
    prefix = int(IPv6Address(found["b"][6])) >> 32 << 32
    found["d"] = {4: unknown, 6: str(IPv6Address(prefix | int(IPv4Address(unknown))))}
    return found


def measured(
    tried: list[Try], where: Mapping[Task | str, Mapping[int, str]], *options: str
) -> list[tuple[str, float]]:
    """What comes of all tries of one task."""
    targets = [(one.protocol, where[one.task or one.provider][one.version], one.port) for one in tried]
    return programs.probe(tried[0].own, targets, *options)


def wrongly_heard(
    stacks: Deployment, where: Mapping[Task | str, Mapping[int, str]], tasks: Mapping[str, list[Task]]
) -> list[str]:
    """Datagrams that reached a listener of a service and may not have, as the listeners themselves say."""
    senders = {
        address: (service, task) for service, own in tasks.items() for task in own for address in where[task].values()
    }
    wrong = []
    for provider in tasks:
        for line in stacks.logged(f"matrix_{provider}").splitlines():
            _, port, address = line.split()
            service, task = senders[address.removeprefix("::ffff:")]
            one = Try(service, task, provider, None, "udp", int(port), 6 if "." not in address else 4)
            if int(port) == SPOOFED or not may_open(one):
                wrong.append(str(one))
    return wrong


@contextlib.contextmanager
def halted_agent(stacks: Deployment, node: Node) -> Iterator[None]:
    """A node whose agent does nothing, while its devices work."""
    (worker,) = node.group.pids().intersection(processes(stacks.lab, WORKER))
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def test_every_pair_port_protocol_and_family(stacks: Deployment, figure: Figure) -> None:
    tasks = deploy(stacks)
    where = places(stacks, tasks)
    outcomes: Counter[str] = Counter()
    differences: list[str] = []
    slowest = 0.0
    for service, own in [(service, own) for service, theirs in tasks.items() for own in theirs]:
        tried = list(tries(service, own, tasks))
        for one, (outcome, seconds) in zip(tried, measured(tried, where), strict=True):
            outcomes[outcome] += 1
            slowest = max(slowest, seconds if outcome == "refused" else 0.0)
            if outcome != (meant := "open" if may_open(one) else "refused"):
                differences.append(f"{one}: {outcome}, not {meant}")
    figure(
        f"matrix: {outcomes.total()} tries, {dict(outcomes)}, {len(differences)} differences;"
        f" refused within {1000 * slowest:.0f} ms"
    )
    assert differences == []

    # Now one that is a consumer, and a provider too, throws its rules away, on a node whose agent does not put them
    # back. By a VIP it reaches nobody then.
    (hostile,) = tasks["a"]
    tried = list(tries("a", hostile, tasks))
    tried += [Try("a", hostile, one, tasks[one][0], "udp", SPOOFED, version) for one in "bc" for version in (4, 6)]
    before = HOSTILE.replace("ANOTHER4", where[tasks["d"][0]][4]).replace("ANOTHER6", where[tasks["d"][0]][6])
    with halted_agent(stacks, hostile[0]):
        found = measured(tried, where, "--before", before, "--at-once", "64")
    opened = {one for one, (outcome, _) in zip(tried, found, strict=True) if outcome == "open"}
    meant_open = {one for one in tried if may_open(one)}
    direct = {one for one in tried if one.task}
    figure(
        f"the same by a task without rules, whose node's agent is halted: {len(tried)} tries, {len(opened)} open,"
        f" {len(opened - meant_open)} of which may not"
    )
    assert sorted(map(str, opened - meant_open)) == []
    assert sorted(map(str, (meant_open - opened) & direct)) == []
    node, container = hostile
    claimed = node.docker("exec", container, "nft", "list", "table", "inet", "hostile").stdout
    assert "packets 0 " not in claimed  # so that what follows means something
    # What arrived is one thing, whether an answer came back another.
    assert wrongly_heard(stacks, where, tasks) == []
    node.docker("exec", container, "nft", "delete", "table", "inet", "hostile")
    figure(f"rules back in place after {checker.settle(stacks.lab):.1f} s")
