"""Seeded bugs: production code broken in one place each, which the checker must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest

import agent.desired_state
import agent.interface.diff
import agent.state.verified_state
import controller.recovery.recall
import controller.transactions
from agent.state.verified_state import VerifiedState
from controller.planning.reclaim import Reclaim
from controller.recovery.address_quarantine import AddressQuarantine
from controller.recovery.resting_addresses import RestingAddresses
from controller.steps import PlanStep, Release
from controller.trust.signed_writer import SignedWriter
from controller.trust.witnesses import Witness
from mesh.integrity.verification import Verdict, verify_snapshot
from mesh.model import keyspace
from mesh.model.records import Endpoint
from mesh.model.snapshot import Delete, Op, Snapshot
from mesh.topology.link_graph import LinkGraph, reindex
from mesh.topology.wgtypes import InterfaceConfig, PeerChange
from tests.unit.model.search import DEATH, WORLDS, Bounds

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Bug:
    """One of them.

    Attributes:
        name: in words.
        plant: breaks the code.
        bounds: within which it shows.
        rule: that it breaks; any where it is empty.
    """

    name: str
    plant: Callable[[Patch], None]
    bounds: Bounds
    rule: str


def _no_rest(patch: Patch) -> None:
    def release(step: Release) -> tuple[Op, ...]:
        return (*step.deletes, *(Delete(keyspace.address(address), at) for address, at in step.addresses))

    patch.setattr(controller.transactions, "release", release)


def _short_rest(patch: Patch) -> None:
    whole = RestingAddresses.over
    patch.setattr(RestingAddresses, "over", lambda self, now: whole(self, now + 1000.0))


def _rests_are_forgotten(patch: Patch) -> None:
    patch.setattr(AddressQuarantine, "again", lambda *_: [])


def _old_state_is_taken(patch: Patch) -> None:
    patch.setattr(agent.state.verified_state, "verify_snapshot", lambda found, *_: verify_snapshot(found))


def _anything_is_taken(patch: Patch) -> None:
    def verify(snapshot: Snapshot, *_: object) -> Verdict:
        manifest = snapshot.records.get(keyspace.MANIFEST)
        return Verdict(manifest.generation if manifest is not None else 0, "")

    patch.setattr(agent.state.verified_state, "verify_snapshot", verify)
    patch.setattr(VerifiedState, "_remember", lambda *_: "")


def _manifest_is_not_kept(patch: Patch) -> None:
    patch.setattr(agent.state.verified_state, "remembered", lambda _: b"")


def _with_everything(of: Callable[..., object], *args: object, **named: object) -> object:
    return of(*args, **{**named, "complete": True})


def _partial_counts_as_whole(patch: Patch) -> None:
    whole = agent.interface.diff.device_change
    patch.setattr(agent.interface.diff, "device_change", partial(_with_everything, whole))


def _kept_state_counts_as_whole(patch: Patch) -> None:
    whole = VerifiedState._go_on

    def go_on(self: VerifiedState) -> None:
        whole(self)
        self._believed = replace(self._believed, complete=bool(self._believed.records))

    patch.setattr(VerifiedState, "_go_on", go_on)


def _roaming_is_undone(patch: Patch) -> None:
    patch.setattr(
        agent.interface.diff, "_endpoint_differs", lambda wanted, seen, *_: wanted.endpoint != seen.endpoint
    )


def _peers_are_replaced(patch: Patch) -> None:
    def peer_changes(before: InterfaceConfig, after: InterfaceConfig) -> tuple[PeerChange, ...]:
        gone = tuple(PeerChange(peer.public_key, remove=True) for peer in before.peers)
        return *gone, *(agent.interface.diff.upsert(peer) for peer in after.peers)

    patch.setattr("tests.unit.model.agents.peer_changes", peer_changes)


def _peers_come_before_they_go(patch: Patch) -> None:
    whole = agent.interface.diff.peer_changes

    def peer_changes(before: InterfaceConfig, after: InterfaceConfig) -> tuple[PeerChange, ...] | None:
        changes = whole(before, after)
        return None if changes is None else tuple(change for change in changes if not change.remove)

    patch.setattr("tests.unit.model.agents.peer_changes", peer_changes)


def _links_have_one_end(patch: Patch) -> None:
    def peers(self: LinkGraph, endpoint: Endpoint) -> tuple[Endpoint, ...]:
        service = self.services.get(endpoint.service)
        providers = self.providers(service) if service is not None else ()
        return tuple(e for provider in providers for e in self.endpoints.get(provider.id, ()))

    patch.setattr(LinkGraph, "peers", peers)


def _ended_tasks_keep_their_place(patch: Patch) -> None:
    patch.setattr(Reclaim, "_endpoint", lambda *_: ())


def _gone_is_overlooked(patch: Patch) -> None:
    def overlooking(graph: LinkGraph, before: Snapshot, now: Snapshot) -> LinkGraph:
        made = reindex(graph, before, now)
        return made if len(made.by_task) >= len(graph.by_task) else graph

    patch.setattr(agent.desired_state, "reindex", overlooking)


def _nodes_are_not_heard(patch: Patch) -> None:
    patch.setattr(SignedWriter, "_hear", lambda *_: None)


def _sealed_keys_are_not_brought_back(patch: Patch) -> None:
    whole = controller.recovery.recall.put_back

    def put_back(stored: Snapshot, brought: Snapshot, witness: Witness) -> tuple[list[PlanStep], str]:
        made, problem = whole(stored, brought, witness)
        return [step for step in made if not step.ops[0].key.startswith(keyspace.KEYS)], problem

    patch.setattr(controller.recovery.recall, "put_back", put_back)


TASKS, NODES = WORLDS["tasks"], WORLDS["nodes"]
STARTS, ENDS, EMPTIED, SET_BACK = "a task starts", "a task ends", "the store is emptied", "the store is set back"
ALONE = "an agent restarts alone"


def _rounds(*events: str) -> Bounds:
    return Bounds(events, len(events), 8, fine=False)


BUGS = (
    Bug("a released address does not rest", _no_rest, TASKS, "rule 1"),
    Bug("an address rests too short", _short_rest, TASKS, "rule 1"),
    Bug("rests are forgotten when the store is lost", _rests_are_forgotten, _rounds(ENDS, EMPTIED, STARTS), "rule 1"),
    Bug("an agent takes an older state", _old_state_is_taken, _rounds(SET_BACK, ALONE), "rule 2"),
    Bug("an agent takes a state that nobody signed", _anything_is_taken, _rounds(SET_BACK), "rule 2"),
    Bug("a restarted agent knows no generation", _manifest_is_not_kept, _rounds(SET_BACK, ALONE), "rule 2"),
    Bug("a diff removes on partial knowledge", _partial_counts_as_whole, _rounds(STARTS, ALONE), "rule 2"),
    Bug("a kept state counts as the whole", _kept_state_counts_as_whole, _rounds(STARTS, ALONE), "rule 2"),
    Bug("roaming is undone", _roaming_is_undone, NODES, "rule 3"),
    Bug("all peers are replaced", _peers_are_replaced, TASKS, "rule 4"),
    Bug("removed peers stay", _peers_come_before_they_go, TASKS, ""),
    Bug("a provider does not see its consumers", _links_have_one_end, TASKS, ""),
    Bug("ended tasks keep their place", _ended_tasks_keep_their_place, TASKS, "liveness"),
    Bug("an endpoint's end is overlooked", _gone_is_overlooked, TASKS, ""),
    Bug("nodes are not heard", _nodes_are_not_heard, _rounds(SET_BACK, DEATH), ""),
    Bug("sealed keys are not brought back", _sealed_keys_are_not_brought_back, _rounds(EMPTIED), "rule 2"),
)
