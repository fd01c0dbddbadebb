"""Neighbours of a linked task: who gets in by its other networks, with each defence off and on."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest

from agent.firewall import nf_tables_netlink, nft, source_guard
from agent.firewall.ruleset import NAME, render
from agent.firewall.source_guard import SourceGuard
from agent.linux.netns import TaskNetns
from mesh.model.labels.ports import PortRange
from mesh.model.records import Attachment
from mesh.topology.policy import Exit, Policy
from tests.netns import strays
from tests.netns.programs import PATIENCE, REFUSED, SILENCE, Address, Servers, ask, connect, echo, say
from tests.netns.strays import checksum
from tests.netns.world import MESH, MESH6, World, ip, wait_for
from tests.support.attacks import Attempts

both_families = pytest.mark.parametrize("version", [4, 6])
BRIDGE, END = "docker0", "eth0"
SUBNETS = {4: ip_network("198.51.100.0/24"), 6: ip_network("2001:db8::/64")}
DB, WEB, STRANGER, CLIENT = 2, 3, 4, 5
"""Tasks' numbers: the strict one, one that it is linked with, an unlinked one, one that is asked by `db`."""
DEVICE = "lwnone"  # of the mesh: none is needed here


@dataclass
class Network:
    """A node's bridge, and namespaces on it, each with one end."""

    node: TaskNetns
    ends: dict[int, TaskNetns] = field(default_factory=dict)

    def join(self, number: int, netns: TaskNetns) -> None:
        node, name = Path(self.node.path).name, Path(netns.path).name
        ip("-n", node, "link", "add", f"end{number}", "type", "veth", "peer", "name", END, "netns", name)
        ip("-n", node, "link", "set", f"end{number}", "master", BRIDGE, "up")
        for version in (4, 6):
            ip("-n", name, "address", "add", f"{place(number, version)}/{SUBNETS[version].prefixlen}", *_on(version))
        ip("-n", name, "link", "set", END, "up")
        for version in (4, 6):
            ip("-n", name, f"-{version}", "route", "add", "default", "via", str(place(1, version)))
        self.ends[number] = netns

    def __getitem__(self, number: int) -> TaskNetns:
        return self.ends[number]

    def link_local(self, number: int) -> str:
        """Return the IPv6 address that no record has (RFC 4291, appendix A)."""
        mac = bytes.fromhex(self.mac(number).replace(":", ""))
        return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])))

    def mac(self, number: int) -> str:
        """Return the MAC address of its end."""
        shown = self.ends[number].run(lambda: _output("ip", "-o", "link", "show", END))
        return shown.split("link/ether ")[1].split()[0]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def place(number: int, version: int) -> Address:
    return ip_address(int(SUBNETS[version].network_address) + number)


def _on(version: int) -> list[str]:
    return ["dev", END, *(["nodad"] if version == 6 else [])]


@pytest.fixture
def shared(world: World) -> Iterator[tuple[Network, Servers]]:
    node = world.netns()
    name = Path(node.path).name
    ip("-n", name, "link", "add", BRIDGE, "type", "bridge")
    for version in (4, 6):
        gateway = f"{place(1, version)}/{SUBNETS[version].prefixlen}"
        ip("-n", name, "address", "add", gateway, "dev", BRIDGE, *(["nodad"] if version == 6 else []))
    ip("-n", name, "link", "set", BRIDGE, "up")
    network = Network(node)
    with Servers() as servers:
        for number in (DB, WEB, STRANGER, CLIENT):
            network.join(number, world.netns())
            servers.add(str(number), network[number], 80, 90)
            servers.add(str(number), network[number], 53, protocol="udp")
        wait_for(lambda: ask(network[WEB], place(DB, 6), 80) == str(DB))
        yield network, servers


def policy(*isolated: int, exits: tuple[Exit, ...] = (), open_ports: tuple[PortRange, ...] | None = None) -> Policy:
    """Of `db`, which is apart from these."""
    addresses = tuple(place(number, version) for version in (4, 6) for number in sorted(isolated))
    return Policy(MESH, MESH6, isolated=addresses, exits=exits, open_ports=open_ports)


