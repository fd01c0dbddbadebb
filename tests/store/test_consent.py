"""Consent of the provider, with real controllers on a real etcd: what a stranger's labels wire and change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.swarm.model import SwarmService
from mesh.model.labels import link_labels as codec
from mesh.model.labels.consent import stack_of
from mesh.model.labels.link_labels import LinkLabel, key_name
from mesh.model.records import LinkKeyEpoch, Service
from mesh.model.snapshot import Snapshot
from mesh.topology.link_graph import index
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import Reader, SmallMesh
from tests.store.waiting import until
from tests.support.attacks import Attempts

Labels = dict[str, str]


def named(name: str, **labels: str) -> SwarmService:
    """A service as Swarm has it, of the stack of its name; `links` stands for the label `linkwire.links`."""
    read, errors = codec.decode({f"linkwire.{label.replace('__', '.')}": value for label, value in labels.items()})
    assert not errors, errors
    stack = stack_of(name, name.partition("_")[0])
    return SwarmService(f"#{name}", name, read, errors, dnsrr=False, replicas=None, stack=stack)


class Tenants:
    """Services of several stacks, and a look at what the nodes believe."""

    def __init__(self, mesh: SmallMesh, reader: Reader) -> None:
        self._mesh, self._reader = mesh, reader
        mesh.swarm.services_now, mesh.swarm.tasks_now = {}, {}

    def are(self, *services: SwarmService) -> None:
        """Deploy these, in place of those of the same name; each has one task."""
        swarm = self._mesh.swarm
        new = [service for service in services if service.id not in swarm.services_now]
        swarm.services_now = {**swarm.services_now, **{service.id: service for service in services}}
        for service in new:
            swarm.start(service.name)
        self._mesh.wake()

    def believed(self) -> Snapshot:
        return self._reader.look()

    def joined(self, consumer: str, provider: str) -> bool:
        """Whether a node that believes the store makes the one service's task a peer of the other's."""
        graph = index(self.believed())
        ours = [e for e in graph.by_task.values() if e.service == f"#{consumer}"]
        return any(peer.service == f"#{provider}" for e in ours for peer in graph.peers(e))

    def record(self, service: str) -> Service | None:
        return next((one for one in self.believed().all(Service) if one.name == service), None)

    def quiet(self) -> None:
        """Wait until a service that came last is wired: all that came before has been planned by then."""
        last = f"last_{len(self._mesh.swarm.services_now)}"
        self.are(named(last, links=last))
        until(lambda: self._reader.verified() and self.record(last) is not None, 20)


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


Scene = Callable[[Tenants], None]


def play(mesh: SmallMesh, scene: Scene) -> None:
    with mesh.reader("n1") as reader, mesh.reader("n2"), mesh.controller():
        scene(Tenants(mesh, reader))


def test_a_stranger_links_to_a_silent_service(mesh: SmallMesh, attempt: Attempts) -> None:
    tried = attempt("may create services: a link to another stack's service that never heard of it")

    def scene(tenants: Tenants) -> None:
        tenants.are(named("pay_web", links="pay_db"), named("pay_db", allow="*"))
        tenants.are(named("evil_x", links="pay_db:db"))
        until(lambda: tenants.joined("evil_x", "pay_db"), 20)
        tried.works(tenants.joined("pay_db", "evil_x"), "where it lets everybody in")
        tenants.are(named("pay_db"))  # its owner says nothing, and the link was made before
        tenants.are(named("pay_db", allow=""))
        until(lambda: not tenants.joined("evil_x", "pay_db"), 20)
        until(lambda: tenants.joined("pay_web", "pay_db"), 20)
        tenants.are(named("pay_db"))
        tenants.quiet()
        tried.stopped(not tenants.joined("evil_x", "pay_db"), "by a provider that says nothing")
        assert tenants.joined("pay_web", "pay_db"), "its own stack's link goes on"

    play(mesh, scene)


def test_a_stranger_wires_services_and_cuts_them(mesh: SmallMesh, attempt: Attempts) -> None:
    tried = attempt("may create services: labels that name two services of others wire them, and `strict` cuts them")

    def scene(tenants: Tenants) -> None:
        tenants.are(named("pay_api", allow="evil"), named("pay_db", allow="evil"))
        tenants.are(named("evil_x", links="pay_api,pay_db"))
        until(lambda: tenants.joined("evil_x", "pay_db") and tenants.joined("evil_x", "pay_api"), 20)
        tried.works(
            all(r is not None and r.strict for r in map(tenants.record, ("pay_api", "pay_db"))), "if asked for"
        )
        tenants.are(named("pay_api", allow=""), named("pay_db", allow=""))
        until(lambda: tenants.record("pay_api") is None and tenants.record("pay_db") is None, 20)
        tenants.are(named("pay_api"), named("pay_db"))
        tenants.quiet()
        tried.stopped(tenants.record("pay_api") is None and tenants.record("pay_db") is None)

    play(mesh, scene)


def test_a_stranger_shares_and_rotates_a_key(mesh: SmallMesh, attempt: Attempts) -> None:
    tried = attempt("may create services: another stack's link key is named, shared and renewed")
    label = {"link__shop_db__key": "shop_k"}
    ours = named("shop_web", links="shop_db", **label), named("shop_db")
    raw = {"linkwire.links": "evil_y", "linkwire.link.evil_y.key": "shop_k", "linkwire.renew": "abc"}

    def scene(tenants: Tenants) -> None:
        tenants.are(*ours)
        until(lambda: tenants.joined("shop_web", "shop_db"), 20)
        before = epoch(tenants, "shop_k")
        read, _ = codec.decode(raw)
        as_named = LinkLabel("evil_y", ("evil_y",), key="shop_k")
        tried.works(key_name("evil_x", as_named) == "shop_k" == read.links[0].key, "where a name alone counts")
        evil = SwarmService("#evil_x", "evil_x", read, (), dnsrr=False, replicas=None, stack="evil")
        tenants.are(evil, named("evil_y"))
        until(lambda: tenants.joined("evil_x", "evil_y"), 20)
        record = tenants.record("evil_x")
        assert record is not None
        tried.stopped([link.key for link in record.links] == [None])
        tenants.quiet()
        tried.stopped(epoch(tenants, "shop_k") == before, "its epoch was changed")

    play(mesh, scene)


def test_two_stacks_names_that_run_together_are_apart(mesh: SmallMesh, attempt: Attempts) -> None:
    tried = attempt("may create services: a stack's name and a key's that read like another stack's key")
    victim = named("a_web", links="a_db", link__a_db__key="a_b_c"), named("a_db")
    read, _ = codec.decode({"linkwire.links": "a_b_db", "linkwire.link.a_b_db.key": "a_b_c"})
    evil = SwarmService("#a_b_x", "a_b_x", read, (), dnsrr=False, replicas=None, stack="a_b")
    other = SwarmService("#a_b_db", "a_b_db", codec.ServiceLabels(), (), dnsrr=False, replicas=None, stack="a_b")

    def scene(tenants: Tenants) -> None:
        tenants.are(*victim, evil, other)
        until(lambda: tenants.joined("a_web", "a_db") and tenants.joined("a_b_x", "a_b_db"), 20)
        records = [record for name in ("a_web", "a_b_x") if (record := tenants.record(name)) is not None]
        tried.works([label.key for label in (*victim[0].labels.links, *read.links)] == ["a_b_c"] * 2, "in the labels")
        tried.stopped([link.key for record in records for link in record.links] == ["a_b_c", "a_b::c"])

    play(mesh, scene)


def test_a_link_from_before_outlives_the_upgrade(mesh: SmallMesh, attempt: Attempts) -> None:
    tried = attempt("may create services: a link of an earlier version is kept after its provider has spoken")

    def scene(tenants: Tenants) -> None:
        tenants.are(named("blog_web", links="shop_db"), named("shop_db", allow="blog"))
        until(lambda: tenants.joined("blog_web", "shop_db"), 20)
        tenants.are(named("shop_db"))  # as an earlier version left it
        tenants.quiet()
        tried.works(tenants.joined("blog_web", "shop_db"), "as long as the provider says nothing")
        tenants.are(named("shop_db", allow=""))
        until(lambda: not tenants.joined("blog_web", "shop_db"), 20)
        tried.stopped()
        tenants.are(named("shop_db", allow="blog_web"))
        until(lambda: tenants.joined("blog_web", "shop_db"), 20)

    play(mesh, scene)


def test_a_declared_link_needs_the_consumer(mesh: SmallMesh, attempt: Attempts) -> None:
    tried = attempt("may create services: a link from another stack's proxy, declared at the tenant's service")

    def scene(tenants: Tenants) -> None:
        tenants.are(named("proxy_front", accept="*"), named("shop_web", **{"from": "proxy"}))
        until(lambda: tenants.joined("proxy_front", "shop_web"), 20)
        record = tenants.record("proxy_front")
        assert record is not None
        assert record.links == (LinkLabel("shop_web", ("shop_web",)),)
        tried.works(not tenants.joined("shop_web", "proxy_x"), "where the proxy accepts it")
        tenants.are(named("proxy_front", accept="blog"))
        until(lambda: not tenants.joined("proxy_front", "shop_web"), 20)
        tried.stopped()

    play(mesh, scene)


def epoch(tenants: Tenants, key: str) -> int | None:
    return next((one.epoch for one in tenants.believed().all(LinkKeyEpoch) if one.key == key), None)
