"""A backup on a real etcd: what it gives back after which loss, and that nothing that runs goes back by it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.queries.backup import Backups
from controller.backup.restore import Outcome, held_lead, restore
from controller.election import SILENCE_S
from controller.trust.link_secrets import ControllerIdentity
from mesh.crypto.hpke import NodeKey
from mesh.crypto.sealed_stream import opened
from mesh.crypto.signed_envelope import Keyring, SigningKey
from mesh.errors import Retryable, Terminal
from mesh.identity.key_files import verify_keys_text
from mesh.integrity.record_signing import RecordSigner
from mesh.model import keyspace
from mesh.model.audit.chain import chains
from mesh.model.backup.contents import PURPOSE, Backup, decoded, encoded
from mesh.model.records import Address, Endpoint, LinkKeyEpoch, Member
from mesh.model.snapshot import Snapshot
from mesh.model.vault.records import EpochHistory
from mesh.store.client import Store
from tests.store.attacks import Attack
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import Reader, SmallMesh, settled
from tests.store.test_recall import signed
from tests.store.waiting import until
from tests.support.signing import CLUSTER, KEYRING, SIGNING_KEY

RECIPIENT = NodeKey(b"backup".ljust(32))
OWN = ControllerIdentity("n1", NodeKey(b"the controller's volume".ljust(32)))
LOST = ControllerIdentity("n1", NodeKey(b"another volume".ljust(32)))
KEY = "web:db"


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallMesh:
    monkeypatch.setattr("controller.recovery.startup_barrier.HEAR_S", 3.0)
    return SmallMesh(etcd.endpoint, root, tmp_path)


@pytest.fixture
def store(mesh: SmallMesh) -> Iterator[Store]:
    with closing(Store([mesh.endpoint], RecordSigner.controller(KEYRING, SIGNING_KEY), root=mesh.root)) as store:
        yield store


def taken(mesh: SmallMesh) -> Backup:
    """A backup as an agent makes it, opened by its recipient."""
    with closing(Store([mesh.endpoint], RecordSigner.reader(KEYRING), root=mesh.root)) as store:
        *parts, last = Backups(store.load, CLUSTER, "1").backup({"recipient": str(RECIPIENT.public)})
    made = decoded(opened(b"".join(base64.b64decode(part["part"]) for part in parts), RECIPIENT, PURPOSE))
    assert last == {"backup": made.described(), "left_out": []}
    return made


def put_back(store: Store, backup: Backup, *, force: bool = False, dry_run: bool = False) -> Outcome:
    return restore(store, backup, CLUSTER, force=force, dry_run=dry_run)


def whole(store: Store) -> Snapshot:
    return store.load([""])


def log_of(stored: Snapshot) -> list[str]:
    """The kinds of the audit log's decisions in their order, of a log without damage."""
    assert [problem for chain in chains(stored) for problem in chain.problems] == []
    return [event.kind for page in chains(stored)[0].pages for event in page.events()]


def epoch_of(stored: Snapshot) -> int:
    record = stored.get(keyspace.epoch(KEY), LinkKeyEpoch)
    assert record is not None
    return record.epoch


def begun(*readers: Reader) -> None:
    """Wait for a mesh that has told all of its beginning."""
    settled(*readers)
    store = readers[0].store
    until(lambda: "service joined" in log_of(whole(store)) and len(list(whole(store).all(Member))) == 2, 20)
    until(lambda: whole(store).get(keyspace.epoch(KEY), LinkKeyEpoch) is not None, 20)


