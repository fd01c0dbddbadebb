"""Members of etcd as a client sees them: of one, of three, and of a Linkwire's own with an agent's rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mesh.identity.tls import Tls
from mesh.store.client import Store
from tests.store.etcd_server import EtcdServer
from tests.store.secured import Secured
from tests.store.three_members import NAMES, three_members
from tests.support.signing import RECORD_SIGNER


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[EtcdServer, ...]]:
    with three_members(tmp_path) as servers:
        yield servers


def client(*endpoints: str, tls: Tls | None = None) -> closing[Store]:
    return closing(Store(endpoints, RECORD_SIGNER, tls=tls))


def test_only_member_leads_and_tells_its_size(store: Store, etcd: EtcdServer) -> None:
    (member,) = store.members()
    assert (member.endpoint, member.name, member.is_leader, member.problem) == (etcd.target, "one", True, "")
    assert 0 < (member.in_use or 0) <= (member.size or 0)


def test_one_of_three_leads_and_dead_one_shows(three: tuple[EtcdServer, ...]) -> None:
    with client(*(server.endpoint for server in three)) as store:
        members = store.members()
        assert [member.name for member in members] == list(NAMES)
        assert sum(member.is_leader for member in members) == 1
        assert {member.problem for member in members} == {""}
        follower = next(at for at, member in enumerate(members) if not member.is_leader)
        three[follower].kill9()
        after = store.members()
        assert [bool(member.problem) for member in after] == [at == follower for at in range(len(NAMES))]
        assert (after[follower].size, after[follower].is_leader) == (None, False)


def test_agents_rights_are_enough(tmp_path: Path) -> None:
    secured = Secured.made(tmp_path)
    secured.start()
    try:
        with client(f"https://127.0.0.1:{secured.port}", tls=secured.tls("agent")) as store:
            (member,) = store.members()
        assert (member.is_leader, member.problem) == (True, "")
        assert member.name
        assert member.size
    finally:
        secured.stop()
