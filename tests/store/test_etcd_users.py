"""Nodes as users of etcd: each shows its Swarm certificate and writes what is its own; who is one is Swarm's word."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from etcd3 import etcdrpc

from agent.reporting import reporter as reporting_reporter
from agent.state.node_identity import Identity
from controller.etcd.access_record import access
from controller.swarm.model import Swarm, SwarmNode
from mesh.crypto.hpke import NodeKey
from mesh.crypto.signed_envelope import Signer, wrap
from mesh.errors import LinkwireError, Retryable
from mesh.identity.tls import Tls, with_node
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, keyspace
from mesh.model.records import Access, Node
from mesh.store.client import Store
from mesh.store.etcd_channel import ChannelPool
from tests.store.secured import ROOT, Secured, write
from tests.support.attacks import Attempts
from tests.support.signing import CLUSTER, KEYRING, SIGNING_KEY
from tests.support.swarm_ca import Authority, Leaf, key_file, pem

NOW = datetime.now(UTC)
A, B = "a" * 25, "b" * 25
SWARM = Authority.root(made=NOW - timedelta(days=1))
THEIRS = (
    *(b"nodes/%s", b"tasks/%s/t", b"vitals/%s", b"recalled/%s/0"),
    *(b"asks/%s", b"told/%s/x", b"askflows/%s/0", b"watched/%s/x/0/0"),
)
REFUSED = r"permission denied|auth store is old"  # the latter while users are changed
CONTROLLERS = ("services/x", "endpoints/x/y", "keys/n/x", "cluster", "leader", "manifest", "members/x", "access")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    one = Secured.made(tmp_path_factory.mktemp("users"))
    one.start()
    yield one
    one.stop()


def said(secured: Secured, nodes: Sequence[str], shared: Sequence[str] = (), root: Authority = SWARM) -> None:
    """What the controller writes."""
    record = Access(tuple(nodes), tuple(shared), (root.pem.decode(),))
    value = wrap(Signer(CLUSTER, SIGNING_KEY), keyspace.ACCESS, 1, codec.encode(record))
    with closing(secured.line(secured.tls("controller"))) as line:
        until(lambda: put(line, ROOT + b"access", value))


def put(line: ChannelPool, key: bytes, value: bytes) -> bool:
    try:
        with line.use() as link:
            return link.commit([], [(key, value, 0)], []) is not None
    except Retryable:
        return False


def certificate(secured: Secured, name: str, authority: Authority = SWARM) -> Tls:
    leaf = Leaf.of(node=name).but(begins=NOW - timedelta(hours=1), ends=NOW + timedelta(days=1))
    own = secured.issue(f"{name}-{id(authority)}", pem(leaf.signed_by(authority)))
    key = secured.issue(f"{name}-{id(authority)}.key", key_file(leaf.key, manager=True))
    return Tls(secured.folder / "ca", own, key)


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def writes(secured: Secured, tls: Tls, *keys: bytes) -> list[str]:
    with closing(secured.line(tls)) as line:
        return [write(line, ROOT + key) for key in keys]


def may_write(secured: Secured, tls: Tls, key: bytes) -> bool:
    return writes(secured, tls, key) == ["written"]


def may_read(secured: Secured, tls: Tls) -> bool:
    with closing(secured.line(tls)) as line:
        try:
            with line.use() as link:
                return bool(link.page(ROOT, ROOT[:-1] + b"0", 0).kvs)
        except Retryable as error:
            if "PERMISSION_DENIED" in str(error):
                return False
            raise


def trusted(secured: Secured) -> None:
    """Have etcd trust Swarm's root."""
    said(secured, [A])
    own = certificate(secured, A)
    until(lambda: may_write(secured, own, b"nodes/" + A.encode()))


def its_own(node: str) -> list[bytes]:
    return [key % node.encode() for key in THEIRS]


