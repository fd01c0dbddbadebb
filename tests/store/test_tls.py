"""etcd over mutual TLS with users and roles, by the program that starts it in the stack; and whom it keeps out."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.identity.ca import CertificateAuthority
from mesh.identity.tls import Tls, choose
from mesh.store.etcd_channel import ChannelPool
from tests.store.etcd_server import EtcdServer
from tests.store.secured import CLUSTER, ROOT, Secured, write
from tests.support.attacks import Attempts


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    one = Secured.made(tmp_path_factory.mktemp("tls"))
    one.start()
    yield one
    one.stop()


def refused(secured: Secured, tls: Tls | None) -> str:
    """What a client is told that gets no answer."""
    with closing(secured.line(tls)) as line, pytest.raises(Retryable) as caught, line.use() as link:
        link.page(ROOT, b"0", 0)
    return str(caught.value)


def test_controllers_write_all_of_ours_and_nothing_else(secured: Secured) -> None:
    with closing(secured.line(secured.tls("controller"))) as line:
        assert write(line, ROOT + b"services/x") == "written"
        assert write(line, ROOT + b"nodes/x") == "written"
        assert "PERMISSION_DENIED" in write(line, b"/elsewhere")


def test_agents_read_all_and_write_their_own(
    secured: Secured, etcd: EtcdServer, root: str, attempt: Attempts
) -> None:
    tried = attempt("a node's root: the agent's etcd certificate writes the controller's records")
    with closing(ChannelPool([f"127.0.0.1:{etcd.port}"], 3.0, None, CLUSTER)) as line:
        tried.works(write(line, root.encode() + b"services/x") == "written", "where etcd has no users")
    with closing(secured.line(secured.tls("agent"))) as line:
        for theirs in (b"nodes/x", b"tasks/x/y", b"vitals/x"):
            assert write(line, ROOT + theirs) == "written"
        for other in (b"services/x", b"keys/x/y", b"cluster", b"leader", b"manifest", b"members/x", b"linkkeys/x"):
            assert "PERMISSION_DENIED" in write(line, ROOT + other), other
        tried.stopped()
        with line.use() as link:
            assert link.page(ROOT, ROOT[:-1] + b"0", 0).header.revision > 0
            with closing(link.watch(ROOT, ROOT[:-1] + b"0")) as responses:
                assert next(responses).created
        with pytest.raises(LinkwireError, match="PERMISSION_DENIED"), line.use() as link:
            link.page(b"\0", b"\0", 0)


def test_nobody_else_is_let_in(secured: Secured, attempt: Attempts) -> None:
    tried = attempt("on the way to etcd: a stale certificate, of the authority itself")
    stranger = CertificateAuthority("stranger")
    forged = secured.issue("forged", stranger.client("controller"))
    assert "does not accept our certificate" in refused(secured, Tls(secured.folder / "ca", forged, forged))
    old = CertificateAuthority("test", days=1, now=dt.datetime.now(dt.UTC) - dt.timedelta(days=3))
    old._key = secured.authority._key  # so that it is its age and nothing else
    stale = secured.issue("stale", old.client("controller"))
    with closing(secured.line(secured.tls("controller"))) as line:
        tried.works(write(line, ROOT + b"services/x") == "written", "while it is good")
    tried.stopped("expired at" in refused(secured, Tls(secured.folder / "ca", stale, stale)))
    server = secured.folder / "server"
    assert "does not accept our certificate" in refused(secured, Tls(secured.folder / "ca", server, server))
    assert "Socket closed" in refused(secured, None)


def test_nobodys_certificate_is_user_of_nothing(secured: Secured) -> None:
    with closing(secured.line(secured.tls("nobody"))) as line:
        assert "written" not in write(line, ROOT + b"services/x")


def test_roots_certificate_is_per_start_and_private(secured: Secured) -> None:
    """Even our own authority could name a root; that it does not is compose_ext's to promise."""
    (own,) = (secured.folder / "tmp").glob("linkwire-etcd-*/root")
    assert own.parent.stat().st_mode & 0o077 == own.stat().st_mode & 0o077 == 0
    kept = secured.issue("kept", own.read_bytes())
    shown = Tls(secured.folder / "ca", kept, kept)
    with closing(secured.line(shown)) as line, line.use() as link:
        assert link.page(b"\0", b"\0", 0).header.revision > 0
    secured.stop()
    secured.start()
    assert "does not accept our certificate" in refused(secured, shown)


