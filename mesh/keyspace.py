"""Under which key each record lies: the one place that knows the store's paths.

Keys are given relative to the root (`/linkwire/v1/`), which only the store adds.
"""

from __future__ import annotations

from typing import Literal

from mesh.records import (
    Access,
    Address,
    Cluster,
    Endpoint,
    Leader,
    LinkKeyEpoch,
    ManifestRecord,
    Member,
    Node,
    Port,
    Recall,
    Recalled,
    Record,
    SealedKey,
    SealedLinkKey,
    Service,
    Status,
    StoreSpace,
    TaskReport,
    View,
)

ROOT = "/linkwire/v1/"

Writer = Literal["controller", "agent", "anybody"]
"""Whose signature a record has; `anybody` for one that has none."""

ACCESS = "access"
CLUSTER = "cluster"
LEADER = "leader"
MANIFEST = "manifest"
SERVICES = "services/"
ENDPOINTS = "endpoints/"
KEYS = "keys/"
EPOCHS = "epochs/"
LINK_KEYS = "linkkeys/"
ADDRESSES = "addresses/"
PORTS = "ports/"
RECALL = "recall"
RECALLED = "recalled/"
NODES = "nodes/"
MEMBERS = "members/"
TASKS = "tasks/"
SPACE = "space"
STATUS = "vitals/"
"""Sorts after all that agents follow, whose one watch spans from the first key to the last (Store.follow): each node
writes its own every few seconds, which would wake all others."""
VIEWS = "views/"
"""Sorts after all that controllers follow, for the same reason."""


def service(service_id: str) -> str:
    """The key of a Service."""
    return f"{SERVICES}{service_id}"


def endpoint(service_id: str, task: str) -> str:
    """The key of an Endpoint."""
    return f"{ENDPOINTS}{service_id}/{task}"


def sealed_key(node: str, task: str) -> str:
    """The key of a SealedKey."""
    return f"{KEYS}{node}/{task}"


def epoch(key: str) -> str:
    """The key of a LinkKeyEpoch."""
    return f"{EPOCHS}{key}"


def link_key(node: str, key: str) -> str:
    """The key of a SealedLinkKey. The node comes first: an agent reads what is its own, and no more."""
    return f"{LINK_KEYS}{node}/{key}"


def address(addr: object) -> str:
    """The key of an Address."""
    return f"{ADDRESSES}{addr}"


def port(node: str, number: int) -> str:
    """The key of a Port."""
    return f"{PORTS}{node}/{number}"


def node(node_id: str) -> str:
    """The key of a Node."""
    return f"{NODES}{node_id}"


def member(node_id: str) -> str:
    """The key of a Member."""
    return f"{MEMBERS}{node_id}"


def report(node_id: str, task: str) -> str:
    """The key of a TaskReport."""
    return f"{TASKS}{node_id}/{task}"


def recalled(node_id: str, part: object) -> str:
    """The key of a Recalled."""
    return f"{RECALLED}{node_id}/{part}"


def status(node_id: str) -> str:
    """The key of a Status."""
    return f"{STATUS}{node_id}"


def view(node_id: str, part: object) -> str:
    """The key of a View."""
    return f"{VIEWS}{node_id}/{part}"


def key_of(record: Record) -> str:  # noqa: C901, PLR0911, PLR0912 - one line a kind
    """The key that a record lies under; a record found elsewhere is not valid."""
    match record:
        case Cluster():
            return CLUSTER
        case Leader():
            return LEADER
        case ManifestRecord():
            return MANIFEST
        case Service():
            return service(record.id)
        case Endpoint():
            return endpoint(record.service, record.task)
        case SealedKey():
            return sealed_key(record.node, record.task)
        case LinkKeyEpoch():
            return epoch(record.key)
        case SealedLinkKey():
            return link_key(record.node, record.key)
        case Address():
            return address(record.address)
        case Port():
            return port(record.node, record.port)
        case Node():
            return node(record.id)
        case Member():
            return member(record.node)
        case TaskReport():
            return report(record.node, record.task)
        case Status():
            return status(record.node)
        case View():
            return view(record.node, record.part)
        case Access():
            return ACCESS
        case StoreSpace():
            return SPACE
        case Recall():
            return RECALL
        case Recalled():
            return recalled(record.node, record.part)


KINDS: dict[str, type[Record]] = {
    ACCESS: Access,
    CLUSTER: Cluster,
    LEADER: Leader,
    MANIFEST: ManifestRecord,
    "services": Service,
    "endpoints": Endpoint,
    "keys": SealedKey,
    "epochs": LinkKeyEpoch,
    "linkkeys": SealedLinkKey,
    "addresses": Address,
    "ports": Port,
    "nodes": Node,
    "members": Member,
    "tasks": TaskReport,
    "vitals": Status,
    "views": View,
    SPACE: StoreSpace,
    RECALL: Recall,
    "recalled": Recalled,
}
"""First part of a key -> the kind of record under it."""

_ALONE = frozenset({ACCESS, CLUSTER, LEADER, MANIFEST, SPACE, RECALL})
FOLLOWED = tuple(name if name in _ALONE else f"{name}/" for name in KINDS if f"{name}/" != VIEWS)
"""All that controllers read: everything but what is there to be shown."""

_WRITERS: dict[str, Writer] = {
    "nodes": "agent",
    "tasks": "agent",
    "vitals": "agent",
    "views": "agent",
    "recalled": "agent",
    LEADER: "anybody",
    SPACE: "anybody",
}


def writer(key: str) -> Writer:
    """Who writes what lies under a key. A key that is none of ours is held to the strictest."""
    return _WRITERS.get(key.split("/", 1)[0], "controller")


def covered(key: str) -> bool:
    """Whether a record is one of those that the manifest is over: what every agent reads, and nothing less."""
    return key == CLUSTER or key.startswith((SERVICES, ENDPOINTS, EPOCHS))


def private(key: str, node_id: str) -> bool:
    """Whether a record is one that the controller writes for this node alone."""
    return key == member(node_id) or key.startswith((sealed_key(node_id, ""), link_key(node_id, "")))


def read_by(key: str, node_id: str) -> bool:
    """Whether a record is one that the controller writes for a node to act on: its own, or one of the signed set."""
    return key == MANIFEST or covered(key) or private(key, node_id)
