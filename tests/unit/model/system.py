"""The whole mesh of the model as one state, and the steps from one state to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Network
from typing import TypeVar, cast

from agent.state.verified_state import SAVE_S
from controller.swarm.model import Swarm
from mesh.model.records import Endpoint, Service
from tests.unit.model.agents import ModelAgent
from tests.unit.model.controllers import REST_S, ModelController
from tests.unit.model.environment import CLOCK, KEYS, START
from tests.unit.model.etcd import Etcd
from tests.unit.model.rules import RuleBrokenError, Witnessed, check_pass, check_settled, check_signed, resting

ROUND_S = 3.0
"""Between two signs of life of an agent."""
ROUNDS = 14
"""Within so many rounds everything is at rest, if nothing happens any more."""
LATE = 3
"""Revisions that an agent may still be to see; of more it sees the last ones."""
STARTED = ("starting", "running")
T = TypeVar("T", ModelAgent, ModelController)
R = TypeVar("R")
Step = Callable[["State"], "State"]


@dataclass(frozen=True, eq=False)
class State:
    """Everything.

    Attributes:
        now: of all clocks.
        keys: private keys made so far.
        swarm: as its managers have it.
        etcd: the store.
        pasts: earlier stores that it may be set back to.
        agents: by node.
        pending: by node, the revisions that its agent has not seen.
        controller: the leader.
        standby: the other controller, None for none.
        processes: controllers begun so far.
        left: events that may still happen.
        seen: everything that the rules are about.
        linear: whether this is one long walk: nothing is copied, and planners keep their memory.
    """

    subnet: IPv4Network
    now: float
    keys: int
    swarm: Swarm
    etcd: Etcd
    pasts: tuple[Etcd, ...]
    agents: Mapping[str, ModelAgent]
    pending: Mapping[str, tuple[Etcd, ...]]
    controller: ModelController
    standby: ModelController | None
    processes: int
    left: frozenset[str]
    seen: Witnessed
    linear: bool = False

    def is_up(self, node: str) -> bool:
        """Tell whether a node's agent runs and reaches the store."""
        found = self.swarm.nodes.get(node)
        return found is not None and not found.down

    def local(self, node: str) -> tuple[str, ...]:
        """Tasks with a container on a node."""
        tasks = self.swarm.tasks.values()
        return tuple(sorted(task.id for task in tasks if task.node == node and task.state in STARTED))

    def fingerprint(self) -> int:
        """The same for states from which the same can happen."""
        CLOCK.now = self.now
        swarm = self.swarm
        tasks = tuple(sorted((t.id, t.node, t.desired, t.state) for t in swarm.tasks.values()))
        links = tuple(sorted((s.id, s.labels.links) for s in swarm.services.values()))
        nodes = tuple(sorted((n.id, n.down) for n in swarm.nodes.values()))
        agents = tuple((node, agent.fingerprint()) for node, agent in sorted(self.agents.items()))
        pending = tuple((node, tuple(e.visible for e in its)) for node, its in sorted(self.pending.items()))
        standby = self.standby.fingerprint() if self.standby is not None else None
        saved = tuple(min(SAVE_S, self.now - agent.trust._saved_at) for agent in self.agents.values())
        rest = self.controller.fingerprint(), standby, self.seen.fingerprint(self.now), saved
        return hash((tasks, links, nodes, self.etcd.digest, agents, pending, rest, self.left))


def begun(swarm: Swarm, subnet: IPv4Network, left: frozenset[str] = frozenset(), *, linear: bool = False) -> State:
    """An empty store, and programs that have just started."""
    CLOCK.now, KEYS.made = START, 1000
    etcd = Etcd()
    agents = {node: ModelAgent(node, remembers=linear) for node in sorted(swarm.nodes)}
    controller = ModelController("c1", subnet, remembers=linear)
    return State(
        subnet,
        START,
        KEYS.made,
        swarm,
        etcd,
        (),
        agents,
        dict.fromkeys(agents, (etcd,)),
        controller,
        None,
        1,
        left,
        Witnessed(),
        linear,
    )


class Done:
    """Results of what programs have done, by the very objects that it was done to: each is done once."""

    def __init__(self) -> None:
        self._results: dict[tuple[object, ...], tuple[object, tuple[object, ...]]] = {}

    def clear(self) -> None:
        self._results.clear()

    def once(self, state: State, what: str, inputs: tuple[object, ...], do: Callable[[], R]) -> R:
        """Do it, unless that was done at this time with these objects."""
        CLOCK.now, KEYS.made = state.now, state.keys
        if state.linear:
            return do()
        key = what, state.now, state.keys, *map(id, inputs)
        known = self._results.get(key)
        if known is None:
            known = self._results[key] = do(), inputs  # the inputs stay, or another object could have their id
        return cast("R", known[0])


