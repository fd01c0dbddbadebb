"""The audit log's writer: which events operations mean, and what it does about floods, failures and damage."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.reporting.audit_log import AuditReader
from controller.audit.differences import MAX_LINKS, View, events
from controller.audit.log import MAX_PAGES, MAX_PENDING, MAX_PROBLEMS, RESIGNED, AuditLog, Written
from controller.steps import PlanStep, Step
from controller.swarm.model import Deploy, Swarm, SwarmNode
from mesh.crypto.hpke import NodeKey
from mesh.model import keyspace
from mesh.model.audit.page import MAX_PACKED, MAX_TEXT, AuditPage, Event, packed
from mesh.model.encryption.records import EncryptionWanted, NodeEncryption, Underlay
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.labels.ports import PortRange
from mesh.model.net import UdpEndpoint
from mesh.model.records import Member, Record, Service
from mesh.model.snapshot import Delete, Op, Put, Snapshot, Versioned
from mesh.store.packing import MAX_OPS
from tests.support.swarm_world import DB, REPORT_KEY, WEB, node_of, private_key
from tests.unit.controller.transactions import fresh, made_of, settled
from tests.unit.mesh.test_codec import NODE

OWN = b"own key"
NODE_KEY = private_key(1).public
NOTHING = Swarm("cluster", {}, {}, {}, ())
VIP = IPv4Address("10.1.0.9")


def shown(*records: Record) -> Snapshot:
    found = {keyspace.key_of(record): Versioned(record, 1, signer=OWN) for record in records}
    return Snapshot(revision=1, complete=True, records=found)


def service(*links: LinkLabel, strict: bool = True, expose: tuple[PortRange, ...] | None = None) -> Service:
    return Service("webid", "shop_web", VIP, links, expose, strict, dnsrr=False, elsewhere=())


def told(ops: list[Op], stored: Snapshot, swarm: Swarm = NOTHING, *, mends: bool = False) -> list[Event]:
    return [event for _, event in events(ops, View(stored, swarm, mends))]


class Pages:
    """A store with the log's pages alone."""

    def __init__(self) -> None:
        self.pages: dict[str, AuditPage] = {}
        self.loaded = 0

    def load(self, _prefixes: object) -> Snapshot:
        self.loaded += 1
        return shown(*self.pages.values())

    def commit(self, log: AuditLog, written: Written) -> None:
        for put in written.puts:
            assert isinstance(put.record, AuditPage)
            self.pages[put.key] = put.record
        log.commit(written, 1)

    def lines(self) -> Counter[str]:
        return Counter(str(line.get("kind", line.get("problem"))) for line in AuditReader().news(self.load(())))


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def log(pages: Pages) -> AuditLog:
    made = AuditLog(pages.load, "manager-1", OWN)
    made.look(View(Snapshot(), NOTHING))
    return made


def test_each_step_of_node_encryption_is_told() -> None:
    on, strict = NodeEncryption("prefer", "send", 4789, 7), NodeEncryption("strict", "enforce", 4789, 8)
    at = UdpEndpoint(VIP, 51819)
    place = Underlay("n1", NODE_KEY, at)
    swarm = Swarm("cluster", {}, {}, {"n1": node_of("n1")}, ())
    begun = told([Put(on, 0), Put(place, 0)], shown(), swarm)
    assert begun == [
        Event.of("node encryption begun", mode="prefer", step="send"),
        Event.of(
            "encryption peer added", node="host-n1", id="n1", public_key=str(NODE_KEY), address="10.1.0.9:51819"
        ),
    ]
    (changed,) = told([Put(strict, 1)], shown(on), swarm)
    assert changed == Event.of("node encryption changed", mode="strict", step="enforce")
    moved = replace(place, endpoint=UdpEndpoint(VIP, 51820))
    ended = told([Put(moved, 1)], shown(place)) + told(
        [Delete("encryption", 1), Delete("peers/n1", 1)], shown(on, place)
    )
    assert [event.kind for event in ended] == [
        "encryption peer changed",
        "node encryption ended",
        "encryption peer removed",
    ]