def test_a_store_that_nobody_remembers_comes_back(mesh: SmallMesh, etcd: EtcdServer, store: Store) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN):
        begun(one, two)
        before, history, epoch = signed(one, two), log_of(whole(store)), epoch_of(whole(store))
        backup = taken(mesh)
    etcd.wipe()
    outcome = put_back(store, backup)
    assert outcome.written
    assert outcome.comparison is not None
    assert outcome.comparison.whole
    assert outcome.comparison.lost == ()
    with mesh.reader("n1", "n1 lost") as one, mesh.reader("n2", "n2 lost") as two, mesh.controller(own=OWN):
        settled(one, two)
        assert signed(one, two) == before
        assert log_of(whole(store))[: len(history) + 1] == [*history, "backup restored"]
        mesh.live(one, two)
        assert epoch_of(whole(store)) == epoch  # the vault opens, and its note is there: no key began a new one
        note = whole(store).get(keyspace.history(KEY), EpochHistory)
        assert note is not None
        assert (note.epoch, bool(note.kept)) == (epoch, True)


def test_without_the_controllers_volumes_epochs_begin_anew(mesh: SmallMesh, etcd: EtcdServer, store: Store) -> None:
    """All else is as it was."""
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN):
        begun(one, two)
        before, epoch = signed(one, two), epoch_of(whole(store))
        backup = taken(mesh)
    etcd.wipe()
    assert put_back(store, backup).written
    with mesh.reader("n1", "n1 lost") as one, mesh.reader("n2", "n2 lost") as two, mesh.controller(own=LOST):
        until(lambda: epoch_of(whole(store)) > epoch, 20)
        settled(one, two)
        assert {k: r for k, r in signed(one, two).items() if not k.startswith(keyspace.EPOCHS)} == {
            k: r for k, r in before.items() if not k.startswith(keyspace.EPOCHS)
        }


def test_a_mesh_begun_anew_yields_to_force(mesh: SmallMesh, etcd: EtcdServer, store: Store) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN):
        begun(one, two)
        for _ in range(6):  # or the new one counts as far
            mesh.live(one, two)
        before = signed(one, two)
        backup = taken(mesh)
    etcd.wipe()
    with mesh.reader("n1", "n1 lost") as one, mesh.reader("n2", "n2 lost") as two, mesh.controller(own=LOST):
        begun(one, two)
        anew = signed(one, two)
        assert anew != before
        for outcome in (put_back(store, backup), put_back(store, backup, force=True, dry_run=True)):
            assert not outcome.written
            assert outcome.comparison is not None
            assert len(outcome.comparison.lost) == 2
            assert "of its tasks get another address or key" in outcome.comparison.lost[0]
        assert signed(one, two) == anew
        assert put_back(store, backup, force=True).written
        keys = {k: r for k, r in before.items() if not k.startswith(keyspace.EPOCHS)}
        until(lambda: keys.items() <= signed(one, two).items(), 20)
        settled(one, two)
        assert all(set(seen.records) >= set(seen.contents.entries) for seen in (*one.everything, *two.everything))
        kinds = log_of(whole(store))
        assert kinds.count("audit log begun") == 2
        assert kinds.index("backup restored") > max(i for i, kind in enumerate(kinds) if kind == "audit log begun")
        mesh.live(one, two)


def test_from_an_old_backup_nothing_goes_back(mesh: SmallMesh, etcd: EtcdServer, store: Store) -> None:
    """The nodes have brought the newest back; the backup adds what they cannot know."""
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        with mesh.controller(own=OWN):
            begun(one, two)
            ended = max(mesh.swarm.tasks_now)
            (freed,) = (e.address for e in one.believed.all(Endpoint) if e.task == ended)
            mesh.swarm.end(ended)
            mesh.wake()
            settled(one, two, tasks=5)
            until(lambda: whole(store).get(keyspace.address(freed), Address) is not None)
            history, backup = log_of(whole(store)), taken(mesh)
            mesh.swarm.start("web")
            mesh.wake()
            settled(one, two, tasks=6)
        before = signed(one, two)
        generations = [seen.records["manifest"].generation for seen in one.everything if "manifest" in seen.records]
        etcd.wipe()
        with mesh.controller(own=LOST):
            until(lambda: one.verified() and two.verified(), 30)
            settled(one, two)
            until(lambda: "audit log begun" in log_of(whole(store)))
            assert whole(store).get(keyspace.address(freed), Address) is None
            outcome = put_back(store, backup)
            assert outcome.written
            assert outcome.comparison is not None
            assert not outcome.comparison.whole
            assert outcome.comparison.lost == ()
            assert "is newer than the backup's" in outcome.comparison.kept[0]
            assert outcome.comparison.restored["addresses that rest"] == 1
            settled(one, two)
            rests = whole(store).get(keyspace.address(freed), Address)
            assert rests is not None
            assert rests.holder is None
            assert log_of(whole(store))[: len(history)] == history
            assert "audit log begun" in log_of(whole(store))[len(history) :]
            mesh.live(one, two)
            keys = {k: r for k, r in before.items() if not k.startswith(keyspace.EPOCHS)}
            assert keys.items() <= signed(one, two).items()
        later = [seen.records["manifest"].generation for seen in one.everything if "manifest" in seen.records]
        assert later == sorted(later)
        assert len(later) > len(generations)


