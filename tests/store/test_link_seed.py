"""The link seed opens no epoch by itself, and a new one ends every epoch of the old; on a real etcd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from controller.steps import FRESH
from controller.trust.link_secrets import ControllerIdentity, LinkSecrets
from mesh.crypto.hpke import NodeKey
from mesh.crypto.link_key_vault import EpochSecret, fresh_link_key
from mesh.crypto.preshared_keys import LinkKey, LinkSeed, link_key
from mesh.errors import Terminal
from mesh.integrity.record_signing import RecordSigner
from mesh.integrity.sealed_keys import open_link_key
from mesh.model import keyspace
from mesh.model.records import LinkKeyEpoch, SealedLinkKey
from mesh.model.snapshot import Delete, Snapshot
from mesh.model.vault.records import ControllerKey, EpochHistory, Vault
from mesh.store.client import Store
from tests.store import small_mesh
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import LINK_SEED, Reader, SmallMesh, settled
from tests.store.waiting import until
from tests.support.attacks import Attempts
from tests.support.signing import CLUSTER, KEYRING, SIGNING_KEY

KEY = "web:db"
WAIT_S = 40.0


def identity(node: str = "n1") -> ControllerIdentity:
    return ControllerIdentity(node, NodeKey(b"controller".ljust(30) + node.encode()))


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


@pytest.fixture
def everything(mesh: SmallMesh) -> Iterator[Store]:
    with closing(Store([mesh.endpoint], RecordSigner.controller(KEYRING, SIGNING_KEY), root=mesh.root)) as store:
        yield store


@contextmanager
def readers(mesh: SmallMesh) -> Iterator[tuple[Reader, Reader]]:
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        yield one, two


def epoch(stored: Snapshot) -> int:
    record = stored.get(keyspace.epoch(KEY), LinkKeyEpoch)
    return -1 if record is None else record.epoch


def held(stored: Snapshot, node: str) -> LinkKey | None:
    """Return the link key's secret that a node's box of the current epoch holds."""
    box = stored.get(keyspace.link_key(node, KEY), SealedLinkKey)
    key, _ = small_mesh.keys(node)
    return open_link_key(box, key) if box is not None and box.epoch == epoch(stored) else None


def both_hold(store: Store, after: int = -1) -> bool:
    """Whether both nodes hold the same secret of an epoch later than `after`."""
    stored = store.load(("",))
    secrets = {held(stored, node) for node in small_mesh.NODES}
    return epoch(stored) > after and len(secrets) == 1 and None not in secrets


def derived(stored: Snapshot, seed: LinkSeed = LINK_SEED) -> set[LinkKey]:
    """Return what an owner of etcd and of a link seed can derive for the current epoch."""
    number = epoch(stored)
    note = stored.get(keyspace.history(KEY), EpochHistory)
    guesses = {link_key(seed, CLUSTER, KEY, number)}
    if note is not None and note.kept:
        tried = (bytes(32), note.kept[:32], note.kept[13:45])
        guesses |= {fresh_link_key(seed, EpochSecret(raw), CLUSTER, KEY, number) for raw in tried}
    return guesses


def stolen(stored: Snapshot, seed: LinkSeed) -> LinkKey | None:
    """Return what a thief with that seed and the first controller's key makes of an epoch.

    He opens the vault with the key, and does not mind that it is of another seed.
    """
    thief = LinkSecrets(seed, CLUSTER, identity())
    thief.observe(stored)
    if (vault := stored.get(keyspace.VAULT, Vault)) is not None:
        thief._seed_id = vault.seed
    try:
        return thief(KEY, epoch(stored))
    except Terminal:
        return None


def test_link_seed_opens_no_epoch(mesh: SmallMesh, everything: Store, attempt: Attempts) -> None:
    """The defence is off where controllers have no key of their own, as in versions before."""
    tried = attempt("the link seed, from Swarm's recorded traffic, opens a link key's epoch")
    with readers(mesh) as nodes:
        with mesh.controller():
            settled(*nodes)
            until(lambda: both_hold(everything), WAIT_S)
        stored = everything.load(("",))
        tried.works(held(stored, "n1") in derived(stored))
        before = epoch(stored)
        with mesh.controller(own=identity()):
            until(lambda: everything.load(("",)).get(keyspace.VAULT, Vault) is not None, WAIT_S)
            mesh.live(*nodes)
            assert epoch(everything.load(("",))) == before, "an upgrade begins no epoch"
            mesh.swarm.renew("web")
            mesh.wake()
            until(lambda: both_hold(everything, before), WAIT_S)
        stored = everything.load(("",))
        assert epoch(stored) >= FRESH
        tried.stopped(held(stored, "n1") not in derived(stored))


def test_old_seed_opens_nothing_of_later_epochs(mesh: SmallMesh, everything: Store, attempt: Attempts) -> None:
    """The thief has the old seed and a controller's key; the defence is off while the seed is in use."""
    tried = attempt("the old link seed and a controller's stolen key open an epoch after `renew --link-seed`")
    with readers(mesh) as nodes:
        with mesh.controller(own=identity()):
            settled(*nodes)
            until(lambda: both_hold(everything), WAIT_S)
        stored = everything.load(("",))
        before, vault = epoch(stored), stored.get(keyspace.VAULT, Vault)
        tried.works(held(stored, "n1") == stolen(stored, LINK_SEED))
        with mesh.controller(own=identity(), link_seed=LinkSeed.generate()):
            until(lambda: both_hold(everything, before), WAIT_S)
            settled(*nodes)
        stored = everything.load(("",))
        assert stored.get(keyspace.VAULT, Vault) != vault
        assert stored.get(keyspace.history(KEY), EpochHistory) is not None
        tried.stopped(held(stored, "n1") not in (stolen(stored, LINK_SEED), *derived(stored)))


