"""Node record: this node's entry in the store, from its keys, its Docker and its settings. No I/O here."""

from __future__ import annotations

from dataclasses import replace

from agent.containers.docker_client import NodeIdentity
from agent.state.node_identity import Identity
from agent.wireguard.backend import Backend
from mesh.errors import Terminal
from mesh.model.net import IPAddress
from mesh.model.records import Node


def node_record(  # noqa: PLR0917 - called once, from cli
    here: NodeIdentity,
    identity: Identity,
    backend: Backend,
    ports: tuple[int, int],
    address: IPAddress | None,
    version: str,
) -> Node:
    """Build the node's record. Raises Terminal where its address is not known."""
    reached_at = address or here.address
    if reached_at is None:
        raise Terminal("this node's address is unknown: set --address or LINKWIRE_ADDRESS")
    statement = identity.statement
    return Node(
        id=here.id,
        hostname=here.hostname,
        sealing_key=statement.sealing_key,
        report_key=statement.verify_key,
        counter=statement.counter,
        proof=identity.proof,
        unproven=identity.unproven,
        address=reached_at,
        first_port=ports[0],
        last_port=ports[1],
        backend=backend.name,
        version=version,
    )


def stated(node: Node, identity: Identity) -> Node:
    """Return the record with the node's present statement about its keys."""
    counter, proof, unproven = identity.counter, identity.proof, identity.unproven
    return replace(node, counter=counter, proof=proof, unproven=unproven)
