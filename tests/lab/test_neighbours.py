"""The neighbours of a linked task: who reaches which of its ports by which address, as meant and as measured."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab import checker, process, programs
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.programs import INSIDE, Task
from tests.support.attacks import Attempts

Figure = Callable[[str], None]
RUN = time.time_ns() % 250
# Docker 20.10 joins a network of an earlier one's name by what it knows of that one.
NETWORK, SUBNET, SUBNET6 = f"beside{RUN}", f"10.250.{RUN}.0/24", f"fd5a:{RUN}::/64"
LINKED, OTHER, DATAGRAMS, WORN = 80, 90, 53, 54
KINDS = (("tcp", LINKED), ("tcp", OTHER), ("udp", DATAGRAMS))
PUBLISHED = {"db": 8771, "closed": 8772, "old": 8773, "loose": 8774}
"""Providers: `strict` as ever, `strict: all`, and on docker0 `strict` as ever and `strict: false`."""
STRICT: dict[str, dict[str, Any]] = {"closed": {"strict": "all"}, "loose": {"strict": False}}
ON_SHARED = ("db", "closed")
CONSUMERS: dict[str, dict[str, list[str]]] = {
    "web": {"cap_drop": ["NET_RAW"]},
    "raw": {},
    "admin": {"cap_add": ["NET_ADMIN"]},
}
LAWLESS = "nft delete table inet linkwire 2>/dev/null || :"


def compose(stacks: Deployment) -> str:
    """Four providers on one node, and beside them their consumers and a service that is linked to nobody."""
    listening = (f"--tcp={LINKED},{OTHER}", f"--udp={DATAGRAMS},{WORN}")
    services = {}
    for name, published in PUBLISHED.items():
        services[name] = {
            **programs.service(stacks.images.demo, "listen", name, *listening),
            "networks": ["shared"] if name in ON_SHARED else ["bridge"],
            "ports": [{"target": LINKED, "published": published, "mode": "host"}],
            "x-wireguard": {"expose": [f"{LINKED}/tcp"], **STRICT.get(name, {})},
        }
    for name, more in CONSUMERS.items():
        services[name] = programs.idle(stacks.images.demo, networks=["shared"], links=[*PUBLISHED], **more)
    services["stranger"] = programs.idle(stacks.images.demo, networks=["shared"])
    for service in services.values():
        service["deploy"] = {"endpoint_mode": "dnsrr", "placement": {"constraints": ["node.hostname == n1"]}}
    networks = {"shared": {"external": True, "name": NETWORK}, "bridge": {"external": True, "name": "bridge"}}
    return programs.stack(services, networks)


@dataclass(frozen=True, slots=True)
class Way:
    """An address of a provider, and which network it is on."""

    provider: str
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class End:
    """A task's end on a network of Docker's."""

    device: str
    mac: str
    address: str
    link_local: str


@dataclass
class Neighbourhood:
    """The stack, as it was deployed."""

    stacks: Deployment
    tasks: dict[str, Task]
    unlinked: Task
    """A container that `docker run` made."""
    other: Node

    def ends(self, name: str) -> dict[str, End]:
        """Return a task's ends by network: overlay, gateway (docker_gwbridge) and bridge (docker0)."""
        node, container = self.unlinked if name == "unlinked" else self.tasks[name]
        links = json.loads(node.docker("exec", container, "ip", "-json", "address", "show").stdout)
        found = {}
        for link in links:
            by_scope = {(one["family"], one["scope"]): one["local"] for one in link["addr_info"]}
            address = by_scope.get(("inet", "global"))
            if address and not link["ifname"].startswith("lw"):
                network = {"10.250": "overlay", "172.17": "bridge"}.get(address.rsplit(".", 2)[0], "gateway")
                end = End(link["ifname"], link["address"], address, by_scope.get(("inet6", "link"), ""))
                found[network] = end
                if six := by_scope.get(("inet6", "global")):
                    found["overlay, IPv6"] = End(end.device, end.mac, six, end.link_local)
        return found

    def ways(self, provider: str, asking: str) -> Iterator[Way]:
        """Yield every address by which a provider might be reached."""
        ends = self.ends(provider)
        for version, address in programs.resolved(self.tasks["web"], provider).items():
            yield Way(provider, f"VIP, IPv{version}", address)
        for version, address in programs.addresses(self.tasks[provider]).items():
            yield Way(provider, f"mesh, IPv{version}", address)
        for network, end in ends.items():
            yield Way(provider, network, end.address)
        if link_local := next((end.link_local for end in ends.values() if end.link_local), ""):
            device = next((e.device for n, e in self.ends(asking).items() if n == "overlay"), "docker_gwbridge")
            yield Way(provider, "link-local", f"{link_local}%{device}")
        yield Way(provider, "name", provider)


