"""Facts of node encryption between two nodes: their records, what both see of their device, what was tried. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.diagnosis.link_facts import Underlay, Unheard


@dataclass(frozen=True, slots=True)
class TunnelLook:
    """A node's view of its own devices of node encryption, and of one other node as its peer.

    While keys rotate there are two devices, and the one that is told of is the one that its packets go by.

    Attributes:
        clock: seconds since the epoch by the node's clock, when it looked.
        error: why it could not look; empty where it did.
        generation: of the record that the node has acted on; 0 for none.
        step: that is in place.
        problem: that the node's agent names itself; empty for none.
        device: name of the device; empty where there is none.
        port: UDP, of the device.
        is_up: whether it is up.
        mtu: bytes of the largest packet inside it.
        is_peer: whether the other node is a peer of it.
        has_preshared_key: whether that peer has one.
        handshake_age: seconds, None for never.
        received: bytes from the peer.
        sent: bytes to the peer.
        out_by: device by which the kernel sends overlay packets to the other node; empty where there is no way.
        refuses_plain: whether the rules that refuse plain overlay packets are there, as the agent put them.
        refused: packets that they refused.
        wire_filters: chains of a firewall that drop the other node's WireGuard packets.
        overlay_filters: chains that drop overlay packets in any of its devices, either way.
    """

    clock: float
    error: str = ""
    generation: int = 0
    step: str = "off"
    problem: str = ""
    device: str = ""
    port: int = 0
    is_up: bool = False
    mtu: int = 0
    is_peer: bool = False
    has_preshared_key: bool = False
    handshake_age: float | None = None
    received: int = 0
    sent: int = 0
    out_by: str = ""
    refuses_plain: bool = False
    refused: int = 0
    wire_filters: tuple[str, ...] = ()
    overlay_filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """One of the two nodes, by its records.

    Attributes:
        node: its id.
        host: its name.
        is_silent: whether its agent gives no signs of life.
        approved: whether its keys are accepted.
        unproven: whether it says that it cannot prove its keys.
        states_key: whether it states an encryption key.
        place: address and UDP ports of its devices; empty where the controllers gave it none.
        ports: of its devices.
        has_link_key: whether the link key of all nodes lies in the store, sealed to it.
        acknowledged: generation that it has acknowledged; 0 for none.
        step: that it says is in place.
        problem: that it names; empty for none.
    """

    node: str
    host: str
    is_silent: bool = False
    approved: bool = True
    unproven: bool = False
    states_key: bool = False
    place: str = ""
    ports: tuple[int, ...] = ()
    has_link_key: bool = False
    acknowledged: int = 0
    step: str = "off"
    problem: str = ""


@dataclass(frozen=True, slots=True)
class NodesFacts:
    """All that Linkwire knows of node encryption between two nodes.

    Attributes:
        one: the first of them.
        other: the second.
        wanted: mode that was asked for; `off`.
        mode: that the controllers are at; `off`.
        step: that every node is to take now; `off`.
        generation: of the controllers' record, the second in which the step began; 0 where there is none.
        port: UDP, of Swarm's VXLAN.
        leads: whether a controller leads.
        store: why etcd does not answer, in words; empty while it does.
        held: why the asked node does not act on the store's present state; empty while it does.
        here: what the first node sees.
        there: what the second one sees.
        bare: datagrams between the two besides WireGuard; `there` are those that arrived at the second.
        inside: datagrams through the two devices, likewise.
        unheard: nodes that did not answer.
        clock: seconds since the epoch by the clock of the node that asked.
    """

    one: NodeEnd
    other: NodeEnd
    wanted: str = "off"
    mode: str = "off"
    step: str = "off"
    generation: int = 0
    port: int = 0
    leads: bool = True
    store: str = ""
    held: str = ""
    here: TunnelLook | None = None
    there: TunnelLook | None = None
    bare: Underlay | None = None
    inside: Underlay | None = None
    unheard: tuple[Unheard, ...] = ()
    clock: float = 0.0

    @property
    def ends(self) -> tuple[tuple[NodeEnd, TunnelLook | None], ...]:
        """Return each node with what it sees."""
        return (self.one, self.here), (self.other, self.there)
