"""The keys of records in the store, and their writers and coverage.

Keys are relative to the root (`/linkwire/v1/`), which only the store adds. No I/O here.
"""

from __future__ import annotations

from mesh.crypto.signed_envelope import MAX_BODY
from mesh.model import records
from mesh.model.asks import records as asks
from mesh.model.audit.page import AuditPage
from mesh.model.encryption import records as encryption
from mesh.model.records import Record, Writer
from mesh.model.vault import records as vault

ROOT = "/linkwire/v1/"


def prefix(kind: type[Record]) -> str:
    """Return `nodes/` for a kind with a record for each node, and `cluster` for one of which there is one record."""
    first, slash, _ = kind.KEY.partition("/")
    return first + slash


ACCESS = prefix(records.Access)
CLUSTER = prefix(records.Cluster)
LEADER = prefix(records.Leader)
TENURE = prefix(records.Tenure)
MANIFEST = prefix(records.ManifestRecord)
SERVICES = prefix(records.Service)
ENDPOINTS = prefix(records.Endpoint)
KEYS = prefix(records.SealedKey)
EPOCHS = prefix(records.LinkKeyEpoch)
LINK_KEYS = prefix(records.SealedLinkKey)
ADDRESSES = prefix(records.Address)
PORTS = prefix(records.Port)
RECALL = prefix(records.Recall)
RECALLED = prefix(records.Recalled)
NODES = prefix(records.Node)
MEMBERS = prefix(records.Member)
TASKS = prefix(records.TaskReport)
SPACE = prefix(records.StoreSpace)
STATUS = prefix(records.Status)
"""Sorts after all keys that agents follow, whose one watch spans from the first key to the last (Store.follow): every
node writes its status every few seconds, which would wake all others."""
CONTROLLERS = prefix(vault.ControllerKey)
VAULT = prefix(vault.Vault)
VAULTS = prefix(vault.EpochHistory)
"""Sorts after all keys that agents follow: they need none of it."""
VIEWS = prefix(records.View)
"""Sorts after all keys that agents follow, for the same reason. Controllers, which follow `vitals/`, receive them."""

ENCRYPTION = prefix(encryption.NodeEncryption)
ENCRYPTION_WANTED = prefix(encryption.EncryptionWanted)
UNDERLAYS = prefix(encryption.Underlay)
ASKS = prefix(asks.Ask)
"""Sorts before all keys that agents follow for the tasks' sake: an agent watches these by themselves (agent.asks)."""
TOLD = prefix(asks.Told)
FLOW_ASKS = prefix(asks.FlowAsk)
"""Sorts beside ASKS, so that one watch hears both."""
WATCHED = prefix(asks.Watched)
"""Sorts after all keys that agents or controllers follow: nobody is woken by it but who asked."""
AUDIT = prefix(AuditPage)
"""Sorts before all keys that agents follow: a page wakes none of them."""

_KINDS: tuple[type[Record], ...] = (
    *(
        kind
        for kinds in (records, vault, asks, encryption)
        for kind in vars(kinds).values()
        if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record
    ),
    AuditPage,
)
KINDS = {kind.KEY.partition("/")[0]: kind for kind in _KINDS}
"""First part of a key -> the kind of record under it."""
_SHOWN = {records.View, records.Tenure, AuditPage, asks.Ask, asks.Told, asks.FlowAsk, asks.Watched}
FOLLOWED = tuple(prefix(kind) for kind in _KINDS if kind not in _SHOWN)
"""All that controllers follow: every kind but those that are only shown, and the leader's tenure."""
_KIB = 1024
_LIMITS = {
    LEADER: _KIB,
    TENURE: _KIB,
    SPACE: 64 * _KIB,
    NODES: 64 * _KIB,
    TASKS: 64 * _KIB,
    STATUS: 64 * _KIB,
    VIEWS: 512 * _KIB,
    ASKS: 32 * _KIB,
    TOLD: 96 * _KIB,
    FLOW_ASKS: 64 * _KIB,
    WATCHED: 64 * _KIB,
}
"""Bytes of the largest record of a kind that one node or nobody signs; of all others MAX_BODY."""
_COVERED = frozenset(prefix(kind) for kind in _KINDS if kind.COVERED)
_COVERED_BELOW = tuple(prefix for prefix in _COVERED if prefix.endswith("/"))