def put(netns: TaskNetns, desired: Policy) -> None:
    nft.apply(netns, render(desired, DEVICE))


def over_link_local(network: Network, source: int, target: int, port: int = 80) -> str:
    """Ask by link-local addresses, as any program may."""
    where = network.link_local(target)
    try:
        with network[source].run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM)) as one:
            one.settimeout(PATIENCE)
            scope = network[source].run(lambda: socket.if_nametoindex(END))
            one.connect((where, port, 0, scope))
            return say(one)
    except TimeoutError:
        return SILENCE
    except OSError:
        return REFUSED


def test_link_local_addresses_pass_nothing_between_apart(shared: tuple[Network, Servers], attempt: Attempts) -> None:
    network, _ = shared
    tried = attempt("strict is passed by link-local addresses")
    wait_for(lambda: over_link_local(network, WEB, DB) == str(DB))
    put(network[DB], policy(WEB))
    nft.remove(network[DB])
    tried.works(over_link_local(network, WEB, DB) == str(DB))
    put(network[DB], policy(WEB))
    tried.stopped(over_link_local(network, WEB, DB) == SILENCE)
    put(network[WEB], policy(DB))
    tried.stopped(over_link_local(network, WEB, DB) == REFUSED)
    for number in (DB, WEB):  # neighbours are found anew
        ip("-n", Path(network[number].path).name, "neighbour", "flush", "dev", END)
    assert ask(network[STRANGER], place(DB, 6), 80) == str(DB)
    assert ask(network[DB], place(STRANGER, 6), 80) == str(STRANGER)


@both_families
def test_the_nodes_own_bridge_leads_nobody_in(
    shared: tuple[Network, Servers], version: int, attempt: Attempts
) -> None:
    """docker0 and docker_gwbridge: an unlinked container is on the same one, and nobody chose that."""
    network, _ = shared
    tried = attempt(f"an unlinked container of the node reaches a linked task, IPv{version}")
    exits = tuple(Exit(SUBNETS[each], place(1, each)) for each in (4, 6))
    put(network[DB], policy(WEB))
    tried.works(ask(network[STRANGER], place(DB, version), 90) == str(DB))
    put(network[DB], policy(WEB, exits=exits))
    tried.stopped(ask(network[STRANGER], place(DB, version), 90) == SILENCE)
    tried.stopped(over_link_local(network, STRANGER, DB) == SILENCE)
    assert ask(network.node, place(DB, version), 90) == str(DB)  # a published port, by the node's own program


@both_families
def test_closed_task_opens_published_ports_only(
    shared: tuple[Network, Servers], version: int, attempt: Attempts
) -> None:
    network, servers = shared
    db = place(DB, version)
    tried = attempt(f"an unlinked service asks a service with strict: all, IPv{version}")
    put(network[DB], policy(WEB))
    tried.works(
        [ask(network[STRANGER], db, 90), ask(network.node, db, 90), ask(network[STRANGER], db, 53, "udp")]
        == [str(DB)] * 3
    )
    put(network[DB], policy(WEB, open_ports=(PortRange("tcp", 80, 80),)))
    for asked in (network[STRANGER], network.node):
        tried.stopped([ask(asked, db, 90), ask(asked, db, 53, "udp")] == [REFUSED] * 2)
        assert ask(asked, db, 80) == str(DB)
    assert ask(network[WEB], db, 80) == SILENCE  # linked: by its link alone
    stranger = place(STRANGER, version)  # its own connections go on
    assert [ask(network[DB], stranger, 90), ask(network[DB], stranger, 53, "udp")] == [str(STRANGER)] * 2
    put(network[DB], policy(open_ports=()))
    tried.stopped(ask(network[STRANGER], db, 80) == REFUSED)
    assert servers.heard


@both_families
def test_invalid_packet_ends_no_closed_tasks_connection(shared: tuple[Network, Servers], version: int) -> None:
    """What connection tracking calls invalid is of no direction: not of the replies either (moby#40374)."""
    network, _ = shared
    put(network[DB], policy(open_ports=()))
    with connect(network[DB], place(STRANGER, version), 90) as own:
        assert say(own) == str(STRANGER)
        before = strays.invalid(network[DB])
        strays.send(network[STRANGER], strays.answering(own))
        wait_for(lambda: strays.invalid(network[DB]) > before)
        assert say(own) == str(STRANGER)