DONE = Done()


def own(state: State, found: T) -> T:
    """The object to change on the way to the next state."""
    CLOCK.now, KEYS.made = state.now, state.keys
    return found if state.linear else found.copy()


def with_etcd(state: State, *revisions: Etcd) -> State:
    """The state after transactions, each of which is checked."""
    seen, before, pending = state.seen, state.etcd, dict(state.pending)
    for etcd in revisions:
        seen = seen.committed(before, etcd, state.now)
        check_signed(etcd)
        if etcd.visible != before.visible:
            pending = {node: (*its, etcd)[-LATE:] for node, its in pending.items()}
        before = etcd
    return _judged(replace(state, etcd=before, seen=seen, pending=pending, keys=KEYS.made))


def _judged(state: State) -> State:
    """Note what nobody can know any more: the design excuses that (section 9)."""
    seen, etcd = state.seen, state.etcd
    newest = max(agent.trust._generation for agent in state.agents.values())
    if etcd.generation < newest and not seen.excused:
        up = [agent.trust._generation for node, agent in state.agents.items() if state.is_up(node)]
        if max(up, default=0) < newest:
            seen = replace(seen.without(seen.holders), excused=True)
    if etcd.generation < newest:  # a node that is not up brings no sealed keys back: its tasks get new ones
        seen = replace(
            seen, apart=seen.apart.union(t.id for t in state.swarm.tasks.values() if not state.is_up(t.node))
        )
    if seen.lost:
        lost = seen.lost - resting(etcd)
        known = {*state.controller.remembered_rests()}
        known |= state.standby.remembered_rests() if state.standby is not None else set()
        seen = replace(seen.without(lost - known), lost=frozenset(lost & known))
    return replace(state, seen=seen)


# --- steps


def agent_looks(state: State, node: str, revision: int = -1) -> State:
    """An agent makes a pass with one of the revisions that it has not seen: by default with the last."""
    waiting, local = state.pending[node], state.local(node)
    before = state.agents[node]
    etcd = waiting[revision] if waiting else None

    def look() -> ModelAgent:
        agent = own(state, state.agents[node])
        if etcd is not None:
            agent.look(etcd, local)
        else:
            agent.look_again(local)
        return agent

    if state.linear:
        before = before.copy()
    agent = DONE.once(state, "look", (before, etcd, *_tasks(state, local)), look)
    check_pass(before, agent, state.swarm, state.seen)
    left = waiting[waiting.index(etcd) + 1 :] if etcd is not None else ()
    return replace(state, agents={**state.agents, node: agent}, pending={**state.pending, node: left})


def _tasks(state: State, local: Iterable[str]) -> Iterator[object]:
    return (state.swarm.tasks[task] for task in local)


def agent_reports(state: State, node: str, *, beat: bool = False) -> State:
    """An agent writes what the store should hold of it."""
    local, before = state.local(node), state.agents[node]

    def report() -> tuple[ModelAgent, Etcd]:
        agent = own(state, before)
        return agent, agent.report(state.etcd, state.swarm, local, beat=beat)

    inputs = before, state.etcd, *_tasks(state, local)
    agent, etcd = DONE.once(state, f"report {beat}", inputs, report)
    if etcd is state.etcd:
        return state
    return with_etcd(replace(state, agents={**state.agents, node: agent}), etcd)


def agent_restarts(state: State, node: str, *, alone: bool) -> State:
    """An agent starts again; alone it does not reach the store for a while, and goes on with what it kept."""
    agent = own(state, state.agents[node])
    before = agent.copy()
    agent.restart(alone=alone)
    if alone:
        agent.look(None, state.local(node))
        check_pass(before, agent, state.swarm, state.seen)
    pending = {**state.pending, node: (state.etcd,)}
    return replace(state, agents={**state.agents, node: agent}, pending=pending)


def _passed(state: State) -> tuple[ModelController, tuple[Etcd, ...], int]:
    def make() -> tuple[ModelController, tuple[Etcd, ...], int]:
        controller = own(state, state.controller)
        return controller, controller.pass_(state.swarm, state.etcd)[1:], KEYS.made

    return DONE.once(state, "pass", (state.controller, state.etcd, state.swarm), make)


def count_transactions(state: State) -> int:
    """Count those of the leader's next pass."""
    return len(_passed(state)[1])


