"""Random policies, the likely and the odd: many peers, services at both ends, addresses that two services claim."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from mesh.model.labels.ports import PortRange, Protocol
from mesh.topology.policy import Allow, Balance, Exit, Policy

SUBNET = IPv4Network("10.99.0.0/16")
SUBNET6 = IPv6Network("fd12:3456:789a::/96")
SERVICES = tuple(f"{letter}{n:024d}" for n, letter in enumerate("abcdef"))


def address(number: int) -> IPv4Address:
    return SUBNET[number]


@st.composite
def _ranges(draw: st.DrawFn) -> PortRange:
    protocols: tuple[Protocol, ...] = ("tcp", "udp")
    # Few first ports, so that ranges meet, touch and lie in each other; and the ends of what there is.
    first = draw(st.sampled_from((1, 2, 79, 80, 81, 1024, 8000, 8001, 65534, 65535)) | st.integers(1, 65535))
    last = draw(st.just(first) | st.integers(first, min(first + 3, 65535)) | st.integers(first, 65535))
    return PortRange(draw(st.sampled_from(protocols)), first, last)


def _peers() -> st.SearchStrategy[tuple[IPv4Address, ...]]:
    few = st.lists(st.integers(1, 20), unique=True, max_size=5)
    many = st.builds(lambda first, count: list(range(first, first + count)), st.integers(1, 200), st.integers(0, 300))
    return st.one_of(few, few, few, many).map(lambda numbers: tuple(map(address, sorted(numbers))))


def _allows() -> st.SearchStrategy[tuple[Allow, ...]]:
    ports = st.none() | st.lists(_ranges(), max_size=6).map(lambda ranges: tuple(sorted(set(ranges))))
    by_service = st.dictionaries(st.sampled_from(SERVICES), st.tuples(_peers(), ports), max_size=4)
    return by_service.map(lambda found: tuple(Allow(service, *found[service]) for service in sorted(found)))


def _balances() -> st.SearchStrategy[tuple[Balance, ...]]:
    backends = st.tuples(_peers(), st.sampled_from(SERVICES))
    by_vip = st.dictionaries(st.integers(60_000, 60_010).map(address), backends, max_size=4)
    return by_vip.map(lambda found: tuple(Balance(vip, *found[vip]) for vip in sorted(found)))


def _apart() -> st.SearchStrategy[tuple[IPv4Address | IPv6Address, ...]]:
    one = st.ip_addresses(network="172.18.0.0/16") | st.ip_addresses(network="2001:db8::/64")
    return st.lists(one, unique=True, max_size=5).map(
        lambda found: tuple(sorted(found, key=lambda one: (one.version, int(one))))
    )


def _exits() -> st.SearchStrategy[tuple[Exit, ...]]:
    v4 = Exit(IPv4Network("172.18.0.0/16"), IPv4Address("172.18.0.1"))
    v6 = Exit(IPv6Network("2001:db8:1::/64"), IPv6Address("2001:db8:1::1"))
    return st.sampled_from(((), (), (v4,), (v6,), (v4, v6)))


def policies() -> st.SearchStrategy[Policy]:
    return st.builds(
        Policy,
        subnet=st.just(SUBNET),
        subnet6=st.just(SUBNET6),
        balance=_balances(),
        outbound=_allows(),
        inbound=_allows(),
        isolated=_apart(),
        exits=_exits(),
        open_ports=st.none() | st.none() | st.lists(_ranges(), max_size=4).map(tuple),
    )
