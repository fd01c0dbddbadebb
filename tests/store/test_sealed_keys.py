"""Tasks' sealed private keys, which no signed set covers, touched by who may write all of etcd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.model.records import SealedKey
from mesh.model.snapshot import Snapshot
from tests.store.attacks import Attack, what
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import SmallMesh, endpoints, settled
from tests.store.waiting import until
from tests.support.attacks import Attempts


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


@pytest.fixture
def attack(etcd: EtcdServer, root: str) -> Attack:
    return Attack(etcd, root)


def deleted(attack: Attack, key: str) -> None:
    """A sealed key is deleted."""
    attack.delete(key)


def broken(attack: Attack, key: str) -> None:
    """A sealed key is replaced by nonsense."""
    attack.put(key, b"junk")


def another(attack: Attack, key: str) -> None:
    """A sealed key is replaced by another task's."""
    attack.put(key, attack.now()[max(k for k in attack.now() if k.startswith("keys/"))])


def foreign(attack: Attack, key: str) -> None:
    """A sealed key is replaced by one of his own."""
    sealed = attack.read(key)
    assert isinstance(sealed, SealedKey)
    attack.sign(replace(sealed, sealed=b"mine"))


@pytest.mark.parametrize("how", [deleted, broken, another, foreign], ids=lambda how: how.__name__)
def test_tampered_sealed_key_is_put_back(
    mesh: SmallMesh, attack: Attack, how: Callable[[Attack, str], None], attempt: Attempts
) -> None:
    """No set covers it; but the controller that leads has seen it. So no task gets another key."""
    tried = attempt(f"etcd's owner: {what(how)}")
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        with mesh.controller() as controller:
            settled(one, two)
            until(lambda: len(list((controller._decider.verified or Snapshot()).all(SealedKey))) == 6)
            good = endpoints(one.believed)
            key = min(k for k in attack.now() if k.startswith("keys/"))
            before = attack.read(key)
            how(attack, key)
            until(lambda: attack.now().get(key, b"").startswith(b"LWS") and attack.read(key) == before)
            settled(one, two)
            mesh.live(one, two)
            assert attack.read(key) == before
            tried.stopped(endpoints(one.believed) == good)
        how(attack, key)
        with mesh.controller():  # it has seen nothing of before: the task gets a new key
            until(lambda: endpoints(one.look()) != good, 20)
            tried.works(attack.read(key) != before)
