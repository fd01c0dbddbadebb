"""The page of `linkwire-etcd`: its space and etcd's own metrics at one address, whenever etcd is started again."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from prometheus_client import generate_latest

from controller.reporting.etcd_metrics import EtcdMetrics
from tests.store.etcd_server import EtcdServer, free_port
from tests.store.secured import Secured, write
from tests.support.metrics_pages import described, promtool


def value(page: str, name: str) -> float | None:
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
    return float(found.group(1)) if found else None


def until(text: str, is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, text
        time.sleep(0.1)


def test_one_page_has_etcds_metrics_and_its_space(tmp_path: Path) -> None:
    port = free_port()
    server = Secured.made(tmp_path)
    server.settings["LINKWIRE_ETCD_METRICS"] = f"127.0.0.1:{port}"

    def page() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    try:
        server.start()
        until("upkeep has asked", lambda: value(page(), "linkwire_etcd_size_bytes") is not None)
        before = page()
        with closing(server.line(server.tls("controller"))) as line:
            assert write(line, b"/linkwire/v1/services/x") == "written"
        after = page()
    finally:
        server.stop()
    assert value(after, "linkwire_etcd_up") == 1
    assert value(after, "etcd_server_has_leader") == 1
    assert (value(after, "etcd_mvcc_db_total_size_in_bytes") or 0) > 0
    puts = "etcd_debugging_mvcc_put_total"
    assert (value(after, puts) or 0) > (value(before, puts) or 0), "each scrape asks etcd"
    metrics = {one.name for one in described(after)}
    assert {"linkwire_etcd_in_use_bytes", "linkwire_etcd_quota_bytes", "grpc_server_handled_total"} <= metrics
    assert "etcd_disk_wal_fsync_duration_seconds" in metrics, "an alert and the dashboard ask for it"
    complaints = promtool("check", "metrics", given=after)
    assert "error" not in complaints.stderr.lower()
    assert [line for line in complaints.stderr.splitlines() if line.startswith("linkwire_")] == []


def test_page_follows_an_etcd_that_moves(tmp_path: Path) -> None:
    """`linkwire-etcd` starts etcd again for everybody, and whenever a root changes or a node is revoked."""
    metrics = EtcdMetrics()

    def up() -> float | None:
        return value(generate_latest(metrics.registry).decode(), "linkwire_etcd_up")

    assert up() == 0, "etcd was not started yet"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        with EtcdServer(tmp_path / folder, arguments=tuple(metrics.follow(free_port()))):
            assert up() == 1
        assert up() == 0
