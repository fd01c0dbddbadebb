"""Every record that Linkwire keeps in the store, as frozen data: one type per kind of key.

`mesh.keyspace` says under which key each lies, `mesh.codec` how it is written. No I/O here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, TypeVar

from mesh.envelope import VerifyKey
from mesh.hybrid import NodePublicKey
from mesh.keys import PublicKey
from mesh.labels import LinkLabel
from mesh.net import IPAddress, UdpEndpoint
from mesh.ports import PortRange
from mesh.proof import NodeProof, NodeStatement

OPTIONAL = MappingProxyType({"optional": True})
"""Of a field that was added later: it is not written where it has its default, and so was not before it was there."""

TaskState = Literal["created", "running", "gone"]
"""What a node sees of a task's container: made but not started, up (and healthy where it has a check), ended."""

Unproven = Literal["locked", "unreadable"]
"""Why a node has no proof: its Swarm key is encrypted (autolock), or its Swarm certificate or key cannot be read."""

Writer = Literal["controller", "agent", "anybody"]
"""Of a record, and so whose signature it has; `anybody` for one that has none."""


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
    """The mesh itself. Its presence means that a controller has taken this store into use."""

    id: str
    """Swarm's own cluster id."""
    subnet: IPv4Network
    """Where every task's address and every VIP comes from."""
    subnet6: IPv6Network
    """A /96: where their IPv6 twins come from (mesh.addresses.twin)."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """An address of a task, or of a service, on a network that is not the mesh."""

    network: str
    """Docker's id of it: node-local networks of two nodes have two ids, also where their addresses are the same."""
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Service(Record, key="services/{0.id}", covered=True):
    """A service that links, or is linked to."""

    id: str
    name: str
    vip: IPv4Address
    links: tuple[LinkLabel, ...]
    """By the provider's name: it may not exist yet, and may come back under another id."""
    expose: tuple[PortRange, ...] | None
    """What a link that names no ports may reach; None for everything, () for nothing."""
    strict: bool
    dnsrr: bool
    """`endpoint_mode: dnsrr`: names give all addresses and not the VIP."""
    elsewhere: tuple[Attachment, ...]
    """Swarm's own virtual IPs of it, sorted."""


@dataclass(frozen=True, slots=True)
class Endpoint(Record, key="endpoints/{0.service}/{0.task}", covered=True):
    """One task's place in the mesh."""

    service: str
    """Service id."""
    task: str
    slot: int
    """0 for a task of a global service."""
    node: str
    """Node id."""
    address: IPv4Address
    public_key: PublicKey
    epoch: int
    """Which of the task's keypairs this is, from 0."""
    underlay: UdpEndpoint
    ready: bool
    """Whether new connections may go to it."""
    elsewhere: tuple[Attachment, ...]
    """Its addresses on other networks, as far as they are known, sorted."""
    suspect: bool = field(default=False, metadata=OPTIONAL)
    """Whether it is ready and its node's agent silent: each consumer's node uses it as long as it answers there."""


@dataclass(frozen=True, slots=True)
class SealedKey(Record, key="keys/{0.node}/{0.task}"):
    """A task's private key, sealed to the node that runs it."""

    task: str
    node: str
    epoch: int
    sealed_to: str
    """Fingerprint of the node's sealing key of that time; when it has another now, the task needs a new keypair."""
    sealed: bytes


@dataclass(frozen=True, slots=True)
class LinkKeyEpoch(Record, key="epochs/{0.key}", covered=True):
    """Which secret of a link key counts. The secret itself follows from the seed, the name and the epoch."""

    key: str
    """The link key's name (mesh.labels.key_name)."""
    epoch: int
    """Only ever grows. It is the time in which it began, so that it also grows where its record was lost."""
    since: int
    """Seconds since the epoch of the controller's clock, to tell when the next one is due."""
    asked: tuple[str, ...]
    """What had been asked for by hand until then, sorted: something that is not here asks for a new epoch."""


