"""Are peers, names and VIPs of every task exactly those of the link graph? Read with `wg`, `ip`, `nft` and Docker.

This shares no code with Linkwire and asks nothing of its store: the graph comes from the service labels, the
devices from the namespaces, the keys from `wg`. Where the two differ, one of them is wrong. Which address is a VIP it
learns from the names: it must be the same in every consumer, and nobody's own.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from agent.containers.holder_container import NAME
from tests.lab import process, rules
from tests.lab.lab import Lab
from tests.lab.layout import LabError
from tests.lab.node import Node, UnreachableError

DEVICE = "lw"
STABLE_S = 2.0
TERMINAL = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")


@dataclass
class Wired:
    """A task's device as the tools show it."""

    task: str
    service: str
    node: str
    device: str
    address: str  # IPv4
    address6: str
    ready: bool  # no healthcheck of its own, or one that passes
    public_key: str
    port: str
    peers: dict[str, set[str]]  # public key -> allowed IPs
    endpoints: dict[str, str]  # public key -> endpoint
    hosts: dict[str, set[str]]  # name -> addresses
    backends: dict[str, list[str]] | None  # VIP -> where its rule sends new connections


@dataclass
class Graph:
    """What the services' labels and Swarm say."""

    links: set[tuple[str, str]]  # consumer and provider
    names: dict[str, dict[str, set[str]]]  # consumer -> provider -> aliases
    services: set[str]
    dnsrr: set[str]
    underlay: dict[str, str]  # node -> the address where its WireGuard ports are


@dataclass
class Found:
    """Everything that was found on one node."""

    wired: list[Wired]
    tasks: dict[str, str]  # task -> service, every running task container that has a namespace of its own
    faults: list[str]


def differences(lab: Lab) -> list[str]:
    """What differs between the devices and the graph, in words; nothing when they agree."""
    graph = _graph(lab)
    nodes = [node for node in lab.nodes if node.dockerd_pid is not None]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_read_node, nodes))
    faults = [fault for one in found for fault in one.faults]
    wired = [device for one in found for device in one.wired]
    running = {task: service for one in found for task, service in one.tasks.items()}
    faults += _peer_faults(graph, wired, running)
    faults += _vip_faults(graph, wired)
    for kind in ("address", "address6", "public_key"):
        faults += _twice(kind, [(getattr(device, kind), device.task) for device in wired])
    return faults


def devices(node: Node) -> list[Wired]:
    """What is wired on one node."""
    return _read_node(node).wired


def swarm_settled(lab: Lab) -> bool:
    """Whether Swarm itself has converged: every wanted task runs, every other has ended, and none is missing."""
    return not unsettled(lab)


def unsettled(lab: Lab) -> str:
    """What Swarm has still to do, the first that is found; empty when it has converged."""
    manager = lab.manager
    try:
        services = {service["ID"]: service for service in manager.get("/services")}
        tasks = manager.get("/tasks")
        nodes = {node["ID"]: node for node in manager.get("/nodes")}
    except UnreachableError as error:
        return str(error)
    running: defaultdict[str, int] = defaultdict(int)
    for task in tasks:
        state, desired = task["Status"]["State"], task["DesiredState"]
        # One that is not wanted any more and never got a node is nobody's to end.
        if state in TERMINAL or (desired != "running" and not task.get("NodeID")):
            continue
        node = nodes.get(task.get("NodeID", ""))
        if desired == "running" and state == "running":
            running[task["ServiceID"]] += 1
        elif desired == "running" or node is None or node["Status"]["State"] != "down":
            service = services.get(task["ServiceID"], {"Spec": {"Name": "a removed service"}})["Spec"]["Name"]
            said = task["Status"].get("Err") or task["Status"].get("Message", "")
            return f"a task of {service} on {task.get('NodeID')} is {state} and to be {desired}: {said}"
    active = sum(n["Status"]["State"] == "ready" and n["Spec"]["Availability"] == "active" for n in nodes.values())
    for service in services.values():
        mode = service["Spec"]["Mode"]
        wanted = mode["Replicated"].get("Replicas", 0) if "Replicated" in mode else active
        if running[service["ID"]] != wanted:
            return f"{service['Spec']['Name']} has {running[service['ID']]} of {wanted} tasks"
    return ""


