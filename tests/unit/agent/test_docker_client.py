"""What the agent makes of a container as Docker lists it. When Docker lists what is tested on a real one."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent.containers.docker_client import NAME_LABEL, SERVICE_LABEL, TASK_LABEL, Containers, LocalTask
from mesh.model.records import Attachment

NOTHING: dict[str, Any] = {"NetworkID": "", "IPAddress": "", "GlobalIPv6Address": "", "IPAMConfig": None}


def listed(state: str, **networks: dict[str, Any]) -> dict[str, Any]:
    labels = {TASK_LABEL: "t1", SERVICE_LABEL: "s1", NAME_LABEL: "shop_web.1.t1"}
    return {
        "Id": "c1",
        "State": state,
        "Labels": labels,
        "NetworkSettings": {"Networks": {name: NOTHING | told for name, told in networks.items()}},
    }


def task(raw: dict[str, Any]) -> LocalTask:
    found = Containers("unix:///nowhere")._task(raw)
    assert found is not None
    return found


def at(network: str, address: str) -> Attachment:
    return Attachment(network, ip_address(address))


@pytest.mark.parametrize(
    ("networks", "elsewhere"),
    [
        ({}, ()),
        ({"bridge": {"NetworkID": "b"}}, ()),
        ({"none": {"NetworkID": ""}}, ()),
        ({"shop": {"NetworkID": "o", "IPAMConfig": {"IPv4Address": "10.0.1.5"}}}, (at("o", "10.0.1.5"),)),
        ({"shop": {"NetworkID": "o", "IPAMConfig": {"IPv6Address": "fd01::5"}}}, (at("o", "fd01::5"),)),
        ({"shop": {"NetworkID": "o", "IPAMConfig": {}}}, ()),
        (
            {"shop": {"NetworkID": "o", "IPAddress": "10.0.1.6", "IPAMConfig": {"IPv4Address": "10.0.1.5"}}},
            (at("o", "10.0.1.6"),),
        ),
        (
            {
                "z": {"NetworkID": "o", "IPAddress": "10.0.1.10"},
                "a": {"NetworkID": "b", "IPAddress": "172.17.0.2", "GlobalIPv6Address": "fd00::2"},
            },
            (at("b", "172.17.0.2"), at("b", "fd00::2"), at("o", "10.0.1.10")),
        ),
        ({"odd": {"NetworkID": "x", "IPAddress": "soon", "GlobalIPv6Address": None}}, ()),
        ({"odd": {"NetworkID": "", "IPAddress": "10.0.1.5"}}, ()),
    ],
)
def test_addresses_of_a_container_about_to_start(
    networks: dict[str, dict[str, Any]], elsewhere: tuple[Attachment, ...]
) -> None:
    local = task(listed("created", **networks))
    assert (local.state, local.elsewhere) == ("created", elsewhere)


@pytest.mark.parametrize("state", ["exited", "dead", "removing"])
def test_a_container_that_has_ended_has_no_address(state: str) -> None:
    """Docker lists the one that Swarm chose for it until it is removed; another task may have it by then."""
    local = task(listed(state, shop={"NetworkID": "o", "IPAMConfig": {"IPv4Address": "10.0.1.5"}}))
    assert (local.state, local.elsewhere) == ("gone", ())


def test_host_network_container_can_never_be_wired() -> None:
    local = task(listed("created", host={"NetworkID": "h"}))
    assert local.problem is not None
    assert local.elsewhere == ()


@pytest.mark.parametrize(
    ("labels", "gated", "awaits"),
    [
        ({}, False, ()),
        ({"linkwire.gate": "false"}, False, ()),
        ({"linkwire.gate": "auto"}, False, ()),
        ({"linkwire.gate": "true", "linkwire.gate.ready": "shop_db"}, True, ("shop_db",)),
        ({"linkwire.gate": "auto", "linkwire.gate.ready": "shop_db,,shop_cache"}, False, ("shop_db", "shop_cache")),
    ],
)
def test_what_a_containers_labels_say_of_its_start(
    labels: dict[str, str], gated: bool, awaits: tuple[str, ...]
) -> None:
    raw = listed("created")
    local = task({**raw, "Labels": raw["Labels"] | labels})
    assert (local.gated, local.awaits) == (gated, awaits)


@contextmanager
def engine(answers: Mapping[str, object]) -> Iterator[Containers]:
    """An engine of version 1.45 that answers so, and what asks it."""
    version = {"/version": {"ApiVersion": "1.45", "MinAPIVersion": "1.24"}}
    known = version | {f"/v1.45{path}": answer for path, answer in answers.items()}

    class Engine(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(known[self.path.partition("?")[0]]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Containers(f"tcp://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


@pytest.mark.parametrize("folder", ["/srv/docker", "/var/lib/docker/231072.231072"])
def test_hosts_file_is_found_below_a_moved_root(folder: str) -> None:
    """Docker's data folder is elsewhere, by `data-root` or as `userns-remap` names it (moby#26106)."""
    answers: dict[str, object] = {
        "/info": {"DockerRootDir": folder, "Name": "n1", "Swarm": {"NodeID": "n", "NodeAddr": "192.0.2.1"}},
        "/containers/json": [listed("created")],
    }
    with engine(answers) as containers:
        containers.identity()
        assert [one.hosts for one in containers.all().values()] == [f"{folder}/containers/c1/hosts"]


def test_ways_of_one_about_to_start_are_read() -> None:
    """Its names may be written before it starts where all its networks lead through the node."""
    answers: dict[str, object] = {
        "/containers/json": [listed("created", shop={"NetworkID": "o"})],
        "/networks/o": {"Driver": "overlay", "IPAM": {"Config": [{"Subnet": "10.0.1.0/24"}]}},
    }
    with engine(answers) as containers:
        found = containers.one("c1")
        assert found is not None
        assert found.ways == (ip_network("10.0.1.0/24"),)
