"""What one agent says of all nodes' keys, and which of the agents' records `ps` believes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from agent.status.node_status import believed, nodes
from mesh.identity.attestation import TOLERANCE
from mesh.model import keyspace
from mesh.model.records import Member, Node, Record, Status, TaskReport
from mesh.model.snapshot import Snapshot, Versioned
from tests.support.swarm_ca import CLUSTER
from tests.unit.controller.test_node_judgement import N1, N2, NOW, ROOT, Agent, Mesh


def snapshot(*records: Record, signed: tuple[tuple[str, bytes], ...] = ()) -> Snapshot:
    mesh = Mesh()
    for record in records:
        mesh.put(record)
    mesh.say(*signed)
    return mesh.stored


def accepted(agent: Agent) -> Member:
    return Member(agent.node, agent.sealing_key.public, agent.key.verify_key, agent.counter)


def test_proven_node_shows_whether_controller_accepted_it() -> None:
    agent = Agent(N1)
    said = agent.record()
    for member in ((), (accepted(agent),), (accepted(Agent(N1)),)):
        (found,) = nodes(snapshot(*member, signed=(agent.signed(said),)), CLUSTER, [ROOT.pem], NOW)
        assert found == {
            "id": N1,
            "hostname": "host-n1",
            "fingerprint": said.statement(CLUSTER).fingerprint,
            "unproven": None,
            "accepted": member == (accepted(agent),),
            "address": "192.0.2.1",
            "ports": [51820, 51920],
        }
        assert json.loads(json.dumps(found)) == found


def test_why_a_node_is_not_proven() -> None:
    locked, forged, plain = Agent(N1), Agent(N2), Agent("n3")
    other = replace(forged.record(), sealing_key=plain.sealing_key.public)
    bare = replace(plain.record(proven=False), unproven=None)
    stored = snapshot(
        signed=(locked.signed(locked.record(proven=False)), forged.signed(other), plain.signed(bare)),
    )
    found = {each["id"]: each["unproven"] for each in nodes(stored, CLUSTER, [ROOT.pem], NOW)}
    assert found[N1] == "its Swarm key is encrypted (autolock)"
    assert "its proof does not hold" in found[N2]
    assert found["n3"] == "it gives no proof of its keys"


def test_expired_proof_and_proof_without_root_are_shown() -> None:
    agent = Agent(N1)
    stored = snapshot(signed=(agent.signed(agent.record()),))
    late = agent.leaf.ends + TOLERANCE + timedelta(minutes=1)
    assert "ended at" in next(nodes(stored, CLUSTER, [ROOT.pem], late))["unproven"]
    assert "no root certificate" in next(nodes(stored, CLUSTER, [], NOW))["unproven"]


def test_only_what_a_member_has_signed_is_shown() -> None:
    agent, stranger = Agent(N1), Agent(N1)
    status = Status(N1, 1.0, ())
    own = (agent.signed(agent.record()), agent.signed(agent.report("t1")), agent.signed(status))
    stored = snapshot(accepted(agent), signed=own)
    assert believed(stored, CLUSTER).records == stored.records
    for forged in (stranger.signed(agent.record()), stranger.signed(agent.report("t1")), stranger.signed(status)):
        with_it = snapshot(accepted(agent), signed=(*own, forged))
        shown = believed(with_it, CLUSTER)
        assert set(with_it.records) - set(shown.records) == {forged[0]} == set(shown.invalid)
    unknown = believed(snapshot(signed=own), CLUSTER)
    assert not any(isinstance(found.record, Node | TaskReport | Status) for found in unknown.records.values())
    assert unknown.invalid[keyspace.node(N1)] == "nodes/n1: its node has not shown its keys (yet)"
    assert isinstance(unknown.records, MappingProxyType)
    assert all(isinstance(found, Versioned) for found in unknown.records.values())
