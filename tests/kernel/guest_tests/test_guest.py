"""The guest's self test: a real WireGuard, what our tests do with it, and a machine that forgets."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.state.clock import WatchedClock
from tests.kernel.guest import EXCHANGE, GUEST_VARIABLE
from tests.kernel.guest_tests.clock import HOUR_S, YEAR_S, clock
from tests.support.effort import of_long_form

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Side:
    """One end of the tunnel; its device has its name, and so has its namespace."""

    name: str
    port: int
    address: str


LEFT = Side("guest-left", 51820, "192.0.2.1")
RIGHT = Side("guest-right", 51821, "192.0.2.2")
NOBODY = "127.0.0.1:9"


def sh(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


def inside(side: Side, *command: str, stdin: str = "") -> str:
    return sh("ip", "netns", "exec", side.name, *command, stdin=stdin)


@pytest.fixture
def namespaces() -> Iterator[None]:
    for side in (LEFT, RIGHT):
        sh("ip", "netns", "add", side.name)
    yield
    for side in (LEFT, RIGHT):
        sh("ip", "netns", "delete", side.name)


def make_device(side: Side, keys: Path) -> str:
    """Make it in the root namespace, where its UDP socket stays, and move it, as the agent does; its public key.

    With the key that it had, where it was made before.

    The private key is never in this process, whose failures pytest prints.
    """
    private_key = str(keys / side.name)
    public_key = sh("sh", "-c", 'umask 077; test -e "$1" || wg genkey > "$1"; wg pubkey < "$1"', "sh", private_key)
    sh("ip", "link", "add", side.name, "type", "wireguard")
    sh("wg", "set", side.name, "listen-port", str(side.port), "private-key", private_key)
    sh("ip", "link", "set", side.name, "netns", side.name)
    sh("ip", "-n", side.name, "address", "add", f"{side.address}/24", "dev", side.name)
    sh("ip", "-n", side.name, "link", "set", side.name, "up")
    return public_key


def add_peer(side: Side, peer: Side, public_key: str) -> None:
    where = ("endpoint", f"127.0.0.1:{peer.port}", "allowed-ips", f"{peer.address}/32")
    inside(side, "wg", "set", side.name, "peer", public_key, *where)


def test_it_is_the_guests_kernel() -> None:
    assert os.uname().release == os.environ[GUEST_VARIABLE]


def test_mount_namespace_starts_in_process_and_shares_mounts() -> None:
    assert sh("nsenter", f"--target={os.getpid()}", "--mount", "ls", "-d", str(Path(__file__))) == __file__
    assert sh("findmnt", "--noheadings", "--first-only", "--output", "PROPAGATION", "/run") == "shared"


def test_asking_for_the_generic_netlink_family_loads_wireguard() -> None:
    assert "Name: wireguard" in sh("genl", "ctrl", "get", "name", "wireguard")
    assert Path("/sys/module/wireguard").is_dir()


@pytest.mark.usefixtures("namespaces")
def test_two_namespaces_connect_by_kernel_wireguard(tmp_path: Path) -> None:
    left_key, right_key = make_device(LEFT, tmp_path), make_device(RIGHT, tmp_path)
    add_peer(LEFT, RIGHT, right_key)
    add_peer(RIGHT, LEFT, left_key)

    assert " 0% packet loss" in inside(LEFT, "ping", "-c", "3", "-i", "0.2", "-W", "5", RIGHT.address)

    for side, peer_key in ((LEFT, right_key), (RIGHT, left_key)):
        key, handshake = inside(side, "wg", "show", side.name, "latest-handshakes").split()
        assert key == peer_key
        assert int(handshake) > 0
        _, received, sent = inside(side, "wg", "show", side.name, "transfer").split()
        assert int(received) > 3 * 100
        assert int(sent) > 3 * 100
    sockets = sh("ss", "--udp", "--listening", "--numeric")
    assert f":{LEFT.port} " in sockets, "WireGuard's sockets stay in the namespace where the devices were made"


@pytest.mark.usefixtures("namespaces")
def test_nothing_passes_without_the_peer_on_both_sides(tmp_path: Path) -> None:
    right_key = make_device(RIGHT, tmp_path)
    make_device(LEFT, tmp_path)
    add_peer(LEFT, RIGHT, right_key)

    with pytest.raises(AssertionError, match="ping"):
        inside(LEFT, "ping", "-c", "1", "-W", "2", RIGHT.address)


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(("before", "after"), [pytest.param(0, -HOUR_S, id="an hour back"), of_long_form(YEAR_S, 0)])
def test_after_clock_rollback_only_new_key_is_accepted(tmp_path: Path, before: int, after: int) -> None:
    """The device is made again after its clock went back; an agent that starts names the key, and a new one works."""
    left_key, right_key = make_device(LEFT, tmp_path), make_device(RIGHT, tmp_path)
    add_peer(LEFT, RIGHT, right_key)
    add_peer(RIGHT, LEFT, left_key)
    ping = ("ping", "-c", "2", "-W", "6", RIGHT.address)
    with clock(before) as put:
        inside(LEFT, *ping)
        agent = WatchedClock(tmp_path)
        agent.look({"task": 0})
        agent.save()
        assert not agent.spent
        put(after)
        inside(LEFT, "ip", "link", "delete", LEFT.name)
        # Else the other end, whose clock is right, begins a handshake in the 15 s after which it misses an answer.
        inside(RIGHT, "wg", "set", RIGHT.name, "peer", left_key, "endpoint", NOBODY)
        assert make_device(LEFT, tmp_path) == left_key
        add_peer(LEFT, RIGHT, right_key)
        with pytest.raises(AssertionError, match="ping"):
            inside(LEFT, *ping)
        agent = WatchedClock(tmp_path)
        agent.look({"task": 0})
        assert agent.spent == {"task": 0}
        (tmp_path / LEFT.name).unlink()
        inside(LEFT, "ip", "link", "delete", LEFT.name)
        new_key = make_device(LEFT, tmp_path)
        assert new_key != left_key
        inside(RIGHT, "wg", "set", RIGHT.name, "peer", left_key, "remove")
        add_peer(RIGHT, LEFT, new_key)
        inside(RIGHT, "wg", "set", RIGHT.name, "peer", new_key, "endpoint", NOBODY)
        add_peer(LEFT, RIGHT, right_key)
        inside(LEFT, *ping)
        agent.look({"task": 1})
        assert not agent.spent


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("seconds", [of_long_form(YEAR_S), of_long_form(-HOUR_S)])
def test_clock_that_is_set_ends_no_session(tmp_path: Path, seconds: int) -> None:
    """A session's age goes by the machine's uptime, so packets pass on."""
    left_key, right_key = make_device(LEFT, tmp_path), make_device(RIGHT, tmp_path)
    add_peer(LEFT, RIGHT, right_key)
    add_peer(RIGHT, LEFT, left_key)
    inside(LEFT, "ping", "-c", "2", "-W", "6", RIGHT.address)
    with clock(seconds):
        assert " 0% packet loss" in inside(LEFT, "ping", "-c", "10", "-i", "0.2", "-W", "5", RIGHT.address)


@pytest.mark.parametrize("kind", ["veth", "bridge", "dummy"])
def test_link_kinds_load_on_demand(kind: str) -> None:
    sh("ip", "link", "add", "guest-link", "type", kind)
    sh("ip", "link", "delete", "guest-link")


def test_vxlan_loads_on_demand() -> None:
    sh("ip", "link", "add", "guest-vxlan", "type", "vxlan", "id", "7", "dstport", "4789", "dev", "lo")
    sh("ip", "link", "delete", "guest-vxlan")


def test_esp_loads_on_demand() -> None:
    end = ("src", "127.0.0.1", "dst", "127.0.0.2", "proto", "esp", "spi", "0x100")
    sh("ip", "xfrm", "state", "add", *end, "mode", "transport", "aead", "rfc4106(gcm(aes))", f"0x{'00' * 20}", "128")
    sh("ip", "xfrm", "state", "delete", *end)


def test_tun_is_there_for_wireguard_go() -> None:
    sh("ip", "tuntap", "add", "dev", "guest-tun", "mode", "tun")
    sh("ip", "tuntap", "delete", "dev", "guest-tun", "mode", "tun")


@pytest.mark.usefixtures("namespaces")
def test_nftables_has_what_a_vip_needs() -> None:
    rules = """
    table inet guest {
        chain out {
            type nat hook output priority -100;
            ip daddr 192.0.2.9 dnat ip to numgen inc mod 2 map { 0: 192.0.2.1, 1: 192.0.2.2 }
            ct state established,related accept
        }
    }
    """
    inside(LEFT, "nft", "-f", "-", stdin=rules)
    assert "numgen inc mod 2" in inside(LEFT, "nft", "list", "table", "inet", "guest")


def test_host_files_and_exchange_folder_are_writable() -> None:
    # What becomes of them, test_kernel.py looks at from outside.
    Path(__file__).with_name("written-in-the-guest").write_text("gone when the guest ends")
    Path(EXCHANGE, "written-in-the-guest").write_text("stays")
