"""A revoked member is sealed nothing, and its new statements count for nothing, until it is approved."""

from __future__ import annotations

from mesh.crypto.hpke import NodeKey
from mesh.model import keyspace
from mesh.model.records import Member
from tests.unit.controller.test_node_judgement import N1, Agent, Mesh


def test_revoked_member_is_sealed_nothing_and_named() -> None:
    mesh, agent = Mesh(), Agent(N1)
    mesh.say(agent.signed(agent.record()))
    assert mesh.settle().members == {N1: agent.sealing_key.public}
    before = mesh.stored.get(keyspace.member(N1), Member)
    mesh.join(N1, revoked="noon")
    judged = mesh.settle()
    assert judged.members == {}
    assert any("revoked since noon" in problem for problem in judged.problems)
    agent.counter, agent.sealing_key = 2, NodeKey.generate()
    mesh.say(agent.signed(agent.record()))
    assert mesh.settle().members == {}
    assert mesh.stored.get(keyspace.member(N1), Member) == before
    mesh.join(N1)
    assert mesh.settle().members == {N1: agent.sealing_key.public}