def test_man_in_the_middle_hears_nothing(secured: Secured, attempt: Attempts) -> None:
    tried = attempt("on the way to etcd: a man in the middle")
    authority = CertificateAuthority("middle")
    mine = secured.issue("middle", authority.server(["127.0.0.1"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mine)
    context.set_alpn_protocols(["h2"])
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def listen() -> None:
            while True:
                try:
                    raw, _ = listener.accept()
                    with context.wrap_socket(raw, server_side=True) as one:
                        heard.append(one.recv(100))
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=listen, daemon=True).start()
        message = r"its certificate is not for this address, or not from .*ca"
        line = ChannelPool([f"127.0.0.1:{port}"], 3.0, secured.tls("controller"), CLUSTER)
        with closing(line), pytest.raises(Retryable, match=message) as caught, line.use():
            pass
        assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)
        tried.stopped(heard == [])
        own = secured.folder / "controller"
        trusting = Tls(secured.issue("middle-ca", authority.pem), own, own)
        with (
            closing(ChannelPool([f"127.0.0.1:{port}"], 3.0, trusting, CLUSTER)) as line,
            suppress(LinkwireError),
            line.use(),
        ):
            pass
        tried.works(heard, "to a client that trusts his authority")


def test_server_at_another_address_is_not_trusted(secured: Secured) -> None:
    line = ChannelPool([f"localhost:{secured.port}"], 3.0, secured.tls("agent"), CLUSTER)
    with closing(line), pytest.raises(Retryable, match="its certificate is not for this address"), line.use():
        pass


def test_roles_exist_before_clients_after_wipe_and_crash(secured: Secured) -> None:
    secured.stop()
    subprocess.run(["rm", "-rf", str(secured.folder / "data")], check=True)
    reached: list[str] = []
    over = threading.Event()

    def hammer() -> None:
        while not over.is_set():
            with closing(secured.line(secured.tls("agent"))) as line:
                if (told := write(line, ROOT + b"services/early")) == "written":
                    reached.append(told)

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        secured.start()
        secured.stop()
        secured.start()  # on data that has them
    finally:
        over.set()
        thread.join()
    assert reached == []
    with closing(secured.line(secured.tls("controller"))) as line:
        assert write(line, ROOT + b"services/x") == "written"


def test_files_that_will_not_do_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(Terminal, match=r"LINKWIRE_ETCD_CA: .*none: No such file"):
        Tls(tmp_path / "none", empty, empty).read()
    with pytest.raises(Terminal, match=r"LINKWIRE_ETCD_CA: .*empty holds no certificate"):
        Tls(empty, empty, empty).read()


@pytest.mark.parametrize(
    ("endpoints", "insecure", "message"),
    [
        (["https://a:1"], False, "need LINKWIRE_ETCD_CA, LINKWIRE_ETCD_CERT and LINKWIRE_ETCD_KEY"),
        (["https://a:1", "http://b:1"], False, "all of them https://, or none"),
        (["http://10.0.0.1:1"], False, "plaintext.*LINKWIRE_ETCD_INSECURE"),
        (["etcd:2379"], False, "plaintext"),
    ],
)
def test_nothing_leaves_the_machine_in_clear_unasked(endpoints: list[str], insecure: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(endpoints, (None, None, None), insecure=insecure)


def test_clear_text_only_on_loopback_or_by_request() -> None:
    for endpoint in ("http://127.0.0.1:1", "localhost:1", "http://[::1]:1"):
        assert choose([endpoint], (None, None, None), insecure=False) is None
    assert choose(["http://10.0.0.1:1"], (None, None, None), insecure=True) is None
