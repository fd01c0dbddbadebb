"""Whatever a node may state and report, well signed: nothing crashes, and nobody else's task is touched."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model import codec, keyspace
from mesh.model.labels.ports import MAX_PORT
from mesh.model.net import IPAddress
from mesh.model.records import Attachment, Endpoint, Node, Record, Service, Status, TaskReport
from tests.unit.controller.test_node_judgement import N1, N2, Agent, Mesh

TASKS = ("t1", "t2", "t3", "none")
TEXT = st.text(max_size=30)
NUMBERS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 70_000))
ADDRESSES: st.SearchStrategy[IPAddress] = st.one_of(
    st.ip_addresses(), st.sampled_from([IPv4Address("127.0.0.1"), IPv6Address("::"), IPv4Address("100.96.0.2")])
)
ATTACHED = st.lists(st.builds(Attachment, TEXT, ADDRESSES), max_size=4).map(tuple)


def reports(node: str) -> st.SearchStrategy[TaskReport]:
    return st.builds(
        TaskReport,
        task=st.sampled_from(TASKS),
        service=st.one_of(TEXT, st.just("webid")),
        node=st.just(node),
        state=st.sampled_from(["created", "running", "gone"]),
        wired=st.booleans(),
        error=st.none() | TEXT,
        port_taken=NUMBERS,
        elsewhere=ATTACHED,
        spent=NUMBERS,
    )


def statements(agent: Agent) -> st.SearchStrategy[Node]:
    def stated(counter: int, address: IPAddress, ports: tuple[int, int], text: str) -> Node:
        agent.counter = counter
        said = replace(agent.record(), hostname=text, address=address, backend=text, version=text)
        return replace(said, first_port=ports[0], last_port=ports[1])

    port = st.integers(-70_000, 70_000)
    return st.builds(stated, st.integers(1, 2**62), ADDRESSES, st.tuples(port, port), TEXT)


def of_others(mesh: Mesh) -> dict[str, Record]:
    """What the mesh holds of services and of the other node's tasks."""
    records = {key: value.record for key, value in mesh.values.items()}
    return {
        key: record
        for key, record in records.items()
        if isinstance(record, Service) or (isinstance(record, Endpoint) and record.node == N2)
    }


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_statements_of_one_node_touch_no_others(data: st.DataObject) -> None:
    mesh, attacker, honest = Mesh(), Agent(N1), Agent(N2)
    for task, node in (("t1", N1), ("t2", N2), ("t3", N2)):
        mesh.run(task, node)
    mesh.say(attacker.signed(attacker.record()), honest.signed(honest.record()))
    for task in ("t2", "t3"):
        mesh.say(honest.signed(honest.report(task)))
    mesh.settle()
    before = of_others(mesh)
    assert len([record for record in before.values() if isinstance(record, Endpoint)]) == 2
    for number in range(data.draw(st.integers(1, 4))):
        status = st.builds(Status, st.just(N1), st.floats(), st.just(()), st.binary(max_size=40), TEXT, TEXT)
        record = data.draw(st.one_of(reports(N1), statements(attacker), status))
        key, raw = attacker.signed(record)
        if _is_readable(key, record):
            mesh.say((key, raw))
        mesh.run(f"later{number}", N1)
        mesh.settle()
        assert of_others(mesh) == before
        ports = [value.record.underlay.port for value in mesh.values.values() if isinstance(value.record, Endpoint)]
        assert all(0 < port <= MAX_PORT for port in ports)


def _is_readable(key: str, record: Record) -> bool:
    """Others are left out before they are judged (mesh.model.codec)."""
    try:
        return keyspace.key_of(codec.decode(key, codec.encode(record))) == key
    except Exception:  # noqa: BLE001 - any refusal will do here
        return False