def test_a_running_mesh_is_left_as_it_is(mesh: SmallMesh, store: Store) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN) as controller:
        begun(one, two)
        backup, before = taken(mesh), signed(one, two)
        looked_at = len(one.everything)
        outcome = put_back(store, backup)
        assert outcome.comparison is not None
        assert (outcome.pages, dict(outcome.comparison.restored)) == (0, {})
        assert outcome.comparison.kept == (
            f"etcd holds generation {backup.generation} of the signed set, as the backup does",
        )
        until(lambda: "lead taken" in log_of(whole(store))[-1:], 20)
        assert controller._decider.verified is not None or controller._startup.waiting
        assert signed(one, two) == before
        assert all(signed_alike(seen, before) for seen in one.everything[looked_at:])
        mesh.live(one, two)


def signed_alike(seen: Snapshot, before: Mapping[str, object]) -> bool:
    return all(before[key] == versioned.record for key, versioned in seen.records.items() if key in before)


def test_a_restore_that_died_is_completed(
    mesh: SmallMesh, etcd: EtcdServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN):
        begun(one, two)
        before, backup = signed(one, two), taken(mesh)
    etcd.wipe()
    monkeypatch.setattr("mesh.store.packing.MAX_OPS", 3)
    commit, left = store.commit, [12]

    def dies(*arguments: object) -> int | None:
        left[0] -= 1
        if left[0] < 0:
            raise Terminal("it died")
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "commit", dies)
    with pytest.raises(Terminal, match="it died"):
        put_back(store, backup)
    monkeypatch.setattr(store, "commit", commit)
    begun_with = whole(store)
    assert len(begun_with.records) > 10
    assert keyspace.MANIFEST not in begun_with.records
    assert put_back(store, backup).written
    with mesh.reader("n1", "n1 lost") as one, mesh.reader("n2", "n2 lost") as two, mesh.controller(own=OWN):
        settled(one, two)
        assert signed(one, two) == before


def test_controllers_write_nothing_under_its_lead(mesh: SmallMesh, store: Store) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN) as controller:
        begun(one, two)
        with held_lead(store):
            until(lambda: controller._startup._token is None)
            revisions = written(store)
            mesh.swarm.start("web")
            mesh.wake()
            time.sleep(SILENCE_S + 2)  # after which a leader without a sign of life would be replaced
            assert written(store) == revisions
        settled(one, two, tasks=7)


def written(store: Store) -> dict[str, int]:
    """Revisions of all that controllers write, but for who leads."""
    stored = whole(store)
    return {
        key: versioned.revision for key, versioned in stored.records.items() if keyspace.writer(key) == "controller"
    }


