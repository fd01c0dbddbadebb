"""Links on a real Swarm: who reaches whom, by name and by address, and what is said of it."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.crypto.signed_envelope import peek
from mesh.model.keyspace import ROOT
from tests.lab import checker, process
from tests.lab.capture import Capture
from tests.lab.deployment import EXAMPLES, Deployment
from tests.lab.node import Node

CANARY = "canary-of-the-link-tests-7f3a"
OUTSIDER = """
version: "3.8"
services:
  other:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 1s
    networks: {{bridge: {{}}}}
    deploy: {{mode: global}}
networks:
  bridge: {{external: true, name: bridge}}
"""


def curl(node: Node, container: str, url: str, seconds: int = 5) -> tuple[int, str]:
    """curl's exit code and what it fetched."""
    done = node.docker("exec", container, "curl", "-s", "-m", str(seconds), url, check=False)
    return done.returncode, done.stdout


def mesh_address(node: Node, container: str) -> str:
    shown = node.docker("exec", container, "ip", "-json", "-4", "address", "show").stdout
    found: str = next(
        address["local"]
        for link in json.loads(shown)
        if link["ifname"].startswith("lw")
        for address in link["addr_info"]
    )
    return found


def test_linuxkits_demonstration_by_name_and_nobody_else(stacks: Deployment) -> None:
    stacks.deploy("demo", EXAMPLES / "linuxkit/docker-compose.yml")
    web_node, web = stacks.wait_running("demo_web", 1)[0]
    clients = stacks.wait_running("demo_client", 3)
    stacks.lab.manager.docker(
        "stack", "deploy", "-c", "-", "out", stdin=OUTSIDER.format(image=stacks.images.demo), env=dict(os.environ)
    )
    outsiders = stacks.wait_running("out_other", 3)
    stacks.wait_connected("demo")
    assert {node.name for node, _ in clients} == {"n1", "n2", "n3"}  # one shares web's node, two do not
    for node, client in clients:
        code, page = curl(node, client, "http://web/")
        assert (code, "nginx" in page) == (0, True), f"{node.name}: {code}"
    address = mesh_address(web_node, web)
    for node, outsider in outsiders:
        assert curl(node, outsider, "http://web/", 3)[0] != 0
        assert curl(node, outsider, "http://demo_web/", 3)[0] != 0
        assert curl(node, outsider, f"http://{address}/", 3)[0] != 0
        assert "lw" not in node.docker("exec", outsider, "ip", "-brief", "link").stdout
    assert curl(*clients[0], f"http://{address}/")[0] == 0  # so that the refusals above mean something


def test_no_request_is_readable_on_the_wire(stacks: Deployment) -> None:
    stacks.deploy("demo", EXAMPLES / "linuxkit/docker-compose.yml")
    web_node, _ = stacks.wait_running("demo_web", 1)[0]
    stacks.wait_connected("demo")
    node, client = next(c for c in stacks.tasks("demo_client") if c[0].name != web_node.name)
    capture = Capture(stacks.lab)
    with capture:
        code, answer = curl(node, client, f"http://web/{CANARY}")
    seen = capture.search(CANARY.encode())
    capture.close()
    assert code == 0
    assert "404" in answer
    assert seen.udp > 0
    assert seen.canary == 0


def test_the_shop_works_over_two_links(stacks: Deployment) -> None:
    stacks.deploy("shop", EXAMPLES / "shop/docker-compose.yml")
    stacks.wait_connected("shop")
    node, front = stacks.wait_running("shop_front", 1)[0]
    process.wait_for(
        "the shop to take an order", lambda: "order" in curl(node, front, "http://127.0.0.1:8080/")[1], seconds=60
    )
    first = int(curl(node, front, "http://127.0.0.1:8080/")[1].split()[1])
    assert int(curl(node, front, "http://127.0.0.1:8080/")[1].split()[1]) == first + 1
    # front is not linked to redis: it neither has its name nor reaches its address.
    redis_node, redis = stacks.wait_running("shop_redis", 1)[0]
    assert "orders" not in node.docker("exec", front, "cat", "/etc/hosts").stdout
    assert curl(node, front, "http://orders:6379/", 3)[0] != 0
    assert curl(node, front, f"http://{mesh_address(redis_node, redis)}:6379/", 3)[0] != 0


def test_ps_shows_every_measured_pair_from_any_node(stacks: Deployment) -> None:
    stacks.deploy("demo", EXAMPLES / "linuxkit/docker-compose.yml")
    answer = stacks.wait_connected("demo")
    (link,) = answer["links"]
    assert (link["consumer"], link["provider"], link["aliases"]) == ("demo_client", "demo_web", ["web"])
    assert sorted(pair["consumer_node"] for pair in link["pairs"]) == ["n1", "n2", "n3"]
    assert all(pair["handshake_age"] < 180 and pair["rx"] > 0 for pair in link["pairs"])
    table = stacks.linkwire("ps", "--pairs", "demo", node=stacks.lab.node("n2"))
    assert "connected" in table
    assert "demo_web.1." in table


