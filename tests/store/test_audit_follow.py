"""`linkwire-agent events` as a program of its own, on a real etcd: what `docker linkwire events` runs on a node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.identity.key_files import verify_keys_text
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import SmallMesh, settled
from tests.store.test_audit_log import relink
from tests.store.waiting import until
from tests.support.signing import CLUSTER, SIGNING_KEY


@pytest.fixture
def command(etcd: EtcdServer, tmp_path: Path) -> list[str]:
    keys = tmp_path / "verify-keys"
    keys.write_text(verify_keys_text(CLUSTER, [SIGNING_KEY.verify_key]))
    return [sys.executable, "-m", "agent", "events", f"--etcd={etcd.endpoint}", f"--verify-keys={keys}"]


@pytest.fixture
def mesh(etcd: EtcdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallMesh]:
    """At the root that agents know."""
    monkeypatch.setattr("controller.recovery.startup_barrier.HEAR_S", 3.0)
    yield SmallMesh(etcd.endpoint, keyspace.ROOT, tmp_path)
    for key in etcd.keys(keyspace.ROOT):
        etcd.delete(key)


def test_it_prints_and_follows_until_input_ends(mesh: SmallMesh, command: list[str]) -> None:
    with mesh.controller(), mesh.reader("n1") as one, mesh.reader("n2") as two:
        settled(one, two)
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert '"kind": "link created"' in printed
        pipe = subprocess.PIPE
        with subprocess.Popen([*command, "--follow"], stdin=pipe, stdout=pipe, text=True) as following:
            output, stdin = following.stdout, following.stdin
            assert output is not None
            assert stdin is not None
            first = [json.loads(output.readline()) for _ in printed.splitlines()]
            assert first == [json.loads(line) for line in printed.splitlines()]
            relink(mesh, ServiceLabels((LinkLabel("db", ("base",)),)))
            kinds = iter(lambda: json.loads(output.readline())["kind"], "link changed")
            assert set(kinds) <= {"task key made", "lead taken", "problem found"}
            assert following.poll() is None
            stdin.close()
            until(lambda: following.poll() == 0)
