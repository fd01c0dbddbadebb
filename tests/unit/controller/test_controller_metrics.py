"""Numbers of the mesh for Prometheus: sums, counted from what the loop has seen last."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from controller.reporting.metrics import ControllerMetrics, Sight
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.net import UdpEndpoint
from mesh.model.records import Leader, Node
from tests.support.metrics_pages import RECORDS, snapshot, swarm
from tests.support.swarm_world import private_key

SIGHT = Sight(snapshot(*RECORDS), swarm(), leads=True, silent=frozenset({"n2"}), problems=2, committed=30, outdated=1)


def values(measured: ControllerMetrics) -> dict[str, float]:
    """Of the controller's own metrics, but for the histogram."""
    lines = [line for line in measured.text.splitlines() if not line.startswith("#") and "duration" not in line]
    return {
        name.removeprefix("linkwire_controller_"): float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines)
    }


def test_all_of_it() -> None:
    clock = [100.0]
    measured = ControllerMetrics("0.1.0", "manager-1", lambda: clock[0])
    measured.observe(SIGHT)
    measured.count_pass(0.01, failed=False)
    clock[0] += 7
    measured.count_pass(0.01, failed=True)
    assert values(measured) == {
        'info{version="0.1.0"}': 1,
        "leader": 1,
        "pass_age_seconds": 7,
        'passes_total{result="done"}': 1,
        'passes_total{result="failed"}': 1,
        'plan_steps_total{result="committed"}': 30,
        'plan_steps_total{result="outdated"}': 1,
        "problems": 2,
        "store_complete": 1,
        "store_records": len(RECORDS),
        "store_invalid_records": 0,
        "services": 2,
        'links{state="allowed"}': 1,
        'links{state="refused"}': 1,
        'links{state="absent"}': 1,
        'node_encryption{mode="off",step="off"}': 1,
        **{
            f'node_encryption{{mode="{mode}",step="{step}"}}': 0
            for mode in ("prefer", "strict", "all")
            for step in ("accept", "send", "enforce")
        },
        "node_encryption_nodes": 0,
        'tasks{state="ready"}': 1,
        'tasks{state="unready"}': 1,
        'addresses{state="held"}': 2,
        'addresses{state="resting"}': 1,
        "addresses_limit": 254,
        'nodes{state="ready"}': 1,
        'nodes{state="silent"}': 1,
        'nodes{state="unaccepted"}': 1,
        'nodes{state="absent"}': 1,
        'nodes{state="down"}': 1,
        'nodes{state="revoked"}': 1,
    }


def test_node_stays_silent_when_its_record_has_ended() -> None:
    records = (record for record in RECORDS if not (isinstance(record, Node) and record.id == "n2"))
    measured = ControllerMetrics("0", "manager-1")
    measured.observe(replace(SIGHT, stored=snapshot(*records), silent=frozenset()))
    assert (values(measured)['nodes{state="silent"}'], values(measured)['nodes{state="absent"}']) == (1, 1)


def test_series_do_not_grow_with_the_mesh() -> None:
    one, many = ControllerMetrics("0", "m"), ControllerMetrics("0", "m")
    one.observe(SIGHT)
    nodes = {f"{name}{n}": node for name, node in SIGHT.swarm.nodes.items() for n in range(50)}
    many.observe(replace(SIGHT, swarm=replace(SIGHT.swarm, nodes=nodes)))
    assert values(one).keys() == values(many).keys()
    assert values(many)['nodes{state="down"}'] == 50


def test_a_standby_knows_no_problems() -> None:
    measured = ControllerMetrics("0", "manager-1")
    measured.observe(replace(SIGHT, leads=False))
    assert values(measured)["leader"] == 0
    assert "problems" not in values(measured)
    assert values(measured)["services"] == 2


def test_before_the_first_pass_nothing_is_known() -> None:
    shown = values(ControllerMetrics("0", "manager-1"))
    assert shown["store_complete"] == shown["services"] == shown["leader"] == 0
    assert "addresses_limit" not in shown


@pytest.mark.parametrize(
    ("leads", "leader", "wanted"),
    [(True, "manager-1", True), (False, "manager-1", False), (False, "manager-2", True), (False, None, True)],
)
def test_standby_leaves_port_to_its_nodes_leader(*, leads: bool, leader: str | None, wanted: bool) -> None:
    others = [record for record in RECORDS if not isinstance(record, Leader)]
    stored = snapshot(*others, *([Leader(leader, "ab12")] if leader else []))
    measured = ControllerMetrics("0", "manager-1")
    measured.observe(replace(SIGHT, stored=stored, leads=leads))
    assert measured.wanted is wanted


def test_labels_name_no_service_node_or_address() -> None:
    measured = ControllerMetrics("0", "manager-1")
    measured.observe(SIGHT)
    for name in ("web", "stranger", "host-", "n1", "10.1.", "manager-1"):
        assert name not in measured.text


def test_node_encryption_is_told_by_mode_and_step() -> None:
    place = Underlay("n1", private_key(1).public, UdpEndpoint(IPv4Address("192.0.2.1"), 51819))
    measured = ControllerMetrics("0.1.0", "manager-1")
    measured.observe(replace(SIGHT, stored=snapshot(*RECORDS, NodeEncryption("strict", "send", 4789, 7), place)))
    told = {name: value for name, value in values(measured).items() if name.startswith("node_encryption") and value}
    assert told == {'node_encryption{mode="strict",step="send"}': 1, "node_encryption_nodes": 1}
