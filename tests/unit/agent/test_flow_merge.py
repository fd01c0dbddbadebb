"""Several nodes' flows as one stream: their order, who is believed of whom, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent.flows import documents, merge
from agent.flows.batch import Batch
from agent.flows.conntrack_events import Connection
from agent.flows.events import Begun, Counts, Refusal, Seen
from agent.flows.link_lookup import nodes_of, wanted_by
from agent.flows.merge import Merge, Told
from mesh.model.records import Endpoint
from tests.support.link_graphs import CLUSTER, endpoint, graph, service


def placed(found: str, task: str, number: int, node: str) -> Endpoint:
    return replace(endpoint(found, task, number), node=node)


WEB, DB = "10.1.0.1", "10.1.0.2"
OTHER = "10.1.0.9"
MADE = graph(
    CLUSTER,
    service("A", "shop_web", ("shop_db", "db")),
    service("B", "shop_db"),
    service("C", "blog_web", ("blog_db", "db")),
    service("D", "blog_db"),
    placed("A", "web", 1, "n2"),
    placed("B", "db", 2, "n3"),
    placed("C", "other", 9, "n1"),
    placed("D", "store", 10, "n2"),
)


def connection(source: str = WEB, backend: str = DB, port: int = 40_000, to: int = 5432) -> Connection:
    return Connection("tcp", IPv4Address(source), port, IPv4Address(backend), to, IPv4Address(backend))


def batch(at: float, *events: Seen | Refusal) -> Batch:
    seen = tuple(event for event in events if isinstance(event, Seen))
    refused = tuple(event for event in events if isinstance(event, Refusal))
    return Batch(at, Begun(1, 1), Counts(len(events), 0, 0, 1), seen=seen, refused=refused)


def made(name: str | None = None, nodes: Sequence[str] = ("n1", "n2", "n3")) -> Merge:
    return Merge(lambda: MADE, wanted_by(name), nodes)


def tasks(told: Sequence[Told]) -> list[tuple[str, str]]:
    return [(one.node, one.event.task) for one in told]


def test_nodes_of_both_ends_are_asked() -> None:
    assert nodes_of(MADE, wanted_by(None)) == {"n1", "n2", "n3"}
    assert nodes_of(MADE, wanted_by("shop")) == {"n2", "n3"}
    assert nodes_of(MADE, wanted_by("shop_db")) == {"n2", "n3"}
    assert nodes_of(MADE, wanted_by("blog_web")) == {"n1", "n2"}
    assert nodes_of(MADE, wanted_by("sho")) == set()


def test_events_are_told_in_their_order() -> None:
    """Nodes' clocks have nothing to do with ours, nor with each other."""
    one = made()
    one.add("n2", "w", 0, batch(5000.0, Seen("web", 4999.0, connection(port=1))), now=100.1)
    one.add("n3", "w", 0, batch(7.0, Seen("db", 6.5, connection(port=2))), now=100.2)
    one.add_own("n1", Seen("other", 99.4, connection(OTHER, "10.1.0.10")), now=100.3)
    told = list(one.pop(100.5))
    assert tasks(told) == [("n2", "web"), ("n1", "other"), ("n3", "db")]
    assert [round(each.at, 1) for each in told] == [99.1, 99.4, 99.7]
    assert list(one.pop(200.0)) == []


def test_what_is_later_waits() -> None:
    one = made()
    one.add("n2", "w", 0, batch(10.0, Seen("web", 9.0, connection())), now=100.0)
    assert list(one.pop(98.9)) == []
    assert len(list(one.pop(99.1))) == 1


def test_the_fastest_message_sets_the_clock() -> None:
    one = made()
    one.add("n2", "w", 0, batch(10.0), now=100.0)
    one.add("n2", "w", 1, batch(11.0, Seen("web", 10.5, connection())), now=103.0)  # etcd was slow
    (told,) = one.pop(200.0)
    assert told.at == 100.5


def test_both_ends_of_a_connection_are_one() -> None:
    one = made()
    one.add("n3", "w", 0, batch(10.0, Seen("db", 9.0, connection())), now=100.0)
    one.add("n2", "w", 0, batch(20.0, Seen("web", 19.1, connection())), now=100.0)
    assert tasks(list(one.pop(200.0))) == [("n2", "web")], "the consumer's end has the address that was asked"


def test_a_late_consumers_end_is_not_told_again() -> None:
    one = made()
    one.add("n3", "w", 0, batch(10.0, Seen("db", 9.0, connection())), now=100.0)
    assert tasks(list(one.pop(100.0))) == [("n3", "db")]
    one.add("n2", "w", 0, batch(20.0, Seen("web", 18.0, connection())), now=101.0)
    assert list(one.pop(200.0)) == []
    assert one.shown == 1


def test_a_consumers_node_hides_nothing_from_providers() -> None:
    """It says that it watches, and tells nothing: the provider's node does."""
    one = made()
    one.add("n2", "w", 0, batch(10.0), now=100.0)
    one.add("n3", "w", 0, batch(10.0, Seen("db", 9.0, connection())), now=100.0)
    assert tasks(list(one.pop(200.0))) == [("n3", "db")]


