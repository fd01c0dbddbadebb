"""Questions about a task, answered in its real namespace: each task is looked at once, however many are asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.firewall import nft
from agent.firewall.ruleset import Table
from agent.linux.netns import TaskNetns
from agent.linux.sysctl import OWN
from agent.probes.examiner import MOST_OWN, Examiner
from mesh.diagnosis.questions import Question
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.net import UdpEndpoint
from mesh.model.records import Endpoint, Record, Service
from mesh.topology.link_graph import LinkGraph
from tests.netns.programs import Servers
from tests.netns.services import Link, Services
from tests.netns.world import MESH, MESH6, Task, World
from tests.support.link_graphs import CLUSTER, graph

PORTS = (51800, 51899)


def identity(task: Task) -> str:
    """A task's id, after which its device is called."""
    return task.name.removeprefix("lw").ljust(25, "0")


@dataclass
class Examined:
    """The examiner of a consumer's node, whose consumer is linked to some tasks of one provider."""

    mesh: Services
    hosts: Path
    looks: list[str] = field(default_factory=list)

    def question(self, at: int, *ports: int, tries: bool = True) -> Question:
        """About the consumer's task and one of the provider's."""
        peer = self.mesh.tasks["db"][at]
        return Question("n1", identity(self.mesh.tasks["web"][0]), identity(peer), tries=tries, ports=ports)

    def examiner(self) -> Examiner:
        (web,) = self.mesh.tasks["web"]
        local = SimpleNamespace(task=identity(web), netns=web.netns.path, hosts=str(self.hosts), problem=None)
        interface = SimpleNamespace(applied=None)
        states: Any = {"web": SimpleNamespace(local=local, interface=interface, error=None)}
        return Examiner(states, self._graph, web.node.backend, PORTS)

    def _graph(self) -> LinkGraph:
        links = {"web": (LinkLabel("db", ("db",)),), "db": ()}
        records: list[Record] = []
        for name, its in links.items():
            vip: Any = self.mesh.vip(name)
            records.append(Service(name, name, vip, its, None, strict=True, dnsrr=False, elsewhere=()))
            records += [self._endpoint(name, number, task) for number, task in enumerate(self.mesh.tasks[name])]
        return graph(replace(CLUSTER, subnet=MESH, subnet6=MESH6), *records)

    def _endpoint(self, service: str, slot: int, task: Task) -> Endpoint:
        return Endpoint(
            service=service,
            task=identity(task),
            slot=slot,
            node="n1",
            address=task.address.ip,
            public_key=task.key.public,
            epoch=0,
            underlay=UdpEndpoint(task.node.address.ip, task.port),
            ready=True,
            elsewhere=(),
        )


@pytest.fixture
def examined(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Examined]:
    mesh = Services.make(world, web=1, db=3)
    mesh.link(Link.of("web", "db", "80/tcp"))
    for task in mesh.every():  # as Docker has it in every container
        task.netns.run(lambda: (OWN / "ipv4/ping_group_range").write_text("0 2147483647"))
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{mesh.vip('db')} db\n")
    made, read = Examined(mesh, hosts), nft.read

    def counted(netns: TaskNetns) -> Table | None:
        made.looks.append(netns.path)
        return read(netns)

    monkeypatch.setattr(nft, "read", counted)
    with Servers() as servers:
        for task in mesh.tasks["db"][:2]:
            servers.add("db", task.netns, 80)
        yield made


def test_links_of_a_task_take_two_looks(examined: Examined) -> None:
    first, second, third = examined.examiner().examine([examined.question(at, 80) for at in range(3)])
    for answer in (first, second, third):
        assert answer.look.is_peer
        assert answer.look.received > answer.look.mtu, "the look was before the trial"
        assert answer.trial is not None
        assert (answer.trial.small, answer.trial.large) == (True, True)
        assert answer.trial.names == (("db", (str(examined.mesh.vip("db")),)),)
    direct = [answer.trial.connections[0].outcome for answer in (first, second, third) if answer.trial]
    assert direct == ["open", "open", "refused"]
    assert len(examined.looks) == 2, "as many looks as links"


def test_many_questions_are_answered_in_order(examined: Examined) -> None:
    asked = [examined.question(at % 3, tries=False) for at in range(MOST_OWN - 1)]
    foreign = Question("n1", "nobody", "nothing", tries=True)
    *answers, last = examined.examiner().examine([*asked, foreign])
    assert [answer.look.is_peer for answer in answers] == [True] * len(asked)
    assert all(answer.trial is None for answer in answers)
    assert last.look.error == "this node's records do not have this link"
    assert len(examined.looks) == 1
