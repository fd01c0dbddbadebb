"""Questions about one task or one node, which the node itself answers, and the answers. Pure.

They go through etcd from one agent to another (agent.asks), so they name nothing but tasks, nodes and ports: what it
looks at, sends to and connects to, it takes from records that a controller has signed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.diagnosis.between_nodes.facts import TunnelLook
from mesh.diagnosis.link_facts import Look, Trial


@dataclass(frozen=True, slots=True)
class Probe:
    """Datagrams to exchange with the peer's node.

    Attributes:
        nonce: 32 hexadecimal digits, which every datagram has.
        own_port: UDP port of this node, to send from and wait at.
        port: the same of the other node.
        large_bytes: size of the large ones, headers included.
    """

    nonce: str
    own_port: int
    port: int
    large_bytes: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question to one node about a task of its own, or about its part in node encryption.

    Attributes:
        node: its id.
        task: id of its task.
        peer: id of the task at the other end of the link.
        tries: whether to try the link from inside the task, which is the consumer then.
        ports: TCP ports to connect to.
        probe: None for none.
        between: id of another node: the question is about node encryption between the two, and about no task.
        inside: datagrams to exchange with that node through the devices of node encryption; None for none.
    """

    node: str
    task: str
    peer: str
    tries: bool = False
    ports: tuple[int, ...] = ()
    probe: Probe | None = None
    between: str = ""
    inside: Probe | None = None


@dataclass(frozen=True, slots=True)
class Arrived:
    """Datagrams that arrived from the other node, and how many were sent to it.

    Attributes:
        sent: of each size.
        small: that arrived.
        large: that arrived.
        problem: why none could be exchanged, in words; empty where they were.
    """

    sent: int = 0
    small: int = 0
    large: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a question.

    Attributes:
        look: what the node sees of its task.
        trial: what was tried from inside the task.
        arrived: of the datagrams besides WireGuard.
        tunnel: what the node sees of its part in node encryption, where the question is about that.
        inside: of the datagrams through the devices of node encryption.
    """

    look: Look
    trial: Trial | None = None
    arrived: Arrived | None = None
    tunnel: TunnelLook | None = None
    inside: Arrived | None = None
