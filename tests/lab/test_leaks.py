"""Nothing that linked services say to each other is seen outside WireGuard, by whatever other way they could."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.lab import checker, process, programs
from tests.lab.deployment import Deployment
from tests.lab.roster import Roster
from tests.lab.watch import Sighting, Watch

Figure = Callable[[str], None]
CANARY = "canary-of-the-leaks-91d2"
MESH = ("100.96.", "fd")  # where the lab's mesh has its addresses; no other network here has such
LINKS = {"one": ["two"], "two": ["three"], "three": ["one"]}
# All share the first overlay; one and two the node's own bridge; the tasks of three another overlay, and with that
# docker_gwbridge. `other` is linked to nobody.
NETWORKS = {"one": ["inner", "bridge"], "two": ["inner", "bridge"], "three": ["inner", "wide"], "other": ["inner"]}
REPLICAS = {"one": 2, "two": 2, "three": 4}
PUBLISHED = 8765
LATE_S = 1.0
GWBRIDGE = "172.18."  # the first network that Docker takes after docker0's


@dataclass(frozen=True, slots=True)
class Heard:
    """A task of `service` was answered by (or was asked by) one of `who`, at an address, in this way."""

    service: str
    way: str
    address: str
    who: str

    @property
    def inside(self) -> bool:
        return self.address.startswith(MESH)


def compose(stacks: Deployment, *, strict: bool) -> str:
    services = {}
    for name, networks in NETWORKS.items():
        wired = name in LINKS
        arguments = (
            [f"--neighbours={','.join(LINKS)}", "--strangers=other"] if wired else [f"--strangers={','.join(LINKS)}"]
        )
        services[name] = {
            **programs.service(stacks.images.demo, "gossip", name, CANARY, *arguments),
            "networks": networks,
            "stop_grace_period": "2s",
            "deploy": {"endpoint_mode": "dnsrr", "replicas": REPLICAS[name]}
            if wired
            else {"endpoint_mode": "dnsrr", "mode": "global"},
        }
        if wired:
            services[name]["command"].append(f"--links={','.join(f'link-{to}' for to in LINKS[name])}")
            services[name]["links"] = [f"{to}:link-{to}" for to in LINKS[name]]
            services[name]["x-wireguard"] = {"strict": strict, "gate": strict}
    services["one"]["ports"] = [{"target": 9001, "published": PUBLISHED, "mode": "host"}]
    overlays: dict[str, object] = {
        "inner": {"driver": "overlay", "internal": True},
        "wide": {"driver": "overlay"},
        "bridge": {"external": True, "name": "bridge"},
    }
    return programs.stack(services, overlays)


def heard(stacks: Deployment) -> set[Heard]:
    """What every task of the stack has said, also of those that ended."""
    found: set[Heard] = set()
    for node in stacks.lab.nodes:
        for name in NETWORKS:
            label = f"label=com.docker.swarm.service.name=leaks_{name}"
            for container in node.docker("ps", "--all", "--quiet", "--filter", label).stdout.split():
                lines = node.docker("logs", container).stdout.splitlines()
                found |= {Heard(name, *words) for line in lines if len(words := line.split()) == 3}
    return found


def between_wired(found: Iterable[Heard]) -> set[Heard]:
    """What passed between wired services outside the mesh."""
    return {one for one in found if one.service in LINKS and not one.inside and one.who != "other"}


def between_running(seen: Iterable[Sighting], roster: Roster) -> list[Sighting]:
    """Those that a program sent to an address at which another ran, and had for a second and would for one more.

    Whatever a program sends counts, from its first instruction on. What goes to an address that nobody has yet, or
    any more, does not: before a task begins no other knows of it, and after its end it is no task's. The answers of
    kernels (ICMP, but for echo requests) follow from what was sent.
    """
    return [
        one
        for one in seen
        if one.kind in ("udp", "tcp", "icmp-8")
        and roster.held(
            one.place.partition("-")[0] if one.destination.startswith("172.") else None,
            one.destination,
            one.at,
            LATE_S,
        )
    ]


def summary(seen: Iterable[Sighting]) -> list[str]:
    """Between whom what was seen passed, how often, and when first and last."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for one in seen:
        times[f"{one.place}: {one.source} > {one.destination} {one.kind}"].append(one.at)
    return [f"{who} {len(at)} times, {clock(min(at))} to {clock(max(at))}" for who, at in sorted(times.items())]


def clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}"


