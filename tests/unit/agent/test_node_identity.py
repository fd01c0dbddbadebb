"""What a node says of its keys: a file for root, a number that only grows, a proof that follows Swarm's files."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.state import node_identity as module
from agent.state.node_identity import COUNTER_FILE, MAX_COUNTER, REPORT_KEY_FILE, Identity
from mesh.crypto.hpke import NodeKey
from mesh.crypto.signed_envelope import SigningKey
from mesh.errors import Terminal
from mesh.identity.attestation import verify
from mesh.model.records import Member
from tests.support.swarm_ca import CLUSTER, MADE, NODE, RAFT_DEK, Authority, Leaf, key_file, pem

ROOT = Authority.root()
SEALING_KEY = NodeKey(bytes(32)).public
NOW = MADE + timedelta(days=1)


class Files:
    """Swarm's folder and the node's own."""

    def __init__(self, path: Path) -> None:
        self.certificates, self.state = path / "certificates", path / "state"
        self.certificates.mkdir()
        self.leaf = Leaf.of()
        self.write()

    def write(self, leaf: Leaf | None = None, *, locked: bool = False) -> None:
        """What Swarm writes, as it does: each file replaced as a whole."""
        self.leaf = leaf or self.leaf
        self.put("swarm-node.key", key_file(self.leaf.key, locked=locked))
        self.put("swarm-node.crt", pem(self.leaf.signed_by(ROOT)))

    def put(self, name: str, content: bytes) -> None:
        (self.certificates / "new").write_bytes(content)
        (self.certificates / "new").replace(self.certificates / name)

    def identity(self) -> Identity:
        return Identity(self.state, self.certificates, CLUSTER, NODE, SEALING_KEY)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def proven(identity: Identity) -> bool:
    if identity.proof is None:
        return False
    return verify(identity.proof, identity.statement, [ROOT.pem], NOW).node == NODE


def test_node_proves_both_keys_at_first_start(files: Files) -> None:
    identity = files.identity()
    assert proven(identity)
    assert identity.unproven is None
    assert identity.statement.sealing_key == SEALING_KEY
    assert identity.statement.verify_key == identity.key.verify_key


def test_counter_this_node_never_reached_is_anothers(files: Files) -> None:
    identity = files.identity()
    made = identity.generation()
    assert not identity.never_made(made)
    assert identity.never_made(made + 1)
    assert identity.never_made((identity.counter + 1) << 32)
    later = files.identity()  # another agent of this node, which starts while this one goes on
    assert not identity.never_made(later.generation())
    assert identity.never_made((later.counter + 1) << 32)
    assert identity.never_made(2**63 - 1)
    assert not later.never_made(made)


def test_abandoned_key_is_remade_and_stated_later(files: Files) -> None:
    before = files.identity()
    before.disown()
    after = files.identity()
    assert after.key != before.key
    assert after.counter > before.counter
    assert proven(after)


def test_report_key_is_made_once_for_root_only(files: Files) -> None:
    before = os.umask(0)
    try:
        key = files.identity().key
    finally:
        os.umask(before)
    assert files.identity().key == key
    assert stat.S_IMODE((files.state / REPORT_KEY_FILE).stat().st_mode) == 0o600
    assert key.raw in (files.state / REPORT_KEY_FILE).read_bytes()


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_report_key_readable_by_others_is_unused(files: Files, mode: int) -> None:
    files.identity()
    (files.state / REPORT_KEY_FILE).chmod(mode)
    with pytest.raises(Terminal, match="may be read by others"):
        files.identity()


def test_malformed_report_key_is_refused_unquoted(files: Files) -> None:
    files.identity()
    (files.state / REPORT_KEY_FILE).write_bytes(b"secret")
    with pytest.raises(Terminal, match="is not a report key") as caught:
        files.identity()
    assert "secret" not in str(caught.value)


def test_counter_and_generations_grow_whatever_happens(files: Files) -> None:
    counters, generations = [], []
    for run in range(4):
        identity = files.identity()
        counters.append(identity.counter)
        generations += [identity.generation() for _ in range(3)]
        if run == 2:
            files.write(Leaf.of())
            assert identity.look()
            counters.append(identity.counter)
            generations.append(identity.generation())
    assert counters == sorted(set(counters))
    assert generations == sorted(set(generations))


def test_counter_is_on_disk_before_use(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    first = files.identity()
    said = int((files.state / COUNTER_FILE).read_text())
    assert said >= first.counter

    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Terminal, match="No space left on device"):
        files.identity()


def test_concurrent_agents_get_different_counters(files: Files) -> None:
    files.identity()
    start, found = threading.Barrier(6), []

    def one() -> None:
        start.wait()
        found.append(module._counted(files.state, 0))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 6


@pytest.mark.parametrize("content", ["", "x", "1.5", "9" * 5000])
def test_malformed_counter_is_an_error_in_words(files: Files, content: str) -> None:
    files.identity()
    (files.state / COUNTER_FILE).write_text(content)
    with pytest.raises(Terminal, match="counter"):
        files.identity()


def test_the_counter_has_an_end_that_is_said(files: Files) -> None:
    files.identity()
    (files.state / COUNTER_FILE).write_text(str(MAX_COUNTER))
    with pytest.raises(Terminal, match="exhausted"):
        files.identity()


def test_renewed_certificate_alone_is_proven_anew(files: Files) -> None:
    identity = files.identity()
    first = identity.proof, identity.counter
    assert not identity.look()
    assert (identity.proof, identity.counter) == first
    files.write(Leaf.of("swarm-manager"))
    assert identity.look()
    assert proven(identity)
    assert identity.proof != first[0]
    assert identity.counter > first[1]
    assert not identity.look()


def test_between_renewal_writes_the_earlier_proof_stays(files: Files) -> None:
    identity = files.identity()
    earlier = identity.proof, identity.counter
    fresh = Leaf.of()
    files.put("swarm-node.key", key_file(fresh.key))
    assert not identity.look()
    assert (identity.proof, identity.counter) == earlier
    files.put("swarm-node.crt", pem(fresh.signed_by(ROOT)))
    assert identity.look()
    assert proven(identity)


def test_locked_key_gives_no_proof_and_logs_remedy(files: Files) -> None:
    files.write(locked=True)
    with capture_logs() as logs:
        identity = files.identity()
    assert (identity.proof, identity.unproven) == (None, "locked")
    (line,) = (line for line in logs if line["log_level"] == "warning")
    fingerprint = identity.statement.fingerprint
    assert line["command"] == f"docker linkwire node approve {NODE} --fingerprint {fingerprint}"
    files.write()
    assert identity.look()
    assert proven(identity)
    assert identity.unproven is None


def test_key_locked_later_leaves_the_proof(files: Files) -> None:
    identity = files.identity()
    files.write(locked=True)
    assert not identity.look()
    assert proven(identity)


@pytest.mark.parametrize("missing", ["swarm-node.crt", "swarm-node.key"])
def test_missing_swarm_files_give_no_proof_with_path(files: Files, missing: str) -> None:
    (files.certificates / missing).unlink()
    with capture_logs() as logs:
        identity = files.identity()
    assert (identity.proof, identity.unproven) == (None, "unreadable")
    assert any("/var/lib/docker/swarm/certificates" in line.get("error", "") for line in logs)


@pytest.mark.parametrize("locked", [False, True])
def test_nothing_of_swarms_key_is_logged(files: Files, locked: bool) -> None:
    with capture_logs() as logs:
        files.write(locked=locked)
        identity = files.identity()
        files.put("swarm-node.key", key_file(files.leaf.key)[:-60] + b"\n")
        identity.look()
        files.put("swarm-node.key", RAFT_DEK.encode())
        identity.look()
    told = f"{logs} {identity!r} {vars(identity)}"
    assert len(logs) > 1
    for secret in (RAFT_DEK, "raft-dek", "PRIVATE KEY", identity.key.raw.hex(), repr(identity.key.raw)):
        assert secret not in told


def test_node_with_lost_volume_continues_above_accepted_counter(files: Files) -> None:
    lost = files.identity()
    accepted = Member(NODE, SEALING_KEY, lost.key.verify_key, 40)
    for name in (REPORT_KEY_FILE, COUNTER_FILE):
        (files.state / name).unlink()
    identity = files.identity()
    assert identity.key != lost.key
    assert identity.counter < accepted.counter
    assert identity.catch_up(accepted)
    assert identity.counter > accepted.counter
    assert proven(identity)
    assert files.identity().counter > identity.counter, "also after a restart"


def test_acceptance_of_this_statement_changes_nothing(files: Files) -> None:
    identity = files.identity()
    mine = Member(NODE, SEALING_KEY, identity.key.verify_key, identity.counter)
    assert not identity.catch_up(mine)
    assert not identity.catch_up(replace(mine, counter=mine.counter - 1))
    assert identity.catch_up(replace(mine, report_key=SigningKey(b"x" * 32).verify_key))


def test_records_from_before_this_start_are_resigned(files: Files) -> None:
    before = files.identity().generation()
    identity = files.identity()
    assert before < identity.since < identity.generation()
    files.write(Leaf.of())
    since = identity.since
    identity.look()
    assert identity.since == since, "a renewed certificate alone is no reason"


def test_fingerprint_covers_keys_without_the_counter(files: Files) -> None:
    statement = files.identity().statement
    assert replace(statement, counter=99).fingerprint == statement.fingerprint
    others = (
        replace(statement, cluster="x"),
        replace(statement, node="x"),
        replace(statement, sealing_key=NodeKey(b"k" * 32).public),
        replace(statement, verify_key=SigningKey(b"k" * 32).verify_key),
    )
    assert len({each.fingerprint for each in (statement, *others)}) == 5