def test_standby_opens_what_the_leader_began(mesh: SmallMesh, everything: Store) -> None:
    with readers(mesh) as nodes:
        with mesh.controller(own=identity()):
            settled(*nodes)
            with mesh.controller(own=identity("n2")):
                until(lambda: _sealed_to(everything) == {"n1", "n2"}, WAIT_S)
        before = everything.load(("",))
        with mesh.controller(own=identity("n2")):
            mesh.live(*nodes)
        after = everything.load(("",))
        assert epoch(after) == epoch(before)
        assert held(after, "n1") == held(before, "n1")
        assert after.get(keyspace.VAULT, Vault) == before.get(keyspace.VAULT, Vault)


def _sealed_to(store: Store) -> set[str]:
    vault = store.load(("",)).get(keyspace.VAULT, Vault)
    return {box.node for box in vault.boxes} if vault is not None else set()


def test_lost_volumes_begin_epochs_anew(mesh: SmallMesh, everything: Store) -> None:
    """All controllers lose their keys: both nodes get the next secret, as in a rotation, and nothing else changes."""
    with readers(mesh) as nodes:
        with mesh.controller(own=identity()):
            settled(*nodes)
            until(lambda: both_hold(everything), WAIT_S)
        before = everything.load(("",))
        places = small_mesh.endpoints(before)
        lost = ControllerIdentity("n1", NodeKey.generate())
        with mesh.controller(own=lost):
            until(lambda: both_hold(everything, epoch(before)), WAIT_S)
            mesh.live(*nodes)
        after = everything.load(("",))
        assert small_mesh.endpoints(after) == places
        record = after.get(keyspace.controller("n1"), ControllerKey)
        assert record is not None
        assert record.sealing_key == lost.key.public


def test_wiped_vault_is_written_again(mesh: SmallMesh, everything: Store) -> None:
    """A controller that has outlived the loss begins no new epoch."""
    with readers(mesh) as nodes, mesh.controller(own=identity()):
        settled(*nodes)
        until(lambda: both_hold(everything), WAIT_S)
        before = everything.load(("",))
        everything.commit([Delete(keyspace.VAULT, None)])
        mesh.wake()
        until(lambda: everything.load(("",)).get(keyspace.VAULT, Vault) is not None, WAIT_S)
        after = everything.load(("",))
        assert after.get(keyspace.VAULT, Vault) == before.get(keyspace.VAULT, Vault)
        assert epoch(after) == epoch(before)


@pytest.mark.parametrize("all_of_it", [False, True], ids=["the notes", "the store"])
def test_wiped_notes_are_written_again(mesh: SmallMesh, everything: Store, all_of_it: bool) -> None:
    """The secrets of its epochs are in the memory of a controller that has outlived the loss: none has to end."""
    with readers(mesh) as nodes, mesh.controller(own=identity()):
        settled(*nodes)
        until(lambda: both_hold(everything), WAIT_S)
        before = everything.load(("",))
        lost = [key for key in before.records if all_of_it or key.startswith((keyspace.VAULT, keyspace.VAULTS))]
        everything.commit([Delete(key, None) for key in lost])
        mesh.wake()
        until(lambda: keyspace.history(KEY) in everything.load(("",)).records and both_hold(everything), WAIT_S)
        mesh.live(*nodes)
        after = everything.load(("",))
        assert epoch(after) == epoch(before)
        assert held(after, "n1") == held(before, "n1")