def controller_passes(state: State, most: int | None = None) -> State:
    """The leader makes a pass; with `most` it dies after so many transactions, and another process leads."""
    controller, revisions, made = _passed(state)
    KEYS.made = made
    if most is None:
        return with_etcd(replace(state, controller=controller), *revisions)
    return with_etcd(next_leader(replace(state, controller=controller)), *revisions[:most])


def next_leader(state: State) -> State:
    """The leader dies: the standby leads, or a process that has just started."""
    CLOCK.now = state.now
    fresh = ModelController(f"c{state.processes + 1}", state.subnet, remembers=state.linear)
    if state.standby is not None:
        return replace(state, controller=state.standby, standby=fresh, processes=state.processes + 1)
    return replace(state, controller=fresh, processes=state.processes + 1)


def standby_looks(state: State) -> State:
    """The standby observes."""
    assert state.standby is not None
    standby = own(state, state.standby)
    revisions = standby.pass_(state.swarm, state.etcd, leads=False)
    return with_etcd(replace(state, standby=standby), *revisions[1:])


def store_is_lost(state: State, then: Etcd | None) -> State:
    """The store is emptied, or set back to an earlier state; whatever was on its way is lost with it."""
    etcd = state.etcd.set_back(then)
    believed = {
        holder
        for agent in state.agents.values()
        for holder in (
            *((e.address, e.task) for e in agent.desired.verified.all(Endpoint)),
            *((s.vip, s.id) for s in agent.desired.verified.all(Service)),
        )
    }
    # Nobody has acted on what was written and seen by no node.
    unseen = [a for a, (who, at) in state.seen.holders.items() if at is None and (a, who) not in believed]
    seen = state.seen.without(unseen)
    seen = replace(seen, lost=(seen.lost | resting(state.etcd)) - resting(etcd))
    pending = dict.fromkeys(state.pending, (etcd,))
    return _judged(replace(state, etcd=etcd, seen=seen, pending=pending))


def swarm_changes(state: State, swarm: Swarm) -> State:
    """Swarm's lists are others; agents see their node's containers in their next pass."""
    return _judged(replace(state, swarm=swarm, seen=state.seen.seen_apart(state.swarm, swarm)))


def time_passes(state: State, seconds: float) -> State:
    return replace(state, now=state.now + seconds)


def round_passes(state: State, seconds: float = ROUND_S) -> State:
    """Some seconds: every agent that runs sees the newest state and signs its vitals, and the controllers look."""
    state = time_passes(state, seconds)
    for node in state.agents:
        if state.is_up(node):
            state = agent_reports(agent_looks(state, node), node, beat=True)
        else:
            state = with_etcd(state, state.agents[node].leave(state.etcd))
    state = controller_passes(state)
    return standby_looks(state) if state.standby is not None else state


def rest_passes(state: State) -> State:
    """So long that every address that rests now has rested."""
    return round_passes(round_passes(state), REST_S + 1.0)


def before_prints(state: State) -> list[tuple[object, ...]]:
    """The agents' fingerprints."""
    return [agent.fingerprint() for agent in state.agents.values()]


def settled(state: State, known: set[int] | None = None) -> State:
    """Let rounds pass until nothing changes, within ROUNDS; then the peers are exactly the graph.

    Args:
        state: to begin with.
        known: fingerprints of states that settle, to which those on the way are added.
    """
    way: list[int] = []
    for _ in range(ROUNDS):
        if known is not None:
            way.append(state.fingerprint())
            if way[-1] in known:
                known.update(way)
                return state
        prints, digest = before_prints(state), state.etcd.digest
        after = round_passes(state)
        waits = after.controller.loop._startup.waiting or after.controller.loop._restore.waiting
        late = any(its for node, its in after.pending.items() if after.is_up(node))
        if not waits and not late and digest == after.etcd.digest and prints == before_prints(after):
            check_settled(after.etcd, after.swarm, after.agents)
            if known is not None:
                known.update(way)
            return after
        state = after
    raise RuleBrokenError(f"liveness: not at rest after {ROUNDS} rounds")


def steps(state: State) -> Iterator[tuple[str, Step]]:
    """Yield the steps of programs from a state, but for time."""
    for node, waiting in state.pending.items():
        if not state.is_up(node):
            continue
        if waiting:
            yield f"{node} sees the newest", partial(agent_looks, node=node)
        if len(waiting) > 1:
            yield f"{node} sees the next", partial(agent_looks, node=node, revision=0)
        yield f"{node} reports", partial(agent_reports, node=node)
    yield "controller passes", controller_passes
