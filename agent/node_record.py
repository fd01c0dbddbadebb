"""What a node says of itself in the store, from its keys, its Docker and its settings. No I/O here."""

from __future__ import annotations

from dataclasses import replace

from agent.containers import NodeIdentity
from agent.identity import Identity
from agent.wireguard import Backend
from mesh.errors import Terminal
from mesh.net import IPAddress
from mesh.records import Node


def node_record(  # noqa: PLR0917 - called once, from cli
    here: NodeIdentity,
    identity: Identity,
    backend: Backend,
    ports: tuple[int, int],
    address: IPAddress | None,
    version: str,
) -> Node:
    """What this node says of itself. Raises Terminal where its address is not known."""
    told = address or here.address
    if told is None:
        raise Terminal("where other nodes reach this one is not known: set --address or LINKWIRE_ADDRESS")
    said = identity.statement
    return Node(
        id=here.id,
        hostname=here.hostname,
        sealing_key=said.sealing_key,
        report_key=said.verify_key,
        counter=said.counter,
        proof=identity.proof,
        unproven=identity.unproven,
        address=told,
        first_port=ports[0],
        last_port=ports[1],
        backend=backend.name,
        version=version,
    )


def stated(node: Node, identity: Identity) -> Node:
    """The same node with what it says of its keys now."""
    counter, proof, unproven = identity.counter, identity.proof, identity.unproven
    return replace(node, counter=counter, proof=proof, unproven=unproven)
