"""States of this node's tasks, kept in line with Docker's containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.containers import start_gate
from agent.containers.watcher import LocalContainers
from agent.dns.responder_client import Responder
from agent.dns.task_dns import TaskDns
from agent.interface.task import TaskState
from agent.wireguard.backend import Backend
from mesh.topology.desired import device_name
from mesh.topology.link_graph import LinkGraph
from mesh.topology.strict_isolation import LocalNetworks

SETTLE_S = 2.0
"""Seconds within which all are told that are told to stop at once: Swarm decides one service after another."""


class LocalTasks:
    """The tasks of one node. Only the loop calls it.

    Attributes:
        by_container: their states, by container id.
        here: their addresses on Docker's networks, and the bridges by which they leave the node.
        lists: how many times the containers were listed whole; 0: nothing is known yet.
    """

    def __init__(self, responder: Responder, backend: Backend) -> None:
        """Begin with none; `responder` is to answer their DNS questions, and `backend` has their devices."""
        self._responder = responder
        self._backend = backend
        self._ended: list[TaskState] = []
        self.by_container: dict[str, TaskState] = {}
        self.here = LocalNetworks({}, ())
        self.lists = 0

    def __iter__(self) -> Iterator[TaskState]:
        return iter(self.by_container.values())

    def update(self, local: LocalContainers) -> Mapping[str, TaskState]:
        """Take over what is known of the containers; return the states that ended.

        After each whole list everything is to be read again.
        """
        for container, task in local.tasks.items():
            state = self.by_container.get(container)
            if state is None:
                state = self.by_container[container] = TaskState(task, dns=TaskDns(self._responder))
            if state.local != task and not state.busy:
                state.local = task
                state.schedule.dirty = True
        ended = {name: self.by_container.pop(name) for name in self.by_container.keys() - local.tasks.keys()}
        self._ended += ended.values()
        self._close_ended()
        self._update_here(local)
        if local.lists != self.lists:
            self.lists = local.lists
            start_gate.drop_stale_files(self.by_container.keys())
            for state in self:
                state.schedule.listed = True
        for state in self:
            if state.schedule.listed and not state.busy:
                state.schedule.listed, state.schedule.dirty = False, True
        return ended

    def close(self) -> None:
        """Have their DNS questions answered no more."""
        self._responder.close()

    def count_stopping(self, local: LocalContainers) -> int:
        """Count the wired tasks that are being stopped; by their namespaces, since Docker may be stopping as well."""
        stopping = local.stopping & self.by_container.keys()
        return sum(1 for container in stopping if self.by_container[container].is_wired_still())

    def devices(self, graph: LinkGraph, *, is_whole: bool) -> Iterator[str]:
        """Yield the names of the devices that these tasks have, or are about to have.

        A container that was made when its node lost power, or whose start was broken off, stays as it is, and its
        task is never started again. Of the latter a namespace is known, which is gone.

        Args:
            graph: the index of the controller's records.
            is_whole: whether that is all of them, so that a task that is not in it has no device.
        """
        for state in self:
            local = state.local
            is_there = local.netns is not None and Path(local.netns).exists()
            is_expected = local.state == "created" and (is_there or not is_whole or local.task in graph.by_task)
            if local.state == "running" or is_expected:
                yield device_name(local.task)

    def _close_ended(self) -> None:
        """Let go of tasks that ended, each as soon as no thread is at work on it."""
        for state in self._ended:
            if not state.busy:
                state.end(self._backend)
        self._ended = [state for state in self._ended if state.busy]

    def _update_here(self, local: LocalContainers) -> None:
        """Note the tasks' neighbours on networks that are not the mesh.

        A new neighbour on a network that is not the mesh concerns all: `strict` keeps them apart there.
        """
        addresses = {state.local.task: state.local.elsewhere for state in self if state.local.state != "gone"}
        here = LocalNetworks(addresses, local.exits)
        if here != self.here:
            self.here = here
            for state in self:
                state.schedule.graph = None


def may_leave(seconds: float, stopping: int) -> bool:
    """Tell whether an agent leaves now: it outlives the linked tasks that stop beside it.

    A node that is drained loses its agent like its tasks: Swarm tells all of them to stop at once. A task has a grace
    period, in which it ends what it has begun, over its links; with wireguard-go they would end with the agent. An
    agent that is merely replaced sees no task stop beside it.

    Args:
        seconds: since it was told to stop.
        stopping: how many wired tasks of its node have been told to stop and have not ended.
    """
    return stopping == 0 and seconds >= SETTLE_S
