"""The signed store on a real etcd, attacked by who may write all of it: what agents act on, what controllers mend.

Each attack is first shown to work on a reader that checks nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from controller.recovery import startup_barrier
from controller.trust.signed_writer import SignedWriter
from mesh.crypto.signed_envelope import Keyring, Signer, SigningKey, peek, wrap
from mesh.model import codec, keyspace
from mesh.model.records import Address, Endpoint, ManifestRecord, Port, Record, Service, Status, TaskReport
from mesh.model.snapshot import Put, Snapshot, Versioned
from mesh.store.client import Store
from mesh.store.follower import Batch
from mesh.store.watch_stream import WatchStream
from tests.store.attacks import (
    ATTACKS,
    MALLORY,
    Attack,
    Gullible,
    delete_all,
    invent,
    resurrect,
    what,
)
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import Reader, SmallMesh, endpoints, settled
from tests.store.waiting import until
from tests.support.attacks import Attempts
from tests.support.signing import CLUSTER, KEYRING, RECORD_SIGNER, SIGNING_KEY, STRANGER


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallMesh:
    monkeypatch.setattr(startup_barrier, "HEAR_S", 3.0)
    return SmallMesh(etcd.endpoint, root, tmp_path)


@pytest.fixture
def attack(etcd: EtcdServer, root: str) -> Attack:
    return Attack(etcd, root)


@pytest.fixture
def lived(mesh: SmallMesh, attack: Attack) -> SmallMesh:
    """A mesh that has seen some changes, with an older state of it recorded, and no controller left."""
    with mesh.controller(), mesh.reader("n1") as one, mesh.reader("n2") as two:
        settled(one, two)
        attack.record()
        key, _ = attack.victim()
        mesh.swarm.end(next(task for task in sorted(mesh.swarm.tasks_now, reverse=True)))
        mesh.wake()
        settled(one, two, tasks=5)
        changed_ready(mesh, attack, key, one)
        settled(one, two, tasks=5)
    return mesh


def changed_ready(mesh: SmallMesh, attack: Attack, key: str, reader: Reader) -> None:
    """Have the victim's node say something that changes its record: the controller signs it anew."""
    task = key.rpartition("/")[2]
    node = mesh.swarm.tasks_now[task].node
    service = mesh.swarm.tasks_now[task].service
    report = TaskReport(task, service, node, "running", wired=True, error=None, port_taken=None, elsewhere=())
    reader.store.commit([Put(report, None)])
    reader.speak()
    until(lambda: attack.now()[key] != attack.recorded[key])


def seen_by_who_checks_nothing(mesh: SmallMesh) -> dict[str, object]:
    store = Store([mesh.endpoint], Gullible(), root=mesh.root)
    try:
        return dict(records(store.load([""])))
    finally:
        store.close()


def records(snapshot: Snapshot) -> Iterator[tuple[str, object]]:
    for key, found in snapshot.records.items():
        if keyspace.covered(key):
            yield key, found.record


@pytest.mark.parametrize("how", ATTACKS, ids=lambda how: how.__name__)
def test_tampered_records_are_not_acted_on(
    lived: SmallMesh, attack: Attack, how: Callable[[Attack], None], attempt: Attempts
) -> None:
    tried = attempt(f"etcd's owner: {what(how)}")
    before = seen_by_who_checks_nothing(lived)
    with lived.reader("n1") as running:
        settled(running, tasks=5)
        good = dict(records(running.believed))
        assert good == before
        saved = attack.now()
        how(attack)
        tried.works(seen_by_who_checks_nothing(lived) != before)
        until(lambda: running.look() and running.trust.held)
        assert dict(records(running.believed)) == good
        assert not running.believed.complete, "so nothing is removed by it"
        with lived.reader("n1") as restarted:
            until(lambda: restarted.look() is not None and restarted.trust.held)
            assert not restarted.believed.records
        for key, value in saved.items():
            attack.put(key, value)
        for key in attack.now().keys() - saved.keys():
            attack.delete(key)
        until(running.verified)
        assert dict(records(running.believed)) == good
        tried.stopped(all(dict(records(one)) in ({}, good) for one in running.everything))


