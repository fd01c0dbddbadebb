"""Explicit checker: every state of a small world within some events, breadth first, each state once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from controller.swarm.model import Swarm, SwarmNode, SwarmTask
from mesh.crypto.keys import PublicKey
from tests.support.signing import CLUSTER
from tests.support.swarm_world import service
from tests.unit.model import system
from tests.unit.model.agents import approved
from tests.unit.model.rules import ROAMED_TO, RuleBrokenError
from tests.unit.model.system import State, Step

WEB, UNLINKED = service("shop_web", "shop_db"), service("shop_web")
DB, CACHE = service("shop_db"), service("shop_cache", "shop_db")
SUBNET = IPv4Network("10.1.0.0/29")
"""Six addresses: whatever is released is wanted again."""
Event = Callable[[State], State | None]


def task(name: str, of: str, node: str) -> SwarmTask:
    return SwarmTask(name, of, int(name[1:]), node, "running", "running")


def start() -> Swarm:
    """A web service on one node, and its database on another."""
    tasks = {"w1": task("w1", WEB.id, "n1"), "d1": task("d1", DB.id, "n2")}
    return Swarm(CLUSTER, {WEB.id: WEB, DB.id: DB}, tasks, {node: approved(node) for node in ("n1", "n2")})


def _with_task(name: str, of: str, node: str) -> Event:
    def event(state: State) -> State:
        tasks = {**state.swarm.tasks, name: task(name, of, node)}
        return system.swarm_changes(state, replace(state.swarm, tasks=tasks))

    return event


def _task_ends(state: State) -> State | None:
    found = state.swarm.tasks.get("d1")
    if found is None or not state.is_up(found.node):
        return None  # nobody can end it
    tasks = {**state.swarm.tasks, "d1": replace(found, desired="shutdown", state="shutdown")}
    return system.swarm_changes(state, replace(state.swarm, tasks=tasks))


def _task_moves(state: State) -> State | None:
    """Swarm gives up a task on a node, whether that is up or not, and starts another one elsewhere."""
    old = state.swarm.tasks.get("d1")
    if old is None:
        return None
    tasks = {**state.swarm.tasks, "d1": replace(old, desired="shutdown"), "d2": task("d2", DB.id, "n1")}
    return system.swarm_changes(state, replace(state.swarm, tasks=tasks))


def _service_comes(state: State) -> State:
    services = {**state.swarm.services, CACHE.id: CACHE}
    tasks = {**state.swarm.tasks, "c1": task("c1", CACHE.id, "n1")}
    return system.swarm_changes(state, replace(state.swarm, services=services, tasks=tasks))


def _unlinked(state: State) -> State:
    return system.swarm_changes(state, replace(state.swarm, services={**state.swarm.services, WEB.id: UNLINKED}))


def _down(state: State) -> State:
    return system.swarm_changes(state, _with_node(state.swarm, replace(approved("n2"), down=True)))


def _back(state: State) -> State | None:
    return None if state.is_up("n2") else system.swarm_changes(state, _with_node(state.swarm, approved("n2")))


def _with_node(swarm: Swarm, node: SwarmNode) -> Swarm:
    return replace(swarm, nodes={**swarm.nodes, node.id: node})


def _leaves(state: State) -> State:
    nodes = {node: found for node, found in state.swarm.nodes.items() if node != "n2"}
    tasks = {name: found for name, found in state.swarm.tasks.items() if found.node != "n2"}
    return system.swarm_changes(state, replace(state.swarm, nodes=nodes, tasks=tasks))


def some_peer(state: State, node: str) -> tuple[str, PublicKey] | None:
    """A peer of a task on a node that has not roamed."""
    for name, interface in sorted(state.agents[node].interfaces.items()):
        peers = interface.there.device.peers if interface.there is not None else {}
        for key, peer in sorted(peers.items()):
            if peer.endpoint is not None and peer.endpoint.port != ROAMED_TO:
                return name, key
    return None


def roams(state: State, node: str = "n1") -> State | None:
    """A peer of a task on a node is heard from elsewhere."""
    found = some_peer(state, node)
    if found is None:
        return None
    agent = system.own(state, state.agents[node])
    agent.roam(*found)
    return replace(state, agents={**state.agents, node: agent})


EVENTS: dict[str, Event] = {
    "a task starts": _with_task("d2", DB.id, "n1"),
    "a task ends": _task_ends,
    "a task moves": _task_moves,
    "a service comes": _service_comes,
    "a link goes": _unlinked,
    "a node is down": _down,
    "a node is back": _back,
    "a node leaves": _leaves,
    "a peer roams": roams,
    "an agent restarts": lambda state: system.agent_restarts(state, "n1", alone=False),
    "an agent restarts alone": lambda state: system.agent_restarts(state, "n1", alone=True),
    "the store is emptied": lambda state: system.store_is_lost(state, None),
    "the store is set back": lambda state: system.store_is_lost(state, state.pasts[0]),
    "addresses rest": system.rest_passes,
}
DEATH = "a controller dies"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far to look.

    Attributes:
        events: those that may happen, each once.
        most: of them on one way.
        depth: steps of all kinds on one way.
        states: to stop at.
        fine: whether each program steps by itself; else whole rounds pass.
    """

    events: tuple[str, ...]
    most: int
    depth: int
    states: int = 1_000_000
    fine: bool = True


