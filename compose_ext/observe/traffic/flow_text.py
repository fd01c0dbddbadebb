"""Words of `docker linkwire flows` for what agents tell."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from compose_ext.docker_cli import printable
from compose_ext.terminal import Table, line

_TASK_ID = 12
_HEADER = ("LINK", "CONNECTIONS", "REFUSED PACKETS")
Document = Mapping[str, Any]


@dataclass(slots=True)
class Summary:
    """Sum of all that was told.

    Attributes:
        connections: by link.
        refused: packets, by link.
        watched: what is watched.
        counts: how much of it there was.
        hostnames: of nodes, by id.
    """

    connections: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    watched: Document = field(default_factory=dict)
    counts: Document = field(default_factory=dict)
    hostnames: Mapping[str, str] = field(default_factory=dict)

    def add(self, document: Document) -> None:
        """Add what a document tells."""
        match document["kind"]:
            case "connection":
                self.connections[f"{document['consumer']} -> {document['provider']}"] += 1
            case "refused":
                self.refused[_ends(document)] += int(document["packets"])
            case "watched":
                self.watched = document
            case _:
                self.counts = document

    def beginning(self, seconds: int | None) -> str:
        """Say in one line which nodes are watched, and which ones are not.

        Args:
            seconds: for so long; None until it is interrupted.
        """
        count = int(self.watched.get("tasks", 0))
        tasks = "1 task" if count == 1 else f"{count} tasks"
        length = "until Ctrl-C" if seconds is None else f"for {seconds} s"
        where = self._names(self._watched_nodes()) or self._name(self.watched.get("node"))
        missing = self._names(self.watched.get("nodes_not_watched", ()))
        word = "no answer" if "nodes" in self.watched else "not watched"
        return line(f"watching {tasks} on {where} {length}{f'; {word}: {missing}' if missing else ''}")

    def written(self, document: Document) -> str:
        """Write a connection or a refusal as one line, with the time of day here and the node that saw it."""
        moment = datetime.fromtimestamp(float(document["time"]), UTC).astimezone()
        at = moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03}"
        width = max((len(self._name(node)) for node in self._watched_nodes()), default=0)
        node = self._name(document.get("node", self.watched.get("node"))).ljust(width)
        return line(f"{at}  {node}  {_refused(document) if document['kind'] == 'refused' else _opened(document)}")

    def table(self) -> Table:
        """Return the sums by link, and all that was not seen."""
        names = sorted(self.connections | self.refused, key=lambda name: (-self.connections[name], name))
        rows = [(name, str(self.connections[name]), str(self.refused[name])) for name in names]
        return Table(_HEADER, tuple(rows), tuple(self._notes()))

    def _notes(self) -> Iterator[str]:
        watched, counts = self.watched, self.counts
        # An older agent, which watches its own node alone, names no nodes.
        parts = counts.get("nodes") if "nodes" in watched else [{**watched, **counts, "node": watched.get("node")}]
        yield from map(str, (counts or watched).get("problems", ()) if "nodes" in watched else ())
        for part in watched["nodes"] if parts is None else parts:
            yield from _lacks(part, self._name(part.get("node")))
        missing = self._names((counts if "nodes" in counts else watched).get("nodes_not_watched", ()))
        if missing and "nodes" in watched:
            yield (
                f"no answer from {missing}: connections between tasks there are not shown (the agent hangs, does not "
                "reach etcd, or is older than this program)"
            )
        elif missing:
            yield (
                f"only {self._name(watched.get('node'))} was watched, since its agent is older than this program: "
                f"connections between tasks of {missing} are not shown"
            )

    def _watched_nodes(self) -> list[str]:
        """Return the ids of the nodes on which tasks are watched."""
        return [str(each.get("node")) for each in self.watched.get("nodes", ()) if each.get("tasks")]

    def _name(self, node: object) -> str:
        name = f"node {node}" if node else "this node"
        return printable(self.hostnames.get(str(node), name))

    def _names(self, nodes: Iterable[object]) -> str:
        return ", ".join(sorted(map(self._name, nodes)))


def _lacks(part: Document, node: str) -> Iterator[str]:
    """Say what was not seen on one node."""
    yield from (f"{node}: {problem}" for problem in part.get("problems", ()))
    if part.get("tasks", 0) < part.get("tasks_here", 0):
        yield (
            f"{node} runs {part['tasks_here']} such tasks; {part['tasks']} of them, chosen at random, were watched"
        )
    if part.get("full_seconds"):
        yield f"connections are missing: in {part['full_seconds']} s {node} had more than its agent reads"
    if part.get("overflowed_tasks"):
        yield f"connections are missing: the kernel of {node} dropped some of {part['overflowed_tasks']} tasks"
    if part.get("left_out"):
        yield f"connections are missing: {part['left_out']} of {node} were more than one node may send to another"
    if part.get("missing_batches"):
        yield f"connections are missing: {part['missing_batches']} messages of {node} did not arrive"
    if part.get("not_believed"):
        yield f"{part['not_believed']} events of {node} are not shown: they are not of its tasks' links"
    if part.get("is_silent"):
        yield f"{node} has fallen silent: what its tasks did since then is not shown"


def _ends(document: Document) -> str:
    """Name the two services of a refusal, the one that sent first."""
    own, other = str(document["service"]), str(document["other"] or "an unknown sender")
    return {"out": f"{own} -> {other}", "in": f"{other} -> {own}"}.get(
        document["direction"], f"{own}, outside its links"
    )


def _refused(document: Document) -> str:
    packets = "1 packet" if document["packets"] == 1 else f"{document['packets']} packets"
    return f"refused  {_ends(document)}: {packets}, by the rules of task {str(document['task'])[:_TASK_ID]}"


def _opened(document: Document) -> str:
    consumer = f"{document['consumer']} ({str(document['consumer_task'])[:_TASK_ID]})"
    provider = f"{document['provider']} ({str(document['provider_task'])[:_TASK_ID]})"
    port = document["destination_port"]
    to = f"{port}/{document['protocol']}" if port else str(document["protocol"])
    start = _place(document["source"], document["source_port"])
    way = str(document["destination"])
    if document["backend"] != document["destination"]:
        way = f"the virtual address {way}, which chose {document['backend']}"
    return f"opened   {consumer} -> {provider}: {to}, from {start} to {way}"


def _place(address: str, port: int) -> str:
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
