"""Plans of link keys whose secrets are kept in the controllers' vault: which epochs go on, and which end."""

from __future__ import annotations

from dataclasses import replace

from controller.planning.planner import Planner, plan
from controller.steps import FRESH, OpenVault, Plan, PlanStep
from controller.trust.link_secrets import ControllerIdentity, LinkSecrets
from mesh.crypto.preshared_keys import LinkKey
from mesh.model import keyspace
from mesh.model.records import LinkKeyEpoch, SealedLinkKey
from mesh.model.snapshot import Delete, Put
from mesh.model.vault.records import ControllerKey, EpochHistory, Vault
from tests.support.swarm_world import DB, SEED, SUBNET, WEB, DerivedSecrets, World, node_key, node_of
from tests.unit.controller.memory_store import MemoryStore
from tests.unit.controller.transactions import fresh, made_of, settled

from controller.transactions import transaction  # isort: skip

OWN = "shop_web:shop_db"
FIRST, SECOND = OpenVault("first", first=True), OpenVault("second", first=False)


class VaultSecrets(DerivedSecrets):
    """Notes the vault of what begins, as the controller does."""

    def __init__(self, vault: OpenVault) -> None:
        self._vault = vault

    def __call__(self, key: str, epoch: int, /) -> LinkKey:
        return super().__call__(key, epoch)

    def noted(self, history: EpochHistory, /) -> EpochHistory:
        return EpochHistory(history.key, history.epoch, history.revoked, history.forgotten, self._vault.id, b"kept")


def planned(store: MemoryStore, world: World, vault: OpenVault) -> Plan:
    return plan(world.swarm(), store.snapshot(), SUBNET, world.now, world.members, vault)


def at_rest(store: MemoryStore, world: World, vault: OpenVault) -> Plan:
    for _ in range(5):
        made = planned(store, world, vault)
        if not made.steps:
            return made
        for step in made.steps:
            assert store.commit(transaction(step, VaultSecrets(vault))) is not None, step.reason
    raise AssertionError(made)


def epoch(store: MemoryStore) -> int:
    (record,) = store.all(LinkKeyEpoch)
    return record.epoch


def linked(vault: OpenVault | None) -> tuple[MemoryStore, World]:
    store, world = fresh()
    world.add(WEB, "n1")
    world.add(DB, "n2")
    if vault is None:
        settled(store, world)
    else:
        at_rest(store, world, vault)
    world.now += 10
    return store, world


def test_new_epochs_count_milliseconds() -> None:
    store, _ = linked(FIRST)
    assert epoch(store) >= FRESH


def test_epochs_of_earlier_version_go_on() -> None:
    store, world = linked(None)
    before = epoch(store)
    assert before < FRESH
    assert planned(store, world, FIRST).steps == ()
    world.start(DB.id, "n3", "assigned")
    at_rest(store, world, FIRST)
    assert epoch(store) == before, "its secret still follows from the seed"
    assert {box.node for box in store.all(SealedLinkKey)} == {"n1", "n2", "n3"}


def test_another_vault_ends_every_epoch() -> None:
    for store, world in (linked(None), linked(FIRST)):
        before = epoch(store)
        at_rest(store, world, SECOND)
        assert epoch(store) > before
        assert {(box.node, box.epoch) for box in store.all(SealedLinkKey)} == {
            (n, epoch(store)) for n in ("n1", "n2")
        }


def test_lost_note_ends_its_epoch() -> None:
    store, world = linked(FIRST)
    before = epoch(store)
    store.commit([Delete(keyspace.history(OWN), None)])
    at_rest(store, world, FIRST)
    assert epoch(store) > before


def test_unknown_secret_is_given_to_nobody() -> None:
    """While a silent node delays the new epoch, the old one's secret is unknown here."""
    store, world = linked(FIRST)
    before = epoch(store)
    store.commit([Delete(keyspace.node("n2"), None)])
    world.start(DB.id, "n3", "assigned")
    made = at_rest(store, world, SECOND)
    assert epoch(store) == before
    assert {box.node for box in store.all(SealedLinkKey)} == {"n1", "n2"}
    assert any("no new secret while the agents of host-n2 are silent" in text for text in made.problems)
    world.register("n2")
    at_rest(store, world, SECOND)
    assert {box.node for box in store.all(SealedLinkKey) if box.epoch == epoch(store)} == {"n1", "n2", "n3"}


def test_remembering_planner_notices_another_vault() -> None:
    store, world = linked(FIRST)
    planner = Planner()
    swarm, stored = world.swarm(), store.snapshot()
    assert planner.plan(swarm, stored, SUBNET, world.now, world.members, FIRST).steps == ()
    assert planner.plan(swarm, stored, SUBNET, world.now, world.members, SECOND).steps
    assert made_of(store, world).steps == (), "without a vault every secret follows from the seed"


def test_vault_is_sealed_to_managers_alone() -> None:
    """A controller's key may be stated by whoever runs one: a worker, or a manager that was revoked, gets no box."""
    store, world = fresh()
    keys = {name: node_key(number) for number, name in enumerate(("n1", "n2", "n3", "n4"), 1)}
    store.write(*(ControllerKey(name, key.public) for name, key in keys.items()))
    world.nodes = {name: node_of(name) for name in keys}
    world.nodes["n3"] = replace(world.nodes["n3"], revoked="today")
    world.nodes["n4"] = replace(world.nodes["n4"], manager=False)
    secrets = LinkSecrets(SEED, "cluster", ControllerIdentity("n1", keys["n1"]))
    secrets.observe(store.snapshot())
    (step,) = secrets.steps(store.snapshot(), world.swarm())
    assert isinstance(step, PlanStep)
    (put,) = step.ops
    assert isinstance(put, Put)
    assert isinstance(put.record, Vault)
    assert [box.node for box in put.record.boxes] == ["n1", "n2"]
