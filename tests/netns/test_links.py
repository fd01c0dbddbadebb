from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from agent.containers.netns_discovery import NetnsDevices
from agent.errors import RouteClashError
from agent.linux import interfaces, sysctl
from agent.linux.netns import TaskNetns
from mesh.errors import DeviceNotFoundError, Terminal
from mesh.topology.wgtypes import Route
from tests.netns.world import World, ip

V4, V6 = ip_interface("10.99.0.1/32"), ip_interface("fd00:99::1/128")
MESH4, MESH6 = Route(ip_network("10.99.0.0/16")), Route(ip_network("fd00:99::/48"))
CLONE_NEWNS = 0x20000  # linux/sched.h


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
    assert interfaces.observe(netns, "lw1") is None
    assert interfaces.kind(netns, "lw1") is None
    interfaces.delete(netns, "lw1")
    changes: list[Callable[[], object]] = [
        lambda: interfaces.set_up(netns, "lw1"),
        lambda: interfaces.set_mtu(netns, "lw1", 1400),
        lambda: interfaces.enable_ipv6(netns, "lw1"),
        lambda: interfaces.add_address(netns, "lw1", V4),
        lambda: interfaces.remove_address(netns, "lw1", V4),
        lambda: interfaces.add_route(netns, "lw1", MESH4),
        lambda: interfaces.remove_route(netns, "lw1", MESH4),
    ]
    for change in changes:
        with pytest.raises(DeviceNotFoundError):
            change()


def test_device_addresses_are_seen_as_they_change(netns: TaskNetns) -> None:
    ip("-n", short(netns), "link", "set", "lw0", "address", "02:42:0a:00:01:07")
    devices = NetnsDevices(netns.path)
    try:
        first = devices.addresses()
        assert "02:42:0a:00:01:07" in first
        assert len(first) == 2, "both ends of the wire, and no loopback"
        ip("-n", short(netns), "link", "set", "lw0", "name", "eth0")
        ip("-n", short(netns), "link", "set", "eth0", "address", "02:42:0a:00:01:08")
        assert devices.addresses() - first == {"02:42:0a:00:01:08"}
    finally:
        devices.close()


def test_settings_read_back_and_repeat_changes_nothing(netns: TaskNetns) -> None:
    assert interfaces.observe(netns, "lw0") == interfaces.InterfaceState(False, 1500, frozenset(), frozenset())
    for _ in range(2):
        interfaces.set_mtu(netns, "lw0", 1400)
        interfaces.add_address(netns, "lw0", V4)
        interfaces.add_address(netns, "lw0", V6)
        interfaces.set_up(netns, "lw0")
        interfaces.add_route(netns, "lw0", MESH4)
        interfaces.add_route(netns, "lw0", MESH6)
        assert interfaces.observe(netns, "lw0") == interfaces.InterfaceState(
            True, 1400, frozenset({V4, V6}), frozenset({MESH4, MESH6})
        )
    for _ in range(2):
        interfaces.remove_route(netns, "lw0", MESH4)
        interfaces.remove_address(netns, "lw0", V6)
    assert interfaces.observe(netns, "lw0") == interfaces.InterfaceState(
        True, 1400, frozenset({V4}), frozenset({MESH6})
    )
    for _ in range(2):
        interfaces.delete(netns, "lw0")
    assert interfaces.observe(netns, "lw0") is None


def seen(netns: TaskNetns) -> interfaces.InterfaceState:
    found = interfaces.observe(netns, "lw0")
    assert found is not None
    return found


def test_kernels_own_address_is_not_shown(netns: TaskNetns) -> None:
    interfaces.set_up(netns, "lw0")
    assert "inet6 fe80::" in shown(netns, "address", "show", "lw0")
    interfaces.add_address(netns, "lw0", V6)
    assert seen(netns).addresses == frozenset({V6})


def test_an_ipv6_address_is_there_at_once(netns: TaskNetns) -> None:
    """Duplicate address detection would keep it from use for a second or two."""
    interfaces.set_up(netns, "lw0")
    interfaces.add_address(netns, "lw0", V6)
    assert " nodad" in (line := shown(netns, "-6", "address", "show", "lw0", "to", str(V6.ip)))
    assert "tentative" not in line


