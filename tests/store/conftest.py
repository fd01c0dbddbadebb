"""One real etcd for all store tests, and a root of its own for each; what is not about TLS is tried over it too."""

import uuid
from collections.abc import Iterator

import pytest

from mesh.store.client import Store
from tests.store.etcd_server import EtcdServer
from tests.store.proxy import Proxy
from tests.support.signing import RECORD_SIGNER

CONTRACT = ("test_commit", "test_follow")
"""What every store promises, whatever is between it and etcd."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each of the contract's tests in clear and over mutual TLS, but those that need to come between."""
    fixtures = metafunc.fixturenames
    if metafunc.module.__name__.endswith(CONTRACT) and "store" in fixtures and "proxy" not in fixtures:
        metafunc.parametrize("etcd", ["clear", "tls"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def clear_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture(scope="session")
def secure_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd-tls"), secure=True) as server:
        yield server


@pytest.fixture(scope="session")
def etcd(request: pytest.FixtureRequest) -> EtcdServer:
    name = "secure_etcd" if getattr(request, "param", "clear") == "tls" else "clear_etcd"
    server = request.getfixturevalue(name)
    assert isinstance(server, EtcdServer)
    return server


@pytest.fixture
def root() -> str:
    return f"/{uuid.uuid4()}/"


@pytest.fixture
def store(etcd: EtcdServer, root: str) -> Iterator[Store]:
    store = Store([etcd.endpoint], RECORD_SIGNER, root=root, tls=etcd.tls)
    yield store
    store.close()


@pytest.fixture
def proxy(etcd: EtcdServer) -> Iterator[Proxy]:
    with Proxy(etcd.port) as proxy:
        yield proxy