def settle(lab: Lab, seconds: float = 90.0) -> float:
    """Wait until Swarm and the devices have both come to rest; the seconds that the devices took longer.

    At rest means for STABLE_S without a break, so that a change which Swarm has not noticed yet is not missed.

    Raises:
        LabError: Swarm has not converged, or the devices differ `seconds` after it has; with the differences.
    """
    began = moved = wrong = time.monotonic()
    while True:
        asked = time.monotonic()
        settled = swarm_settled(lab)
        faults = differences(lab)
        if not settled:
            moved = asked
        if faults:
            wrong = asked
        if asked - max(moved, wrong) > STABLE_S:
            return max(0.0, wrong - moved)
        if asked - (moved if settled else began) > seconds:
            what = f"{len(faults)} differences" if settled else "Swarm has not converged"
            raise LabError(f"{what} after {seconds:.0f} s:\n" + "\n".join(faults[:20]))
        # All that is asked for takes the processors from what has to come to rest.
        time.sleep(max(0.1, time.monotonic() - asked))


def _graph(lab: Lab) -> Graph:
    links: set[tuple[str, str]] = set()
    names: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    services, dnsrr = set(), set()
    for service in lab.manager.get("/services"):
        spec = service["Spec"]
        services.add(spec["Name"])
        if spec.get("EndpointSpec", {}).get("Mode") == "dnsrr":
            dnsrr.add(spec["Name"])
        for entry in filter(None, (spec.get("Labels") or {}).get("linkwire.links", "").split(",")):
            provider, _, alias = entry.strip().partition(":")
            links.add((spec["Name"], provider))
            names[spec["Name"]][provider].add(alias or provider)
    underlay = {}
    for node in lab.manager.get("/nodes"):
        name = node["Description"]["Hostname"]
        underlay[name] = (node["Spec"].get("Labels") or {}).get("linkwire.address", lab.node(name).address)
    return Graph(links, names, services, dnsrr, underlay)


def _peer_faults(graph: Graph, wired: list[Wired], running: dict[str, str]) -> list[str]:
    faults: list[str] = []
    linked = {service for pair in graph.links for service in pair}
    devices = {device.task: device for device in wired}
    for task, service in running.items():
        if service in linked and task not in devices:
            faults.append(f"{service} {task}: is linked and has no device")
    for device in wired:
        if device.service not in linked:
            faults.append(f"{device.service} {device.task}: has {device.device} and is not linked")
            continue
        partners = [
            other
            for other in wired
            if other.task != device.task
            and ((device.service, other.service) in graph.links or (other.service, device.service) in graph.links)
        ]
        wanted = {other.public_key: {f"{other.address}/32", f"{other.address6}/128"} for other in partners}
        who = f"{device.service} {device.task} on {device.node}"
        if device.peers != wanted:
            missing = [other.task for other in partners if other.public_key not in device.peers]
            surplus = len(device.peers.keys() - wanted.keys())
            faults.append(
                f"{who}: {len(device.peers)} peers, not {len(wanted)}; missing {missing}, surplus {surplus},"
                f" allowed IPs {sorted(map(sorted, device.peers.values()))}"
            )
        for other in partners:
            host = graph.underlay[other.node]
            meant = f"[{host}]:{other.port}" if ":" in host else f"{host}:{other.port}"
            if device.endpoints.get(other.public_key) not in (meant, None):
                faults.append(f"{who}: {other.task} is at {device.endpoints[other.public_key]}, not {meant}")
        faults += _name_faults(who, device, graph, wired)
    return faults


def _ready(service: str, wired: list[Wired]) -> frozenset[str]:
    """The addresses, of both families, of a service's ready tasks."""
    ready = [device for device in wired if device.service == service and device.ready]
    return frozenset(address for device in ready for address in (device.address, device.address6))