def test_node_that_had_keys_rotate_is_named() -> None:
    """Any node may have them rotate, by what it says of its clock."""
    asked, swarm = EncryptionWanted(5, 7), Swarm("cluster", {}, {}, {"n1": node_of("n1")}, ())
    good = replace(NODE, id="n2", encryption_spent=None)
    for spent, names in ((7, "host-n1"), (3, ""), (None, "")):
        stored = shown(asked, replace(good, id="n1", encryption_spent=spent), good)
        found = told([Put(replace(asked, epoch=9), 1)], stored, swarm)
        assert found == [Event.of("node keys requested", epoch=9, clocks_went_back=names)]
    assert told([Put(replace(asked, all_since=9), 1)], shown(asked)) == []
    assert told([Put(asked, 0)], shown()) == []
    assert told([Delete("encryptionwanted", 1)], shown(asked)) == []


def test_each_change_of_a_service_is_told() -> None:
    db, cache = LinkLabel("shop_db", ("db",)), LinkLabel("shop_cache", ("cache",), (PortRange("tcp", 80, 81),))
    before = service(db, expose=(PortRange("tcp", 80, 80),))
    after = service(replace(db, key="shop_k", rotate=3600), cache, strict=False)
    found = told([Put(after, 1)], shown(before))
    assert [event.kind for event in found] == ["service settings changed", "link created", "link changed"]
    settings, created, changed = (dict(event.details) for event in found)
    assert (settings["strict"], settings.get("expose")) == ("false", None)
    assert (created["ports"], created["key"]) == ("80-81/tcp", "shop_web:shop_cache")
    assert (changed["key"], changed["rotate"]) == ("shop_k", "1h")
    assert [event.kind for event in told([Delete("services/webid", 1)], shown(after))] == [
        "service left",
        "link removed",
        "link removed",
    ]
    assert told([Put(after, 1)], shown(after)) == []


def test_the_deploy_is_swarms_word() -> None:
    swarm_service = replace(WEB, id="webid", deploy=Deploy(81, "2026-11-28T17:00:00Z", "pipeline 7"))
    swarm = replace(NOTHING, services={"webid": swarm_service})
    (joined,) = told([Put(service(), 0)], Snapshot(), swarm)
    assert dict(joined.details) == {
        "service": "shop_web",
        "stack": "shop",
        "id": "webid",
        "version": "81",
        "updated": "2026-11-28T17:00:00Z",
        "deploy": "pipeline 7",
    }


def test_what_is_put_back_is_no_link() -> None:
    found = told([Put(service(LinkLabel("shop_db", ("db",))), 0)], Snapshot(), mends=True)
    assert found == [Event.of("record restored", key="services/webid")]


def test_many_links_are_counted() -> None:
    links = tuple(LinkLabel(f"shop_s{n}", (f"s{n}",)) for n in range(MAX_LINKS + 7))
    found = told([Put(service(*links), 0)], Snapshot())
    assert Counter(event.kind for event in found) == {
        "service joined": 1,
        "link created": 50,
        "more links changed": 1,
    }
    assert dict(found[-1].details)["count"] == "7"


def test_every_step_of_a_plan_is_told() -> None:
    """By a real plan: who comes and goes in the plan comes and goes in the log."""
    store, world = fresh()
    world.add(WEB)
    (db,) = world.add(DB, "n2")
    plan = made_of(store, world)
    ops = [op for step in plan.steps if isinstance(step, PlanStep) for op in step.ops]
    kinds = Counter(event.kind for event in told(ops, store.snapshot(), world.swarm()))
    assert kinds["service joined"] == 2
    assert kinds["link created"] == 1
    settled(store, world)
    world.change(db.id, state="failed")
    steps: tuple[Step, ...] = made_of(store, world).steps
    deletes = [op for step in steps for op in getattr(step, "deletes", getattr(step, "ops", ()))]
    assert "task key dropped" in {event.kind for event in told(deletes, store.snapshot(), world.swarm())}


def test_a_transaction_that_failed_told_nothing(log: AuditLog, pages: Pages) -> None:
    log.start_term()
    failed = log.pages([Put(service(), 0)])
    log.commit(failed, None)
    pages.commit(log, log.pages([Put(service(), 0)]))
    assert pages.lines() == {"audit log begun": 2, "lead taken": 1, "service joined": 1}
    assert not log.waits
    assert log.pages([]) == Written()
    before = pages.loaded
    log.lose()
    pages.commit(log, log.pages([Delete("services/webid", 1), Put(service(), 0)]))
    assert pages.loaded == before + 1, "the outcome of the last one is not known"


