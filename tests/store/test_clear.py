"""An uninstall deletes all records in an etcd of the user's own, but none of another installation's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from controller.etcd.clear import BATCH, clear
from mesh.crypto.signed_envelope import Signer, SigningKey, wrap
from mesh.errors import Terminal
from mesh.model import keyspace
from mesh.store.etcd_channel import ChannelPool
from tests.store.etcd_server import EtcdServer
from tests.support.signing import CLUSTER, KEYRING, SIGNING_KEY

ROOT = keyspace.ROOT.encode()
BESIDE = (b"/linkwire/v0/x", b"/linkwire/v10", b"/mine")


@pytest.fixture
def line(tmp_path: Path) -> Iterator[ChannelPool]:
    """To an etcd with nothing in it."""
    with EtcdServer(tmp_path) as etcd, closing(ChannelPool([f"127.0.0.1:{etcd.port}"], 5.0)) as one:
        yield one


def filled(line: ChannelPool, key: SigningKey) -> None:
    manifest = wrap(Signer(CLUSTER, key), keyspace.MANIFEST, 7, b"{}")
    records = [(ROOT + b"services/%d" % number, b"x", 0) for number in range(BATCH)]
    with line.use() as link:
        assert link.commit([], records, [])
        assert link.commit([], [(ROOT + b"manifest", manifest, 0), *((key, b"x", 0) for key in BESIDE)], [])


def left(line: ChannelPool) -> set[bytes]:
    with line.use() as link:
        return {found.key for found in link.page(b"/", b"0", 0).kvs}


def test_all_of_ours_is_deleted_and_nothing_else(line: ChannelPool) -> None:
    filled(line, SIGNING_KEY)
    assert clear(line, KEYRING) == BATCH + 1
    assert left(line) == set(BESIDE)
    assert clear(line, KEYRING) == 0


def test_another_installations_records_are_left(line: ChannelPool) -> None:
    filled(line, SigningKey.generate())
    with pytest.raises(Terminal, match="another installation"):
        clear(line, KEYRING)
    assert len(left(line)) == BATCH + 1 + len(BESIDE)
