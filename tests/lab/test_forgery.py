"""A running mesh whose etcd belongs to somebody else: no packet moves, no peer is removed, nothing old comes back.

Each attack is also made with the mesh's own signing seed, which shows that it works where the signature does not stop
it, and that it would be seen here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from mesh.crypto.keys import PrivateKey
from mesh.crypto.signed_envelope import Signer, SigningKey, peek
from mesh.model.net import UdpEndpoint
from mesh.model.records import Endpoint
from tests.chaos.killer import processes
from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.etcd_owner import Dump, EtcdOwner, read, signed
from tests.lab.layout import LabError
from tests.lab.requests import Counted, Requests
from tests.lab.test_faults import STACK
from tests.support.attacks import Attempts

pytestmark = pytest.mark.usefixtures("staying")

WATCH_S = 4.0
Attack = Callable[[EtcdOwner, str, Signer], None]


@pytest.fixture
def linked(stacks: Deployment) -> Deployment:
    """A client on n1 linked to a web server on n2."""
    stacks.staying.add("forged")
    stacks.deploy("forged", STACK.format(image=stacks.images.demo))
    stacks.wait_connected("forged")
    checker.settle(stacks.lab)
    return stacks


@contextmanager
def no_controller(linked: Deployment) -> Iterator[None]:
    """Meanwhile nobody mends what is broken: agents are on their own."""
    manager = linked.lab.manager
    manager.docker("service", "scale", "--detach", "linkwire_controller=0")
    process.wait_for("the controllers to end", lambda: not processes(linked.lab, "controller"), seconds=30)
    try:
        yield
    finally:
        manager.docker("service", "scale", "--detach", "linkwire_controller=2")


def problems(linked: Deployment) -> str:
    """What `docker linkwire ps` says is wrong, all of it."""
    return "\n".join(linked.ps("forged")["problems"])


def requests_during(linked: Deployment, attack: Callable[[], object]) -> Counted:
    node, client = linked.wait_running("forged_client", 1)[0]
    with Requests(node, client, "http://web/") as requests:
        attack()
        time.sleep(WATCH_S)
    return requests.counted


def seed(linked: Deployment) -> Signer:
    """The mesh's own signing seed, as a manager's root has it."""
    node, container = linked.tasks("linkwire_controller")[0]
    text = node.docker("exec", container, "cat", "/run/secrets/linkwire_signing_seed").stdout
    cluster = linked.lab.manager.get("/info")["Swarm"]["Cluster"]["ID"]
    return Signer(cluster, SigningKey(bytes.fromhex(text.strip())))


def victim(dump: Dump, linked: Deployment) -> str:
    """The key of web's endpoint."""
    service = linked.lab.manager.get("/services/forged_web")["ID"]
    return next(key for key in dump if key.startswith(f"endpoints/{service}/"))


def redirect(owner: EtcdOwner, key: str, signer: Signer) -> None:
    """Send what is for web to an address and a key of his own; with web's key, its next packet would put it right."""
    endpoint = read(owner.dump(), key)
    assert isinstance(endpoint, Endpoint)
    elsewhere = UdpEndpoint(IPv4Address("203.0.113.66"), endpoint.underlay.port)
    forged = replace(endpoint, underlay=elsewhere, public_key=PrivateKey.generate().public)
    owner.put(key, signed(signer, forged, peek(key, owner.dump()[key]).generation + 1))


def hold_back(owner: EtcdOwner, key: str, _signer: Signer) -> None:
    owner.delete(key)


def put_back(owner: EtcdOwner, key: str, signer: Signer, before: Dump) -> None:
    """Undo what was signed with the mesh's own seed: nobody could tell it from what the controller signed."""
    owner.put(key, signed(signer, read(before, key), peek(key, before[key]).generation + 2))
    owner.sign_all(signer)


def attacked(linked: Deployment, attack: Attack, figure: Callable[[str], None]) -> tuple[Counted, Counted]:
    """Requests lost with the defence, and without: made by a stranger, and by one who has the signing seed."""
    owner, own = EtcdOwner(linked.lab), seed(linked)
    stranger = Signer(own.cluster, SigningKey.generate())
    with no_controller(linked):
        before = owner.dump()
        key = victim(before, linked)

        def try_it() -> None:
            attack(owner, key, stranger)
            process.wait_for("it to be seen", lambda: "not what was signed" in problems(linked), seconds=20)

        defended = requests_during(linked, try_it)
        assert "keeps what it last verified" in problems(linked)
        owner.restore(before)
        process.wait_for("all to be verified again", lambda: "verified" not in problems(linked), seconds=20)

        def succeed() -> None:
            attack(owner, key, own)
            owner.sign_all(own)

        undefended = requests_during(linked, succeed)
        put_back(owner, key, own, before)
    checker.settle(linked.lab)
    linked.wait_connected("forged")
    figure(f"{attack.__name__}: {defended}; with the mesh's own signing seed {undefended}")
    return defended, undefended


def is_refused_by(linked: Deployment, agents: int) -> bool:
    """Whether so many agents refuse an old state; no answer where the one that is asked is just starting."""
    with suppress(LabError):
        return problems(linked).count("an old state") >= agents
    return False


def test_a_forged_record_redirects_nothing(
    linked: Deployment, figure: Callable[[str], None], attempt: Attempts
) -> None:
    tried = attempt("etcd's owner, on a running mesh: a forged endpoint sends packets elsewhere")
    defended, undefended = attacked(linked, redirect, figure)
    tried.works(undefended.lost > 0, "with the mesh's own signing seed")
    tried.stopped(defended.lost == 0)
    assert defended.ok > 50


def test_a_record_held_back_removes_no_peer(
    linked: Deployment, figure: Callable[[str], None], attempt: Attempts
) -> None:
    tried = attempt("etcd's owner, on a running mesh: a record held back removes a peer")
    defended, undefended = attacked(linked, hold_back, figure)
    tried.works(undefended.lost > 0, "with the mesh's own signing seed")
    tried.stopped(defended.lost == 0)
    assert defended.ok > 50


def test_old_state_is_refused_across_restarts_generations_continue(
    linked: Deployment, figure: Callable[[str], None]
) -> None:
    owner = EtcdOwner(linked.lab)
    old = owner.dump()
    linked.lab.manager.docker("service", "scale", "--detach", "forged_spare=2")
    linked.wait_running("forged_spare", 2)
    linked.wait_connected("forged")
    generation = peek("manifest", owner.dump()["manifest"]).generation
    assert generation > peek("manifest", old["manifest"]).generation

    def attack() -> None:
        owner.restore(old)
        process.wait_for("it to be refused", lambda: "an old state" in problems(linked), seconds=20)
        for pid in processes(linked.lab, "worker"):
            os.kill(pid, signal.SIGKILL)
        time.sleep(2)
        process.wait_for("it to be refused again", lambda: is_refused_by(linked, 3), seconds=30)

    with no_controller(linked):
        lost = requests_during(linked, attack)
    process.wait_for("all to be verified again", lambda: "verified" not in problems(linked), seconds=60)
    linked.wait_connected("forged")
    checker.settle(linked.lab)
    after = peek("manifest", owner.dump()["manifest"]).generation
    figure(f"an old state, across restarts of all agents: {lost}; generation {generation}, then {after}")
    assert lost.lost == 0
    assert after > generation
