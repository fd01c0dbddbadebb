"""Random walk: a long history of a larger mesh, whose programs keep their memory, from a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from random import Random
from typing import TypeVar

from controller.swarm.model import Swarm, SwarmService, SwarmTask
from tests.support.signing import CLUSTER
from tests.support.swarm_world import NAMES, NODES, service
from tests.unit.model import system
from tests.unit.model.agents import approved
from tests.unit.model.controllers import ModelController
from tests.unit.model.rules import RuleBrokenError
from tests.unit.model.search import roams
from tests.unit.model.system import STARTED, State

SUBNET = IPv4Network("10.1.0.0/27")
PASTS = 4
MOST_TASKS = 9
TOLD = 30
"""Steps of a walk that a broken rule names."""
T = TypeVar("T")


@dataclass(slots=True)
class Walked:
    """What a walk did: steps by their names, and how often everything was at rest."""

    steps: Counter[str]
    rests: int


class Walk:
    """One walk."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - no secret
        self._made = 0
        swarm = Swarm(CLUSTER, {}, {}, {node: approved(node) for node in NODES})
        state = system.begun(swarm, SUBNET, linear=True)
        self.state = replace(state, standby=ModelController("c2", SUBNET, remembers=True), processes=2)
        self.walked = Walked(Counter(), 0)
        self._names: list[str] = []
        self._actions: dict[str, tuple[int, Callable[[State], State | None]]] = {
            "a service comes": (3, self._service_comes),
            "a service's links change": (3, self._relinked),
            "a service goes": (1, self._service_goes),
            "a task starts": (8, self._task_starts),
            "a task stops": (4, self._task_stops),
            "a task ends": (5, self._task_ends),
            "a task is forgotten": (2, self._task_is_forgotten),
            "a node is down": (1, self._node_is_down),
            "a node is back": (2, self._node_is_back),
            "an agent looks": (25, self._looks),
            "an agent reports": (12, lambda s: system.agent_reports(s, node) if (node := self._up(s)) else None),
            "an agent restarts": (2, self._restarts),
            "a peer roams": (3, lambda s: roams(s, node) if (node := self._up(s)) else None),
            "the controller passes": (15, system.controller_passes),
            "the controller dies": (2, lambda s: system.controller_passes(s, self._random.randrange(6))),
            "the standby looks": (8, system.standby_looks),
            "the store is lost": (1, self._lost),
            "a round passes": (8, system.round_passes),
            "addresses rest": (1, system.rest_passes),
            "everything rests": (2, self._rests),
        }

    def go(self, steps: int) -> Walked:
        """Make so many steps, each of which is checked. Raises RuleBrokenError."""
        names = list(self._actions)
        weights = [weight for weight, _ in self._actions.values()]
        try:
            while self.walked.steps.total() < steps:
                (name,) = self._random.choices(names, weights)
                self._names = [*self._names[-TOLD:], name]
                after = self._actions[name][1](self.state)
                if after is not None:
                    self.state = after
                    self.walked.steps[name] += 1
            self.state = self._rests(self.state)
        except RuleBrokenError as error:
            raise RuleBrokenError(
                f"{error} after {self.walked.steps.total()} steps, the last {self._names}"
            ) from error
        return self.walked

    def _one(self, found: Sequence[T]) -> T | None:
        return self._random.choice(found) if found else None

    def _up(self, state: State) -> str | None:
        return self._one([node for node in state.agents if state.is_up(node)])

    def _links(self) -> tuple[str, ...]:
        return tuple(self._random.sample(NAMES, self._random.choice((0, 1, 1, 2))))

    def _rests(self, state: State) -> State:
        state = system.settled(state)
        self.walked.rests += 1
        return replace(state, pasts=(*state.pasts, state.etcd)[-PASTS:])

    # --- Swarm

    def _with_service(self, state: State, found: SwarmService) -> State:
        return system.swarm_changes(state, replace(state.swarm, services={**state.swarm.services, found.id: found}))

    def _with_task(self, state: State, found: SwarmTask) -> State:
        return system.swarm_changes(state, replace(state.swarm, tasks={**state.swarm.tasks, found.id: found}))

    def _service_comes(self, state: State) -> State | None:
        there = {found.name for found in state.swarm.services.values()}
        name = self._one([name for name in NAMES if name not in there])
        if name is None:
            return None
        self._made += 1
        return self._with_service(state, service(name, *self._links(), number=self._made))

    def _relinked(self, state: State) -> State | None:
        found = self._one(list(state.swarm.services.values()))
        if found is None:
            return None
        return self._with_service(state, replace(found, labels=service(found.name, *self._links()).labels))

    def _service_goes(self, state: State) -> State | None:
        gone = self._one(list(state.swarm.services))
        if gone is None:
            return None
        services = {name: found for name, found in state.swarm.services.items() if name != gone}
        tasks = {
            name: replace(found, desired="remove") if found.service == gone else found
            for name, found in state.swarm.tasks.items()
        }
        return system.swarm_changes(state, replace(state.swarm, services=services, tasks=tasks))

    def _task_starts(self, state: State) -> State | None:
        node, of = self._up(state), self._one(list(state.swarm.services))
        live = sum(found.state in STARTED for found in state.swarm.tasks.values())
        if node is None or of is None or live >= MOST_TASKS:
            return None
        self._made += 1
        return self._with_task(state, SwarmTask(f"t{self._made:04}", of, self._made, node, "running", "running"))

    def _task_stops(self, state: State) -> State | None:
        found = self._one([t for t in state.swarm.tasks.values() if t.wanted and t.state in STARTED])
        return None if found is None else self._with_task(state, replace(found, desired="shutdown"))

    def _task_ends(self, state: State) -> State | None:
        tasks = state.swarm.tasks.values()
        found = self._one([t for t in tasks if t.state in STARTED and state.is_up(t.node)])
        if found is None:
            return None
        return self._with_task(
            state, replace(found, desired="shutdown", state=self._random.choice(("failed", "shutdown")))
        )

    def _task_is_forgotten(self, state: State) -> State | None:
        gone = self._one([found.id for found in state.swarm.tasks.values() if found.ended])
        if gone is None:
            return None
        tasks = {name: found for name, found in state.swarm.tasks.items() if name != gone}
        return system.swarm_changes(state, replace(state.swarm, tasks=tasks))

    def _node_is_down(self, state: State) -> State | None:
        up = [node for node in state.agents if state.is_up(node)]
        node = self._one(up) if len(up) > 1 else None
        return None if node is None else self._with_node(state, node, down=True)

    def _node_is_back(self, state: State) -> State | None:
        node = self._one([node for node in state.agents if not state.is_up(node)])
        return None if node is None else self._with_node(state, node, down=False)

    def _with_node(self, state: State, node: str, *, down: bool) -> State:
        nodes = {**state.swarm.nodes, node: replace(approved(node), down=down)}
        return system.swarm_changes(state, replace(state.swarm, nodes=nodes))

    # --- programs and the store

    def _looks(self, state: State) -> State | None:
        node = self._up(state)
        if node is None:
            return None
        waiting = len(state.pending[node])
        return system.agent_looks(state, node, self._random.randrange(waiting) if waiting else -1)

    def _restarts(self, state: State) -> State | None:
        node = self._up(state)
        if node is None:
            return None
        return system.agent_restarts(state, node, alone=self._random.random() < 0.5)

    def _lost(self, state: State) -> State:
        return system.store_is_lost(state, self._one([None, *state.pasts]))
