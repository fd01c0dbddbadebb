"""One real etcd for all store tests, and a root of its own for each."""

import uuid
from collections.abc import Iterator

import pytest

from mesh.store import Store
from tests.signing import SEAL
from tests.store.etcd_server import EtcdServer
from tests.store.proxy import Proxy


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def root() -> str:
    return f"/{uuid.uuid4()}/"


@pytest.fixture
def store(etcd: EtcdServer, root: str) -> Iterator[Store]:
    store = Store([etcd.endpoint], SEAL, root=root)
    yield store
    store.close()


@pytest.fixture
def proxy(etcd: EtcdServer) -> Iterator[Proxy]:
    with Proxy(etcd.port) as proxy:
        yield proxy