def shown(netns: TaskNetns, *arguments: str) -> str:
    return subprocess.run(["ip", "-n", short(netns), *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("network", ["10.99.0.0/16", "fd00:99::/96"])
def test_route_mtu_is_changed_in_place(netns: TaskNetns, network: str) -> None:
    plain, small, smaller = (Route(ip_network(network), mtu) for mtu in (None, 1400, 1300))
    interfaces.set_up(netns, "lw0")
    for wanted in (plain, small, smaller, smaller, plain):
        interfaces.add_route(netns, "lw0", wanted)
        assert seen(netns).routes == frozenset({wanted})
        found = shown(netns, "route", "show", network, "table", "all") or shown(netns, "-6", "route", "show", network)
        assert found.count("lw0") == 1, found
        assert (f"mtu {wanted.mtu} " in found) == (wanted.mtu is not None), found


@pytest.mark.parametrize("network", ["10.99.0.0/16", "fd00:99::/96"])
def test_only_the_very_route_is_removed(netns: TaskNetns, network: str) -> None:
    plain, small = (Route(ip_network(network), mtu) for mtu in (None, 1400))
    interfaces.set_up(netns, "lw0")
    for kept, other in ((plain, small), (small, plain)):
        interfaces.add_route(netns, "lw0", kept)
        interfaces.remove_route(netns, "lw0", other)
        assert seen(netns).routes == frozenset({kept})
        interfaces.remove_route(netns, "lw0", kept)
        assert seen(netns).routes == frozenset()


FLOOD = """
import select, socket, sys
flood = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
print(flush=True)
sent = 0
while not select.select([0], [], [], 0)[0]:
    flood.sendto(b"x", (sys.argv[1], 9))
    sent += 1
print(sent)
"""


@pytest.mark.parametrize(
    ("address", "network", "peer"),
    [("10.99.0.1/32", "10.99.0.0/16", "10.99.7.7"), ("fd00:99::1/128", "fd00:99::/96", "fd00:99::7:7")],
)
def test_no_packet_lacks_route_while_mtu_changes(netns: TaskNetns, address: str, network: str, peer: str) -> None:
    ip("-n", short(netns), "link", "set", "lw0", "arp", "off")  # or what is sent waits for an answer
    interfaces.set_up(netns, "lw0")
    interfaces.add_address(netns, "lw0", ip_interface(address))
    interfaces.add_route(netns, "lw0", Route(ip_network(network)))
    arguments, pipe = [sys.executable, "-c", FLOOD, peer], subprocess.PIPE
    with netns.run(lambda: subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True)) as flood:
        assert flood.stdout is not None
        flood.stdout.readline()
        for number in range(300):
            interfaces.add_route(netns, "lw0", Route(ip_network(network), (None, 1400, 1300)[number % 3]))
        sent, error = flood.communicate("enough")
    assert error == ""  # "Network is unreachable" where there is no route
    assert int(sent) > 300  # on a busy machine too, more than one for each change


def test_route_mtu_applies_to_sent_packets(netns: TaskNetns) -> None:
    interfaces.set_up(netns, "lw0")
    interfaces.add_address(netns, "lw0", V4)
    interfaces.add_route(netns, "lw0", Route(MESH4.network, 1000))
    with netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sending:
        sending.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: linux/in.h
        sending.sendto(bytes(1000 - 28), ("10.99.7.7", 9))
        with pytest.raises(OSError, match="Message too long"):
            sending.sendto(bytes(1001 - 28), ("10.99.7.7", 9))


def sysctl_file(name: str) -> Path:
    return Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")


@pytest.fixture
def without_ipv6(netns: TaskNetns) -> TaskNetns:
    """As Docker leaves a task's namespace."""
    netns.run(lambda: sysctl_file("all").write_text("1"))
    return netns


def ipv6_off(netns: TaskNetns) -> dict[str, bool]:
    return netns.run(lambda: {name: sysctl_file(name).read_text() == "1\n" for name in ("lo", "lw0", "other")})


def test_ipv6_is_enabled_for_one_device_only(without_ipv6: TaskNetns) -> None:
    interfaces.set_up(without_ipv6, "lw0")
    with pytest.raises(Terminal, match="cannot add the address fd00:99::1/128 to lw0"):
        interfaces.add_address(without_ipv6, "lw0", V6)
    before = sysctl_file("all").read_text()
    for _ in range(2):
        assert interfaces.enable_ipv6(without_ipv6, "lw0")
        assert ipv6_off(without_ipv6) == {"lo": True, "lw0": False, "other": True}
    interfaces.add_address(without_ipv6, "lw0", V6)
    assert seen(without_ipv6).addresses == frozenset({V6})
    assert sysctl_file("all").read_text() == before
    assert not sysctl_file("lw0").exists()


def test_a_device_too_small_for_ipv6_is_said(netns: TaskNetns) -> None:
    interfaces.set_mtu(netns, "lw0", 1279)
    with pytest.raises(Terminal, match="lw0 can have no IPv6: its MTU is below the 1280 bytes that IPv6 needs"):
        interfaces.enable_ipv6(netns, "lw0")
    interfaces.set_mtu(netns, "lw0", 1280)
    assert interfaces.enable_ipv6(netns, "lw0")


def in_a_container(function: Callable[[], None], *mounts: str) -> None:
    """Call a function in a thread with its own mounts: those of a container, and more."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
            containers_own = ("--bind /proc/sys /proc/sys", "-o remount,ro,bind /proc/sys")
            for mount in ("--make-rprivate /", *mounts, *containers_own):
                subprocess.run(["mount", *mount.split()], check=True)
            function()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@pytest.fixture
def bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysctl, "BOUND", tmp_path)
    return tmp_path


def test_read_only_sysctl_error_says_what_to_do(without_ipv6: TaskNetns, bound: Path) -> None:
    def ask() -> None:
        with pytest.raises(Terminal, match=f"Read-only file system .*; bind the host's /proc/sys/net to {bound}"):
            interfaces.enable_ipv6(without_ipv6, "lw0")
        assert interfaces.enable_ipv6(without_ipv6, "other")

    without_ipv6.run(lambda: sysctl_file("other").write_text("0"))
    in_a_container(ask)
    assert ipv6_off(without_ipv6) == {"lo": True, "lw0": True, "other": False}


def test_bound_host_proc_sys_net_is_used(without_ipv6: TaskNetns, bound: Path) -> None:
    def ask() -> None:
        assert not (bound / "ipv6/conf/lw0").exists()  # it shows the namespace of whoever looks
        assert interfaces.enable_ipv6(without_ipv6, "lw0")

    in_a_container(ask, f"--bind /proc/sys/net {bound}")
    assert ipv6_off(without_ipv6) == {"lo": True, "lw0": False, "other": True}


def test_a_kernel_without_ipv6_is_no_error(netns: TaskNetns, bound: Path) -> None:
    (bound / "core").mkdir()  # as /proc/sys/net is then: there, with no ipv6 in it
    assert not interfaces.enable_ipv6(netns, "lw0")


def test_kernels_route_for_an_address_is_not_ours(netns: TaskNetns) -> None:
    interfaces.set_up(netns, "lw0")
    interfaces.add_address(netns, "lw0", ip_interface("10.99.0.1/24"))
    assert seen(netns).routes == frozenset()


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
def test_existing_task_route_is_named_and_kept(netns: TaskNetns, theirs: str, ours: str, *, clash: bool) -> None:
    interfaces.set_up(netns, "lw0")
    ip("-n", short(netns), "route", "add", theirs, "dev", "other")
    if clash:
        with pytest.raises(RouteClashError, match=f"{ours} cannot be routed .*{theirs} through other"):
            interfaces.add_route(netns, "lw0", Route(ip_network(ours)))
    else:
        interfaces.add_route(netns, "lw0", Route(ip_network(ours)))
    other = interfaces.observe(netns, "other")
    assert other is not None
    assert Route(ip_network(theirs)) in other.routes


def test_subnet_of_a_task_address_clashes_too(netns: TaskNetns) -> None:
    interfaces.set_up(netns, "lw0")
    interfaces.add_address(netns, "other", ip_interface("10.99.3.4/24"))
    with pytest.raises(RouteClashError, match=r"10\.99\.3\.0/24 through other"):
        interfaces.add_route(netns, "lw0", MESH4)


def test_the_kernels_own_words_are_in_the_error(netns: TaskNetns) -> None:
    with pytest.raises(Terminal, match=r"cannot set the MTU of lw0 to 9: .*mtu less than device minimum"):
        interfaces.set_mtu(netns, "lw0", 9)


@pytest.mark.parametrize(
    ("destinations", "mtu"),
    [
        (["192.0.2.2"], 1380),  # the device's
        (["198.51.100.7"], 1300),  # the route's own
        (["192.0.2.2", "198.51.100.7"], 1300),
        (["2001:db8::2"], 1380),
        (["2001:db8:1::7"], 1300),
        (["192.0.2.2", "2001:db8:1::7"], 1300),
        (["192.0.2.1"], interfaces.ETHERNET_MTU),  # the node's own
        (["2001:db8::1", "::1"], interfaces.ETHERNET_MTU),
        (["127.0.0.1", "192.0.2.2"], 1380),
        (["203.0.113.1"], interfaces.ETHERNET_MTU),  # no route
        (["2001:db8:2::1"], interfaces.ETHERNET_MTU),
        ([], interfaces.ETHERNET_MTU),
    ],
)
def test_the_mtu_of_the_way_to_a_node(netns: TaskNetns, destinations: list[str], mtu: int) -> None:
    name = short(netns)
    for command in (
        "link set other mtu 1380",
        "link set lo up",
        "link set lw0 up",
        "address add 192.0.2.1/24 dev other",
        "address add 2001:db8::1/64 dev other nodad",
        "route add 198.51.100.0/24 dev other mtu 1300",
        "route add 2001:db8:1::/64 dev other mtu 1300",
    ):
        ip("-n", name, *command.split())
    for learned in (True, False):
        assert interfaces.route_mtu(netns, [ip_address(text) for text in destinations], learned=learned) == mtu


@pytest.mark.parametrize(("version", "far"), [("-4", "198.51.100.7"), ("-6", "2001:db8:1::7")])
def test_routers_path_mtu_for_a_node_counts(world: World, version: str, far: str) -> None:
    node, router, other = world.netns(), world.netns(), world.netns()
    veth = ("type", "veth", "peer", "name")
    for end, narrow in ((node, "1500"), (other, "1320")):
        ip("link", "add", "under", "netns", short(end), "mtu", narrow, *veth, f"to{narrow}", "netns", short(router))
        for place, device in ((short(end), "under"), (short(router), f"to{narrow}")):
            ip("-n", place, "link", "set", device, "mtu", narrow, "up")
    for name, command in (
        (node, "address add 192.0.2.1/24 dev under"),
        (node, "address add 2001:db8::1/64 dev under nodad"),
        (router, "address add 192.0.2.254/24 dev to1500"),
        (router, "address add 2001:db8::fe/64 dev to1500 nodad"),
        (router, "address add 198.51.100.254/24 dev to1320"),
        (router, "address add 2001:db8:1::fe/64 dev to1320 nodad"),
        (other, "address add 198.51.100.7/24 dev under"),
        (other, "address add 2001:db8:1::7/64 dev under nodad"),
        (node, "route add default via 192.0.2.254"),
        (node, "-6 route add default via 2001:db8::fe"),
        (other, "route add default via 198.51.100.254"),
        (other, "-6 route add default via 2001:db8:1::fe"),
    ):
        ip("-n", short(name), *command.split())
    router.run(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
    router.run(lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1"))
    assert interfaces.route_mtu(node, [ip_address(far)]) == 1500
    ping = ["ping", version, "-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s", "1400", far]
    assert node.run(lambda: subprocess.run(ping, capture_output=True, check=False)).returncode == 1
    assert interfaces.route_mtu(node, [ip_address(far)]) == 1320
    assert interfaces.route_mtu(node, [ip_address(far)], learned=False) == 1500
