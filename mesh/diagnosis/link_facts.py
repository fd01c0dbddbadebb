"""Facts of one link: its records, what both nodes see of their own task, and what was tried between them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tried = Literal["open", "refused", "silent", "unreachable"]
"""Outcome of a connection that was tried: `silent` when nothing came back in time."""


@dataclass(frozen=True, slots=True)
class End:
    """One task at an end of the link, by its records.

    Attributes:
        task: Swarm's id.
        name: such as `shop_web.1`.
        node: id of its node.
        host: the node's name.
        address: in the mesh; empty while it has none.
        ready: whether it takes new connections.
        is_silent: whether its node's agent gives no signs of life.
        approved: whether its node's keys are accepted.
        unproven: whether its node says that it cannot prove its keys.
        has_keys: whether its own key and the link's lie in the store, sealed to its node; None where nobody looked.
        error: why it is not wired, by its node; empty for none.
    """

    task: str
    name: str
    node: str
    host: str
    address: str = ""
    ready: bool = False
    is_silent: bool = False
    approved: bool = True
    has_keys: bool | None = None
    error: str = ""
    unproven: bool = False


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that a program in a task waits at, and whether only the task itself can reach it."""

    port: int
    protocol: Literal["tcp", "udp"]
    loopback: bool

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that was tried from inside the consumer's task.

    Attributes:
        address: the VIP or a task's address.
        port: TCP.
        outcome: what came of it.
        is_vip: whether it went by the VIP.
    """

    address: str
    port: int
    outcome: Tried
    is_vip: bool


@dataclass(frozen=True, slots=True)
class Look:
    """A node's view of one task of its own, and of one peer of it.

    Attributes:
        clock: seconds since the epoch by the node's clock, when it looked.
        wired: whether the agent has wired the task.
        error: why it has not, or could not look; empty for none.
        device: name of the task's device; empty where there is none.
        is_up: whether the device is up.
        mtu: of the device, bytes.
        is_peer: whether the other task is a peer of it.
        handshake_age: seconds, None for never.
        received: bytes from the peer.
        sent: bytes to the peer.
        rules_hold: whether the rules in the namespace are those that the agent put; None where nobody looked.
        backends: addresses that the provider's VIP leads to, as applied.
        refused: packets that the rules refused towards the other service.
        apart: packets to and from the task that were refused outside the mesh because of `strict`.
        listeners: of the programs in the task.
    """

    clock: float
    wired: bool = False
    error: str = ""
    device: str = ""
    is_up: bool = False
    mtu: int = 0
    is_peer: bool = False
    handshake_age: float | None = None
    received: int = 0
    sent: int = 0
    rules_hold: bool | None = None
    backends: tuple[str, ...] = ()
    refused: int = 0
    apart: int = 0
    listeners: tuple[Listener, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """Trial of the link from inside the consumer's task.

    Attributes:
        small: whether a small packet through the tunnel was answered.
        large: whether the largest that the device takes was; None where it was not sent.
        large_bytes: its size.
        connections: one for each port and address.
        names: each of the link's names, with the addresses that the task's hosts file gives it.
    """

    small: bool = False
    large: bool | None = None
    large_bytes: int = 0
    connections: tuple[Connection, ...] = ()
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Underlay:
    """Datagrams between the two nodes themselves, besides WireGuard.

    Attributes:
        sent: how many each side sent.
        there: how many of the consumer's node arrived at the provider's; None where it could not be asked.
        here: how many of the provider's node arrived at the consumer's.
        large_bytes: size of the large ones, with their headers.
        large_there: how many large ones arrived there.
        large_here: the same here.
        problem: why it could not be tried, in words; empty where it was.
    """

    sent: int = 0
    there: int | None = None
    here: int | None = None
    large_bytes: int = 0
    large_there: int = 0
    large_here: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Unheard:
    """A node that did not tell what it sees, and why, in words."""

    node: str
    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """All that Linkwire knows of one link, between one task at each end.

    Attributes:
        consumer: name of the consumer's service.
        provider: of the provider's.
        is_recorded: whether the consumer's record has the link.
        is_allowed: whether that says that the provider allows it.
        leads: whether a controller leads.
        store: why etcd does not answer, in words; empty while it does.
        held: why the asked node does not act on the store's present state; empty while it does.
        vip: address of the provider's service in the mesh; empty for none.
        names: by which the consumer's tasks resolve the provider.
        ports: that the link opens, as in labels; None for all.
        ports_of: whose list they are: the `link`'s, or what the `provider` exposes; empty where all are open.
        asked: the port that was asked for, as in labels; empty for none.
        consumer_ends: every task of the consumer.
        provider_ends: every task of the provider.
        consumer_end: the one that is looked at; None where there is none.
        provider_end: the same at the provider.
        here: what the consumer's node sees.
        there: what the provider's node sees.
        trial: what was tried.
        underlay: between the two nodes; None where both tasks are on one.
        unheard: nodes that did not answer.
        clock: seconds since the epoch by the clock of the node that asked, when it had the answers.
    """

    consumer: str
    provider: str
    is_recorded: bool = True
    is_allowed: bool = True
    leads: bool = True
    store: str = ""
    held: str = ""
    vip: str = ""
    names: tuple[str, ...] = ()
    ports: tuple[str, ...] | None = None
    ports_of: Literal["", "link", "provider"] = ""
    asked: str = ""
    consumer_ends: tuple[End, ...] = ()
    provider_ends: tuple[End, ...] = ()
    consumer_end: End | None = None
    provider_end: End | None = None
    here: Look | None = None
    there: Look | None = None
    trial: Trial | None = None
    underlay: Underlay | None = None
    unheard: tuple[Unheard, ...] = ()
    clock: float = 0.0