ASKING = ("web", "raw", "admin", "stranger", "unlinked", "host", "other node")


def may_open(asking: str, way: Way, kind: tuple[str, int]) -> bool:
    """Say what is meant: links, published ports, and the user's own network for those that no link concerns."""
    if way.name == "published":
        return True
    is_open_port = kind == ("tcp", LINKED)
    if asking in CONSUMERS:
        by_link = way.name in {"name", "mesh, IPv4", "mesh, IPv6"} or way.name.startswith("VIP")
        return by_link and is_open_port
    if asking == "stranger":
        by_shared = way.name in {"overlay", "overlay, IPv6"} or (way.name == "name" and way.provider in ON_SHARED)
        return by_shared and (way.provider != "closed" or is_open_port)
    if asking == "host":  # root on the node, which Docker's own proxy for published ports is too
        return way.name in {"gateway", "bridge"} and (way.provider != "closed" or is_open_port)
    if asking == "unlinked" and way.provider == "loose":
        return way.name == "bridge"
    # Docker lets the port through that is published, also by the address that it is translated to.
    return asking == "other node" and way.name in {"gateway", "bridge"} and is_open_port


@pytest.fixture(scope="module")
def hood(deployment: Deployment) -> Iterator[Neighbourhood]:
    manager, other = deployment.lab.manager, deployment.lab.node("n2")
    with contextlib.ExitStack() as ending:
        create = ("network", "create", "--driver", "overlay", "--attachable", "--ipv6")
        manager.docker(*create, "--subnet", SUBNET, "--subnet", SUBNET6, NETWORK)
        ending.callback(lambda: process.wait_for("the network to go", lambda: _is_gone(manager), seconds=60))
        # Where several tasks at once are the first of a node on an overlay with IPv6, Docker 20.10 makes it again and
        # again ("does not belong to any of this network's subnets"): one task is there before them.
        forever = (deployment.images.demo, "sleep", "86400")
        first = ("--detach", "--name", NETWORK, "--network", NETWORK, "--constraint", "node.hostname==n1")
        manager.docker("service", "create", *first, "--endpoint-mode", "dnsrr", *forever)
        ending.callback(lambda: manager.docker("service", "rm", NETWORK))
        deployment.wait_running(NETWORK, 1)
        container = manager.docker("run", "--detach", "--volume", f"{INSIDE}:/srv:ro", *forever).stdout.strip()
        ending.callback(lambda: manager.docker("rm", "--force", container))
        ending.callback(lambda: deployment.remove("beside"))
        deployment.deploy("beside", compose(deployment))
        names = (*PUBLISHED, *CONSUMERS, "stranger")
        tasks = {name: deployment.wait_running(f"beside_{name}", 1)[0] for name in names}
        checker.settle(deployment.lab)
        yield Neighbourhood(deployment, tasks, (manager, container), other)


def _is_gone(manager: Node) -> bool:
    return manager.docker("network", "rm", NETWORK, check=False).returncode == 0