def test_the_same_ports_later_are_another_connection() -> None:
    one = made()
    one.add("n3", "w", 0, batch(10.0, Seen("db", 9.0, connection())), now=100.0)
    one.add("n2", "w", 0, batch(10.0, Seen("web", 9.0, connection())), now=100.0 + merge.SAME_S + 5)
    assert len(list(one.pop(200.0))) == 2


@pytest.mark.parametrize(
    "event",
    [
        Seen("web", 9.0, connection()),  # a task of n2
        Seen("nobody", 9.0, connection()),
        Seen("db", 9.0, connection(OTHER, DB)),  # no link
        Seen("db", 9.0, connection("192.0.2.1", DB)),  # no address of the mesh
        Seen("db", 9.0, connection(OTHER, "10.1.0.10")),  # none of its ends
        Refusal("web", 9.0, "in", "A", 3),
        Refusal("nobody", 9.0, "in", "A", 3),
    ],
)
def test_a_node_speaks_for_itself_alone(event: Seen | Refusal) -> None:
    one = made()
    one.add("n3", "w", 0, batch(10.0, event, Seen("db", 9.0, connection(port=7))), now=100.0)
    assert tasks(list(one.pop(200.0))) == [("n3", "db")]
    assert one.sources["n3"].disbelieved == 1


def test_links_that_nobody_asked_for_are_not_told() -> None:
    one = made("shop")
    one.add_own("n1", Seen("other", 9.0, connection(OTHER, "10.1.0.10")), now=10.0)
    assert list(one.pop(200.0)) == []


def test_batches_count_once_and_gaps_are_said() -> None:
    one = made()
    for number in (0, 0, 3, 2):
        one.add("n2", "w", number, batch(10.0 + number, Seen("web", 10.0, connection(port=number + 1))), now=100.0)
    assert len(list(one.pop(200.0))) == 2
    assert one.sources["n2"].missing == 2


def test_an_agent_that_starts_anew_is_heard_again() -> None:
    one = made()
    one.add("n2", "w", 7, batch(500.0, Seen("web", 499.0, connection(port=1))), now=100.0)
    one.add("n2", "x", 0, batch(3.0, Seen("web", 2.0, connection(port=2))), now=110.0)
    assert [each.at for each in one.pop(200.0)] == [99.0, 109.0]
    assert one.sources["n2"].total.events == 2


def test_a_flood_of_one_node_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "BURST", 50)
    monkeypatch.setattr(merge, "MOST_EVENTS", 10)
    one = made()
    flood = [Seen("db", 9.0, connection(port=port)) for port in range(1, 100)]
    one.add("n3", "w", 0, batch(10.0, *flood), now=100.0)
    one.add("n3", "w", 1, batch(11.0, *flood), now=102.0)
    assert len(list(one.pop(200.0))) == 70
    (part,) = documents.sums("counts", "n1", one, (), ())["nodes"]
    assert (part["node"], part["left_out"]) == ("n3", 2 * 99 - 70)


@pytest.mark.parametrize("at", [-1e300, 0.0, 500.0, 1e300])
def test_a_mad_clock_tells_no_mad_time(at: float) -> None:
    one = made()
    one.add("n2", "w", 0, batch(10.0), now=1000.0)
    one.add("n2", "w", 1, batch(at, Seen("web", at, connection())), now=1001.0)
    one.add("n2", "w", 2, batch(10.0, Seen("web", 10.0, connection(port=2))), now=1002.0)
    found = [told.at for told in one.pop(1002.0)]
    assert len(found) == 2
    assert all(1001.0 - merge.LONGEST_AGO_S <= moment <= 1002.0 for moment in found)


def test_documents_name_what_the_records_name() -> None:
    one = made()
    refusals = (Refusal("db", 9.0, "in", "A", 3), Refusal("db", 9.0, "in", "\x1b[2J", 1))
    one.add("n3", "w", 0, batch(10.0, Seen("db", 8.0, connection()), *refusals), now=100.0)
    found = [documents.told(MADE, told, told.at) for told in one.pop(200.0)]
    assert [(each["kind"], each["node"]) for each in found] == [("connection", "n3"), *[("refused", "n3")] * 2]
    assert (found[0]["consumer"], found[0]["provider"], found[0]["consumer_task"]) == ("shop_web", "shop_db", "web")
    assert [(each["service"], each["other"], each["packets"]) for each in found[1:]] == [
        ("shop_db", "shop_web", 3),
        ("shop_db", "", 1),
    ]


def test_nodes_without_answer_are_named() -> None:
    one = made()
    one.add_own("n1", Begun(1, 2, ("a problem",)), now=1.0)
    one.add("n2", "w", 0, batch(10.0), now=100.0)
    watched = documents.watched("n1", one, ())
    assert (watched["tasks"], watched["tasks_here"], watched["nodes_not_watched"]) == (2, 3, ["n3"])
    assert [each["node"] for each in watched["nodes"]] == ["n1", "n2"]
    end = documents.sums("end", "n1", one, (), {"n2"})
    assert [(each["node"], each["is_silent"]) for each in end["nodes"]] == [("n1", False), ("n2", True)]
    assert end["nodes_not_watched"] == ["n3"]