NETWORK = "q7xpn5bdrf76rxieo0tn83piaq"  # an overlay's id, as Swarm has them
FREE = 77
"""Number of an address that nobody has."""


def frame(network: Network, claimed: Address, version: int) -> bytes:
    """Return a datagram for DB, by an address that is not its sender's."""
    source, target, body = claimed.packed, place(DB, version).packed, b"lie"
    datagram = struct.pack("!HHHH", 40000, 53, 8 + len(body), 0) + body
    pseudo = source + target + struct.pack("!II", len(datagram), 17)
    datagram = datagram[:6] + checksum(pseudo + datagram) + datagram[8:]
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0)
        packet = head[:10] + checksum(head + source + target) + source + target + datagram
    else:
        packet = struct.pack("!IHBB", 6 << 28, len(datagram), 17, 64) + source + target + datagram
    macs = bytes.fromhex((network.mac(DB) + network.mac(STRANGER)).replace(":", ""))
    return macs + (b"\x08\x00" if version == 4 else b"\x86\xdd") + packet


def send(netns: TaskNetns, sent: bytes) -> None:
    """Send a frame as it is, which takes NET_RAW alone."""
    with netns.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
        raw.bind((END, 0))
        raw.send(sent)


def hears(servers: Servers, sender: Address, seconds: float = 0.7) -> bool:
    """Tell whether DB has heard a datagram by that sender, and forget it."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: (str(DB), str(sender)) in servers.heard, seconds=seconds)
    found = (str(DB), str(sender)) in servers.heard
    servers.heard.clear()
    return found


def guarded(network: Network, folder: Path, *numbers: int) -> list[SourceGuard]:
    """Put the guard where these tasks are, as on an overlay: the bridge is in a namespace of Docker's naming."""
    sandbox = folder / f"1-{NETWORK[:10]}"
    if not sandbox.exists():
        sandbox.symlink_to(network.node.path)
    guards = [SourceGuard() for _ in numbers]
    for guard, number in zip(guards, numbers, strict=True):
        attachments = [Attachment(NETWORK, place(number, version)) for version in (4, 6)]
        for _ in range(2):
            guard.ensure(network[number], attachments, is_apart=False, folder=folder)
    return guards


@both_families
def test_worn_addresses_do_not_leave_a_linked_task(
    shared: tuple[Network, Servers], version: int, attempt: Attempts, tmp_path: Path
) -> None:
    """One way, by a frame that NET_RAW is enough for; both ways, by an address, which NET_ADMIN may add."""
    network, servers = shared
    raw = attempt(f"strict is passed by another's address on a frame, IPv{version}")
    taken = attempt(f"strict is passed by an address of nobody's, IPv{version}")
    put(network[DB], policy(WEB))
    free, name = place(FREE, version), Path(network[WEB].path).name
    source = [] if version == 4 else ["nodad"]
    ip("-n", name, "address", "add", f"{free}/{SUBNETS[version].prefixlen}", "dev", END, *source)

    def as_nobody() -> str:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with network[WEB].run(lambda: socket.socket(family, socket.SOCK_STREAM)) as one:
            one.settimeout(PATIENCE)
            one.bind((str(free), 0))
            try:
                one.connect((str(place(DB, version)), 90))
            except TimeoutError:
                return SILENCE
            return say(one)

    send(network[WEB], frame(network, place(STRANGER, version), version))
    raw.works(hears(servers, place(STRANGER, version)))
    taken.works(as_nobody() == str(DB))
    guards = guarded(network, tmp_path, WEB, DB)
    send(network[WEB], frame(network, place(STRANGER, version), version))
    raw.stopped(not hears(servers, place(STRANGER, version)))
    taken.stopped(as_nobody() == SILENCE)
    ip("-n", name, "address", "delete", f"{free}/{SUBNETS[version].prefixlen}", "dev", END)
    ip("-n", name, "neighbour", "flush", "dev", END)  # what is its own passes, from the search for a neighbour on
    assert ask(network[WEB], place(STRANGER, version), 80) == str(STRANGER)
    assert ask(network[STRANGER], place(WEB, version), 80) == str(WEB)
    for guard in guards:
        guard.remove()
    send(network[WEB], frame(network, place(STRANGER, version), version))
    assert hears(servers, place(STRANGER, version))