def test_each_refusal_says_why_and_writes_nothing(mesh: SmallMesh, etcd: EtcdServer, store: Store) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN):
        begun(one, two)
        backup = taken(mesh)
    etcd.wipe()
    service = next(key for key in backup.values if key.startswith(keyspace.SERVICES))
    forged = {**backup.values, service: backup.values[service][:-1] + b"\0"}
    fewer = {key: value for key, value in backup.values.items() if key != service}
    stranger = SigningKey(b"another signing key".ljust(32))
    others = Store(
        [mesh.endpoint],
        RecordSigner.controller(Keyring(CLUSTER, (stranger.verify_key,)), stranger),
        root=mesh.root,
    )
    with closing(others):
        refusals = {
            "it is of the Swarm": restore(store, backup, "another", force=True, dry_run=False),
            "the signature does not hold": put_back(store, replace(backup, values=forged), force=True),
            "not the set that was signed": put_back(store, replace(backup, values=fewer), force=True),
            "signed by a key that may not sign": put_back(others, backup, force=True),
        }
    for reason, outcome in refusals.items():
        assert not outcome.written
        assert reason in "; ".join(outcome.problems), outcome.problems
    assert dict(whole(store).records) == {}


def test_records_of_another_installation_stay(mesh: SmallMesh, etcd: EtcdServer, store: Store) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN):
        begun(one, two)
        backup = taken(mesh)
    attack = Attack(etcd, mesh.root)
    before = {key: value for key, value in attack.now().items() if keyspace.writer(key) == "controller"}
    for key, value in before.items():
        attack.put(key, value[:4] + bytes(16) + value[20:])  # of another signer
    outcome = put_back(store, backup, force=True)
    assert "none of this Swarm's verify keys signed" in "; ".join(outcome.problems)
    assert not outcome.written


def test_no_backup_of_what_was_not_signed(mesh: SmallMesh, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.queries.backup.TRIES", 2)
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN):
        begun(one, two)
    attack = Attack(etcd, mesh.root)
    attack.delete(next(key for key in attack.now() if key.startswith(keyspace.ENDPOINTS)))
    with pytest.raises(Retryable, match="nothing to back up: not what was signed"):
        taken(mesh)


def test_the_program_restores_what_it_is_handed(tmp_path: Path) -> None:
    """As in the container that `docker linkwire restore` makes; its last line is the outcome, whatever it logs."""
    (tmp_path / "seed").write_text(SIGNING_KEY.raw.hex())
    (tmp_path / "verify-keys").write_text(verify_keys_text(CLUSTER, KEYRING.keys))
    (tmp_path / "etcd").mkdir()
    with EtcdServer(tmp_path / "etcd") as etcd:
        mesh = SmallMesh(etcd.endpoint, keyspace.ROOT, tmp_path)
        with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller(own=OWN):
            begun(one, two)
            before, backup = signed(one, two), taken(mesh)
        etcd.wipe()
        environment = {
            "LINKWIRE_ETCD": etcd.endpoint,
            "LINKWIRE_SIGNING_SEED_FILE": str(tmp_path / "seed"),
            "LINKWIRE_VERIFY_KEYS_FILE": str(tmp_path / "verify-keys"),
        }

        def run(backup: Backup, **asked: bool) -> tuple[int, dict[str, Any]]:
            plain = json.dumps(asked).encode() + b"\n" + b"".join(encoded(backup))
            command = [sys.executable, "-c", "from controller.cli import main; main()", "restore"]
            done = subprocess.run(
                command, env=os.environ | environment, input=plain, capture_output=True, check=False
            )
            return done.returncode, json.loads(done.stdout.splitlines()[-1])

        code, outcome = run(replace(backup, cluster="another"))
        assert code == 1
        assert "it is of the Swarm another" in outcome["problems"][0]
        code, outcome = run(backup, dry_run=True)
        assert (code, outcome["written"], outcome["whole"]) == (0, False, True)
        code, outcome = run(backup)
        assert (code, outcome["written"], outcome["lost"]) == (0, True, [])
        assert outcome["restored"]["services"] == 2
        assert outcome["restored"]["pages of the audit log"] > 1
        with mesh.reader("n1", "n1 lost") as one, mesh.reader("n2", "n2 lost") as two, mesh.controller(own=OWN):
            settled(one, two)
            assert signed(one, two) == before
