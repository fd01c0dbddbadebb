"""The diagnosis of a link: each fault, as facts, and the cause that is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.diagnosis import swarm_stages
from mesh.diagnosis.link_facts import Connection, End, LinkFacts, Listener, Look, Trial, Underlay, Unheard
from mesh.diagnosis.link_stages import by_looking, by_records
from mesh.diagnosis.steps import STAGES, Step, ago, worst
from mesh.diagnosis.swarm_facts import SwarmFacts, SwarmNode, SwarmService, SwarmTask

WEB = End("w1", "shop_web.1", "a", "n1", "100.96.0.2", ready=True, has_keys=True)
DB = End("d1", "shop_db.1", "b", "n2", "100.96.0.3", ready=True, has_keys=True)
LISTENER = Listener(5432, "tcp", loopback=False)
HERE = Look(1000.0, wired=True, device="lww1", is_up=True, mtu=1420, is_peer=True, handshake_age=7.0, rules_hold=True)
THERE = replace(HERE, device="lwd1", listeners=(LISTENER,))
TRIAL = Trial(
    small=True,
    large=True,
    large_bytes=1420,
    connections=(
        Connection("100.96.0.3", 5432, "open", is_vip=False),
        Connection("100.96.0.9", 5432, "open", is_vip=True),
    ),
    names=(("db", ("100.96.0.9",)),),
)
UNDERLAY = Underlay(8, 8, 8, 1480, 8, 8)
GOOD = LinkFacts(
    "shop_web",
    "shop_db",
    vip="100.96.0.9",
    names=("db",),
    consumer_ends=(WEB,),
    provider_ends=(DB,),
    consumer_end=WEB,
    provider_end=DB,
    here=replace(HERE, backends=("100.96.0.3",)),
    there=THERE,
    trial=TRIAL,
    underlay=UNDERLAY,
    clock=1001.0,
)
DEAD = replace(TRIAL, small=False, large=None, connections=())


def steps(facts: LinkFacts) -> tuple[Step, ...]:
    found = by_records(facts)
    return found if any(step.outcome == "wrong" for step in found) else (*found, *by_looking(facts))


def cause(facts: LinkFacts) -> Step:
    found = worst(steps(facts))
    assert found is not None
    return found


def test_packets_beside_the_link_are_told() -> None:
    """They are the task's, and perhaps a neighbour's: nothing is wrong with the link."""
    seen = steps(replace(GOOD, here=replace(GOOD.here or HERE, apart=3)))
    (rule,) = (step for step in seen if step.stage == "rule")
    assert "3 packets of shop_web.1 beside its links were refused (strict)" in rule.text
    assert worst(seen) is None


def test_sound_link_is_walked_to_its_end() -> None:
    assert [step.outcome for step in steps(GOOD)] == ["ok"] * 12
    assert [step.stage for step in steps(GOOD)] == list(STAGES[4:])
    assert worst(steps(GOOD)) is None


FAULTS: dict[str, tuple[LinkFacts, str, str]] = {
    "not recorded": (
        replace(GOOD, is_recorded=False, leads=False),
        "record",
        "no controller leads that could record",
    ),
    "no controller": (replace(GOOD, leads=False), "record", "no controller leads: nothing that changes is wired"),
    "no etcd": (replace(GOOD, store="it is down"), "record", "etcd does not answer"),
    "unapproved": (
        replace(GOOD, provider_end=replace(DB, approved=False)),
        "record",
        "keys of node n2 are not accepted",
    ),
    "no proof": (
        replace(GOOD, provider_end=replace(DB, address="", unproven=True)),
        "record",
        "keys of node n2 are not accepted, so shop_db.1 gets no address",
    ),
    "no address": (replace(GOOD, provider_end=replace(DB, address="")), "record", "shop_db.1 on n2 has no address"),
    "no key": (replace(GOOD, consumer_end=replace(WEB, has_keys=False)), "key", "sealed to n1"),
    "clash": (
        replace(GOOD, here=replace(HERE, device="", error="100.96.0.0/16 cannot be routed through lww1")),
        "device",
        "shop_web.1 is not wired: 100.96.0.0/16 cannot be routed",
    ),
    "down": (replace(GOOD, there=replace(THERE, is_up=False)), "device", "device lwd1 of shop_db.1 is down"),
    "no peer": (replace(GOOD, there=replace(THERE, is_peer=False)), "peer", "shop_db.1 does not have the other task"),
    "no handshake": (replace(GOOD, trial=DEAD), "handshake", "was not answered; last handshake 7 s ago"),
    "blocked there": (
        replace(GOOD, trial=DEAD, underlay=replace(UNDERLAY, there=0)),
        "underlay",
        "UDP from n1 does not reach n2: a firewall",
    ),
    "blocked back": (
        replace(GOOD, trial=DEAD, underlay=replace(UNDERLAY, here=0)),
        "underlay",
        "UDP from n2 does not reach n1: a firewall",
    ),
    "blocked both": (
        replace(GOOD, trial=DEAD, underlay=replace(UNDERLAY, there=0, here=0)),
        "underlay",
        "UDP from n1 does not reach n2 and UDP from n2 does not reach n1",
    ),
    "black hole": (
        replace(GOOD, trial=replace(TRIAL, large=False), underlay=replace(UNDERLAY, large_there=0)),
        "mtu",
        "one of 1420 bytes gets no answer",
    ),
    "shut port": (replace(GOOD, ports=("80/tcp",), asked="5432/tcp"), "rule", "opens 80/tcp, and not 5432/tcp"),
    "other rules": (replace(GOOD, here=replace(HERE, rules_hold=False)), "rule", "are not those that Linkwire put"),
    "stale vip": (replace(GOOD, here=replace(HERE, backends=("100.96.0.7",))), "vip", "leads to 100.96.0.7"),
    "not ready": (replace(GOOD, provider_ends=(replace(DB, ready=False),)), "backends", "has no ready task"),
    "loopback": (
        replace(
            GOOD,
            there=replace(THERE, listeners=(replace(LISTENER, loopback=True),)),
            trial=replace(TRIAL, connections=(Connection("100.96.0.3", 5432, "refused", is_vip=False),)),
        ),
        "listens",
        "its program listens on 127.0.0.1 only",
    ),
    "wrong port": (
        replace(
            GOOD,
            trial=replace(TRIAL, connections=(Connection("100.96.0.3", 5433, "refused", is_vip=False),)),
        ),
        "listens",
        "nothing listens there; it listens on 5432/tcp",
    ),
    "no listener": (
        replace(GOOD, there=replace(THERE, listeners=()), trial=replace(TRIAL, connections=())),
        "listens",
        "no program in shop_db.1 listens on any port",
    ),
    "udp": (replace(GOOD, asked="53/udp"), "listens", "53/udp of shop_db.1: nothing listens there"),
    "other name": (
        replace(GOOD, trial=replace(TRIAL, names=(("db", ("10.0.0.1", "100.96.0.9")),))),
        "name",
        "db resolves to 10.0.0.1 in shop_web.1, and not to 100.96.0.9",
    ),
    "clock": (replace(GOOD, there=replace(THERE, clock=4600.0)), "agent", "the clock of n2 is 59 min ahead"),
    "dead agent": (
        replace(
            GOOD,
            there=None,
            trial=DEAD,
            underlay=Underlay(problem="UDP was not tried"),
            unheard=(Unheard("b", "n2", "gives no signs of life in etcd"),),
        ),
        "handshake",
        "and the agent on n2 gives no signs of life in etcd: where a node's kernel has no WireGuard",
    ),
    "silent": (
        replace(GOOD, there=None, underlay=None, unheard=(Unheard("b", "n2", "did not answer"),)),
        "agent",
        "the agent on n2 did not answer",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(fault: str) -> None:
    facts, stage, text = FAULTS[fault]
    found = cause(facts)
    assert (found.stage, text in found.text) == (stage, True), found


SHUT, WRONG_TCP, WRONG_UDP = FAULTS["shut port"][0], FAULTS["wrong port"][0], FAULTS["udp"][0]
OF_LINK, OF_PROVIDER = "the `ports` of this link in the compose file of shop_web", "the `expose` of shop_db in its"
LISTEN = "have the program in shop_db listen on"


@pytest.mark.parametrize(
    ("facts", "mend"),
    [
        (replace(SHUT, ports_of="link"), f"add 5432/tcp to {OF_LINK}, and deploy"),
        (replace(SHUT, ports_of="provider"), f"add 5432/tcp to {OF_PROVIDER} compose file, and deploy"),
        (replace(WRONG_TCP, ports_of="link"), f"correct 5433/tcp in {OF_LINK}, or {LISTEN} 5433/tcp"),
        (
            replace(WRONG_TCP, ports_of="provider"),
            f"correct 5433/tcp in {OF_PROVIDER} compose file, or {LISTEN} 5433/tcp",
        ),
        (WRONG_TCP, f"connect to 5432/tcp instead, or {LISTEN} 5433/tcp"),
        (replace(WRONG_TCP, there=replace(THERE, listeners=())), f"{LISTEN} 5433/tcp"),
        (replace(WRONG_UDP, ports=("53/udp",), ports_of="link"), f"correct 53/udp in {OF_LINK}, or {LISTEN} 53/udp"),
        (WRONG_UDP, f"{LISTEN} 53/udp"),
        (
            replace(WRONG_UDP, there=replace(THERE, listeners=(Listener(53, "udp", loopback=True),))),
            "make the program in shop_db listen on 0.0.0.0:53",
        ),
    ],
)
def test_mend_names_the_list_that_exists(facts: LinkFacts, mend: str) -> None:
    assert cause(facts).command == mend


@pytest.mark.parametrize("fault", FAULTS)
def test_walk_ends_at_what_is_wrong(fault: str) -> None:
    found = steps(FAULTS[fault][0])
    assert all(step.outcome != "wrong" for step in found[:-1])
    assert [STAGES.index(step.stage) for step in found[2:]] == sorted(STAGES.index(step.stage) for step in found[2:])


def test_lost_probe_is_no_alarm_where_tunnel_works() -> None:
    """On a busy node the two sides may not send at the same time."""
    found = steps(replace(GOOD, underlay=replace(UNDERLAY, there=0, here=0)))
    assert worst(found) is None
    assert [step.stage for step in found if step.outcome == "skipped"] == ["underlay"]


def test_blocked_underlay_is_the_cause_not_handshake() -> None:
    found = steps(FAULTS["blocked there"][0])
    assert [(step.stage, step.outcome) for step in found[-2:]] == [("handshake", "warning"), ("underlay", "wrong")]


# --- Swarm's part

TASK = SwarmTask("w1", "shop_web.1", "a", "running", "running")
TASKS = {"shop_web": (TASK,), "shop_db": (replace(TASK, id="d1", name="shop_db.1", node="b"),)}
NODES = {name: SwarmNode(name, host, "ready", "active") for name, host in (("a", "n1"), ("b", "n2"))}
SWARM = SwarmFacts(
    "shop_web",
    "shop_db",
    {
        "shop_web": SwarmService("shop_web", ("shop_db",), replicas=1),
        "shop_db": SwarmService("shop_db", replicas=1),
    },
    "",
    TASKS,
    NODES,
    {node: replace(TASK, id=f"agent-{node}", node=node) for node in NODES},
)
ENDED = replace(TASK, id="d1", name="shop_db.1", node="b", state="failed", error="task: non-zero exit (1)", age=240)


def without_link(*links: str) -> SwarmFacts:
    return replace(SWARM, services={**SWARM.services, "shop_web": SwarmService("shop_web", links)})


SWARMS_FAULTS: dict[str, tuple[SwarmFacts, str, str]] = {
    "no service": (replace(SWARM, provider="shop_bd"), "label", "no service 'shop_bd'; did you mean 'shop_db'?"),
    "no link": (without_link("shop_cache"), "label", "but one to shop_cache, which does not exist"),
    "no links": (without_link(), "label", "shop_web has no link to shop_db: it links to nothing"),
    "other way": (
        replace(
            SWARM,
            services={"shop_web": SwarmService("shop_web"), "shop_db": SwarmService("shop_db", ("shop_web",))},
        ),
        "label",
        "it links to nothing; shop_db links to shop_web, and a link has one direction",
    ),
    "typo": (without_link("shop_dbb"), "label", "shop_dbb, which does not exist; did you mean 'shop_db'?"),
    "no stack": (without_link("db"), "label", "but one to db, which does not exist; did you mean 'shop_db'?"),
    "consent": (replace(SWARM, refusal="shop_db does not allow it"), "consent", "does not allow it"),
    "scaled": (
        replace(
            SWARM,
            services={**SWARM.services, "shop_db": SwarmService("shop_db", replicas=0)},
            tasks={**TASKS, "shop_db": ()},
        ),
        "placement",
        "shop_db is scaled to 0",
    ),
    "failed": (
        replace(SWARM, tasks={**TASKS, "shop_db": (ENDED,)}),
        "placement",
        "shop_db.1 does not run on n2: it is failed: task: non-zero exit (1)",
    ),
    "failing again and again": (
        replace(
            SWARM,
            tasks={
                **TASKS,
                "shop_db": (
                    replace(ENDED, state="ready", wanted="ready", error=""),
                    replace(ENDED, wanted="shutdown"),
                ),
            },
        ),
        "placement",
        "shop_db.1 does not run on n2: it is ready, after one that failed: task: non-zero exit (1)",
    ),
    "drained": (
        replace(
            SWARM,
            tasks={**TASKS, "shop_db": (replace(ENDED, node="", state="pending", error="no suitable node"),)},
            nodes={**NODES, "b": SwarmNode("b", "n2", "ready", "drain")},
        ),
        "placement",
        "it is pending: no suitable node; drained: n2",
    ),
    "no gate": (
        replace(
            SWARM,
            services={**SWARM.services, "shop_db": SwarmService("shop_db", replicas=1, needs_gate=True)},
            tasks={**TASKS, "shop_db": (replace(ENDED, node="", state="pending", error="no suitable node"),)},
            nodes={**NODES, "b": SwarmNode("b", "n2", "ready", "active", has_gate=True)},
        ),
        "placement",
        "no suitable node; `gate: true` places it on nodes with the start gate alone, and n1 is without it",
    ),
    "starting": (
        replace(SWARM, tasks={**TASKS, "shop_db": (replace(ENDED, state="starting", wanted="running", error=""),)}),
        "placement",
        "shop_db.1 does not run on n2: it is starting: its health check has not passed yet, or it waits for its",
    ),
    "starting and down": (
        replace(
            SWARM,
            tasks={**TASKS, "shop_db": (replace(ENDED, state="starting", wanted="running", error=""),)},
            nodes={**NODES, "b": SwarmNode("b", "n2", "down", "active")},
        ),
        "placement",
        "shop_db.1 does not run: node n2 is down",
    ),
    "no agent": (
        replace(SWARM, agents={"a": SWARM.agents["a"]}),
        "agent",
        "no agent runs on n2: Swarm has started none there",
    ),
    "agent failed": (
        replace(SWARM, agents={**SWARM.agents, "b": replace(ENDED, age=60)}),
        "agent",
        "no agent runs on n2: its task is failed (task: non-zero exit (1))",
    ),
    "node down": (
        replace(SWARM, nodes={**NODES, "b": SwarmNode("b", "n2", "down", "active")}),
        "agent",
        "node n2 is down",
    ),
}


def test_sound_swarm_is_ok() -> None:
    assert [step.stage for step in swarm_stages.walk(SWARM)] == list(STAGES[:4])
    assert worst(swarm_stages.walk(SWARM)) is None


@pytest.mark.parametrize("fault", SWARMS_FAULTS)
def test_fault_in_the_swarm_is_named(fault: str) -> None:
    facts, stage, text = SWARMS_FAULTS[fault]
    found = worst(swarm_stages.walk(facts))
    assert found is not None
    assert (found.stage, text in found.text) == (stage, True), found


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (7.4, "7 s"), (240, "4 min"), (7300, "2 h"), (2e5, "2 d")])
def test_ages_are_written_as_said(seconds: float | None, text: str) -> None:
    assert ago(seconds) == text