def _name_faults(who: str, device: Wired, graph: Graph, wired: list[Wired]) -> Iterable[str]:
    """Whether a task's names are those of its links, and lead to one VIP of each family or to every address."""
    meant: set[str] = set()
    vips: set[str] = set()
    for provider, aliases in graph.names[device.service].items():
        meant |= aliases
        addresses = _ready(provider, wired)
        found = {frozenset(device.hosts.get(alias, ())) for alias in aliases}
        if provider not in graph.services:
            if not set().union(*found).isdisjoint(device.backends or {}):
                yield f"{who}: {provider}, which is no service, is {[sorted(one) for one in found]}, not nobody"
        elif provider not in graph.dnsrr:
            vips |= set().union(*found)
            yield from _spread_faults(f"{who}: {provider}", found, device.backends or {}, addresses)
        else:
            tasks = frozenset(address for address in addresses if ":" not in address)
            vips |= {vip for vip, to in (device.backends or {}).items() if addresses and set(to) == addresses - tasks}
            vips |= set().union(*found) - tasks
            yield from _dnsrr_faults(f"{who}: {provider}", found, device.backends or {}, tasks, device.address)
    if device.hosts.keys() != meant:
        yield f"{who}: resolves {sorted(device.hosts)}, not {sorted(meant)}"
    if device.backends is None:
        yield f"{who}: has no nft table"
    elif surplus := device.backends.keys() - vips:
        yield f"{who}: has rules for {sorted(surplus)}, which none of its names has"


def _dnsrr_faults(
    what: str, found: set[frozenset[str]], backends: dict[str, list[str]], tasks: frozenset[str], own: str
) -> Iterable[str]:
    """Whether all names of a provider with dnsrr are its other ready tasks, and a VIP that leads to all, in IPv4."""
    vips = set().union(*found) - tasks
    if len(found) != 1 or len(vips) != 1 or set().union(*found) != vips | (tasks - {own}):
        yield f"{what} is {[sorted(one) for one in found]}, not a VIP and {sorted(tasks)}"
    for vip in vips:
        if (has := sorted(backends.get(vip, []))) != sorted(tasks):
            yield f"{what} at {vip} leads to {has}, not {sorted(tasks)}"


def _spread_faults(
    what: str, found: set[frozenset[str]], backends: dict[str, list[str]], addresses: frozenset[str]
) -> Iterable[str]:
    """Whether all names of a provider are one VIP of each family, which leads to exactly its ready tasks."""
    vips = set().union(*found)
    if len(found) != 1 or sorted(":" in vip for vip in vips) != [False, True]:
        yield f"{what} is {[sorted(one) for one in found]}, not one VIP of each family"
        return
    for vip in vips:
        wanted = sorted(address for address in addresses if (":" in address) == (":" in vip))
        if (has := sorted(backends.get(vip, []))) != wanted:
            yield f"{what} at {vip} leads to {has}, not {wanted}"


def _vip_faults(graph: Graph, wired: list[Wired]) -> Iterable[str]:
    """Whether every service has one VIP for all its consumers, and shares it with nobody."""
    vips: defaultdict[str, set[str]] = defaultdict(set)  # address -> services
    of: defaultdict[str, set[str]] = defaultdict(set)  # service -> addresses
    for device in wired:
        for provider, aliases in graph.names[device.service].items():
            for alias in aliases if provider in graph.services and provider not in graph.dnsrr else ():
                for address in device.hosts.get(alias, ()):
                    vips[address].add(provider)
                    of[provider].add(address)
    yield from (f"the VIP {vip} is that of {sorted(names)}" for vip, names in vips.items() if len(names) > 1)
    yield from (f"{service} has the VIPs {sorted(found)}" for service, found in of.items() if len(found) > 2)
    for device in wired:
        routed = {network.partition("/")[0] for networks in device.peers.values() for network in networks}
        if taken := vips.keys() & (routed | {device.address, device.address6}):
            yield f"{device.service} {device.task}: {sorted(taken)} is a VIP, and its own or a peer's address"


def _twice(kind: str, values: list[tuple[str, str]]) -> list[str]:
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for value, task in values:
        owners[value].append(task)
    return [f"the {kind} {value} is that of {tasks}" for value, tasks in owners.items() if len(tasks) > 1]


def _read_node(node: Node) -> Found:
    containers = _containers(node)
    root = f"/proc/{node.dockerd_pid}/root"
    agent = next((c for c in containers if c["Config"]["Labels"].get("linkwire.role") == "agent"), None)
    wg = _wg(_with_sockets(node) or agent["State"]["Pid"]) if agent else {}
    found = Found([], {}, [])
    for container in containers:
        sandbox = _sandbox(container)
        labels = container["Config"]["Labels"]
        if not sandbox or sandbox.endswith("/default"):
            continue
        task, service = labels["com.docker.swarm.task.id"], labels["com.docker.swarm.service.name"]
        found.tasks[task] = service
        devices = [link for link in _addresses(f"{root}{sandbox}") if link["ifname"].startswith(DEVICE)]
        if len(devices) > 1:
            found.faults.append(f"{service} {task}: {len(devices)} devices")
        for link in devices:
            found.wired.append(_wired(node, container, link, wg))
    used = {device.device for device in found.wired}
    found.faults += [f"{node.name}: {device} is in no running task" for device in wg.keys() - used]
    return found