def test_a_peer_that_nobody_signed_is_none(lived: SmallMesh, attack: Attack, attempt: Attempts) -> None:
    """It is no part of the signed set, which is whole without it."""
    tried = attempt(f"etcd's owner: {what(invent)}")
    before = seen_by_who_checks_nothing(lived)
    with lived.reader("n1") as one:
        settled(one, tasks=5)
        good = dict(records(one.believed))
        invent(attack)
        tried.works(seen_by_who_checks_nothing(lived).keys() - before.keys() == {"endpoints/#db/mallory"})
        until(lambda: "endpoints/#db/mallory" in one.look().invalid)
        tried.stopped(dict(records(one.believed)) == good)
        with lived.reader("n2") as two, lived.controller():
            until(lambda: "endpoints/#db/mallory" not in attack.now())
            settled(one, two, tasks=5)
            assert dict(records(one.believed)) == good


@pytest.mark.parametrize("how", ATTACKS, ids=lambda how: how.__name__)
def test_running_controller_restores_all_and_agents_notice_nothing(
    lived: SmallMesh, attack: Attack, how: Callable[[Attack], None]
) -> None:
    with lived.reader("n1") as one, lived.reader("n2") as two, lived.controller() as controller:
        settled(one, two, tasks=5)
        until(lambda: controller._decider.verified is not None)
        good, before = dict(records(one.believed)), one.believed.records
        generation = one.believed.records["manifest"].generation
        one.everything.clear()
        how(attack)
        if how is resurrect:  # which is only taken away: what was signed is there again
            until(lambda: len([k for k in attack.now() if k.startswith("endpoints/")]) == 5)
        else:
            until(lambda: one.verified() and one.believed.records["manifest"].generation > generation)
        settled(one, two, tasks=5)
        if how is delete_all:  # among them the sealed keys, which nothing else says again: the tasks get new ones
            assert places(one.believed.records) == places(before)
            return
        assert dict(records(one.believed)) == good
        assert all(dict(records(seen)) == good for seen in one.everything), "a half-mended state was acted on"


def places(found: Mapping[str, Versioned[Record]]) -> dict[str, object]:
    """Who has which address and UDP port, and which service which VIP."""
    ends = {key: one.record for key, one in found.items()}
    tasks = {key: (end.address, end.underlay) for key, end in ends.items() if isinstance(end, Endpoint)}
    return tasks | {key: end.vip for key, end in ends.items() if isinstance(end, Service)}


@pytest.mark.parametrize("how", ATTACKS, ids=lambda how: how.__name__)
def test_new_controller_mends_and_gives_no_address_away(
    lived: SmallMesh, attack: Attack, how: Callable[[Attack], None]
) -> None:
    with lived.reader("n1") as one, lived.reader("n2") as two:
        settled(one, two, tasks=5)
        before = {e.address: e.task for e in one.believed.all(Endpoint)}
        vips = {s.id: s.vip for s in one.believed.all(Service)}
        how(attack)
        until(lambda: one.look() and one.trust.held)
        with lived.controller():
            settled(one, two, tasks=5)
            after = {e.address: e.task for e in one.believed.all(Endpoint)}
            if how is not delete_all:  # then nothing is left that says who held what
                assert {s.id: s.vip for s in one.believed.all(Service)} == vips
                assert all(before.get(address, task) == task for address, task in after.items())
            assert MALLORY not in {e.underlay for e in one.believed.all(Endpoint)}


def test_withheld_record_stops_changes_and_removes_nothing(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch, attempt: Attempts
) -> None:
    """Whoever owns etcd answers what he likes: here every list and watch of one reader passes through his hands."""
    tried = attempt("etcd's owner: a record is withheld from one reader")
    hidden: set[bytes] = set()
    batches = WatchStream.batches

    def kept_back(feed: WatchStream) -> Generator[Batch]:
        for batch in batches(feed):
            yield replace(batch, changes=[c for c in batch.changes if c.key not in hidden])

    with mesh.controller(), mesh.reader("n2") as two:
        with monkeypatch.context() as patch:
            patch.setattr(WatchStream, "batches", kept_back)
            reader = mesh.reader("n1")
            one = reader.__enter__()
            until(lambda: one.follower.snapshot.complete)
        try:
            settled(one, two)
            good = endpoints(one.believed)
            task = mesh.swarm.start("db")
            hidden.add(f"endpoints/#db/{task}".encode())
            mesh.wake()
            settled(two, tasks=7)
            until(lambda: one.look() and one.trust.held)
            shown = one.follower.snapshot
            tried.works(shown.complete and len(endpoints(shown)) < len(endpoints(two.believed)))
            assert endpoints(one.believed) == good
            ended = min(mesh.swarm.tasks_now)
            mesh.swarm.end(ended)
            mesh.wake()
            settled(two, tasks=6)
            tried.stopped(endpoints(one.look()) == good)
        finally:
            reader.__exit__(None, None, None)