def test_service_on_the_bridge_moves_at_its_deploy(stacks: Deployment) -> None:
    """An earlier version put linked services that name no networks on docker0."""
    services = {"one": programs.idle(stacks.images.demo, links=["two"]), "two": programs.idle(stacks.images.demo)}
    before = json.loads(programs.stack(services, {"bridge": {"external": True, "name": "bridge"}}))
    for name, service in before["services"].items():
        labels = {"linkwire.links": "moves_two:two"} if name == "one" else {}
        service |= {"networks": ["bridge"], "deploy": {"labels": labels}}
    stacks.lab.manager.docker("stack", "deploy", "-c", "-", "moves", stdin=json.dumps(before))
    for name in services:
        assert _networks(*stacks.wait_running(f"moves_{name}", 1)[0]) == {"bridge"}
    for service in services.values():
        service["deploy"] = {"endpoint_mode": "dnsrr"}
    stacks.deploy("moves", programs.stack(services))

    def have_moved() -> bool:
        tasks = [stacks.tasks(f"moves_{name}") for name in services]
        return all(len(here) == 1 and _networks(*here[0]) == {"moves_default"} for here in tasks)

    process.wait_for("both to be on the stack's network", have_moved, seconds=90, every=0.5)
    checker.settle(stacks.lab)


def _networks(node: Node, container: str) -> set[str]:
    shown = node.docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container, check=False).stdout
    return {*json.loads(shown or "{}")}


def measured(hood: Neighbourhood, asking: str, tried: list[tuple[str, str, int]]) -> list[str]:
    """Return what comes of all tries of one neighbour."""
    options = ["--at-once", "64", *(["--before", LAWLESS] if asking == "admin" else [])]
    if asking in {"host", "other node"}:
        node = hood.stacks.lab.manager if asking == "host" else hood.other
        argv = ["python3", str(INSIDE / "probe.py"), *options]
        return [outcome for outcome, _ in json.loads(node.run(argv, stdin=json.dumps(tried)).stdout)]
    task = hood.unlinked if asking == "unlinked" else hood.tasks[asking]
    return [outcome for outcome, _ in programs.probe(task, tried, *options)]


@contextlib.contextmanager
def routes_from(hood: Neighbourhood) -> Iterator[None]:
    """Have the other node send what is for the providers' bridges to their node, as a machine beside it may."""
    node = hood.stacks.lab.manager
    where = [end.address for name in PUBLISHED for network, end in hood.ends(name).items() if ":" not in end.address]
    for address in where:
        hood.other.run(["ip", "route", "add", f"{address}/32", "via", node.address])
    try:
        yield
    finally:
        for address in where:
            hood.other.run(["ip", "route", "del", f"{address}/32"], check=False)


def test_each_neighbour_reaches_what_is_meant(hood: Neighbourhood, attempt: Attempts, figure: Figure) -> None:
    attack = attempt("an unlinked container fetches from a linked task over docker0")
    differences: list[str] = []
    outcomes: Counter[str] = Counter()
    table: list[str] = []
    node = hood.stacks.lab.manager
    for asking in ASKING:
        tried: list[tuple[Way, tuple[str, int]]] = []
        asks_as = "unlinked" if asking in {"host", "other node"} else asking
        for provider, published in PUBLISHED.items():
            # Its own rules, without which a name leads nowhere, come and go.
            ways = [
                w for w in hood.ways(provider, asks_as) if asking != "admin" or not w.name.startswith(("VIP", "name"))
            ]
            tried += [(way, kind) for way in ways for kind in KINDS]
            tried.append((Way(provider, "published", node.address), ("tcp", published)))
        with routes_from(hood) if asking == "other node" else contextlib.nullcontext():
            found = measured(hood, asking, [(kind[0], way.address, kind[1]) for way, kind in tried])
        for (way, kind), outcome in zip(tried, found, strict=True):
            outcomes[outcome] += 1
            meant = may_open(asking, way, kind)
            line = f"{asking} -> {way.provider} {kind[1]}/{kind[0]} by {way.name}: {outcome}"
            table.append(line)
            if (outcome == "open") != meant:
                differences.append(f"{line}, meant {'open' if meant else 'shut'}")
    print(*table, "", *differences, sep="\n")
    figure(f"neighbours: {outcomes.total()} tries, {dict(outcomes)}, {len(differences)} differences")
    over_docker0 = f"{OTHER}/tcp by bridge: open"
    attack.works(f"unlinked -> loose {over_docker0}" in table)
    attack.stopped(f"unlinked -> old {over_docker0}" not in table)
    assert differences == []