def test_node_writes_its_own_keys_and_no_others(secured: Secured) -> None:
    said(secured, [A, B])
    own = certificate(secured, A)
    until(lambda: may_write(secured, own, b"nodes/" + A.encode()))
    assert writes(secured, own, *its_own(A)) == ["written"] * len(THEIRS)
    near = [b"nodes/" + A.encode() + b"x", b"vitals/" + A[:-1].encode()]
    for told in writes(secured, own, *its_own(B), *near, *(key.encode() for key in CONTROLLERS)):
        assert "PERMISSION_DENIED" in told
    with closing(secured.line(own)) as line:
        with line.use() as link:  # all of it: a watch spans one range without a gap
            assert link.page(ROOT, ROOT[:-1] + b"0", 0).kvs
            with closing(link.watch(ROOT, ROOT[:-1] + b"0")) as responses:
                assert next(responses).created
        with pytest.raises(LinkwireError, match="PERMISSION_DENIED"), line.use() as link:
            link.page(b"\0", b"\0", 0)


def test_a_node_neither_sees_nor_makes_users(secured: Secured) -> None:
    said(secured, [A, B])
    own = certificate(secured, A)
    until(lambda: may_write(secured, own, b"nodes/" + A.encode()))
    with closing(secured.line(own)) as line:
        for name, request in (
            ("UserList", etcdrpc.AuthUserListRequest()),
            ("RoleGet", etcdrpc.AuthRoleGetRequest(role="controller")),
            ("UserGrantRole", etcdrpc.AuthUserGrantRoleRequest(user=A, role="controller")),
            ("UserGrantRole", etcdrpc.AuthUserGrantRoleRequest(user=A, role="root")),
            ("AuthDisable", etcdrpc.AuthDisableRequest()),
        ):
            with pytest.raises(LinkwireError, match="PERMISSION_DENIED"), line.use() as link:
                getattr(link.auth, name)(request, timeout=5.0)


def test_shared_user_writes_for_those_needing_it_only(secured: Secured, attempt: Attempts) -> None:
    """Any node's root has that certificate; the defence is off while it is all agents' own."""
    tried = attempt("a node's root: the certificate that all agents have writes another node's reports")
    shared = secured.tls("agent")
    with closing(secured.line(secured.tls("controller"))) as line, line.use() as link:
        link.commit([], [], [ROOT + b"access"])
    until(lambda: writes(secured, shared, *its_own(A), *its_own(B)) == ["written"] * 2 * len(THEIRS))
    tried.works(writes(secured, shared, *its_own(A)) == ["written"] * len(THEIRS))
    said(secured, [A, B], [B])
    until(lambda: not may_write(secured, shared, b"nodes/" + A.encode()))
    until(lambda: writes(secured, shared, *its_own(B)) == ["written"] * len(THEIRS))
    tried.stopped(all("PERMISSION_DENIED" in told for told in writes(secured, shared, *its_own(A))))
    said(secured, [A, B])
    # etcd takes a role's permissions one by one; the one to read is not the first.
    until(lambda: not may_write(secured, shared, b"nodes/" + B.encode()))
    until(lambda: not may_read(secured, shared))


def test_shared_user_losing_some_keys_keeps_the_rest(secured: Secured) -> None:
    with closing(secured.line(secured.tls("controller"))) as line, line.use() as link:
        link.commit([], [], [ROOT + b"access"])
    shared = secured.tls("agent")
    until(lambda: may_write(secured, shared, b"nodes/" + A.encode()))
    said(secured, [A, B], [B])
    told: list[str] = []
    with closing(secured.line(shared)) as line:
        while "PERMISSION_DENIED" not in write(line, ROOT + b"nodes/" + A.encode()):
            told.append(write(line, ROOT + b"nodes/" + B.encode()))
        told.append(write(line, ROOT + b"nodes/" + B.encode()))
    assert [one for one in told if "PERMISSION_DENIED" in one] == []


def test_removed_node_is_refused_at_next_request(secured: Secured, attempt: Attempts) -> None:
    tried = attempt("a node's root: he goes on with his node's certificate after it was removed")
    said(secured, [A, B])
    own = certificate(secured, B)
    until(lambda: may_write(secured, own, b"nodes/" + B.encode()))
    with closing(secured.line(own)) as line, line.use() as link:
        link.ask(ROOT + b"cluster")
        tried.works(link.commit([], [(ROOT + b"nodes/" + B.encode(), b"x", 0)], []), "before")
        said(secured, [A])
        until(lambda: not may_write(secured, own, b"nodes/" + B.encode()))
        for key in its_own(B):
            with pytest.raises(Exception, match=REFUSED):
                link.commit([], [(ROOT + key, b"x", 0)], [])
        with pytest.raises(Exception, match=REFUSED):
            link.ask(ROOT + b"cluster")
        tried.stopped()