def service(service_id: str) -> str:
    """Return the key of a Service."""
    return f"{SERVICES}{service_id}"


def endpoint(service_id: str, task: str) -> str:
    """Return the key of an Endpoint."""
    return f"{ENDPOINTS}{service_id}/{task}"


def sealed_key(node: str, task: str) -> str:
    """Return the key of a SealedKey."""
    return f"{KEYS}{node}/{task}"


def epoch(key: str) -> str:
    """Return the key of a LinkKeyEpoch."""
    return f"{EPOCHS}{key}"


def link_key(node: str, key: str) -> str:
    """Return the key of a SealedLinkKey. The node comes first, so that an agent reads its own range only."""
    return f"{LINK_KEYS}{node}/{key}"


def history(key: str) -> str:
    """Return the key of an EpochHistory."""
    return f"{VAULTS}{key}"


def controller(node_id: str) -> str:
    """Return the key of a ControllerKey."""
    return f"{CONTROLLERS}{node_id}"


def address(addr: object) -> str:
    """Return the key of an Address."""
    return f"{ADDRESSES}{addr}"


def port(node: str, number: int) -> str:
    """Return the key of a Port."""
    return f"{PORTS}{node}/{number}"


def node(node_id: str) -> str:
    """Return the key of a Node."""
    return f"{NODES}{node_id}"


def member(node_id: str) -> str:
    """Return the key of a Member."""
    return f"{MEMBERS}{node_id}"


def report(node_id: str, task: str) -> str:
    """Return the key of a TaskReport."""
    return f"{TASKS}{node_id}/{task}"


def underlay(node_id: str) -> str:
    """Return the key of an Underlay."""
    return f"{UNDERLAYS}{node_id}"


def recalled(node_id: str, part: object) -> str:
    """Return the key of a Recalled."""
    return f"{RECALLED}{node_id}/{part}"


def status(node_id: str) -> str:
    """Return the key of a Status."""
    return f"{STATUS}{node_id}"


def view(node_id: str, part: object) -> str:
    """Return the key of a View."""
    return f"{VIEWS}{node_id}/{part}"


def ask(node_id: str) -> str:
    """Return the key of an Ask."""
    return f"{ASKS}{node_id}"


def told(node_id: str, asker: str) -> str:
    """Return the key of a Told."""
    return f"{TOLD}{node_id}/{asker}"


def flow_ask(node_id: str, slot: object) -> str:
    """Return the key of a FlowAsk."""
    return f"{FLOW_ASKS}{node_id}/{slot}"


def watched(node_id: str, asker: str, slot: object, part: object) -> str:
    """Return the key of a Watched."""
    return f"{WATCHED}{node_id}/{asker}/{slot}/{part}"


def key_of(record: Record) -> str:
    """Return the key of a record; a record under another key is not valid."""
    return record.KEY.format(record)


def writer(key: str) -> Writer:
    """Return the writer of a key. A key that is none of ours counts as the controller's, the strictest."""
    kind = KINDS.get(key.partition("/")[0])
    return "controller" if kind is None else kind.WRITER


def covered(key: str) -> bool:
    """Return whether the manifest covers the record under a key."""
    return key in _COVERED or key.startswith(_COVERED_BELOW)


def limit(key: str) -> int:
    """Return the bytes that a record under a key may have; nobody decodes a larger one."""
    kind, slash, _ = key.partition("/")
    return _LIMITS.get(kind + slash, MAX_BODY)


def private(key: str, node_id: str) -> bool:
    """Return whether the controller writes the record under a key for this node alone."""
    return key == member(node_id) or key.startswith((sealed_key(node_id, ""), link_key(node_id, "")))


def read_by(key: str, node_id: str) -> bool:
    """Return whether a node acts on the record under a key: one of its own, or one of the signed set."""
    return key == MANIFEST or covered(key) or private(key, node_id)
