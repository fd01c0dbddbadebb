"""Records of the store as frozen data, one type for each kind of key; `mesh.model.codec` reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from types import MappingProxyType
from typing import ClassVar, Literal

from mesh.crypto.hpke import NodePublicKey
from mesh.crypto.keys import PublicKey
from mesh.crypto.signed_envelope import VerifyKey
from mesh.identity.attestation import NodeProof, NodeStatement
from mesh.model.encryption.status import EncryptionStatus, EpochKey, KeyStatus, TunnelFigures
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.labels.ports import PortRange
from mesh.model.net import IPAddress, UdpEndpoint

OPTIONAL = MappingProxyType({"optional": True})
"""Marks a field of a later version: it is not written while it has its default, as in versions without the field."""

MOST_BROKEN = 500
"""Broken peers that a node names in its status: some 25 kB, of the 64 KiB that it may have."""

TaskState = Literal["created", "running", "gone"]
"""State of a task's container on its node: made but not started, up (and healthy where it has a check), ended."""

Unproven = Literal["locked", "unreadable"]
"""Reason for a missing proof: the node's Swarm key is encrypted (autolock), or its certificate or key unreadable."""

Writer = Literal["controller", "agent", "anybody"]
"""The writer of a record, whose signature it has; `anybody` for a record without a signature."""


@dataclass(frozen=True, slots=True)
class Record:
    """The base of all records: key, writer and coverage of a kind.

    Attributes:
        KEY: relative to the root, as a template of `str.format` over the record; its first part is the kind's own.
        WRITER: the one who may write and sign it.
        COVERED: whether the manifest covers it: all that every agent reads, and nothing less.
    """

    KEY: ClassVar[str]
    WRITER: ClassVar[Writer]
    COVERED: ClassVar[bool]

    def __init_subclass__(cls, key: str = "", writer: Writer = "controller", *, covered: bool = False) -> None:
        if key:  # none where `dataclass` makes the class once more for its slots: then it has all three already
            cls.KEY, cls.WRITER, cls.COVERED = key, writer, covered


@dataclass(frozen=True, slots=True)
class Cluster(Record, key="cluster", covered=True):
    """The mesh itself; present once a controller has taken the store into use."""

    id: str
    """Swarm's own cluster id."""
    subnet: IPv4Network
    """The pool of all tasks' addresses and all VIPs."""
    subnet6: IPv6Network
    """A /96, the pool of their IPv6 twins (mesh.topology.ipam.twin)."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """An address of a task or service on a network other than the mesh."""

    network: str
    """Docker's id of the network; in an endpoint a node's own is `NETWORK@NODE` (controller.swarm.attachments)."""
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Service(Record, key="services/{0.id}", covered=True):
    """A consumer or provider of links."""

    id: str
    name: str
    vip: IPv4Address
    links: tuple[LinkLabel, ...]
    """By the provider's name: the provider may not exist yet, and may come back with another id."""
    expose: tuple[PortRange, ...] | None
    """Ports that a link without ports may reach; None for all, () for none."""
    strict: bool
    dnsrr: bool
    """`endpoint_mode: dnsrr`: names resolve to all addresses and not to the VIP."""
    elsewhere: tuple[Attachment, ...]
    """Its virtual IPs from Swarm, sorted."""
    open_ports: tuple[PortRange, ...] | None = field(default=None, metadata=OPTIONAL)
    """With `strict: all` the ports that are published: beside its links nothing else comes in. Without it None."""
    revoked: tuple[Attachment, ...] = field(default=(), metadata=OPTIONAL)
    """Addresses of its tasks on revoked nodes, sorted: `strict` refuses them, and none of its tasks sends by them."""


@dataclass(frozen=True, slots=True)
class Endpoint(Record, key="endpoints/{0.service}/{0.task}", covered=True):
    """One task's place in the mesh."""

    service: str
    task: str
    slot: int
    """0 for a task of a global service."""
    node: str
    address: IPv4Address
    public_key: PublicKey
    epoch: int
    """The number of the task's keypair, from 0."""
    underlay: UdpEndpoint
    ready: bool
    """True while it takes new connections."""
    elsewhere: tuple[Attachment, ...]
    """Its known addresses on other networks, sorted."""
    suspect: bool = field(default=False, metadata=OPTIONAL)
    """True while it is ready and its node's agent is silent: consumers' nodes use it as long as it answers them."""


@dataclass(frozen=True, slots=True)
class SealedKey(Record, key="keys/{0.node}/{0.task}"):
    """A task's private key, sealed to the node that runs it."""

    task: str
    node: str
    epoch: int
    sealed_to: str
    """Fingerprint of the node's sealing key at that time; when the node has another, the task needs a new keypair."""
    sealed: bytes