def _sandbox(container: dict[str, Any]) -> str:
    # /var/run is a link to /run: below /proc/PID/root it would lead out of the node again.
    return str(container["NetworkSettings"]["SandboxKey"]).replace("/var/run/", "/run/", 1)


def _containers(node: Node) -> list[Any]:
    query = quote(json.dumps({"label": ["com.docker.swarm.task.id"]}))
    listed = node.get(f"/containers/json?filters={query}")
    found = []
    for one in listed:
        try:
            found.append(node.get(f"/containers/{one['Id']}/json"))
        except UnreachableError:
            continue  # it ended between the two requests
    return [container for container in found if container["State"]["Running"]]


def _with_sockets(node: Node) -> int:
    """The holder's pid; 0 where there is none."""
    try:
        return int(node.get(f"/containers/{NAME}/json")["State"]["Pid"])
    except UnreachableError:
        return 0


def _wg(pid: int) -> dict[str, dict[str, dict[str, str]]]:
    """Device -> {what -> {key or "": value}}, from a process's mount namespace. Private keys are never asked for."""
    wg: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for what in ("public-key", "listen-port", "allowed-ips", "endpoints"):
        argv = ["nsenter", f"--target={pid}", "--mount", "--net", "--", "wg", "show", "all", what]
        shown = process.answer(argv, check=False)  # fails when the agent ends just now: its devices are then missing
        device = ""
        for line in shown.stdout.splitlines():
            name, *rest = line.split("\t")
            if name.endswith("="):  # the second peer's line and later ones may lack the device's name
                rest = [name, *rest]
            else:
                device = name
            if len(rest) == 1:
                wg[device][what][""] = rest[0]
            else:
                wg[device][what][rest[0]] = rest[1]
    return wg


def _addresses(netns: str) -> list[Any]:
    shown = process.answer(["nsenter", f"--net={netns}", "ip", "-json", "address", "show"], check=False)
    return [link for link in json.loads(shown.stdout or "[]") if link]


def _wired(
    node: Node,
    container: dict[str, Any],
    link: dict[str, Any],
    wg: dict[str, dict[str, dict[str, str]]],
) -> Wired:
    labels = container["Config"]["Labels"]
    root = f"/proc/{node.dockerd_pid}/root"
    shown = wg.get(link["ifname"], {})
    addresses = {
        family: " ".join(
            f"{a['local']}/{a['prefixlen']}".removesuffix(whole)
            for a in link["addr_info"]
            if (a["family"], a["scope"]) == (family, "global")
        )
        for family, whole in (("inet", "/32"), ("inet6", "/128"))
    }
    return Wired(
        task=labels["com.docker.swarm.task.id"],
        service=labels["com.docker.swarm.service.name"],
        node=node.name,
        device=link["ifname"],
        address=addresses["inet"],
        address6=addresses["inet6"],
        ready=container["State"].get("Health", {}).get("Status", "none") in ("none", "healthy"),
        public_key=shown.get("public-key", {}).get("", ""),
        port=shown.get("listen-port", {}).get("", ""),
        peers={key: set(networks.split()) for key, networks in shown.get("allowed-ips", {}).items()},
        endpoints=dict(shown.get("endpoints", {})),
        hosts=_hosts(f"{root}{container['HostsPath']}"),
        backends=rules.backends(f"{root}{_sandbox(container)}"),
    )


def _hosts(path: str) -> dict[str, set[str]]:
    """Names that resolve into the mesh: those whose lines bear Linkwire's mark."""
    names: dict[str, set[str]] = defaultdict(set)
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a path below /proc/PID/root
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in lines:
        if line.endswith(" # linkwire") and not line.startswith("#"):
            address, *aliases = line.partition("#")[0].split()
            for alias in aliases:
                names[alias].add(address)
    return names