def test_node_named_like_our_user_changes_no_role(secured: Secured) -> None:
    said(secured, [A, "root", "controller", "agent", "../x"], [A, "controller"])
    until(lambda: may_write(secured, secured.tls("agent"), b"nodes/" + A.encode()))
    assert writes(secured, secured.tls("controller"), b"services/x", b"nodes/x") == ["written"] * 2
    assert "written" not in writes(secured, secured.tls("agent"), b"nodes/controller", b"services/x")


def test_root_not_made_by_swarm_is_distrusted(secured: Secured) -> None:
    """It may have signed any name, for anybody."""
    trusted(secured)
    company = Authority.root(made=NOW - timedelta(days=1), called="Company CA")
    restarts = secured.logged().count("Swarm root changed")
    said(secured, [A], root=company)
    until(lambda: secured.logged().count("Swarm root changed") > restarts)
    until(lambda: may_write(secured, secured.tls("controller"), b"services/x"))
    for user in ("root", "controller", A):
        assert "does not accept our certificate" in writes(secured, certificate(secured, user, company), b"x")[0]


def test_new_swarm_root_replaces_the_old_one(secured: Secured) -> None:
    said(secured, [A])
    old = certificate(secured, A)
    until(lambda: may_write(secured, old, b"nodes/" + A.encode()))
    new = Authority.root(made=NOW)
    renewed = certificate(secured, A, new)
    assert not may_write(secured, renewed, b"nodes/" + A.encode())
    said(secured, [A], root=new)
    until(lambda: may_write(secured, renewed, b"nodes/" + A.encode()))
    assert "does not accept our certificate" in writes(secured, old, b"nodes/" + A.encode())[0]


def test_after_crash_users_and_roots_exist_before_clients(secured: Secured) -> None:
    said(secured, [A])
    own = certificate(secured, A)
    until(lambda: may_write(secured, own, b"nodes/" + A.encode()))
    restarts = secured.logged().count("Swarm root changed")
    secured.stop()
    secured.start()
    assert may_write(secured, own, b"nodes/" + A.encode())
    assert secured.logged().count("Swarm root changed") == restarts
    assert "PERMISSION_DENIED" in writes(secured, secured.tls("agent"), b"nodes/" + A.encode())[0]


@dataclass
class Swarmed:
    """The folder in which Swarm keeps a node's certificate, and what is shown to etcd because of it."""

    secured: Secured
    folder: Path

    @property
    def tls(self) -> Tls:
        return with_node(self.secured.tls("agent"), self.folder)

    def gives(self, *, locked: bool = False, ends: timedelta = timedelta(days=1)) -> None:
        leaf = Leaf.of(node=A).but(begins=NOW - timedelta(days=2), ends=NOW + ends)
        (self.folder / "swarm-node.key").write_bytes(key_file(leaf.key, locked=locked))
        (self.folder / "swarm-node.crt").write_bytes(pem(leaf.signed_by(SWARM)))


@pytest.fixture
def swarmed(secured: Secured, tmp_path: Path) -> Swarmed:
    one = Swarmed(secured, tmp_path)
    one.gives()
    return one


def prefers_own(swarmed: Swarmed) -> bool:
    with closing(swarmed.secured.line(swarmed.tls)) as line:
        with suppress(Retryable), line.use() as link:
            link.ask(ROOT + b"cluster")
        return line.uses_preferred


