"""Answers to the queries, from the store and from what this node knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agent.desired_state import DesiredState
from agent.queries.control_plane import control
from agent.queries.server import BadQueryError, Document, Handler
from agent.queries.service_wiring import wiring
from agent.state.verified_state import remembered
from agent.status.link_pairs import LinkPairs
from agent.status.link_status import PairsForm, Reader, inspect, signers
from agent.status.node_status import believed, nodes
from mesh.errors import Retryable
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import keyspace
from mesh.model.encryption.status import PeerFigures
from mesh.model.records import Node, Record, Status
from mesh.model.snapshot import Snapshot, Versioned
from mesh.store.client import Store

_SAID = (
    keyspace.NODES,
    keyspace.MEMBERS,
    keyspace.TASKS,
    keyspace.SPACE,
    keyspace.LEADER,
    keyspace.ENCRYPTION_WANTED,
    keyspace.STATUS,
    keyspace.VIEWS,
)
"""All that nodes say, and what the controller says outside the signed set; all else of it is followed anyway."""
_CHANGING = (keyspace.STATUS, keyspace.VIEWS)

KEPT_BYTES = 32 * 1024**2
"""Bytes of statuses and views that are kept between two answers: those of 7,000 links of ten tasks at either end."""
FORGOTTEN_S = 60.0
"""Seconds after the last question for which they are kept."""


@dataclass(frozen=True, slots=True)
class Running:
    """State of the running agent, to be read while its loop goes on.

    Attributes:
        desired: the records that it acts on.
        status: returns what was last read of its devices.
        age: returns how many seconds ago the store was at a revision; None where nobody saw it.
        exact_age: likewise, and None where that is not certain.
        peers: reads the peers of its device of node encryption.
        fits: reads the MTU of an overlay whose packets fit into that device; None where there is none.
    """

    desired: DesiredState
    status: Callable[[], Status | None]
    age: Callable[[int], float | None]
    exact_age: Callable[[int], float | None] = lambda _revision: None
    peers: Callable[[], Sequence[PeerFigures]] = tuple
    fits: Callable[[], int | None] = lambda: None


class Answers:
    """Answers of one agent. Safe for several threads.

    Args:
        store: to read from.
        cluster: Swarm's id of it.
        state: the node's own folder.
        certificates: Swarm's folder with this node's certificate.
        running: the agent's own state; None in a process beside it.
    """

    def __init__(
        self, store: Store, cluster: str, state: Path, certificates: Path, running: Running | None = None
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._state = state
        self._hostnames: dict[str, str] = {}
        self._running = running
        self._signatures = SignatureCache(cluster)
        self._read: Mapping[str, Versioned[Record]] = {}
        """Records of the last answer, which are not checked and decoded again where they are as they were."""
        self._pairs = LinkPairs()
        self._forgetting: threading.Timer | None = None
        self._lock = threading.Lock()
        """Of the caches, and of the names."""
        self._root = certificates / "swarm-root-ca.crt"

    @property
    def kept(self) -> Mapping[str, Versioned[Record]]:
        """Records that are kept for the next answer, to look at."""
        return self._read

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The queries that are answered, by name."""
        return {"links": self.links, "wiring": self.wiring, "overlay-mtu": self.overlay_mtu}

    def links(self, query: Document) -> Iterator[Document]:
        """Describe every link, or with `stack` those of one stack: what `docker linkwire ps` shows.

        With `counted` a link has no pairs, but how many are in each state, and etcd's members are asked how they are:
        that is what `status` shows. With `totals` it also has what its pairs come to, and the worst of them. With
        `columns` it has its pairs in columns, which costs less here, on the way and at the reader's.
        """
        stack = text(query, "stack")
        form: PairsForm = "columns" if query.get("columns") is True else "objects"
        form = "totals" if query.get("totals") is True else form
        form = "states" if query.get("counted") is True else form
        if self._running is not None:
            with ThreadPoolExecutor(max_workers=1) as beside:  # an endpoint that does not answer takes its time
                members = beside.submit(self._store.members) if form == "states" else None
                document = self._from_memory(self._running, stack, form)
                if members is not None:
                    document["control"]["members"] = [asdict(member) for member in members.result()]
            yield document
            return
        snapshot = self._store.load((*keyspace.FOLLOWED, keyspace.VIEWS))
        reader = Reader(remembered(self._state), self._names(snapshot))
        document = inspect(believed(snapshot, self._cluster), time.time(), stack, reader, form=form)
        document["signed_by"] = signers(snapshot)
        document["nodes"] = list(nodes(snapshot, self._cluster, self._roots(), datetime.now(UTC)))
        yield document

    def wiring(self, query: Document) -> Iterator[Document]:
        """Describe every linked service, or those of a `stack`: `docker linkwire deploy` waits for them."""
        yield wiring(believed(self._store.load(keyspace.FOLLOWED), self._cluster), text(query, "stack"))

    def overlay_mtu(self, _query: Document) -> Iterator[Document]:
        """Say which MTU of an overlay fits into node encryption: `docker linkwire deploy` makes networks with it."""
        yield {"fits": self._running.fits() if self._running is not None else None}

    def _from_memory(self, running: Running, stack: str | None, form: PairsForm) -> dict[str, Any]:
        """Describe links by what this agent acts on anyway; only what the nodes say is read."""
        desired, problems = running.desired, list[str]()
        graph, verified = desired.graph, desired.verified
        self._forget_later()
        try:
            read = self._store.load(_SAID, self._read)
        except Retryable as error:
            read = Snapshot()
            problems.append(
                f"this node's agent cannot reach etcd, so nothing is known of the other nodes: {error}. See that TCP "
                "2379 to the managers is open, and that linkwire_etcd runs (docker service ps linkwire_etcd)"
            )
        with self._lock:
            said = believed(read, self._cluster, self._signatures)
            names = dict(self._names(read))
            if read.revision:
                self._keep(read)
        own = running.status()
        if own is not None:  # newer than what it has written
            latest: Versioned[Record] = Versioned(own, 0)
            views = keyspace.view(own.node, "")
            others = {key: each for key, each in said.records.items() if not key.startswith(views)}
            records = {**others, keyspace.status(own.node): latest}
            said = replace(said, records=MappingProxyType(records), trail=None)
        reader = Reader(b"", names, running.age, running.exact_age, verified, desired.trust.held)
        with self._lock:
            pairs = self._pairs if stack is None else None  # else the next question about all would find nothing
            document = inspect(said, time.time(), stack, reader, graph, form=form, pairs=pairs)
        for name in ("unanswered", "problems"):
            document[name] = [*problems, *document[name]]
        document["nodes"] = list(nodes(read, self._cluster, self._roots(), datetime.now(UTC)))
        document["control"] = control(read, said, graph, reader)
        document["control"]["peers"] = [asdict(peer) for peer in running.peers()]
        return document

    def _keep(self, read: Snapshot) -> None:
        """Keep what was read for the next answer; of views, which are most of it, no more than KEPT_BYTES."""
        left = KEPT_BYTES
        kept: dict[str, Versioned[Record]] = {}
        for key, each in read.records.items():
            left -= len(each.raw or b"") if key.startswith(_CHANGING) else 0
            if left >= 0 or not key.startswith(_CHANGING):
                kept[key] = each
        self._read = kept
        self._signatures.drop_stale(kept, ())

    def _forget_later(self) -> None:
        """Forget all that is kept of views when nobody has asked for a while."""
        with self._lock:
            if self._forgetting is not None:
                self._forgetting.cancel()
            self._forgetting = threading.Timer(FORGOTTEN_S, self.forget)
            self._forgetting.daemon = True
            self._forgetting.start()

    def forget(self) -> None:
        """Forget all that is kept of what changes with each reading."""
        with self._lock:
            self._pairs = LinkPairs()
            self._read = {key: each for key, each in self._read.items() if not key.startswith(_CHANGING)}
            self._signatures.drop_stale(self._read, ())

    def _roots(self) -> tuple[bytes, ...]:
        return (self._root.read_bytes(),) if self._root.exists() else ()

    def _names(self, snapshot: Snapshot) -> Mapping[str, str]:
        """Return the names of nodes, of those too whose record is gone since they were last asked for."""
        self._hostnames |= {node.id: node.hostname for node in snapshot.all(Node)}
        return self._hostnames


def text(query: Document, name: str) -> str | None:
    """Return an argument that is a text, None where it is not given. Raises BadQueryError."""
    value = query.get(name)
    if value is None or isinstance(value, str):
        return value
    raise BadQueryError(f"{name} has to be a text")