def claim(network: Network, version: int) -> bytes:
    """Return a frame by which WEB tells DB that STRANGER's address is at WEB (RFC 826, RFC 4861 section 4.4)."""
    mac, to = (bytes.fromhex(network.mac(number).replace(":", "")) for number in (WEB, DB))
    claimed = place(STRANGER, version).packed
    if version == 4:
        return to + mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + (mac + claimed) * 2
    overrides = 1 << 29
    said = struct.pack("!BBHI", 136, 0, 0, overrides) + claimed + b"\x02\x01" + mac
    return to + mac + discovery(said, place(WEB, 6))


def discovery(said: bytes, source: Address) -> bytes:
    """Return the rest of a frame to DB with a message of IPv6's neighbour discovery."""
    ends = source.packed + place(DB, 6).packed
    said = said[:2] + checksum(ends + struct.pack("!II", len(said), 58) + said) + said[4:]
    return b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(said), 58, 255) + ends + said


@both_families
def test_no_task_takes_anothers_place_on_an_overlay(
    shared: tuple[Network, Servers], version: int, attempt: Attempts, tmp_path: Path
) -> None:
    """DB talks to STRANGER, and WEB says that it is STRANGER: with NET_RAW it would read what DB sends there."""
    network, _ = shared
    tried = attempt(f"a linked task has what others send to an unlinked service, IPv{version}")

    def believed() -> str:
        """The MAC address by which DB knows STRANGER."""
        shown = network[DB].run(lambda: _output("ip", "-json", "neighbour", "show", str(place(STRANGER, version))))
        return str(json.loads(shown)[0].get("lladdr"))

    def claimed() -> str:
        assert ask(network[DB], place(STRANGER, version), 80) == str(STRANGER)
        assert believed() == network.mac(STRANGER)
        send(network[WEB], claim(network, version))
        with contextlib.suppress(AssertionError):
            wait_for(lambda: believed() == network.mac(WEB), seconds=0.7)
        return believed()

    tried.works(claimed() == network.mac(WEB))
    ip("-n", Path(network[DB].path).name, "neighbour", "flush", "dev", END)
    guarded(network, tmp_path, WEB)
    tried.stopped(claimed() == network.mac(STRANGER))
    assert ask(network[STRANGER], place(WEB, version), 80) == str(WEB), "it says where its own addresses are"


def test_no_linked_task_poses_as_a_router(shared: tuple[Network, Servers], attempt: Attempts, tmp_path: Path) -> None:
    network, _ = shared
    tried = attempt("a linked task becomes the IPv6 router of all containers beside it")
    macs = bytes.fromhex((network.mac(DB) + network.mac(WEB)).replace(":", ""))
    for_half_an_hour = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)  # RFC 4861, 4.2
    said = macs + discovery(for_half_an_hour, ip_address(network.link_local(WEB)))

    def routes() -> str:
        return network[DB].run(lambda: _output("ip", "-6", "route", "show", "default", "proto", "ra"))

    send(network[WEB], said)
    wait_for(lambda: network.link_local(WEB) in routes())
    tried.works(network.link_local(WEB) in routes())
    ip("-n", Path(network[DB].path).name, "-6", "route", "flush", "proto", "ra")
    guarded(network, tmp_path, WEB)
    send(network[WEB], said)
    with contextlib.suppress(AssertionError):
        wait_for(lambda: bool(routes()), seconds=0.7)
    tried.stopped(not routes())