def test_old_state_is_refused_across_restarts_and_surpassed(
    lived: SmallMesh, attack: Attack, attempt: Attempts
) -> None:
    tried = attempt("etcd's owner: the whole of an old state is put back")
    with lived.reader("n1") as one, lived.reader("n2") as two:
        settled(one, two, tasks=5)
        high = one.believed.records["manifest"].generation
        good = endpoints(one.believed)
        attack.restore()
        with lived.reader("n3", folder="never seen anything") as new:
            settled(new, tasks=6)  # who never saw the newer one cannot know: the limit that the threat model names
            tried.works(endpoints(new.believed) != good)
        until(lambda: one.look() and "an old state" in one.trust.held)
        assert endpoints(one.believed) == good
        with lived.reader("n1") as restarted:
            until(lambda: restarted.look() is not None and "an old state" in restarted.trust.held)
            tried.stopped(not restarted.believed.records)
        with lived.controller():
            settled(one, two, tasks=5)
            assert one.believed.records["manifest"].generation > high


def test_after_wipe_generations_continue_from_nodes(mesh: SmallMesh, etcd: EtcdServer) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        with mesh.controller():
            settled(one, two)
            mesh.live(one, two)
            high = one.believed.records["manifest"].generation
            assert high > 1
        one.speaks = two.speaks = False
        etcd.wipe()
        until(lambda: one.look() and one.trust.held, 20)
        with mesh.controller():
            time.sleep(1)  # it leads, and has heard nobody
            one.speaks = two.speaks = True
            settled(one, two)
            assert one.believed.records["manifest"].generation > high


def test_after_wipe_unheard_low_start_is_refused_loudly(mesh: SmallMesh, etcd: EtcdServer) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        with mesh.controller():
            settled(one, two)
            mesh.live(one, two)
            high = one.believed.records["manifest"].generation
        one.speaks = two.speaks = False
        etcd.wipe()
        for reader in (one, two):  # the plan needs to know nodes; what they have seen they keep to themselves
            reader.trust.manifest, kept = b"", reader.trust.manifest
            reader.speak()
            reader.trust.manifest = kept
        with mesh.controller():
            until(lambda: "an old state" in one.trust.held, 20)
            one.speaks = True
            settled(one, two)
            assert one.believed.records["manifest"].generation > high


def test_nodes_seen_generation_counts_only_if_signed(store: Store, mesh: SmallMesh, attempt: Attempts) -> None:
    tried = attempt("a node's root: a generation that never was is reported, to end the mesh")
    ledger = SignedWriter(store)
    forged = wrap(Signer(CLUSTER, STRANGER), "manifest", 10**9, codec.encode(ManifestRecord(0, bytes(32))))
    true = RECORD_SIGNER.sign("manifest", 41, codec.encode(ManifestRecord(0, bytes(32))))
    store.commit([Put(Status("n1", 0.0, (), forged), None), Put(Status("n2", 0.0, (), true), None)])
    ledger.observe(store.load([""]))
    assert ledger.commit([Put(Port("n", 1, "t"), 0)])
    tried.stopped(41 < store.load([""]).records["manifest"].generation < 50)
    gullible = Store([mesh.endpoint], Gullible(), root=mesh.root)
    believes = SignedWriter(gullible)
    believes.observe(gullible.load([""]))
    assert believes.commit([Put(Port("n", 2, "t"), 0)])
    tried.works(store.load([""]).records["manifest"].generation > 10**9)
    gullible.close()


