"""The pre-flight of `install`: what is said of each node, and what an install is refused for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compose_ext.diagnostics import DockerError
from compose_ext.install import preflight
from compose_ext.install.fitness import (
    CLOCK,
    ENCRYPTION,
    ENGINE,
    FIREWALL,
    IMAGE,
    MTU,
    OK,
    PORTS,
    PROBLEM,
    SUBNET,
    WARNING,
    WIREGUARD,
    Finding,
    Wish,
    judge,
)
from compose_ext.install.options import Options
from compose_ext.swarm.node_jobs import Outcome, _ahead

ADDRESSES = {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}
NEW = Wish(Options(), None, frozenset({"n1"}), addresses=ADDRESSES)
THERE = replace(NEW, before=Options(), etcd_now=frozenset({"n1"}))
FACTS: dict[str, Any] = {
    "udp": [],
    "tcp": [],
    "routes": [],
    "networks": [],
    "mtu": {"10.0.0.1": 1500, "10.0.0.2": 1500, "10.0.0.3": 1500},
    "filters": {},
    "legacy": False,
    "unread": [],
}


def outcome(node: str = "n1", ahead: float = 0.0, engine: str = "28.1.0", **facts: object) -> Outcome:
    report = {"version": "1", "engine": engine, "backend": "kernel", "facts": FACTS | facts}
    return Outcome(node, (), report, ahead)


def judged(one: Outcome, wish: Wish, check: str) -> list[tuple[str, str]]:
    return [(found.level, found.text) for found in judge([one], wish) if found.check == check]


def test_fit_node_has_a_line_for_each_check() -> None:
    findings = judge([outcome()], NEW)
    assert {one.level for one in findings} == {OK}
    assert [one.check for one in findings] == [IMAGE, ENGINE, WIREGUARD, PORTS, SUBNET, MTU, FIREWALL, CLOCK]


@pytest.mark.parametrize(
    ("one", "check", "new", "there", "said"),
    [
        (outcome(engine="19.03.15"), ENGINE, PROBLEM, PROBLEM, "Docker 19.03.15: Linkwire needs 20.10 or later"),
        (outcome(udp=[[51820, 51821]]), PORTS, WARNING, OK, "2 of the UDP ports 51820-53819 are taken (51820-51821)"),
        (outcome(udp=[[51820, 53000]]), PORTS, PROBLEM, OK, "choose others with --ports"),
        (outcome(tcp=[2379]), PORTS, PROBLEM, OK, "TCP 2379 is taken, and etcd is to listen there"),
        (outcome("n2", tcp=[2379]), PORTS, OK, OK, "UDP 51820-53819 are free"),
        (outcome(tcp=[9586]), PORTS, WARNING, OK, "TCP 9586 is taken"),
        (outcome(routes=["100.96.4.0/24 by eth1"]), SUBNET, PROBLEM, WARNING, "its route to 100.96.4.0/24 by eth1"),
        (outcome(networks=["shop (100.96.0.0/20)"]), SUBNET, PROBLEM, WARNING, "its network shop (100.96.0.0/20)"),
        (outcome(mtu={"10.0.0.2": 600}), MTU, PROBLEM, PROBLEM, "600 bytes to n2: links need 636"),
        (outcome(mtu={"10.0.0.2": 1300}), MTU, WARNING, WARNING, "1300 bytes to n2: below 1340 a link's IPv6"),
        (
            outcome(mtu={"10.0.0.2": 1500, "10.0.0.3": 9000}),
            MTU,
            WARNING,
            WARNING,
            "to n2, and 9000 to n3",
        ),
        (outcome(mtu={"10.0.0.1": 65536}), MTU, OK, OK, "no way to another node"),
        (
            outcome(filters={"udp/53819": ["inet guard input (input)"]}),
            FIREWALL,
            PROBLEM,
            WARNING,
            "drops UDP 51820-53819: nftables chain inet guard input (input)",
        ),
        (outcome(filters={"tcp/2379": ["ip filter INPUT (input)"]}), FIREWALL, PROBLEM, WARNING, "drops TCP 2379"),
        (outcome("n2", filters={"tcp/2379": ["ip filter INPUT (input)"]}), FIREWALL, OK, OK, "no chain of nftables"),
        (outcome(legacy=True), FIREWALL, WARNING, WARNING, "rules of iptables-legacy, which are not read"),
        (outcome(ahead=3600.0), CLOCK, PROBLEM, WARNING, "at least 3600 s ahead of that of Swarm's leader"),
        (outcome(ahead=-10.0), CLOCK, WARNING, WARNING, "at least 10 s behind that of Swarm's leader"),
        (outcome(ahead=-2.0), CLOCK, OK, OK, "agrees with that of Swarm's leader"),
    ],
)
def test_each_fault_is_named(one: Outcome, check: str, new: str, there: str, said: str) -> None:
    ((level, text),) = judged(one, NEW, check)
    assert (level, said in text) == (new, True), text
    ((level, _),) = judged(one, THERE, check)
    assert level == there, "beside an installation that has these ports and this subnet"


def test_other_options_than_before_are_checked() -> None:
    moved = replace(THERE, options=Options(etcd_port="2380", ports="60000-60009", metrics="off"))
    found = judged(outcome(tcp=[2380], udp=[[60000, 60000]]), moved, PORTS)
    assert [level for level, _ in found] == [WARNING, PROBLEM]
    assert moved.question()["tcp"] == [2380]
    assert judged(outcome(tcp=[2379]), replace(NEW, etcd=frozenset()), PORTS)[0][0] == OK, "with an etcd of one's own"


def test_ports_of_a_new_etcd_node_are_checked() -> None:
    wish = replace(THERE, options=Options(etcd_nodes="3"), etcd=frozenset(ADDRESSES))
    found = {node: judged(outcome(node, tcp=[2379, 2380]), wish, PORTS) for node in ("n1", "n2")}
    assert [level for level, _ in found["n1"]] == [OK], "etcd itself has them there"
    assert [(level, text[:8]) for level, text in found["n2"]] == [(PROBLEM, "TCP 2379"), (PROBLEM, "TCP 2380")]


def test_node_that_cannot_run_the_image_is_named() -> None:
    findings = judge([Outcome("n2", ("No such image",)), outcome()], NEW)
    assert [one for one in findings if one.node == "n2"] == [Finding("n2", IMAGE, PROBLEM, "No such image")]
    unfit = Outcome("n1", ("no WireGuard",), {"facts": FACTS, "engine": "28.1"})
    assert [one.level for one in judge([unfit], NEW) if one.check == IMAGE] == [PROBLEM]


def test_image_of_an_older_version_is_told() -> None:
    (_, older) = judge([Outcome("n1", (), {"version": "0"})], NEW)
    assert (older.level, older.check) == (WARNING, IMAGE)
    broken = judge([outcome(udp="x")], NEW)
    assert "its answer is not understood" in broken[-1].text


def refused(findings: tuple[Finding, ...], *, force: bool = False) -> tuple[str, list[str]]:
    said: list[str] = []
    try:
        preflight.require(findings, "image:1", said.append, force=force)
    except DockerError as error:
        return str(error), said
    return "", said


def test_all_problems_of_all_nodes_at_once() -> None:
    findings = judge([outcome("n1", tcp=[2379, 9586]), outcome("n2", routes=["100.96.0.0/16 by wg0"])], NEW)
    error, said = refused(findings)
    assert "nothing was changed" in error
    assert "n1: ports: TCP 2379" in error
    assert "n2: subnet: 100.96.0.0/16 clashes" in error
    assert [text.partition(":")[0] for text in said] == ["warning"]
    error, said = refused(findings, force=True)
    assert error == ""
    assert sum(text.startswith("in spite of: ") for text in said) == 2


def test_force_helps_no_image_that_cannot_run() -> None:
    error, _ = refused(judge([Outcome("n1", ("No such image",))], NEW), force=True)
    first = "the image image:1 cannot run on every node, so nothing was changed:\n  n1: No such image\n"
    assert error.startswith(first)
    assert "push it to a registry that all nodes reach" in error
    error, _ = refused(judge([Outcome("n1", ("killed",))], NEW), force=True)
    assert error.endswith("\n  n1: killed")


@pytest.mark.parametrize(
    ("at", "ahead"),
    [
        ("2026-11-29T08:00:05.5Z", 0.0),
        ("2026-11-29T09:00:10Z", 3600.0),
        ("2026-11-29T07:00:00.123456789Z", -3600.0),
        ("", 0),
    ],
)
def test_clocks_are_compared_by_the_leaders_times(at: str, ahead: float) -> None:
    task = {"CreatedAt": "2026-11-29T08:00:00.1Z", "UpdatedAt": "2026-11-29T08:00:10Z", "Status": {"Timestamp": at}}
    assert _ahead(task) == pytest.approx(ahead, abs=0.2)


ENCRYPTING = replace(THERE, options=Options(node_encryption="prefer"), told={"n3": "10.9.0.3"})
ABLE: dict[str, Any] = {
    "ports": [51819, 51818],
    "taken": [],
    "strict_filter": False,
    "holds": ["10.0.0.1"],
    "sends_to": ["10.0.0.2", "10.9.0.3"],
    "tables": "",
    "wire_filters": {},
    "overlay_filters": [],
}


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (
            {"taken": [51818]},
            "UDP 51818 is taken by another program: end it (ss -ulpn sport = :51818), or choose other",
        ),
        ({"strict_filter": True}, "net.ipv4.conf.all.rp_filter is 1 (strict)"),
        ({"tables": "no nf_tables"}, "nftables cannot be used, by which plain packets are refused: no nf_tables"),
        (
            {"wire_filters": {"51818": ["inet f input (input)"]}},
            "drops UDP 51818: nftables chain inet f input (input).",
        ),
        (
            {"overlay_filters": ["inet f input (input)"]},
            'of its devices: nftables chain inet f input (input). Add: iifname "lwnode*" udp dport 4789 accept',
        ),
        (
            {"host_filters": ["inet f input (input), TCP 8080"]},
            'nftables chain inet f input (input), TCP 8080. Add: iifname "lwnode*" accept',
        ),
        ({"holds": []}, "other nodes reach it at 10.0.0.1, which is no address of the node itself (NAT,"),
        (
            {"sends_to": ["10.9.0.9"]},
            "its overlays send to 10.9.0.9, by which no node is known",
        ),
    ],
)
def test_unfit_for_encryption_is_a_problem(facts: dict[str, Any], text: str) -> None:
    ((level, found),) = judged(outcome(encryption=ABLE | facts), ENCRYPTING, ENCRYPTION)
    assert level == PROBLEM
    assert text in found
    assert judged(outcome(encryption=None), THERE, ENCRYPTION) == []


@pytest.mark.parametrize(
    ("facts", "mode", "known"),
    [
        (None, "prefer", False),
        (ABLE, "prefer", True),
        (ABLE, "all", False),
        (ABLE | {"modes": ["prefer", "strict"]}, "all", False),
        (ABLE | {"modes": ["prefer", "strict", "all"]}, "all", True),
    ],
)
def test_image_of_before_a_mode_is_refused(facts: dict[str, Any] | None, mode: str, known: bool) -> None:
    """To install, to upgrade to and to switch over, as each looks at every node first."""
    wish = replace(ENCRYPTING, options=replace(ENCRYPTING.options, node_encryption=mode))
    found = judged(outcome(encryption=facts), wish, ENCRYPTION)
    assert [level for level, _ in found] == [OK if known else PROBLEM]
    assert known or f"the image does not know mode {mode}: " in found[0][1]


def test_fit_for_encryption_has_a_line() -> None:
    ((level, found),) = judged(outcome(encryption=ABLE), ENCRYPTING, ENCRYPTION)
    assert (level, found) == (OK, "UDP 51819 and 51818 are free, and nothing drops packets there")
    assert ENCRYPTING.question()["encryption"] == {"data_path_port": 4789, "mode": "prefer"}
    assert ENCRYPTING.question()["nodes"] == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.9.0.3"]
    assert "encryption" not in THERE.question()


def test_two_nodes_behind_nat_are_one_problem() -> None:
    behind = [outcome(node, encryption=ABLE | {"holds": []}) for node in ("n1", "n2")]
    found = [one for one in judge(behind, ENCRYPTING) if "behind NAT" in one.text]
    assert [one.text.partition(",")[0] for one in found] == ["n1 and n2 are behind NAT"]
    assert not [one for one in judge(behind[:1], ENCRYPTING) if "behind NAT" in one.text]