@dataclass(frozen=True, slots=True)
class SealedLinkKey(Record, key="linkkeys/{0.node}/{0.key}"):
    """A link key's secret, sealed to a node that hosts a task on either side of a link with this key."""

    key: str
    node: str
    epoch: int
    sealed_to: str
    """Fingerprint of the node's sealing key of that time."""
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Address(Record, key="addresses/{0.address}"):
    """Who holds an address; with no holder it rests (and its lease says for how long)."""

    address: IPv4Address
    holder: str | None
    """`service/<id>` for a VIP, `task/<id>` for an endpoint, None while it rests."""


@dataclass(frozen=True, slots=True)
class Port(Record, key="ports/{0.node}/{0.port}"):
    """Which task holds a UDP port of a node."""

    node: str
    port: int
    task: str


@dataclass(frozen=True, slots=True)
class Node(Record, key="nodes/{0.id}", writer="agent"):
    """A node that runs an agent, as the agent says it: a claim, until `controller.members` has found it proven."""

    id: str
    hostname: str
    sealing_key: NodePublicKey
    """What private keys for this node are sealed to."""
    report_key: VerifyKey
    """What the signature of this record, and of all others that the agent writes, is checked with."""
    counter: int
    """Higher than in every earlier statement of the node about its keys."""
    proof: NodeProof | None
    """That the keys are the node's own; None where it cannot prove it."""
    unproven: Unproven | None
    """Why it cannot."""
    address: IPAddress
    """Where other nodes reach this one's WireGuard ports."""
    first_port: int
    last_port: int
    backend: str
    version: str
    own_user: bool = field(default=False, metadata=OPTIONAL)
    """Whether its agent is the user of etcd with this node's name now, by the node's Swarm certificate."""

    def statement(self, cluster: str) -> NodeStatement:
        """What its proof is to prove, in the Swarm of that id."""
        return NodeStatement(cluster, self.id, self.sealing_key, self.report_key, self.counter)


@dataclass(frozen=True, slots=True)
class Member(Record, key="members/{0.node}"):
    """The keys that the controller has accepted as a node's own, so that an earlier statement is known as such."""

    node: str
    sealing_key: NodePublicKey
    report_key: VerifyKey
    counter: int
    """Of the statement that was accepted last."""


@dataclass(frozen=True, slots=True)
class TaskReport(Record, key="tasks/{0.node}/{0.task}", writer="agent"):
    """What a node sees of one of its tasks."""

    task: str
    service: str
    """Service id, so that a task that the controller has not met yet can be looked up."""
    node: str
    state: TaskState
    wired: bool
    error: str | None
    """In words; also `port taken`, which makes the controller give another."""
    port_taken: int | None
    """The UDP port that some other program holds, or None."""
    elsewhere: tuple[Attachment, ...]
    """The task's addresses on other networks as the node's Docker gave them, sorted."""
    spent: int | None = field(default=None, metadata=OPTIONAL)
    """The epoch of its key that peers refuse, since the node's clock went back; makes the controller give another."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer as read back from a task's device."""

    public_key: PublicKey
    handshake_age: float | None
    """Seconds, None for never."""
    rx_bytes: int
    tx_bytes: int
    endpoint: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """How many packets a task's rules have refused since they were first put in place.

    Attributes:
        direction: `in`: what came to the task over its device; `out`: what it tried to send over it; `apart`: what
            passed between it and another wired service outside the mesh, or would have.
        service: id of the service at the other end; "" where no link says which that is.
        packets: their number.
    """

    direction: Literal["in", "out", "apart"]
    service: str
    packets: int


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One task's device as read back."""

    task: str
    public_key: PublicKey | None
    peers: tuple[PeerStatus, ...]
    refused: tuple[Refused, ...]
    """Those that are not 0, sorted."""