def test_a_flood_is_counted_and_not_recorded(log: AuditLog, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("controller.audit.log.time.monotonic", lambda: now[0])
    for turn in range(20):
        log.note_problems(f"turn {turn}: label {n} is bad" for n in range(100))
    now[0] += 61
    log.note_problems(["the last one"])
    pages.commit(log, log.pages([]))
    lines = pages.lines()
    assert lines["problem found"] + lines["problem solved"] == MAX_PROBLEMS + MAX_PROBLEMS
    assert lines["problems not recorded"] == 2
    for turn in range(100):
        now[0] += 61
        log.note_problems(f"turn {turn}: label {n} is bad" for n in range(100))
    assert len(log._pending) == MAX_PENDING, "while the store is not in use"


@given(st.lists(st.builds(lambda text: Event.of("problem found", reason=text), st.text(max_size=2 * MAX_TEXT))))
def test_events_come_round_in_pages(found: list[Event]) -> None:
    if not found:
        return
    read: list[Event] = []
    for number, (batch, raw) in enumerate(packed(found), 1):
        assert len(raw) <= MAX_PACKED or len(batch) == 1
        read += AuditPage("routine", number, b"", 0.0, "c", raw).events()
    assert read == found
    assert all(text.isprintable() for event in found for _, text in event.details)


def test_a_transaction_has_room_for_its_pages(log: AuditLog, pages: Pages) -> None:
    links = [
        replace(
            service(*(LinkLabel(f"s{n}_{m}" * 8, ("s",)) for m in range(MAX_LINKS))), id=f"id{n}", name=f"n{n}" * 20
        )
        for n in range(MAX_OPS)
    ]
    written = log.pages([Put(one, 0) for one in links])
    assert len(written.puts) <= 2 * MAX_PAGES <= 128 - 2 - MAX_OPS
    pages.commit(log, written)
    assert pages.lines()["events not recorded"] == 1


def test_a_node_is_named_as_swarm_does() -> None:
    node = SwarmNode("n1", "host-1", down=False, address=None, approved="ab" * 32)
    swarm = replace(NOTHING, nodes={"n1": node})
    member = Member("n1", NodeKey(bytes(32)).public, REPORT_KEY, 3)
    for op, kind in ((Put(member, 0), "node accepted"), (Delete("members/n1", 1), "node forgotten")):
        (event,) = told([op], shown(member) if isinstance(op, Delete) else Snapshot(), swarm)
        details = dict(event.details)
        assert (event.kind, details["node"], details["counter"]) == (kind, "host-1", "3")
        assert details["approved"] == "ab" * 32


def test_pages_of_another_key_are_signed_again(pages: Pages) -> None:
    old, new = (AuditLog(pages.load, "manager-1", key) for key in (OWN, b"new key"))
    for log in (old, new):
        log.look(View(Snapshot(), NOTHING))
    for number in range(RESIGNED + 5):
        pages.commit(old, old.pages([Put(replace(service(), id=f"id{number}"), 0)]))
    new.start_term()
    pages.commit(new, new.pages([]))
    done: set[str] = set()
    while new.waits:
        part = new.resigned()
        assert 0 < len(part) <= RESIGNED
        assert all(put.revision == 1 for put in part), "one that is overwritten meanwhile is not put back"
        done |= {put.key for put in part}
        new.signed_again(part, 1)
    assert done == {
        key for key, page in pages.pages.items() if page.number <= RESIGNED + 5 and page.stream == "decisions"
    } | {"audit/routine/0001"}


def chained(log: AuditLog, pages: Pages) -> dict[str, AuditPage]:
    """Five pages of decisions."""
    for number in range(5):
        pages.commit(log, log.pages([Put(replace(service(), id=f"id{number}"), 0)]))
    assert [text for text in pages.lines() if "audit log," in text] == []
    return pages.pages


def test_a_page_that_is_missing_is_named(log: AuditLog, pages: Pages) -> None:
    del chained(log, pages)["audit/decisions/0003"]
    assert pages.lines()["audit log, decisions: 1 pages are missing: 3"] == 1


def test_a_page_of_another_chain_is_named(log: AuditLog, pages: Pages) -> None:
    """Signed by the controller, of before a wipe, and with the same number."""
    kept = chained(log, pages)
    kept["audit/decisions/0003"] = replace(kept["audit/decisions/0003"], packed=kept["audit/decisions/0002"].packed)
    text = "audit log, decisions: page 4 does not follow page 3: one of them was replaced by another"
    assert pages.lines()[text] == 1