def test_only_ip_and_arp_leave_a_linked_task(
    shared: tuple[Network, Servers], attempt: Attempts, tmp_path: Path
) -> None:
    """Frames of a VLAN of the task's own making, and of no protocol: rules by address see neither."""
    network, _ = shared
    tried = attempt("two linked tasks talk in frames that are not IP")
    macs = bytes.fromhex((network.mac(DB) + network.mac(WEB)).replace(":", ""))
    sent = [macs + tag + b"beside the link".ljust(60) for tag in (b"\x81\x00\x00\x05\x08\x00", b"\x88\xb5")]

    def arrived() -> int:
        with network[DB].run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as sniffer:
            sniffer.bind((END, 3))
            sniffer.settimeout(0.7)
            for frame_ in sent:
                send(network[WEB], frame_)
            found = 0
            with contextlib.suppress(TimeoutError):
                while found < len(sent):
                    found += b"beside the link" in sniffer.recv(2048)
            return found

    put(network[DB], policy(WEB))
    tried.works(arrived() == len(sent))
    guarded(network, tmp_path, WEB)
    tried.stopped(arrived() == 0)


@both_families
def test_no_frame_passes_between_ports_of_docker0(
    shared: tuple[Network, Servers], version: int, attempt: Attempts
) -> None:
    """An unlinked container wears an address that is none of the bridge's, which the rules by address let in."""
    network, servers = shared
    tried = attempt(f"a container of the node wears a foreign address, IPv{version}")
    exits = tuple(Exit(SUBNETS[each], place(1, each)) for each in (4, 6))
    put(network[DB], policy(exits=exits))
    foreign = ip_address("203.0.113.9" if version == 4 else "2001:db8:f::9")
    sent = frame(network, foreign, version)
    send(network[STRANGER], sent)
    tried.works(hears(servers, foreign))
    guard = SourceGuard(network.node.path)
    for _ in range(2):
        guard.ensure(network[DB], (), is_apart=True)
    send(network[STRANGER], sent)
    tried.stopped(not hears(servers, foreign))
    for source, target in ((network.node, DB), (network[DB], 1)):  # published ports and the way out go on
        if target == DB:
            assert ask(source, place(target, version), 90) == str(DB)
        else:
            assert echo(source, place(target, version))
    assert ask(network[STRANGER], place(CLIENT, version), 90) == str(CLIENT)
    # `strict: false` on a task that goes on, by an agent that does not remember who has put it there.
    SourceGuard(network.node.path).ensure(network[DB], (), is_apart=False)
    send(network[STRANGER], sent)
    assert hears(servers, foreign)
    guard.ensure(network[DB], (), is_apart=True)
    send(network[STRANGER], sent)
    assert not hears(servers, foreign)
    guard.remove()
    send(network[STRANGER], sent)
    assert hears(servers, foreign)


def test_guard_comes_back_and_ends_with_its_device(shared: tuple[Network, Servers], tmp_path: Path) -> None:
    network, _ = shared

    def there() -> set[str]:
        return {*nf_tables_netlink.chains(network.node, "netdev", NAME)}

    (guard,) = guarded(network, tmp_path, WEB)
    assert there() == {f"end{WEB}"}
    nft.enforce(network.node, "flush ruleset\n")
    assert there() == set()
    guard.ensure(network[WEB], [Attachment(NETWORK, place(WEB, 4))], is_apart=False, folder=tmp_path)
    assert there() == {f"end{WEB}"}
    ip("-n", Path(network.node.path).name, "link", "delete", f"end{WEB}")
    guarded(network, tmp_path, DB)
    assert there() == {f"end{DB}"}
    source_guard.remove_all(tmp_path)
    assert there() == set()


def test_ended_namespaces_file_hides_no_guard(shared: tuple[Network, Servers], tmp_path: Path) -> None:
    """Docker leaves the file for up to a minute after it has unmounted the namespace."""
    network, _ = shared
    (tmp_path / f"0-{NETWORK[:10]}").touch()
    guarded(network, tmp_path, WEB)
    assert {*nf_tables_netlink.chains(network.node, "netdev", NAME)} == {f"end{WEB}"}
    source_guard.remove_all(tmp_path)
    assert not nf_tables_netlink.chains(network.node, "netdev", NAME)