WORLDS: Mapping[str, Bounds] = {
    "tasks": Bounds(
        ("a task starts", "a task ends", "a service comes", "a link goes", "addresses rest", DEATH), 3, 7
    ),
    "nodes": Bounds(
        ("a task moves", "a node is down", "a node is back", "a node leaves", "an agent restarts", "a peer roams"),
        3,
        7,
    ),
    "rounds": Bounds((*EVENTS, DEATH), 4, 8, fine=False),
    "losses": Bounds(
        (
            "a task starts",
            "a task ends",
            "the store is emptied",
            "the store is set back",
            "an agent restarts alone",
            "addresses rest",
            DEATH,
        ),
        3,
        7,
    ),
}


@dataclass(slots=True)
class Found:
    """The result of a search.

    Attributes:
        states: distinct ones.
        steps: made.
        deepest: steps on the longest way.
        seconds: of processor.
        broken: the rule that a state breaks, with the way to it; None where all hold.
        whole: whether every state within the bounds was reached.
    """

    states: int = 0
    steps: int = 0
    deepest: int = 0
    seconds: float = 0.0
    broken: str | None = None
    whole: bool = True


def first(bounds: Bounds) -> State:
    """The state to begin with: at rest, with a past that the store may be set back to."""
    state = system.settled(system.begun(start(), SUBNET))
    for _ in range(4):
        state = system.round_passes(state)
    past = state.etcd
    # One more task has come since, so that the past is another state.
    tasks = {**state.swarm.tasks, "d9": task("d9", DB.id, "n1")}
    state = system.settled(system.swarm_changes(state, replace(state.swarm, tasks=tasks)))
    return replace(state, pasts=(past,), left=frozenset(bounds.events))


def _steps(state: State, bounds: Bounds) -> Iterator[tuple[str, Step]]:
    if bounds.fine:
        yield from system.steps(state)
    else:
        yield "a round passes", system.round_passes
    if len(bounds.events) - len(state.left) >= bounds.most:
        return
    for name in sorted(state.left):
        if name == DEATH:
            for most in range(max(1, system.count_transactions(state))):
                yield f"a controller dies after {most}", _dying(most)
        else:
            yield name, _happening(name)


def _dying(most: int) -> Step:
    return lambda state: replace(system.controller_passes(state, most), left=state.left - {DEATH})


def _happening(name: str) -> Step:
    def step(state: State) -> State:
        after = EVENTS[name](state)
        return state if after is None else replace(after, left=state.left - {name})

    return step


def search(bounds: Bounds) -> Found:
    """Go through all states within bounds; stop at the first one that breaks a rule."""
    found, began = Found(), time.process_time()
    system.DONE.clear()
    ways: dict[int, tuple[int, str]] = {}
    at_rest: set[int] = set()
    name = "it starts"
    here = 0
    try:
        state = first(bounds)
        here = state.fingerprint()
        ways[here] = (0, name)
        queue = deque([(state, here, 0)])
        while queue:
            state, here, depth = queue.popleft()
            found.deepest = max(found.deepest, depth)
            name = "rounds"
            system.settled(state, at_rest)
            if depth == bounds.depth:
                continue
            for name, step in _steps(state, bounds):
                after = step(state)
                found.steps += 1
                print_ = after.fingerprint()
                if print_ not in ways:
                    ways[print_] = (here, name)
                    queue.append((after, print_, depth + 1))
            if len(ways) >= bounds.states:
                found.whole = False
                break
    except RuleBrokenError as error:
        found.broken = f"{error} [{' > '.join((*_way(ways, here), name))}]"
    found.states, found.seconds = len(ways), time.process_time() - began
    return found


def _way(ways: Mapping[int, tuple[int, str]], to: int) -> list[str]:
    names: list[str] = []
    while to and to in ways:
        to, name = ways[to]
        names.append(name)
    return names[-2::-1]
