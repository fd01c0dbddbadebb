"""Underlay half of a placement: at which address the peers of a node's tasks reach them, and by whose word. Pure.

A statement that does not count moves nothing: tasks stay where their peers reach them already, and new ones get the
address that Swarm knows the node by. So nodes whose address an earlier version believed keep their links.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from controller.planning.context import PlanContext
from controller.steps import Step
from controller.swarm.model import SwarmNode, SwarmTask
from mesh.errors import Terminal
from mesh.model.net import IPAddress, IPNetwork
from mesh.model.records import Node
from mesh.topology.ipam import ula
from mesh.topology.underlay import FIRST_PORT, ports_refusal, refusal, unfit


class Underlay:
    """Addresses of the nodes, for one run of a plan."""

    def __init__(self, run: PlanContext) -> None:
        """Prepare."""
        self._run = run
        self._nodes = run.index.swarm.nodes
        self._mesh: tuple[IPNetwork, ...] = (run.subnet, ula(run.index.swarm.cluster))
        self._judged: dict[str, tuple[tuple[IPAddress, ...], str | None]] = {}

    def host(self, node: Node, before: IPAddress | None) -> IPAddress:
        """Return the address of a node.

        Args:
            node: by its own account.
            before: of a task that is there already; None for a new one.

        Raises:
            Terminal: nobody's word on it counts.
        """
        observed = self._nodes.get(node.id)
        if observed is not None and observed.address is not None:
            return observed.address
        known, text = self._statement(node, observed)
        if text is None:
            return node.address
        self._run.to_do.add(node.id)  # for `problems_of`: the node alone is looked at again, and not all its tasks
        if before is not None and unfit(before, self._mesh) is None and self._owners.get(before, node.id) == node.id:
            return before
        if not known:
            raise Terminal(text)
        return known[0]

    def problem_steps(self) -> Iterator[Step]:
        """Name the nodes of endpoints whose statements do not count: one problem a node, and no steps."""
        return self._run.each(self._run.focus.among(self._nodes), self._problem)

    def _problem(self, node_id: str) -> Iterator[Step]:
        index, observed = self._run.index, self._nodes[node_id]
        node = index.nodes.get(node_id)
        text = self._statement(node, observed)[1] if node is not None and observed.address is None else None
        if text and any(task in index.endpoints for task in index.tasks.on_node.get(node_id, ())):
            self._run.problems.append(text)
        return iter(())

    def port(self, node: Node, task: SwarmTask) -> int:
        """Give a task a UDP port of its node. Raises Terminal where none is free."""
        why = ports_refusal(node.first_port, node.last_port)
        if why is None:
            return self._run.give_port(node, task.id, task.service)
        text = f"node {self._nodes[node.id].hostname}: {why}"
        if node.last_port < FIRST_PORT:
            raise Terminal(text)
        self._run.problems.append(text)
        return self._run.give_port(replace(node, first_port=FIRST_PORT), task.id, task.service)

    def _statement(self, node: Node, observed: SwarmNode | None) -> tuple[tuple[IPAddress, ...], str | None]:
        """Return what `_judge` does, which all tasks of a node share."""
        if node.id not in self._judged:
            self._judged[node.id] = self._judge(node, observed)
        return self._judged[node.id]

    def _judge(self, node: Node, observed: SwarmNode | None) -> tuple[tuple[IPAddress, ...], str | None]:
        """Return Swarm's addresses of a node, and why its own word does not count."""
        known_at = observed.known_at if observed is not None else ()
        known = tuple(address for address in known_at if unfit(address, self._mesh) is None)
        why = refusal(node.address, known, self._mesh)
        return known, why and f"node {observed.hostname if observed else node.id}: {why}"

    @cached_property
    def _owners(self) -> dict[IPAddress, str]:
        """Address -> the node that Swarm knows by it, or to which an operator has given it."""
        return {
            address: node.id
            for node in self._nodes.values()
            for address in (*node.known_at, *((node.address,) if node.address is not None else ()))
        }
