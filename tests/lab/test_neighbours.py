"""The neighbours of a linked task: who reaches which of its ports by which address, as meant and as measured."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.lab import checker, process, programs
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.programs import INSIDE, Task

Figure = Callable[[str], None]
NETWORK, SUBNET, SUBNET6 = "beside", "10.250.7.0/24", "fd5a:7::/64"
LINKED, OTHER, DATAGRAMS, WORN = 80, 90, 53, 54
KINDS = (("tcp", LINKED), ("tcp", OTHER), ("udp", DATAGRAMS))
PUBLISHED = {"db": 8771, "closed": 8772, "old": 8773}
ON_SHARED = ("db", "closed")
CONSUMERS = {"web": {"cap_drop": ["NET_RAW"]}, "raw": {}, "admin": {"cap_add": ["NET_ADMIN"]}}
LAWLESS = "nft delete table inet linkwire 2>/dev/null || :"


def compose(stacks: Deployment) -> str:
    """Three providers on one node, and beside them their consumers and a service that is linked to nobody."""
    listening = (f"--tcp={LINKED},{OTHER}", f"--udp={DATAGRAMS},{WORN}")
    services = {}
    for name, published in PUBLISHED.items():
        services[name] = {
            **programs.service(stacks.images.demo, "listen", name, *listening),
            "networks": ["bridge"] if name == "old" else ["shared"],
            "ports": [{"target": LINKED, "published": published, "mode": "host"}],
            "x-wireguard": {"expose": [f"{LINKED}/tcp"], **({"strict": "all"} if name == "closed" else {})},
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
        # Its own rules are gone: then a VIP leads nowhere.
        return by_link and is_open_port and (asking != "admin" or way.name.startswith("mesh"))
    if asking == "stranger":
        by_shared = way.name in {"overlay", "overlay, IPv6"} or (way.name == "name" and way.provider in ON_SHARED)
        return by_shared and (way.provider != "closed" or is_open_port)
    if asking == "host":  # root on the node, which Docker's own proxy for published ports is too
        return way.name in {"gateway", "bridge"} and (way.provider != "closed" or is_open_port)
    return False


@pytest.fixture
def hood(stacks: Deployment) -> Iterator[Neighbourhood]:
    manager, other = stacks.lab.manager, stacks.lab.node("n2")
    with contextlib.ExitStack() as ending:
        create = ("network", "create", "--driver", "overlay", "--attachable", "--ipv6")
        manager.docker(*create, "--subnet", SUBNET, "--subnet", SUBNET6, NETWORK)
        ending.callback(lambda: process.wait_for("the network to go", lambda: _is_gone(manager), seconds=60))
        container = manager.docker(
            *("run", "--detach", "--volume", f"{INSIDE}:/srv:ro", stacks.images.demo, "sleep", "86400")
        ).stdout.strip()
        ending.callback(lambda: manager.docker("rm", "--force", container))
        ending.callback(lambda: stacks.remove("beside"))
        stacks.deploy("beside", compose(stacks))
        names = (*PUBLISHED, *CONSUMERS, "stranger")
        tasks = {name: stacks.wait_running(f"beside_{name}", 1)[0] for name in names}
        checker.settle(stacks.lab)
        yield Neighbourhood(stacks, tasks, (manager, container), other)


def _is_gone(manager: Node) -> bool:
    return manager.docker("network", "rm", NETWORK, check=False).returncode == 0


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


def test_each_neighbour_reaches_what_is_meant(hood: Neighbourhood, figure: Figure) -> None:
    differences: list[str] = []
    outcomes: Counter[str] = Counter()
    table: list[str] = []
    node = hood.stacks.lab.manager
    for asking in ASKING:
        tried: list[tuple[Way, tuple[str, int]]] = []
        asks_as = "unlinked" if asking in {"host", "other node"} else asking
        for provider, published in PUBLISHED.items():
            tried += [(way, kind) for way in hood.ways(provider, asks_as) for kind in KINDS]
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
    print(*table, sep="\n")
    figure(f"neighbours: {outcomes.total()} tries, {dict(outcomes)}, {len(differences)} differences")
    assert differences == []
