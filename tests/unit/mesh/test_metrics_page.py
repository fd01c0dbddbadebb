"""The page for Prometheus: served live, by one program of a node at a time, with the process's own numbers."""

from __future__ import annotations

import datetime as dt
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from structlog.testing import capture_logs

from mesh.identity.ca import CertificateAuthority
from mesh.identity.tls import Tls, expiry
from mesh.process import metrics_page
from mesh.process.metrics_page import describe_process, new_registry, serve


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def until(text: str, is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, text
        time.sleep(0.02)


def scraped(port: int) -> str:
    """The page; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert answer.headers.get_content_type() == "text/plain"
            return str(answer.read().decode())
    except OSError:
        return ""


def one_gauge(value: float) -> tuple[CollectorRegistry, Gauge]:
    registry = new_registry()
    gauge = Gauge("linkwire_example", "Of this test.", registry=registry)
    gauge.set(value)
    return registry, gauge


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_page, "RETRY_S", 0.05)


def test_metrics_are_served_live_over_http() -> None:
    (registry, gauge), port = one_gauge(1), free_port()
    serve(registry, ("127.0.0.1", port))
    until("served", lambda: scraped(port) == generate_latest(registry).decode())
    gauge.set(2)
    assert "linkwire_example 2.0\n" in scraped(port)


def test_page_moves_to_another_program_and_back() -> None:
    """As two controllers of a node do when the lead passes from one to the other."""
    port, first_leads = free_port(), [True]
    serve(one_gauge(1)[0], ("127.0.0.1", port), lambda: first_leads[0], shared=True)
    until("the first serves", lambda: "linkwire_example 1.0" in scraped(port))
    with capture_logs() as logs:
        serve(one_gauge(2)[0], ("127.0.0.1", port), lambda: not first_leads[0], shared=True)
        time.sleep(0.2)
        assert "linkwire_example 1.0" in scraped(port)
        first_leads[0] = False
        until("the second serves", lambda: "linkwire_example 2.0" in scraped(port))
        first_leads[0] = True
        until("the first serves again", lambda: "linkwire_example 1.0" in scraped(port))
    assert [line for line in logs if line["log_level"] == "warning" and line.get("port") == port] == []


@pytest.mark.parametrize(
    ("shared", "said"),
    [(False, ("warning", "metrics not served, retrying")), (True, ("info", "metrics port taken, retrying"))],
)
def test_taken_port_is_reported_once_and_retried(*, shared: bool, said: tuple[str, str]) -> None:
    registry, _ = one_gauge(1)

    def lines() -> list[tuple[str, str]]:
        """Of this port alone: the thread of another test may be saying something still."""
        return [(line["log_level"], line["event"]) for line in logs if line.get("port") == port]

    with capture_logs() as logs:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(taken.getsockname()[1])
            serve(registry, ("127.0.0.1", port), shared=shared)
            until("reported", lambda: bool(lines()))
            time.sleep(0.3)
            assert lines() == [said]
        until("served", lambda: "linkwire_example" in scraped(port))
        until("reported", lambda: lines() == [said, ("info", "metrics served")])


def test_address_of_another_machine_is_a_warning() -> None:
    with capture_logs() as logs:
        serve(one_gauge(1)[0], ("192.0.2.1", 9), shared=True)
        until("a warning", lambda: [line["log_level"] for line in logs if line.get("port") == 9] == ["warning"])


def test_process_and_certificates_are_described(tmp_path: Path) -> None:
    authority = CertificateAuthority("test", days=20)
    (tmp_path / "ca").write_bytes(authority.pem)
    (tmp_path / "own").write_bytes(authority.client("agent"))
    (tmp_path / "broken").write_text("no certificate")
    registry, tls = new_registry(), Tls(tmp_path / "ca", tmp_path / "own", tmp_path / "own")
    describe_process(registry, Tls(tls.ca, tls.cert, tls.key, Tls(tls.ca, tmp_path / "broken", tmp_path / "no")))
    page = generate_latest(registry).decode()
    assert "\nprocess_resident_memory_bytes " in page
    (line,) = [line for line in page.splitlines() if line.startswith("linkwire_certificate_expiry")]
    name, value = line.split()
    assert name == 'linkwire_certificate_expiry_timestamp_seconds{certificate="etcd"}'
    assert float(value) == expiry(tls.cert).timestamp()
    assert dt.timedelta(19) < expiry(tls.cert) - dt.datetime.now(dt.UTC) < dt.timedelta(21)


def test_plain_connection_has_no_certificate() -> None:
    registry = new_registry()
    describe_process(registry, None)
    assert "certificate" not in generate_latest(registry).decode()
