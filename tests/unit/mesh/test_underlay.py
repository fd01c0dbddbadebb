"""Where a node is reached: which addresses can be any node's, and whose word counts."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.net import IPAddress
from mesh.topology.underlay import ports_refusal, refusal, swarms_addresses, unfit

MESH = (ip_network("100.96.0.0/16"), ip_network("fd12:3456:789a::/96"))


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "127.0.0.1", "127.9.9.9", "224.0.0.1", "239.255.255.255", "169.254.169.254"),  # noqa: S104 - refused
        *("255.255.255.255", "240.0.0.1", "100.96.3.4"),
        *("::", "::1", "ff02::1", "fe80::1", "::ffff:192.0.2.1", "::ffff:127.0.0.1", "fd12:3456:789a::9"),
    ],
)
def test_no_node_can_be_reached_there(text: str) -> None:
    assert unfit(ip_address(text), MESH)
    assert refusal(ip_address(text), (ip_address(text),), MESH), "not even where Swarm says so"


@pytest.mark.parametrize("text", ["192.0.2.1", "10.0.0.1", "172.17.0.1", "203.0.113.9", "2001:db8::1", "fd00::7"])
def test_address_counts_where_swarm_knows_it(text: str) -> None:
    address = ip_address(text)
    assert unfit(address, MESH) is None
    assert refusal(address, (ip_address("192.0.2.77"), address), MESH) is None
    said = refusal(address, (ip_address("192.0.2.77"),), MESH) or ""
    assert said.endswith(f"docker node update --label-add linkwire.address={text}")


@given(st.ip_addresses(), st.lists(st.ip_addresses(), max_size=3).map(tuple))
def test_only_known_and_fit_addresses_count(address: IPAddress, known: tuple[IPAddress, ...]) -> None:
    counts = refusal(address, known, MESH) is None
    assert counts == (address in known and unfit(address, MESH) is None)


@pytest.mark.parametrize(
    ("manager", "status", "expected"),
    [
        (None, "10.0.0.2", ["10.0.0.2"]),
        ("10.0.0.1:2377", "10.0.0.1", ["10.0.0.1"]),
        ("10.0.0.1:2377", "0.0.0.0", ["10.0.0.1"]),  # noqa: S104 - what Swarm writes for "here"
        ("[fd00::1]:2377", "127.0.0.1", ["fd00::1"]),
        ("10.0.0.1:2377", "203.0.113.7", ["10.0.0.1", "203.0.113.7"]),
        (None, "", []),
        ("nonsense", "name.example", []),
    ],
)
def test_swarms_word_on_a_node(manager: str | None, status: str, expected: list[str]) -> None:
    node = {"ManagerStatus": {"Addr": manager} if manager else None, "Status": {"Addr": status}}
    assert [str(address) for address in swarms_addresses(node)] == expected
    assert swarms_addresses({}) == ()


def test_ports_of_a_nodes_own_services_are_refused() -> None:
    assert ports_refusal(1024, 2000) is None
    assert "those below 1024" in (ports_refusal(53, 2000) or "")
    assert "53-60" in (ports_refusal(53, 60) or "")
