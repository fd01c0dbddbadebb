"""Early names: links' names in the hosts files of tasks that are being started and have no device yet.

Only where what goes out without one is refused: the node's table must hold at that moment, each of the task's
networks must lead elsewhere through this node, and none may overlap the mesh's. Elsewhere names come with the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.containers.docker_client import LocalTask
from agent.firewall.node_table import NodeTable
from agent.interface.task import TaskState
from agent.linux import sysctl
from mesh.model.net import IPNetwork, overlap
from mesh.model.records import Cluster
from mesh.topology.desired import hosts
from mesh.topology.link_graph import LinkGraph
from mesh.topology.wgtypes import HostEntry, without_ipv6


class EarlyNames:
    """Writer of early names, on one node.

    Args:
        table: the node's.
    """

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self._ipv6 = sysctl.has_ipv6()

    def start(self, changed: Callable[[], None]) -> None:
        """Guard the node's table from now on; `changed` is called from a thread when names can be written."""
        self._table.start(changed)

    def stop(self) -> None:
        """Stop guarding the table. It stays, as the names do."""
        self._table.stop()

    def write(self, graph: LinkGraph, states: Iterable[TaskState]) -> None:
        """Write the names of all tasks that are being started, as far as that is safe and they are known.

        Args:
            graph: the index of what was verified last.
            states: of all tasks of the node.
        """
        cluster = graph.cluster
        if cluster is None or not graph.complete:
            return
        self._table.refuse((cluster.subnet, cluster.subnet6))
        if self._table.is_given_up:
            self._remove_names(states)
            return
        for state in (state for state in states if not state.busy):
            reason = (graph, state.local.joins)
            is_new = state.named_for is None or state.named_for[0] is not graph or state.named_for[1] != reason[1]
            if is_new and state.interface.applied is None and _leads_through_node(state.local, cluster):
                entries = self._entries(graph, state.local)
                if entries and self._table.holds() and state.write_names(entries):
                    state.named_for = reason

    def _remove_names(self, states: Iterable[TaskState]) -> None:
        """Leave no name without a device, since the node will refuse nothing any more."""
        for state in states:
            is_wired = state.interface.applied is not None
            if not state.busy and state.named_for is not None and (is_wired or state.write_names(())):
                state.named_for = None

    def _entries(self, graph: LinkGraph, local: LocalTask) -> tuple[HostEntry, ...]:
        own = graph.by_task.get(local.task)
        entries = hosts(graph, local.service)
        if own is not None:
            entries = tuple(entry for entry in entries if entry.address != own.address)
        return entries if self._ipv6 else without_ipv6(entries)


def _leads_through_node(local: LocalTask, cluster: Cluster) -> bool:
    if local.state != "created" or local.ways is None or local.problem is not None:
        return False
    mesh: tuple[IPNetwork, ...] = (cluster.subnet, cluster.subnet6)
    return not any(overlap(way, network) for way in local.ways for network in mesh)
