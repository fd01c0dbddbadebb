from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from agent import links
from agent.errors import RouteClash
from agent.netns import TaskNetns
from mesh.errors import DeviceNotFound, Terminal
from tests.netns.world import World, ip

V4, V6 = ip_interface("10.99.0.1/32"), ip_interface("fd00:99::1/128")
MESH4, MESH6 = ip_network("10.99.0.0/16"), ip_network("fd00:99::/48")


def short(netns: TaskNetns) -> str:
    return Path(netns.path).name


@pytest.fixture
def netns(world: World) -> TaskNetns:
    """A namespace with one end of a wire, lw0, the other end of which is in it too."""
    made = world.netns()
    ip("-n", short(made), "link", "add", "lw0", "type", "veth", "peer", "name", "other")
    ip("-n", short(made), "link", "set", "other", "up")
    return made


def test_a_device_that_is_not_there(netns: TaskNetns) -> None:
    assert links.observe(netns, "lw1") is None
    assert links.kind(netns, "lw1") is None
    links.delete(netns, "lw1")
    changes: list[Callable[[], None]] = [
        lambda: links.set_up(netns, "lw1"),
        lambda: links.set_mtu(netns, "lw1", 1400),
        lambda: links.add_address(netns, "lw1", V4),
        lambda: links.remove_address(netns, "lw1", V4),
        lambda: links.add_route(netns, "lw1", MESH4),
        lambda: links.remove_route(netns, "lw1", MESH4),
    ]
    for change in changes:
        with pytest.raises(DeviceNotFound):
            change()


def test_what_is_set_is_read_back_and_setting_it_again_changes_nothing(netns: TaskNetns) -> None:
    assert links.observe(netns, "lw0") == links.Link(False, 1500, frozenset(), frozenset())
    for _ in range(2):
        links.set_mtu(netns, "lw0", 1400)
        links.add_address(netns, "lw0", V4)
        links.add_address(netns, "lw0", V6)
        links.set_up(netns, "lw0")
        links.add_route(netns, "lw0", MESH4)
        links.add_route(netns, "lw0", MESH6)
        assert links.observe(netns, "lw0") == links.Link(True, 1400, frozenset({V4, V6}), frozenset({MESH4, MESH6}))
    for _ in range(2):
        links.remove_route(netns, "lw0", MESH4)
        links.remove_address(netns, "lw0", V6)
    assert links.observe(netns, "lw0") == links.Link(True, 1400, frozenset({V4}), frozenset({MESH6}))
    for _ in range(2):
        links.delete(netns, "lw0")
    assert links.observe(netns, "lw0") is None


def test_a_route_that_the_kernel_made_for_an_address_is_not_ours(netns: TaskNetns) -> None:
    links.set_up(netns, "lw0")
    links.add_address(netns, "lw0", ip_interface("10.99.0.1/24"))
    seen = links.observe(netns, "lw0")
    assert seen is not None
    assert seen.routes == frozenset()


@pytest.mark.parametrize(
    ("theirs", "ours", "clash"),
    [
        ("10.99.0.0/16", "10.99.0.0/16", True),
        ("10.99.7.0/24", "10.99.0.0/16", True),
        ("10.0.0.0/8", "10.99.0.0/16", True),
        ("fd00:99:0:1::/64", "fd00:99::/48", True),
        ("10.98.0.0/16", "10.99.0.0/16", False),
        ("0.0.0.0/0", "10.99.0.0/16", False),
        ("::/0", "fd00:99::/48", False),
    ],
)
def test_a_route_that_the_task_has_already_is_named_and_kept(
    netns: TaskNetns, theirs: str, ours: str, *, clash: bool
) -> None:
    links.set_up(netns, "lw0")
    ip("-n", short(netns), "route", "add", theirs, "dev", "other")
    if clash:
        with pytest.raises(RouteClash, match=f"{ours} cannot be routed .*{theirs} through other"):
            links.add_route(netns, "lw0", ip_network(ours))
    else:
        links.add_route(netns, "lw0", ip_network(ours))
    other = links.observe(netns, "other")
    assert other is not None
    assert ip_network(theirs) in other.routes


def test_the_subnet_of_an_address_of_the_task_clashes_too(netns: TaskNetns) -> None:
    links.set_up(netns, "lw0")
    links.add_address(netns, "other", ip_interface("10.99.3.4/24"))
    with pytest.raises(RouteClash, match=r"10\.99\.3\.0/24 through other"):
        links.add_route(netns, "lw0", MESH4)


def test_the_kernels_own_words_are_in_the_error(netns: TaskNetns) -> None:
    with pytest.raises(Terminal, match=r"cannot set the MTU of lw0 to 9: .*mtu less than device minimum"):
        links.set_mtu(netns, "lw0", 9)


@pytest.mark.parametrize(
    ("destinations", "mtu"),
    [
        (["192.0.2.2"], 1380),  # the device's
        (["198.51.100.7"], 1300),  # the route's own
        (["192.0.2.2", "198.51.100.7"], 1300),
        (["2001:db8::2"], 1380),
        (["192.0.2.1"], links.ETHERNET_MTU),  # the node's own
        (["127.0.0.1", "192.0.2.2"], 1380),
        (["203.0.113.1"], links.ETHERNET_MTU),  # no route
        ([], links.ETHERNET_MTU),
    ],
)
def test_the_mtu_of_the_way_to_a_node(netns: TaskNetns, destinations: list[str], mtu: int) -> None:
    name = short(netns)
    for command in (
        "link set other mtu 1380",
        "link set lw0 up",
        "address add 192.0.2.1/24 dev other",
        "address add 2001:db8::1/64 dev other nodad",
        "route add 198.51.100.0/24 dev other mtu 1300",
    ):
        ip("-n", name, *command.split())
    assert links.route_mtu(netns, [ip_address(text) for text in destinations]) == mtu