@dataclass(frozen=True, slots=True)
class LinkKeyEpoch(Record, key="epochs/{0.key}", covered=True):
    """The current epoch of a link key. Its secret is derived from the seed, the name and the epoch."""

    key: str
    """The link key's name (mesh.model.labels.link_labels.key_name)."""
    epoch: int
    """Only ever grows. It is the time at which it began, so that it grows even after its record was lost."""
    since: int
    """Start of the epoch, in seconds since 1970 by the controller's clock: the next one is due some time after it."""
    asked: tuple[str, ...]
    """Renewals requested by hand until then, sorted: a request that is not among them starts a new epoch."""


@dataclass(frozen=True, slots=True)
class SealedLinkKey(Record, key="linkkeys/{0.node}/{0.key}"):
    """A link key's secret, sealed to a node that hosts a task on either side of a link with this key."""

    key: str
    node: str
    epoch: int
    sealed_to: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Address(Record, key="addresses/{0.address!s}"):
    """The holder of an address; without a holder the address rests, until the controller deletes it."""

    address: IPv4Address
    holder: str | None
    """`service/<id>` for a VIP, `task/<id>` for an endpoint, None while it rests after one of `stack`."""
    stack: str = field(default="", metadata=OPTIONAL)
    """Of the service, for a VIP and for what rests; empty for none, or where an earlier version gave it."""


@dataclass(frozen=True, slots=True)
class Port(Record, key="ports/{0.node}/{0.port}"):
    """The task that holds a UDP port of a node."""

    node: str
    port: int
    task: str


@dataclass(frozen=True, slots=True)
class Node(Record, key="nodes/{0.id}", writer="agent"):
    """A node that runs an agent, by its own account, which is a claim (`controller.trust.node_judgement`)."""

    id: str
    hostname: str
    sealing_key: NodePublicKey
    """The public key that private keys for this node are sealed to."""
    report_key: VerifyKey
    """The public key that verifies this record, and all others that the agent writes."""
    counter: int
    """Higher than in every earlier statement of the node about its keys."""
    proof: NodeProof | None
    """Proof that the keys are the node's own; None where the node has none."""
    unproven: Unproven | None
    address: IPAddress
    """Address at which other nodes reach this one's WireGuard ports."""
    first_port: int
    last_port: int
    backend: str
    version: str
    own_user: bool = field(default=False, metadata=OPTIONAL)
    """True once its agent is an etcd user of its own, with the node's name, by the node's Swarm certificate."""
    encryption_key: PublicKey | None = field(default=None, metadata=OPTIONAL)
    """Of its device for node encryption; None for an agent of an earlier version, or one that can have none."""
    encryption_port: int = field(default=0, metadata=OPTIONAL)
    encryption_epoch: int = field(default=0, metadata=OPTIONAL)
    encryption_next: EpochKey | None = field(default=None, metadata=OPTIONAL)
    encryption_spent: int | None = field(default=None, metadata=OPTIONAL)  # peers refuse it: a clock went back
    encryption_all: bool = field(default=False, metadata=OPTIONAL)  # it knows mode `all`, where that is asked

    def statement(self, cluster: str) -> NodeStatement:
        """Return the statement that its proof has to prove, in the Swarm of that id."""
        return NodeStatement(cluster, self.id, self.sealing_key, self.report_key, self.counter)


@dataclass(frozen=True, slots=True)
class Member(Record, key="members/{0.node}"):
    """The keys that the controller has accepted as a node's own; with them it recognises an earlier statement."""

    node: str
    sealing_key: NodePublicKey
    report_key: VerifyKey
    counter: int


@dataclass(frozen=True, slots=True)
class TaskReport(Record, key="tasks/{0.node}/{0.task}", writer="agent"):
    """The state of a task on its node, by the node's agent."""

    task: str
    service: str
    """Service id, so that a task that the controller has not met yet can be looked up."""
    node: str
    state: TaskState
    wired: bool
    error: str | None
    """In words; `port taken` makes the controller assign another port."""
    port_taken: int | None
    """The UDP port that another program holds, or None."""
    elsewhere: tuple[Attachment, ...]
    """The task's addresses on other networks as the node's Docker gave them, sorted."""
    spent: int | None = field(default=None, metadata=OPTIONAL)
    """Epoch of a key to be replaced: peers refuse it (a clock went back), or it was in another task's namespace."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer, as read back from a task's device."""

    public_key: PublicKey
    handshake_age: float | None
    """Seconds, None for never."""
    rx_bytes: int
    tx_bytes: int
    endpoint: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Counter of the packets that a task's rules have refused since they were first put in place.

    Attributes:
        direction: `in`: came to the task by its device; `out`: was to leave by it; `apart`: to or from a neighbour.
        service: id of the service at the other end; "" where no link says which that is.
        packets: their number.
    """

    direction: Literal["in", "out", "apart"]
    service: str
    packets: int


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A task's device, as read back."""

    task: str
    public_key: PublicKey | None
    peers: tuple[PeerStatus, ...]
    refused: tuple[Refused, ...]  # counters that are not 0, sorted