def test_of_two_that_lead_one_writes(store: Store) -> None:
    one, two = SignedWriter(store), SignedWriter(store)
    service = Service("a", "a", IPv4Address("10.1.0.1"), (), None, strict=True, dnsrr=False, elsewhere=())
    for ledger in (one, two):
        ledger.observe(store.load([""]))
    assert one.commit([Put(service, None)])
    assert two.commit([Put(replace(service, name="b"), None)]) is None
    assert two.commit([Put(Port("n", 1, "t"), 0)]) is None, "not even what the manifest does not cover"
    assert one.commit([Put(Port("n", 1, "t"), 0)])
    two.observe(store.load([""]))
    assert two.commit([Put(replace(service, name="b"), None)])
    assert one.commit([Put(Port("n", 2, "t"), 0)]) is None, "nor when it has no reason to sign"
    assert one.commit([Put(service, None)]) is None


def test_signing_key_changes_while_agents_run(mesh: SmallMesh, attack: Attack) -> None:
    new = SigningKey.generate()
    both = Keyring(CLUSTER, (SIGNING_KEY.verify_key, new.verify_key))
    only_new = Keyring(CLUSTER, (new.verify_key,))
    with mesh.reader("n1", keyring=both) as one, mesh.reader("n2", keyring=both) as two:
        with mesh.controller():
            settled(one, two)
            good = endpoints(one.believed)
        with mesh.controller(new, both):
            until(lambda: signers(attack) == {new.verify_key.id}, 20)
            settled(one, two)
            assert endpoints(one.believed) == good
        assert all(endpoints(seen) == good for seen in one.everything if len(endpoints(seen)) == 6)
        with mesh.reader("n1", folder="n1", keyring=only_new) as later:
            settled(later)
            assert endpoints(later.believed) == good
        with mesh.reader("n1", folder="old", keyring=KEYRING) as late:
            until(lambda: late.look() is not None and late.trust.held)
            assert "may not sign" in late.trust.held
            assert not late.believed.records


def signers(attack: Attack) -> set[bytes]:
    """Who has signed what is there of the controller's."""
    return {peek(key, value).signer_id for key, value in attack.now().items() if keyspace.writer(key) == "controller"}


def test_a_controller_with_other_keys_touches_nothing(lived: SmallMesh, attack: Attack) -> None:
    theirs = Keyring(CLUSTER, (STRANGER.verify_key,))
    before = attack.now()
    with lived.reader("n1") as one, lived.controller(STRANGER, theirs) as controller:
        until(lambda: any("none is signed" in problem for problem in controller._decider.problems.open))
        settled(one, tasks=5)
    after = attack.now()
    assert {k: v for k, v in after.items() if keyspace.writer(k) == "controller"} == {
        k: v for k, v in before.items() if keyspace.writer(k) == "controller"
    }


def test_damage_outside_the_manifest_is_mended_too(lived: SmallMesh, attack: Attack) -> None:
    with lived.reader("n1") as one, lived.reader("n2") as two:
        settled(one, two, tasks=5)
        address = min(k for k in attack.now() if k.startswith("addresses/"))
        port = min(k for k in attack.now() if k.startswith("ports/"))
        good = {key: codec.decode(key, peek(key, attack.now()[key]).body) for key in (address, port)}
        for key in (address, port, "addresses/10.1.77.77", "ports/n1/9", "keys/n1/none"):
            attack.put(key, b"junk")
        with lived.controller():
            until(lambda: all(attack.now()[key].startswith(b"LWS") for key in (address, port)), 20)
            assert {key: codec.decode(key, peek(key, attack.now()[key]).body) for key in good} == good
            until(lambda: not {"ports/n1/9", "keys/n1/none"} & attack.now().keys())
            rests = codec.decode("addresses/10.1.77.77", peek("", attack.now()["addresses/10.1.77.77"]).body)
            assert rests == Address(IPv4Address("10.1.77.77"), None)


def test_controller_with_other_swarms_verify_keys_writes_nothing(mesh: SmallMesh, attack: Attack) -> None:
    mesh.swarm.id = "another"
    with mesh.reader("n1"), mesh.reader("n2"), mesh.controller() as controller:
        until(lambda: any("and this is another" in problem for problem in controller._decider.problems.open))
        assert not [key for key in attack.now() if keyspace.writer(key) == "controller"]
