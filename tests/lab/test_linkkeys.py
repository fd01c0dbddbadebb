"""Link keys on a real Swarm: rotated under load and by hand; and what a person is told of them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tests.lab import checker, process
from tests.lab.deployment import Deployment
from tests.lab.requests import Requests
from tests.support.effort import LONG

LOAD_S = 150 if LONG else 30
"""In its long form longer than a session lives before its next handshake: 120 s (WireGuard paper, section 6.1)."""
STACK = """
version: "3.8"
x-wireguard:
  keys:
    shop: {{rotate: 24h}}
services:
  web:
    image: {image}
    command: [nginx, -g, "daemon off;"]
    stop_grace_period: 0s
    deploy: {{replicas: 2}}
  client:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [web]
    x-wireguard: {{links: {{web: {{key: shop}}}}}}
    deploy: {{mode: global}}
  other:
    image: {image}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    links: [web]
"""


def link(answer: dict[str, Any], consumer: str) -> dict[str, Any]:
    """One link of what `docker linkwire ps` says."""
    return next(one for one in answer["links"] if one["consumer"] == consumer)


def epochs_written(stacks: Deployment, key: str) -> int:
    """How often a key has got a new epoch: the version that etcd counts of its record."""
    argv = ["etcdctl", "--endpoints", stacks.lab.etcd_endpoint, "get", f"/linkwire/v1/epochs/{key}", "-w", "json"]
    kvs = json.loads(process.answer(argv, env={**os.environ, "ETCDCTL_API": "3"}).stdout)["kvs"]
    return int(kvs[0]["version"])


def test_rotation_under_load_costs_no_request(stacks: Deployment, figure: Callable[[str], None]) -> None:
    stacks.deploy("keys", STACK.format(image=stacks.images.demo))
    stacks.wait_running("keys_web", 2)
    clients = stacks.wait_running("keys_client", 3)
    stacks.wait_connected("keys")
    checker.settle(stacks.lab)
    before = epochs_written(stacks, "keys_shop")
    with ExitStack() as load:
        counts = [load.enter_context(Requests(node, client, "http://web/")) for node, client in clients]
        ends = time.monotonic() + LOAD_S
        while time.monotonic() < ends:  # by hand, as no clock may: what `docker linkwire rotate` writes
            asked = f"linkwire.renew={time.monotonic_ns()}"
            stacks.lab.manager.docker("service", "update", "--detach", "--label-add", asked, "keys_client")
            time.sleep(1)
        renewed = stacks.ps("keys")
    rotations = epochs_written(stacks, "keys_shop") - before
    ok, lost = (sum(one.counted.ok for one in counts), sum(one.counted.lost for one in counts))
    ages = [pair["handshake_age"] for pair in link(renewed, "keys_client")["pairs"]]
    figure(
        f"link keys: {rotations} rotations in {LOAD_S} s, requests from {len(clients)} nodes: {lost} of {ok + lost} "
        f"lost; {sum(age < 60 for age in ages)} of {len(ages)} pairs made a handshake in the last minute of it"
    )
    assert rotations > LOAD_S / 5
    assert lost == 0
    assert ok > 1000
    assert not LONG or any(age < 60 for age in ages), "no handshake was made with a rotated key"


def test_key_shows_its_epoch_and_rotates_by_hand(stacks: Deployment) -> None:
    stacks.deploy("keys", STACK.format(image=stacks.images.demo))
    answer = stacks.wait_connected("keys")
    ours, own = link(answer, "keys_client"), link(answer, "keys_other")
    assert (ours["key"], own["key"]) == ("keys_shop", "keys_other:keys_web")
    table = stacks.linkwire("ps", "keys")
    assert re.search(rf"keys_client -> keys_web.*keys_shop/{ours['epoch']}\n", table)
    assert re.search(rf"keys_other -> keys_web.*own/{own['epoch']}\n", table)
    tasks = {container for _, container in stacks.tasks("keys_other")}
    assert "requested a new secret for keys_other:keys_web" in stacks.linkwire("rotate", "keys_other:keys_web")

    def renewed() -> bool:
        return bool(link(stacks.ps("keys"), "keys_other")["epoch"] > own["epoch"])

    process.wait_for("the key's new epoch", renewed, seconds=30, every=0.5)
    assert link(stacks.ps("keys"), "keys_client")["epoch"] == ours["epoch"]
    assert {container for _, container in stacks.tasks("keys_other")} == tasks, "nothing is restarted"
    events = stacks.events("keys_other")
    assert ("link key renewed", "keys_other:keys_web", link(stacks.ps("keys"), "keys_other")["epoch"]) in [
        (kind, details.get("key"), int(details.get("epoch", -1))) for kind, details in events
    ]
    linked = [details for kind, details in events if kind == "link created" and details["consumer"] == "keys_other"]
    assert linked, "and who was linked to what"
    assert linked[-1]["provider"] == "keys_web"
    assert linked[-1]["stack"] == "keys"
