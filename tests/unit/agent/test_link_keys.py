"""What an agent makes of the link keys that lie in the store for its node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.state.link_keys import HeldLinkKeys
from mesh.crypto.hpke import DecryptionError, NodeKey
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import preshared_key
from mesh.integrity.sealed_keys import open_link_key, sealed_link_key
from mesh.model import keyspace
from mesh.model.records import LinkKeyEpoch, SealedLinkKey
from mesh.model.snapshot import Snapshot, Versioned
from tests.support.swarm_world import node_key, secret

KEY, OTHER = node_key(1), node_key(2)
ONE, TWO = PublicKey(bytes([1]) * 32), PublicKey(bytes([2]) * 32)


def sealed(key: str = "shop", epoch: int = 1, node: str = "n1", to: NodeKey = KEY) -> SealedLinkKey:
    return sealed_link_key(secret(key, epoch), to.public, node, key, epoch)


def counts(epoch: int, key: str = "shop") -> LinkKeyEpoch:
    return LinkKeyEpoch(key, epoch, 0, ())


def store(*records: SealedLinkKey | LinkKeyEpoch, invalid: tuple[str, ...] = ()) -> Snapshot:
    found = {keyspace.key_of(record): Versioned(record, 1) for record in records}
    return Snapshot(1, complete=True, records=found, invalid=dict.fromkeys(invalid, "not JSON"))


def derived(held: HeldLinkKeys, key: str = "shop") -> object:
    return held.held.between(ONE, TWO, (key,))


def expected(epoch: int, key: str = "shop") -> object:
    return preshared_key([(key, secret(key, epoch))], ONE, TWO)


def test_sealed_keys_are_held_renewed_and_dropped() -> None:
    held = HeldLinkKeys("n1", KEY)
    assert derived(held) is None
    held.learn(store(sealed()))
    assert derived(held) == expected(1)
    before = held.held
    held.learn(store(*(old for old in held._opened), sealed(node="n2")))
    assert held.held is before, "nothing that concerns it changed"
    held.learn(store(sealed(epoch=2)))
    assert derived(held) == expected(2)
    held.learn(store())
    assert derived(held) is None


def test_box_of_unsigned_epoch_is_skipped() -> None:
    held = HeldLinkKeys("n1", KEY)
    held.learn(store(sealed(epoch=1), counts(2)))
    assert derived(held) is None, "one that was put back opens nothing, also for an agent that starts"
    held.learn(store(sealed(epoch=2), counts(2)))
    assert derived(held) == expected(2)
    held.learn(store(sealed(epoch=1), counts(2)))
    assert derived(held) == expected(2)
    held.learn(store(sealed(epoch=2), counts(3)))
    assert derived(held) == expected(2), "the new one is still to come"
    held.learn(store(sealed(epoch=3), counts(3)))
    assert derived(held) == expected(3)


def test_withheld_box_keeps_its_key_in_use() -> None:
    held = HeldLinkKeys("n1", KEY)
    held.learn(store(sealed(), counts(1)))
    held.learn(store(counts(1)))
    assert derived(held) == expected(1)
    held.learn(store())
    assert derived(held) is None


def test_unreadable_record_takes_no_key_away() -> None:
    held = HeldLinkKeys("n1", KEY)
    held.learn(store(sealed(), sealed("b")))
    held.learn(store(sealed("b"), invalid=("linkkeys/n1/shop",)))
    assert derived(held) == expected(1)
    held.learn(store(sealed("b", 2), invalid=("linkkeys/n1/shop",)))
    assert (derived(held), derived(held, "b")) == (expected(1), expected(2, "b"))


def with_epoch(snapshot: Snapshot, epoch: int) -> Snapshot:
    record = LinkKeyEpoch("shop", epoch, epoch, ())
    return replace(snapshot, records={**snapshot.records, keyspace.key_of(record): Versioned(record, 1)})


def test_box_of_superseded_epoch_is_unused() -> None:
    held = HeldLinkKeys("n1", KEY)
    held.learn(with_epoch(store(sealed(epoch=1)), 2))
    assert derived(held) is None, "an old box, and nothing to go on with"
    held.learn(with_epoch(store(sealed(epoch=2)), 2))
    assert derived(held) == expected(2)
    held.learn(with_epoch(store(sealed(epoch=1)), 2))
    assert derived(held) == expected(2), "an old box was put back"
    held.learn(with_epoch(store(sealed(epoch=3)), 3))
    assert derived(held) == expected(3)


@pytest.mark.parametrize(
    "moved",
    [
        sealed(to=OTHER),
        replace(sealed(), epoch=2),
        replace(sealed("other"), key="shop"),
        replace(sealed(node="n2"), node="n1"),
        replace(sealed(), sealed=sealed().sealed[:-1] + b"x"),
    ],
)
def test_box_sealed_for_another_purpose_is_ignored(moved: SealedLinkKey) -> None:
    held = HeldLinkKeys("n1", KEY)
    held.learn(store(moved, sealed("b")))
    assert (derived(held), derived(held, "b")) == (None, expected(1, "b"))
    with pytest.raises(DecryptionError):
        open_link_key(moved, KEY)