def test_agent_shows_node_certificate_else_shared_one(swarmed: Swarmed) -> None:
    said(swarmed.secured, [A, B], [B])
    until(lambda: prefers_own(swarmed))
    swarmed.gives(locked=True)
    assert not prefers_own(swarmed)
    swarmed.gives(ends=-timedelta(hours=1))
    assert not prefers_own(swarmed)
    swarmed.gives()
    assert prefers_own(swarmed), "renewed, with another key"
    (swarmed.folder / "swarm-node.key").write_bytes(key_file(Leaf.of(node=A).key))
    assert not prefers_own(swarmed), "between the two writes of a renewal"
    (swarmed.folder / "swarm-node.crt").unlink()
    assert not prefers_own(swarmed)


def test_agent_becomes_node_user_and_shared_one_stops(
    swarmed: Swarmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting_reporter, "OWN_S", 0.2)
    monkeypatch.setattr(reporting_reporter, "KEEP_S", 0.5)
    trusted(swarmed.secured)  # so that etcd is not started again, which would have the agent look again
    shared, controller = swarmed.secured.tls("agent"), swarmed.secured.tls("controller")
    with closing(swarmed.secured.line(controller)) as line, line.use() as link:
        link.commit([], [], [ROOT + b"access"])  # as before any controller knew of it
    until(lambda: may_write(swarmed.secured, shared, b"vitals/" + A.encode()))
    key = NodeKey(bytes(32)).public
    identity = Identity(tmp_path / "state", swarmed.folder, CLUSTER, A, key)
    node = Node(*(A, "a", key, identity.key.verify_key, 1, None, None, IPv4Address("10.0.0.1"), 1, 2, "kernel", "1"))
    url = [f"https://127.0.0.1:{swarmed.secured.port}"]
    swarm = Swarm(CLUSTER, {}, {}, {A: SwarmNode(A, "a", down=False, address=None)}, (SWARM.pem,))
    with (
        closing(Store(url, RecordSigner.agent(KEYRING, identity.key), tls=swarmed.tls)) as store,
        closing(Store(url, RecordSigner.reader(KEYRING), tls=controller)) as reader,
    ):
        seen = reader.follow((keyspace.NODES,), lambda: None)
        follower = store.follow((keyspace.CLUSTER, keyspace.node(A)), lambda: None, with_raw=True)
        reporter = reporting_reporter.Reporter(store, follower, node, identity)
        try:
            told = [False]

            def own() -> bool:
                found = seen.snapshot.get(keyspace.node(A), Node)
                if found is not None and found.own_user != told[-1]:
                    told.append(found.own_user)
                said(swarmed.secured, *attrs(access(swarm, seen.snapshot)))
                return told[-1] and not may_write(swarmed.secured, shared, b"vitals/" + A.encode())

            until(lambda: seen.snapshot.get(keyspace.node(A), Node) is not None)
            until(own)
            before = seen.snapshot.revision_of(keyspace.node(A))
            reporter.node(replace(node, version="2"))
            until(lambda: seen.snapshot.revision_of(keyspace.node(A)) > before)
            assert told == [False, True]
        finally:
            reporter.stop()


def attrs(record: Access) -> tuple[Sequence[str], Sequence[str]]:
    assert record.roots == (SWARM.pem.decode(),)
    return record.nodes, record.shared


def test_an_unreadable_access_record_changes_no_users(secured: Secured) -> None:
    """Also when `linkwire-etcd` starts with it: the shared user does not write for all nodes again."""
    trusted(secured)
    own, shared, key = certificate(secured, A), secured.tls("agent"), b"nodes/" + A.encode()
    with closing(secured.line(secured.tls("controller"))) as line:
        until(lambda: put(line, ROOT + b"access", b"nobody's record"))
    wait_for_rejections(secured)
    assert may_write(secured, own, key)
    assert "PERMISSION_DENIED" in writes(secured, shared, key)[0]
    secured.stop()
    secured.start()
    wait_for_rejections(secured)
    assert "PERMISSION_DENIED" in writes(secured, shared, key)[0]
    said(secured, [A, B])  # as the leader does within a second
    until(lambda: may_write(secured, certificate(secured, B), b"nodes/" + B.encode()))


def wait_for_rejections(secured: Secured) -> None:
    """Wait until it was read twice more: what the first time led to is done then."""
    before = secured.logged().count("access record rejected")
    until(lambda: secured.logged().count("access record rejected") > before + 1)