def test_worn_addresses_reach_no_linked_task(hood: Neighbourhood, attempt: Attempts, figure: Figure) -> None:
    """Datagrams in frames of their sender's own making: their replies go elsewhere, so the targets say what came."""
    db, closed, old = (hood.ends(name) for name in ("db", "closed", "old"))
    raw, stranger, unlinked = (hood.ends(name) for name in ("raw", "stranger", "unlinked"))
    shared, foreign = db["overlay"].address.rpartition(".")[0], "203.0.113"
    sent = {
        # On the overlay: as the unlinked service, as nobody; with the own MAC address and the other's.
        "raw": [
            [raw["overlay"].device, end.mac, mac, address, end.address, WORN]
            for end in (db["overlay"], closed["overlay"])
            for mac in (raw["overlay"].mac, stranger["overlay"].mac)
            for address in (stranger["overlay"].address, f"{shared}.201", f"{foreign}.1")
        ]
        # On docker_gwbridge: as the node, as a foreign machine.
        + [
            [raw["gateway"].device, end.mac, mac, address, end.address, WORN]
            for end in (db["gateway"], closed["gateway"])
            for mac in (raw["gateway"].mac, _mac_of(hood, "docker_gwbridge"))
            for address in (_address_of(hood, "docker_gwbridge"), f"{foreign}.2")
        ],
        "unlinked": [
            [unlinked["bridge"].device, old["bridge"].mac, mac, address, old["bridge"].address, WORN]
            for mac in (unlinked["bridge"].mac, _mac_of(hood, "docker0"))
            for address in (_address_of(hood, "docker0"), f"{foreign}.3")
        ],
        # Linked to nobody, so nothing guards it, and the user chose its network: what works without the guard.
        "stranger": [
            [stranger["overlay"].device, db["overlay"].mac, stranger["overlay"].mac, f"{shared}.202", "", WORN]
        ],
    }
    sent["stranger"][0][4] = db["overlay"].address
    tried = attempt("a linked task wears other addresses on a network that it shares")
    beside = attempt("a container of the node wears other addresses on the node's bridges")
    for name, frames in sent.items():
        node, container = hood.unlinked if name == "unlinked" else hood.tasks[name]
        node.docker("exec", "-i", container, "python3", "/srv/wear.py", stdin=json.dumps(frames))
    process.wait_for("what is heard", lambda: f"heard {WORN} ::ffff:{shared}.202" in _said(hood, "db"), seconds=10)
    tried.works(f"{shared}.202" in _said(hood, "db"))
    heard = {name: [line for line in _said(hood, name).splitlines() if f"heard {WORN}" in line] for name in PUBLISHED}
    figure(
        f"worn addresses: {sum(map(len, sent.values())) - 1} datagrams, {sum(map(len, heard.values())) - 1} arrived"
    )
    tried.stopped(heard["db"] == [f"heard {WORN} ::ffff:{shared}.202"] and not heard["closed"], str(heard))
    beside.stopped(not heard["old"], str(heard))
    _ports_shared_again(hood)
    node, container = hood.unlinked
    node.docker("exec", "-i", container, "python3", "/srv/wear.py", stdin=json.dumps(sent["unlinked"]))
    process.wait_for("what is heard", lambda: f"{foreign}.3" in _said(hood, "old"), seconds=10)
    beside.works(f"{foreign}.3" in _said(hood, "old"))


def _said(hood: Neighbourhood, name: str) -> str:
    return hood.stacks.logged(f"beside_{name}")


def _ports_shared_again(hood: Neighbourhood) -> None:
    """Take the node's guard of docker0's ports away; the agent puts it back within seconds."""
    hood.stacks.lab.manager.run(["nft", "delete", "table", "bridge", "linkwire"])


def _mac_of(hood: Neighbourhood, bridge: str) -> str:
    shown = hood.stacks.lab.manager.run(["ip", "-json", "link", "show", "dev", bridge]).stdout
    return str(json.loads(shown)[0]["address"])


def _address_of(hood: Neighbourhood, bridge: str) -> str:
    shown = hood.stacks.lab.manager.run(["ip", "-json", "-4", "address", "show", "dev", bridge]).stdout
    return str(json.loads(shown)[0]["addr_info"][0]["local"])
