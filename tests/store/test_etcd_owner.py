"""etcd's data belongs to one installation: another one's is set aside, its own is served whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mesh.crypto.signed_envelope import Signer, SigningKey, wrap
from mesh.model import keyspace
from tests.store.secured import ROOT, Secured, write
from tests.support.signing import CLUSTER, SIGNING_KEY

HERE = SIGNING_KEY.verify_key.id.hex()
SERVICE = ROOT + b"services/x"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    one = Secured.made(tmp_path)
    yield one
    one.stop()


def start(secured: Secured, installation: str) -> None:
    secured.stop()
    secured.installation = installation
    secured.start()


def put(secured: Secured, key: bytes, value: bytes) -> None:
    with closing(secured.line(secured.tls("controller"))) as line, line.use() as link:
        assert link.commit([], [(key, value, 0)], [])


def holds(secured: Secured) -> bool:
    with closing(secured.line(secured.tls("controller"))) as line, line.use() as link:
        return bool(link.page(SERVICE, SERVICE + b"\0", 0).kvs)


def sign(secured: Secured, key: SigningKey) -> None:
    value = wrap(Signer(CLUSTER, key), keyspace.MANIFEST, 7, b"{}")
    put(secured, ROOT + keyspace.MANIFEST.encode(), value)
    put(secured, SERVICE, b"x")


def test_data_of_another_installation_is_set_aside(secured: Secured) -> None:
    start(secured, HERE)
    with closing(secured.line(secured.tls("controller"))) as line:
        assert "PERMISSION_DENIED" in write(line, b"/linkwire/installation"), "nobody but root says whose it is"
    sign(secured, SigningKey.generate())
    start(secured, HERE)
    assert holds(secured), "a renewed key signs in the same installation"
    start(secured, "f" * 32)
    assert not holds(secured)
    assert (secured.folder / "data/earlier-installation/snap").is_dir()
    assert "data of another installation set aside" in secured.logged()
    start(secured, "f" * 32)
    put(secured, SERVICE, b"x")
    start(secured, "0" * 32)
    assert not holds(secured), "and the one before is replaced"


def test_data_without_id_belongs_to_its_signer(secured: Secured) -> None:
    start(secured, "")
    sign(secured, SIGNING_KEY)
    start(secured, HERE)
    assert holds(secured)
    start(secured, "")
    assert holds(secured)


def test_data_without_id_signed_otherwise_is_set_aside(secured: Secured) -> None:
    start(secured, "")
    sign(secured, SigningKey.generate())
    start(secured, HERE)
    assert not holds(secured)