def test_a_file_without_x_wireguard_deploys_unchanged(stacks: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "plain.yml"
    path.write_text(
        f'version: "3.8"\nservices:\n  a:\n    image: {stacks.images.demo}\n    command: [sleep, "1000"]\n'
        f"    stop_grace_period: 1s\n    links: [b]\n    networks: [bridge]\n  b:\n    image: {stacks.images.demo}\n"
        '    command: [sleep, "1000"]\n    stop_grace_period: 1s\n    networks: [bridge]\n'
        "networks: {bridge: {external: true, name: bridge}}\n"
    )
    stacks.linkwire("deploy", "-c", str(path), "plain")
    spec = json.loads(stacks.lab.manager.docker("service", "inspect", "plain_a").stdout)[0]["Spec"]
    assert not any(label.startswith("linkwire") for label in spec["Labels"])


def test_swarm_errors_are_one_line_and_rest_continues(stacks: Deployment) -> None:
    image, manager = stacks.images.demo, stacks.lab.manager
    etcdctl = ["etcdctl", "--endpoints", stacks.lab.etcd_endpoint]
    os.environ["ETCDCTL_API"] = "3"
    process.answer([*etcdctl, "put", "/linkwire/v1/endpoints/nobody/nothing", "not a record"])
    for name, label in (("lost", "linkwire.links=nowhere"), ("odd", "linkwire.links=not a name")):
        manager.docker(
            *("service", "create", "--quiet", "--detach", "--no-resolve-image", "--network", "bridge"),
            *("--name", name, "--label", label, image, "sleep", "1000"),
        )
    try:
        stacks.deploy("demo", EXAMPLES / "linuxkit/docker-compose.yml")
        stacks.wait_connected("demo")
        tell: tuple[Callable[[], str], ...] = (
            lambda: stacks.try_linkwire("check").stdout,
            lambda: stacks.logged("linkwire_controller"),
        )
        process.wait_for(
            "the absent provider to be no passing matter",
            lambda: all("links to nowhere" in told() for told in tell),
            seconds=30,
        )
        checked = stacks.try_linkwire("check")
        said = checked.stdout
        logged = stacks.logged("linkwire_controller")
        assert checked.returncode == 1
        assert "links to nowhere, which does not exist (yet)" in said
        assert "not a name" in said
        for part in ("links to nowhere, which does not exist (yet)", "endpoints/nobody/nothing", "not a name"):
            assert part in logged
        left = process.answer([*etcdctl, "get", "/linkwire/v1/endpoints/nobody/nothing"])
        assert not left.stdout, "the controller takes away what nobody has signed"
    finally:
        process.answer([*etcdctl, "del", "/linkwire/v1/endpoints/nobody/nothing"])
        manager.docker("service", "rm", "lost", "odd")


def test_hand_made_services_are_linked_by_label(stacks: Deployment) -> None:
    image, manager = stacks.images.demo, stacks.lab.manager
    create = ("service", "create", "--quiet", "--detach", "--no-resolve-image", "--stop-grace-period", "1s")
    common = (*create, "--network", "bridge")
    try:
        allow = ("--label", "linkwire.allow=hand_client")
        manager.docker(*common, "--name", "hand_web", *allow, image, "nginx", "-g", "daemon off;")
        manager.docker(
            *common, "--name", "hand_client", "--label", "linkwire.links=hand_web:page", image, "sleep", "86400"
        )
        node, client = stacks.wait_running("hand_client", 1)[0]
        process.wait_for("the page", lambda: curl(node, client, "http://page/")[0] == 0, seconds=60)
        checker.settle(stacks.lab)
    finally:
        manager.docker("service", "rm", "hand_web", "hand_client")


@pytest.mark.parametrize("docker", ["/usr/bin/docker", "/usr/local/bin/docker"])
def test_the_plugin_deploys_with_the_docker_cli_at(
    docker: str, stacks: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path(docker).exists():
        pytest.skip(f"LOUD: no Docker CLI at {docker}, so the plugin is not tried with it")
    monkeypatch.setenv("LINKWIRE_DOCKER", docker)
    stacks.deploy("demo", EXAMPLES / "linuxkit/docker-compose.yml")
    stacks.wait_connected("demo")
    assert "demo_client" in stacks.linkwire("ps", "demo")


def test_an_address_rests_before_another_task_gets_it(stacks: Deployment) -> None:
    """No address that a task had is held by another while it rests; then it is free again."""
    process.wait_for("what earlier tests used to be free", lambda: not addresses(stacks), seconds=60)
    stacks.deploy("demo", EXAMPLES / "linuxkit/docker-compose.yml")
    stacks.wait_connected("demo")
    held = addresses(stacks)
    assert len(held) == 6  # four tasks, two VIPs
    stacks.remove("demo")
    process.wait_for("addresses to rest", lambda: set(addresses(stacks).values()) == {None}, seconds=20)
    assert addresses(stacks).keys() == held.keys()
    began = time.monotonic()
    process.wait_for("addresses to be free again", lambda: not addresses(stacks), seconds=40)
    assert time.monotonic() - began > 5


def addresses(deployment: Deployment) -> dict[str, str | None]:
    argv = ["etcdctl", "--endpoints", deployment.lab.etcd_endpoint, "get", "--prefix", "/linkwire/v1/addresses/"]
    shown = json.loads(process.answer([*argv, "-w", "json"], env={**os.environ, "ETCDCTL_API": "3"}).stdout)
    pairs = [[base64.b64decode(one[part]) for part in ("key", "value")] for one in shown.get("kvs", ())]
    records = [json.loads(peek(key.decode().removeprefix(ROOT), value).body) for key, value in pairs]
    return {record["address"]: record["holder"] for record in records}