@dataclass(frozen=True, slots=True)
class Status(Record, key="vitals/{0.node}", writer="agent"):
    """All devices of a node as read back at one moment."""

    node: str
    written: float
    """Seconds since the epoch of the node's clock: for display only, nothing is decided by it."""
    devices: tuple[DeviceStatus, ...]
    """None as it lies in the store: they are in the node's views (mesh.node_view)."""
    manifest: bytes = b""
    """The signed manifest of the highest generation that the node has acted on, as it lay in the store: it proves
    that this generation was signed, whoever brings it. Empty while there was none."""
    held: str = ""
    """Why the node does not act on what the store holds now, in words; empty while it does."""
    unwritten: str = field(default="", metadata=OPTIONAL)
    """Which of the node's records is too large for the store, in words; empty while none is."""


@dataclass(frozen=True, slots=True)
class View(Record, key="views/{0.node}/{0.part}", writer="agent"):
    """A part of what a node has read of its devices: see mesh.node_view."""

    node: str
    part: int
    """From 0."""
    parts: int
    """How many there are."""
    written: float
    """Seconds since the epoch of the node's clock, the same in all parts that were read at one time."""
    packed: bytes
    """A Status with some devices as the codec writes it, compressed (RFC 1950)."""


@dataclass(frozen=True, slots=True)
class Leader(Record, key="leader", writer="anybody"):
    """Which controller leads."""

    holder: str


@dataclass(frozen=True, slots=True)
class StoreSpace(Record, key="space", writer="anybody"):
    """How much space the stack's etcd takes, as `linkwire-etcd` has last told. It decides nothing."""

    size: int
    """Bytes of its file."""
    in_use: int
    """Bytes of it that hold data."""
    quota: int
    """Bytes at which it refuses all writes."""
    short: bool
    """Whether an operator should look after it."""


@dataclass(frozen=True, slots=True)
class Access(Record, key="access"):
    """Who the users of etcd are besides ours: what `linkwire-etcd` makes them of, and its trust in Swarm's CA."""

    nodes: tuple[str, ...]
    """Every node of the Swarm, by id: a user that writes what is that node's own."""
    shared: tuple[str, ...]
    """Those of them whose agent does not show the node's own certificate: the agents' shared user writes for them."""
    roots: tuple[str, ...]
    """Swarm's root certificates, in PEM."""


@dataclass(frozen=True, slots=True)
class ManifestRecord(Record, key="manifest"):
    """Which records there are of those that are signed as a set (`keyspace.covered`), no more and no fewer."""

    count: int
    digest: bytes
    """`manifest.Manifest.digest` over all of them."""


@dataclass(frozen=True, slots=True)
class Recall(Record, key="recall"):
    """What the controller asks for after the store was emptied: what the nodes still hold of what it signed.

    Each node brings back its own keys; one of them, which has seen the newest state, also that state.
    """

    node: str
    """Id of that one."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A value as it lay in the store, signature and all."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Recalled(Record, key="recalled/{0.node}/{0.part}", writer="agent"):
    """A part of a node's answer to a Recall. The values prove themselves, whoever brings them."""

    node: str
    asked: str
    """`Recall.node`, so that the answer to another question is not taken for one to this."""
    part: int
    """From 0."""
    parts: int
    values: tuple[Kept, ...]


R_co = TypeVar("R_co", bound=Record, covariant=True)


@dataclass(frozen=True, slots=True)
class Versioned(Generic[R_co]):
    """A record as read, with the store's revision of its last change.

    Attributes:
        generation: the one that was signed with it; 0 for what is unsigned, or was not read from a store.
        signer: id of the key that signed it, as `envelope.VerifyKey.id`.
        raw: the value as it lies in the store, for a record whose signature nobody has checked yet (an agent's), and
            for the manifest, which agents keep; for others only where a reader asked to keep all, else None.
    """

    record: R_co
    revision: int
    generation: int = 0
    signer: bytes = b""
    raw: bytes | None = None
