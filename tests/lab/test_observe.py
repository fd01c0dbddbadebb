"""Pictures, rates, logs, flows and the bundle of a running stack, and that no secret is in any of them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from tests.lab import emissions, programs
from tests.lab.deployment import Deployment
from tests.lab.programs import Calls

CANARY = "canary-of-the-bundle-4d1f"
SECONDS = 12
"""For which flows are watched: `docker exec` takes its time on a busy machine."""


def shop(stacks: Deployment) -> str:
    """A task of web on each node; db listens on two ports, of which the link has one."""
    image, secret = stacks.images.demo, {"environment": {"DB_PASSWORD": CANARY}, "labels": {"token": CANARY}}
    return programs.stack(
        {
            "web": programs.idle(
                image,
                links=["db"],
                deploy={"mode": "global"},
                **secret,
                **{"x-wireguard": {"links": {"db": {"ports": ["80"]}}}},
            ),
            "db": programs.service(image, "listen", "db", "--tcp", "80,81", stop_grace_period="1s", **secret),
        }
    )


def documents(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_stack_is_seen_from_all_sides(stacks: Deployment, tmp_path: Path, figure: Callable[[str], None]) -> None:
    stacks.deploy("shop", shop(stacks))
    web = next(task for task in stacks.wait_running("shop_web", 3) if task[0].name == "n1")
    stacks.wait_running("shop_db", 1)
    programs.count_calls(web, "db", 1)

    with Calls(web, "db", pause=0.2), ThreadPoolExecutor() as pool:
        measured = pool.submit(stacks.linkwire, "top", "shop", "--no-stream", "--format", "json", "--interval", "8")
        watched = pool.submit(stacks.linkwire, "flows", "shop", "--for", str(SECONDS), "--format", "json")
        refused = programs.count_calls(web, "db", 1, port=81)
        while not watched.done():
            refused += programs.count_calls(web, "db", 1, port=81)
    assert all(call.who is None for call in refused)
    check_rates(json.loads(measured.result()))
    check_flows(stacks, documents(watched.result()), web[1])
    check_graphs(stacks)
    lines = check_logs(stacks)
    sizes = check_bundle(stacks, tmp_path / "help.tar.gz")
    figure(f"logs about a stack: {lines} lines; support bundle: {sizes} bytes")


def check_rates(document: dict[str, Any]) -> None:
    (link,) = document["links"]
    assert (link["consumer"], link["provider"], link["pairs"]) == ("shop_web", "shop_db", 3)
    assert link["received"] > 100
    assert link["sent"] > 100


def check_flows(stacks: Deployment, told: list[dict[str, Any]], container: str) -> None:
    watched, end = told[0], told[-1]
    assert (watched["kind"], end["kind"]) == ("watched", "end")
    assert (watched["nodes_not_watched"], len(watched["nodes"]), watched["tasks"]) == ([], 3, 4)
    assert watched["problems"] == []
    connections = [one for one in told if one["kind"] == "connection"]
    names = {(one["consumer"], one["provider"], one["protocol"], one["destination_port"]) for one in connections}
    assert names == {("shop_web", "shop_db", "tcp", 80)}
    inspected = stacks.lab.node("n1").docker(
        "inspect", "--format", '{{index .Config.Labels "com.docker.swarm.task.id"}}', container
    )
    assert {one["consumer_task"] for one in connections} == {inspected.stdout.strip()}
    assert end["shown"] == len(connections) >= 3
    refusals = [one for one in told if one["kind"] == "refused"]
    assert {(one["service"], one["other"], one["direction"]) for one in refusals} == {("shop_web", "shop_db", "out")}
    assert sum(one["packets"] for one in refusals) >= 1


def check_graphs(stacks: Deployment) -> None:
    document = json.loads(stacks.linkwire("graph", "shop", "--format", "json"))
    assert document["services"] == ["shop_db", "shop_web"]
    (link,) = document["links"]
    assert (link["ports"], sum(link["pairs"].values())) == ("80/tcp", 3)
    assert link["pairs"]["connected"] >= 1
    mermaid = stacks.linkwire("graph", "shop")
    assert f'|"db 80/tcp: {link["state"]} ' in mermaid
    picture = ET.fromstring(stacks.linkwire("graph", "shop", "--format", "svg"))  # noqa: S314 - our own
    assert "shop_web" in "".join(picture.itertext())
    assert stacks.linkwire("graph", "shop", "--format", "dot").startswith("digraph linkwire {")
    assert stacks.try_linkwire("graph", "shopp").returncode == 2


def check_logs(stacks: Deployment) -> int:
    done = stacks.try_linkwire("logs", "shop", "--format", "json", "--since", "10m")
    lines = documents(done.stdout)
    assert [one["time"] for one in lines] == sorted(one["time"] for one in lines)
    wired = [one for one in lines if one["event"] == "task wired"]
    assert {one["node"] for one in wired} == {"n1", "n2", "n3"}
    assert all(one["fields"]["name"].startswith("shop_") for one in wired)
    assert {one["component"] for one in lines} >= {"agent"}
    everything = documents(stacks.try_linkwire("logs", "--format", "json", "--since", "10m").stdout)
    assert {one["component"] for one in everything} >= {"agent", "controller"}
    assert len(everything) > len(lines)
    assert datetime.fromisoformat(lines[0]["time"]).tzinfo is not None
    return len(lines)


def check_bundle(stacks: Deployment, path: Path) -> int:
    """Every part is there, and in none of them any value that Linkwire keeps secret, or the stack's own."""
    made = json.loads(stacks.linkwire("support-bundle", "--output", str(path), "--format", "json"))
    assert [text for text in made["problems"] if not text.startswith("logs")] == []
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member) for member in tar}
        shown = [(name, file.read()) for name, file in files.items() if file is not None]
    texts = {name.partition("/")[2]: data for name, data in shown}
    records = documents(texts["records.jsonl"].decode())
    assert any(one.get("key", "").startswith("keys/") for one in records), "sealed keys are named"
    assert b"shop_web" in texts["links.json"]
    assert b"task wired" in texts["logs.jsonl"]
    assert b"link created" in texts["events.jsonl"]
    hidden = emissions.secrets(stacks)
    assert len(hidden) > 10
    assert emissions.seen(hidden.items(), shown) == []
    assert all(CANARY.encode() not in data for _, data in shown)
    # The same search does find a secret where there is one.
    secret, where = next(iter(hidden.items()))
    assert emissions.seen([(secret, where)], [("x", b".." + secret.hex().encode())]) != []
    return int(made["bytes"])
