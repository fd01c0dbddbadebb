"""Both families inside and outside, and packets of every size: what the wires between the nodes may be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab import checker, process, programs
from tests.lab.capture import Capture
from tests.lab.deployment import Deployment
from tests.lab.programs import Task

Figure = Callable[[str], None]
TRANSFER = 8_000_000  # bytes, each way
IP_HEADER = {4: 20, 6: 40}  # RFC 791, RFC 8200
ICMP_HEADER = 8  # RFC 792, RFC 4443
WIREGUARD = 32  # header and tag of a data message (WireGuard paper, 5.4.6)
UDP_HEADER = 8
FRAGMENTS = "ip[6:2] & 0x3fff != 0 or ip6[6] == 44"


@pytest.fixture
def pair(stacks: Deployment) -> tuple[Task, Task]:
    """A client on n1 that is linked to a web server on n2, which also has a port for measuring throughput."""
    image = stacks.images.demo

    def on(node: str) -> dict[str, object]:
        return {"placement": {"constraints": [f"node.hostname == {node}"]}}

    services = {
        "client": programs.idle(image, links=["web"], deploy=on("n1")),
        "web": {
            **programs.service(image, "listen", "web", "--tcp", "80"),
            "command": ["sh", "-c", "python3 /srv/bulk.py serve 81 & exec python3 /srv/listen.py web --tcp 80"],
            "stop_grace_period": "1s",
            "deploy": on("n2"),
        },
    }
    stacks.deploy("under", programs.stack(services))
    tasks = stacks.wait_running("under_client", 1)[0], stacks.wait_running("under_web", 1)[0]
    checker.settle(stacks.lab)
    return tasks


@pytest.fixture
def _ordinary_wires(stacks: Deployment) -> Iterator[None]:
    yield
    stacks.lab.set_mtu(1500)
    for node in stacks.lab.nodes:
        stacks.lab.manager.docker("node", "update", "--label-rm", "linkwire.address", node.name, check=False)
    process.wait_for("agents at their ordinary addresses", stacks.agents_ready, seconds=60, every=0.5)


def inside(task: Task, *argv: str) -> str:
    """What a command says in a task, whether or not it succeeds."""
    node, container = task
    done = node.docker("exec", container, *argv, check=False, timeout=60)
    return done.stdout + done.stderr


def test_single_family_applications_both_reach_the_provider(pair: tuple[Task, Task]) -> None:
    client, web = pair
    for family in ("-4", "-6"):
        answer = inside(client, "curl", family, "-s", "-m", "5", "http://web/")
        assert answer == f"web {programs.hostname(web)}", family


@pytest.mark.usefixtures("_ordinary_wires")
def test_links_over_an_ipv6_underlay(stacks: Deployment, pair: tuple[Task, Task], figure: Figure) -> None:
    lab = stacks.lab
    for node in lab.nodes:
        lab.manager.docker("node", "update", "--label-add", f"linkwire.address={node.address6}", node.name)
    began = time.monotonic()
    process.wait_for("endpoints at IPv6 addresses", lambda: checker.differences(lab) == [], seconds=60, every=0.3)
    moved = time.monotonic() - began
    checker.settle(lab)
    capture = Capture(lab)
    with capture:
        spread = programs.count_calls(pair[0], "web", 100)
        spread += programs.count_calls(pair[0], "web", 100, family="6")
    packets = {version: capture.count(f"{version} and udp portrange 51820-53819") for version in ("ip", "ip6")}
    capture.close()
    figure(
        f"underlay moved to IPv6: devices follow after {moved:.1f} s; 200 requests were {packets['ip6']} packets of"
        f" IPv6 and {packets['ip']} of IPv4"
    )
    assert [call for call in spread if call.who is None] == []
    assert packets["ip"] == 0
    assert packets["ip6"] > 200  # at least one for each request


@pytest.mark.usefixtures("_ordinary_wires")
def test_transfers_over_wires_of_every_mtu(stacks: Deployment, pair: tuple[Task, Task], figure: Figure) -> None:
    """The wires' own MTU is changed under a link that is in use."""
    client, web = pair
    for wire in (1500, 1450, 1280, 9000):
        stacks.lab.set_mtu(wire)
        took = wait_fits(client, web, wire)
        said = []
        for version in (4, 6):
            capture = Capture(stacks.lab, size=64, only=FRAGMENTS)
            with capture:
                largest = largest_passes(client, web, version)
                rates = [transfer(client, version, way) for way in ("up", "down")]
            fragments = capture.count("")
            capture.close()
            said.append(
                f"IPv{version} {largest} B inside, {rates[0]:.0f} and {rates[1]:.0f} Mbit/s, {fragments} fragments"
            )
            assert (fragments > 0) == ((version, wire) == (6, 1280)), said
        figure(f"wires of {wire}: devices fit after {took:.1f} s; {'; '.join(said)}")


def path_mtu(task: Task, other: Task, version: int) -> int:
    """What the task's own routes say fits to another's address, in bytes."""
    address = programs.addresses(other)[version]
    (route,) = json.loads(inside(task, "ip", "-json", "route", "get", address))
    device = json.loads(inside(task, "ip", "-json", "link", "show", route["dev"]))[0]["mtu"]
    return int(next((metric["mtu"] for metric in route.get("metrics", []) if "mtu" in metric), device))


def wait_fits(client: Task, web: Task, wire: int) -> float:
    """Wait until both ends make use of the wire; the seconds that took."""
    began = time.monotonic()
    process.wait_for(f"devices to fit wires of {wire}", lambda: fits(client, web, wire), seconds=60, every=0.3)
    return time.monotonic() - began


def fits(client: Task, web: Task, wire: int) -> bool:
    """Whether both ends use as much of a wire as goes unfragmented, but for room to pad and for an IPv6 header.

    IPv6 never has less than 1280 (RFC 8200, 5).
    """
    most = wire - IP_HEADER[4] - UDP_HEADER - WIREGUARD
    found = {(v, path_mtu(*ends, v)) for v in (4, 6) for ends in ((client, web), (web, client))}
    return all(most - 36 <= mtu <= most or (version == 6 and most < 1280 == mtu) for version, mtu in found)


def largest_passes(client: Task, web: Task, version: int) -> int:
    """Check that a packet of exactly the route's MTU arrives unfragmented, and that one more is refused here."""
    address, mtu = programs.addresses(web)[version], path_mtu(client, web, version)
    size = mtu - IP_HEADER[version] - ICMP_HEADER
    ping = ("ping", f"-{version}", "-c", "3", "-i", "0.05", "-W", "2", "-M", "do", "-s")
    for less in (0, 1, 7, 15, 16):  # WireGuard pads to 16 bytes (paper, 5.4.6)
        assert " 0% packet loss" in inside(client, *ping, str(size - less), address), (version, mtu, less)
    assert "message too long" in inside(client, *ping, str(size + 1), address).lower()
    return mtu


def transfer(client: Task, version: int, way: str) -> float:
    """Move TRANSFER bytes by TCP, to the provider (up) or from it (down); Mbit/s."""
    said = inside(client, "python3", "/srv/bulk.py", way, "web", "81", str(version), str(TRANSFER))
    assert said.startswith("["), said
    arrived, seconds = json.loads(said)
    assert arrived == TRANSFER
    return float(8 * arrived / seconds / 1e6)