def agents_back(stacks: Deployment) -> None:
    process.wait_for("an agent on every node", stacks.agents_ready, seconds=90, every=0.5)
    checker.settle(stacks.lab, 120)


def test_no_canary_leaks_through_a_stacks_life(stacks: Deployment, figure: Figure) -> None:
    """From each task's first instruction on: with the gate, since a busy node may start a task before it is wired."""
    lab, manager = stacks.lab, stacks.lab.manager
    watch = Watch(lab)
    phases: list[str] = []

    def now(phase: str) -> None:
        phases.append(f"{clock(time.time())} {phase}")

    with watch, Roster(lab, "leaks") as roster:
        now("deploy")
        stacks.deploy("leaks", compose(stacks, strict=True))
        for name, count in REPLICAS.items():
            stacks.wait_running(f"leaks_{name}", count)
        checker.settle(lab)
        now("scale")
        manager.docker("service", "scale", "--detach", "leaks_one=3", "leaks_two=1", "leaks_three=5")
        checker.settle(lab)
        victim = lab.node("n2")
        agent = stacks.agent(victim)
        assert agent is not None
        now("kill the agent of n2")
        victim.docker("kill", agent)
        process.wait_for("another agent", lambda: stacks.agent(victim) not in (None, agent), seconds=60)
        agents_back(stacks)
        now("stop n3")
        lab.stop_node("n3")
        time.sleep(2)
        now("start n3")
        lab.start_node("n3")
        agents_back(stacks)
        now("all well")
        published = from_outside(stacks)
        time.sleep(2)
    seen = watch.find(CANARY.encode())
    gateway = [one for one in seen if one.destination.startswith(GWBRIDGE)]
    leaked = between_running(seen, roster)
    edge = len(seen) - len(gateway) - len(leaked)
    where = "\n".join([*phases, *summary([*gateway, *leaked])])
    packets, places = watch.packets, watch.places
    watch.close()
    said = heard(stacks)
    outside = {one for one in between_wired(said) if one.way != "icmp"}  # kernels answer that before a task begins
    figure(
        f"leaks: {packets} packets seen in {places} namespaces through deploy, scale, agent killed, node stopped and"
        f" started; the canary in {len(leaked)} from task to task, in {len(gateway)} on docker_gwbridge,"
        f" in {edge} to tasks that had not begun or had ended; {len(outside)} ways found"
    )
    assert outside == set()
    for consumer, providers in LINKS.items():
        for provider in providers:
            assert any(one.inside and (one.service, one.way, one.who) == (consumer, "udp", provider) for one in said)
    for name in LINKS:  # what is not linked is left alone
        assert any((one.service, one.way, one.who) == (name, "udp", "other") for one in said)
        assert any((one.service, one.way, one.who) == ("other", "udp", name) for one in said)
    assert published == {"one"}
    assert leaked == [], where
    assert gateway == [], where


def from_outside(stacks: Deployment) -> set[str]:
    """Who answers at the published port of the nodes that run a task of `one`, asked from beside the nodes."""
    answers = set()
    for node, _ in stacks.tasks("leaks_one"):
        ask = f"exec 3<>/dev/tcp/{node.address}/{PUBLISHED}; echo hello >&3; timeout 3 cat <&3"
        done = process.answer(stacks.lab.hub_command(["bash", "-c", ask]), check=False, timeout=10)
        answers.add(done.stdout.split(" ")[0])
    return answers


def test_without_strict_the_same_watch_does_find_it(stacks: Deployment, figure: Figure) -> None:
    """So that nothing found above means something; and `strict: false` is heeded."""
    with Watch(stacks.lab) as watch, Roster(stacks.lab, "leaks") as roster:
        stacks.deploy("leaks", compose(stacks, strict=False))
        for name, count in REPLICAS.items():
            stacks.wait_running(f"leaks_{name}", count)
        checker.settle(stacks.lab)
        time.sleep(3)
    seen = watch.find(CANARY.encode())
    watch.close()
    outside = between_wired(heard(stacks))
    ways = {(one.way, one.address.split(".")[0]) for one in outside}
    leaked = between_running(seen, roster)
    figure(f"without strict: the canary in {len(leaked)} packets from task to task; {len(outside)} ways found")
    assert len(leaked) > 100
    assert {way for way, _ in ways} >= {"udp", "tcp", "icmp"}
    assert {network for _, network in ways} == {"10", "172"}
    assert {one.place.partition("-")[0] for one in leaked} >= {"hub", "n1", "n2", "n3"}