@dataclass(frozen=True, slots=True)
class BrokenPeers:
    """Peers of a task to which packets are sent, and from which none come back (agent.wireguard.peer_health)."""

    task: str
    peers: tuple[PublicKey, ...]
    seconds: float
    """Since the first packet that was not answered, of the peer that has been silent longest."""


@dataclass(frozen=True, slots=True)
class Status(Record, key="vitals/{0.node}", writer="agent"):
    """All devices of a node, as read back at one moment; in the store those are in its views (device_readings)."""

    node: str
    written: float
    """Seconds since 1970 by the node's clock: for display only, nothing is decided by it."""
    devices: tuple[DeviceStatus, ...]
    manifest: bytes = b""
    """The signed manifest of the highest generation that the node has acted on, as stored; empty for none."""
    held: str = ""
    """Reason, in words, for not acting on the store's present state; empty while the node acts on it."""
    unwritten: str = field(default="", metadata=OPTIONAL)
    """Names, in words, the node's record that is too large for the store; empty while there is none."""
    broken: tuple[BrokenPeers, ...] = field(default=(), metadata=OPTIONAL)
    """Of the node's tasks, at most MOST_BROKEN peers in all. Here and not in the views, which are written seldom."""
    encryption: EncryptionStatus | None = field(default=None, metadata=OPTIONAL)
    node_keys: KeyStatus | None = field(default=None, metadata=OPTIONAL)
    tunnel: TunnelFigures | None = field(default=None, metadata=OPTIONAL)
    holder: str = field(default="", metadata=OPTIONAL)  # what is wrong with its holder of wireguard-go, in words


@dataclass(frozen=True, slots=True)
class View(Record, key="views/{0.node}/{0.part}", writer="agent"):
    """A part of a node's reading of its devices, from 0: see mesh.model.device_readings."""

    node: str
    part: int
    parts: int
    written: float
    """Seconds since 1970 by the node's clock, the same in all parts of one reading."""
    packed: bytes
    """A Status with some of the devices, encoded and compressed (RFC 1950)."""


@dataclass(frozen=True, slots=True)
class Leader(Record, key="leader", writer="anybody"):
    """The leading controller: its name, and a random id of its process, empty in an older version's."""

    holder: str
    instance: str = field(default="", metadata=OPTIONAL)


@dataclass(frozen=True, slots=True)
class Tenure(Record, key="tenure", writer="anybody"):
    """The leader's signs of life, counted, by `Leader.instance`. The key sorts after all that agents follow."""

    instance: str
    count: int


@dataclass(frozen=True, slots=True)
class StoreSpace(Record, key="space", writer="anybody"):
    """Bytes that the stack's etcd takes, as last reported by `linkwire-etcd`. `barred` are nodes that filled it."""

    size: int
    """Of its file; `in_use` of it hold data, and at `quota` it refuses all writes."""
    in_use: int
    quota: int
    short: bool
    """True when an operator should make room."""
    barred: tuple[str, ...] = field(default=(), metadata=OPTIONAL)


@dataclass(frozen=True, slots=True)
class Access(Record, key="access"):
    """Users of etcd besides our own, and Swarm's CA certificates: `linkwire-etcd` sets up users and trust by it."""

    nodes: tuple[str, ...]
    """Ids of all nodes of the Swarm, each a user that may write its own records."""
    shared: tuple[str, ...]
    """Ids of the nodes without a certificate of their own at etcd: the agents' shared user writes for them."""
    roots: tuple[str, ...]
    """Swarm's root certificates, in PEM."""
    revoked: tuple[str, ...] = field(default=(), metadata=OPTIONAL)
    """Revocations of nodes: when there is one more, `linkwire-etcd` ends all connections, that node's among them."""


@dataclass(frozen=True, slots=True)
class ManifestRecord(Record, key="manifest"):
    """Number and digest (`Manifest.digest`) of the records that are signed as a set (`keyspace.covered`)."""

    count: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Recall(Record, key="recall"):
    """The controller's request, after the store was emptied: each node is to bring back the keys that it has."""

    node: str
    """Id of the node that has seen the newest state, and brings back that state as well."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A value as stored, with its signature."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Recalled(Record, key="recalled/{0.node}/{0.part}", writer="agent"):
    """A part, from 0, of a node's answer to a Recall. The values prove themselves, whoever brings them."""

    node: str
    asked: str
    """`Recall.node` of the request, so that an answer to another request does not count."""
    part: int
    parts: int
    values: tuple[Kept, ...]
