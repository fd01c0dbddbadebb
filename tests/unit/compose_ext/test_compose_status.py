"""What is judged of a whole Swarm, and the screen that says it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compose_ext.docker_cli import Docker
from compose_ext.health.facts import _dropped
from compose_ext.health.judgement import BROKEN, DEGRADED, WELL, Expiry, Facts, Finding, Node, judge
from compose_ext.observe.status import document, rows, table
from compose_ext.swarm.link_states import Answer, judged, read
from tests.unit.compose_ext.test_compose_ps import answer as ps_answer
from tests.unit.compose_ext.test_compose_ps import pair

NODES = (Node("id1", "n1", True, True), Node("id2", "n2", True, False))
RUNNING = {"controller": ("n1", "n2"), "etcd": ("n1",), "agent": ("n1", "n2")}
AGENTS = {node.id: {"hostname": node.hostname, "backend": "kernel", "version": "0.1.0"} for node in NODES}
CONTROL = {
    "reached": True,
    "leader": "id1",
    "etcd": {"size": 3 * 2**20, "in_use": 2**20, "quota": 2**31},
    "agents": AGENTS,
    "tasks": {"wired": 3, "waiting": 0, "error": 0},
}


def answer(**changes: Any) -> Answer:  # noqa: ANN401 - fields of the agent's document
    control = {**CONTROL, **changes.pop("control", {})}
    return judged({**ps_answer(problems=[], unanswered=[], stacks=["shop"], control=control), **changes})


def facts(**changes: Any) -> Facts:  # noqa: ANN401 - fields of Facts
    return Facts(**{"answer": answer(), "nodes": NODES, "running": RUNNING, **changes})


def with_holder(**holder: Any) -> Answer:  # noqa: ANN401 - fields of the agent's document
    return answer(control={"agents": {**AGENTS, "id2": {**AGENTS["id2"], "holder": holder}}})


MEMBERS = [
    {"endpoint": "10.0.0.1:2379", "name": "n1", "is_leader": True, "problem": "", "size": 2**20, "in_use": 2**19},
    {"endpoint": "10.0.0.2:2379", "name": "", "is_leader": False, "problem": "refused", "size": None, "in_use": None},
]
GONE = "shop_web -> shop_db: no ready task: shop_db is scaled to 0; docker service scale shop_db=1"
LOST = "shop_web.1.k on node n1 gets no answer from shop_db.1.z on node n2 for 20 s: see that firewalls ..."
OTHER = "node n2 keeps what it last verified: the manifest is missing"
CUT_OFF = "this node's agent cannot reach etcd, so nothing is known of the other nodes: no answer"


@pytest.mark.parametrize(
    ("changes", "severity", "begins"),
    [
        ({}, WELL, ()),
        ({"nodes": None, "running": None}, WELL, ()),
        ({"answer": answer(problems=[OTHER, LOST], unanswered=[LOST])}, BROKEN, (LOST, OTHER)),
        ({"answer": answer(problems=[OTHER])}, DEGRADED, (OTHER,)),
        ({"answer": None, "unanswered": "the agent's process hangs"}, BROKEN, ("the agent's process hangs",)),
        (
            {"answer": answer(problems=[CUT_OFF], unanswered=[CUT_OFF], control={"reached": False, "agents": {}})},
            BROKEN,
            (CUT_OFF,),
        ),
        ({"answer": answer(control={"leader": None})}, BROKEN, ("no controller leads",)),
        ({"running": {**RUNNING, "controller": ()}}, BROKEN, ("no task of linkwire_controller runs",)),
        ({"running": {**RUNNING, "etcd": ()}}, BROKEN, ("no task of linkwire_etcd runs",)),
        ({"answer": answer(control={"agents": {"id1": AGENTS["id1"]}})}, DEGRADED, ("node n2: its agent is silent",)),
        ({"nodes": (NODES[0], Node("id3", "n3", False, False))}, WELL, ()),
        ({"certificates": (Expiry("server", 200, None),)}, WELL, ()),
        ({"certificates": (Expiry("server", 20, "renew it"),)}, DEGRADED, ("server expires in 20 days: renew it",)),
        ({"certificates": (Expiry("server", -1, None),)}, BROKEN, ("server has expired",)),
        ({"others": ("node n2: REVOKED",)}, DEGRADED, ("node n2: REVOKED",)),
        ({"missing": (Finding(BROKEN, GONE),), "others": ("x",)}, BROKEN, (GONE, "x")),
        ({"answer": answer(problems=[LOST], unwired=[LOST])}, BROKEN, (LOST,)),
        ({"answer": answer(control={"members": MEMBERS})}, DEGRADED, ("etcd at 10.0.0.2:2379 does not answer",)),
        (
            {"answer": answer(problems=[CUT_OFF], control={"reached": False, "members": MEMBERS})},
            DEGRADED,
            (CUT_OFF,),
        ),
        ({"nodes": (NODES[0], replace(NODES[1], id="id3", is_drained=True))}, WELL, ()),
        ({"answer": with_holder(other_version=False, problem="no space")}, BROKEN, ("node n2: its container",)),
        ({"answer": with_holder(other_version=True, problem=None)}, WELL, ()),
    ],
    ids=[
        "all is well",
        "a worker's endpoint",
        "a broken link, worst first",
        "a node that lags",
        "no agent",
        "cut off from etcd",
        "no leader",
        "no controller",
        "no etcd",
        "a silent agent",
        "a node that is down",
        "good certificates",
        "a certificate that ends soon",
        "a certificate that ended",
        "a revoked node",
        "a link without a backend",
        "a task that is not wired",
        "a member of etcd that is down",
        "no etcd answers",
        "a drained node, whose agent has ended",
        "a node whose holder cannot be made",
        "a node whose holder is older",
    ],
)
def test_findings_with_their_severity(changes: dict[str, Any], severity: int, begins: tuple[str, ...]) -> None:
    health = judge(facts(**changes))
    assert health.severity == severity
    assert len(health.findings) == len(begins)
    assert all(finding.text.startswith(text) for finding, text in zip(health.findings, begins, strict=True))


def test_holders_are_told_with_their_remedy() -> None:
    remedy = "docker rm --force linkwire-wireguard-go"
    older = judge(facts(answer=with_holder(other_version=True, problem=None)))
    (shown,) = [text for _, name, text in rows(older, 0.0) if name == "n2" and "another version" in text]
    (missing,) = judge(facts(answer=with_holder(other_version=False, problem="no space"))).findings
    assert remedy in shown
    assert "no space. There: " + remedy in missing.text
    assert document(older, 0.0)["agents"][1]["holder"] == {"other_version": True, "problem": None}


@pytest.mark.parametrize(
    ("name", "is_up", "said"),
    [
        ("", True, "at 10.0.0.2:2379 does not answer; the others do: refused. See docker service ps linkwire_etcd"),
        (
            "id2",
            True,
            "that TCP 2379 there is reached from here; where the node is lost for good: docker node demote n2",
        ),
        ("id2", False, "on n2 does not answer; the others do: refused. Its node is down: start it; where the node"),
    ],
)
def test_silent_member_has_a_remedy(name: str, is_up: bool, said: str) -> None:
    nodes = (NODES[0], replace(NODES[1], is_up=is_up))
    members = [MEMBERS[0], {**MEMBERS[1], "name": name}]
    findings = judge(facts(nodes=nodes, answer=answer(control={"members": members}))).findings
    assert any(said in finding.text for finding in findings), findings


def test_silent_agent_is_named_once() -> None:
    told = "node n2: its agent is silent; its tasks of shop_db are used where they answer"
    heard = {"id1": AGENTS["id1"]}
    (finding,) = judge(facts(answer=answer(problems=[told], control={"agents": heard}))).findings
    assert finding.text == told


def test_screen_shows_everything_and_what_is_wrong() -> None:
    (link,) = ps_answer()["links"]
    broken = link | {"pairs": [pair(), pair(state="broken", **{"for": 20.0})]}
    health = judge(facts(answer=answer(links=[broken], problems=[LOST], unanswered=[LOST])))
    assert str(table(health, 1_800_086_400.0)).splitlines() == [
        "STATUS    broken        1 thing wrong, worst first below",
        "control   leader        n1",
        "          controllers   n1 (leads), n2 (standby)",
        "          etcd          n1",
        "          etcd's size   3.0 MiB of 2048 MiB",
        "agents    n1            0.1.0, kernel, gate",
        "          n2            0.1.0, kernel",
        "tasks                   3 wired, 0 waiting, 0 error",
        "links     1             pairs of tasks: 1 connected, 0 idle, 1 broken, 0 unwired, 0 unknown",
        "keys      link keys     1, the oldest renewed 1d ago",
        "",
        "PROBLEMS",
        f"  broken: {LOST}",
    ]
    made = document(health, 1_800_086_400.0)
    assert (made["status"], made["pairs"]) == ("broken", {"broken": 1, "connected": 1})
    counted = {name: value for name, value in link.items() if name != "pairs"} | {"states": made["pairs"]}
    alike = judge(facts(answer=answer(links=[counted], problems=[LOST], unanswered=[LOST])))
    assert str(table(alike, 1_800_086_400.0)) == str(table(health, 1_800_086_400.0))
    assert document(alike, 1_800_086_400.0) == made
    assert made["findings"] == [{"severity": "broken", "text": LOST}]


@pytest.mark.parametrize(
    ("running", "control", "told", "leads"),
    [
        (("n1", "n1"), {}, "n1 (leads), n1 (standby)", [True, False]),
        (("n1", "n2"), {"leader": "id2"}, "n2 (leads), n1 (standby)", [True, False]),
        (("n2", "n2"), {}, "n2 (standby), n2 (standby)", [False, False]),
        (("n1", "n1"), {"reached": False}, "n1, n1", [None, None]),
        ((), {}, "none runs", []),
    ],
    ids=["both on one node", "the other leads", "the leader is gone", "nobody knows", "none"],
)
def test_controllers_are_told_with_their_part(
    running: tuple[str, ...], control: dict[str, Any], told: str, leads: list[bool | None]
) -> None:
    health = judge(facts(answer=answer(control=control), running={**RUNNING, "controller": running}))
    shown = {name: text for _, name, text in rows(health, 0.0)}
    assert shown["controllers"] == told
    assert [one["leads"] for one in document(health, 0.0)["controllers"]] == leads


def test_screen_shows_members_and_missing_backends() -> None:
    (link,) = ps_answer()["links"]
    alone = link | {"pairs": [], "consumers": 2, "ready": 0}
    health = judge(facts(answer=answer(links=[alone], control={"members": MEMBERS})))
    lines = str(table(health, 1_800_086_400.0)).splitlines()
    assert [" ".join(line.split()) for line in lines if "etcd at" in line and "PROBLEMS" not in line][:2] == [
        "etcd at 10.0.0.1:2379 n1, leads, answers, 1.0 MiB",
        "etcd at 10.0.0.2:2379 a member, does not answer",
    ]
    assert any(line.split() == ["1", "has", "no", "ready", "task"] for line in lines)
    made = document(health, 1_800_086_400.0)
    assert (made["no_ready_task"], made["control"]["members"]) == (1, MEMBERS)


def test_tasks_are_not_told_where_nothing_is_known() -> None:
    cut = answer(control={"reached": False, "agents": {}})
    assert "waiting" not in str(table(judge(facts(answer=cut)), 1_800_086_400.0))


def test_older_agent_gives_no_account_and_no_alarm() -> None:
    assert judge(facts(answer=judged(ps_answer()))).severity == WELL


DROPPING = """#!/bin/sh
case "$*" in
"config ls "*) echo "shop web,api" ;;
"service ls --format "*) printf 'shop_web\\nshop_api\\nshop_db\\n' ;;
"service ls --quiet") echo 1 ;;
"service inspect "*) echo '{services}' ;;
*) exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("consumers", "labelled", "said"),
    [
        (("shop_web", "shop_api"), {}, []),
        (("shop_web",), {"linkwire.links": "shop_db"}, []),
        (("shop_web",), {}, ["stack shop: api had links and have none now: `docker stack deploy` drops them."]),
    ],
)
def test_dropped_links_are_told_by_labels(
    tmp_path: Path, consumers: tuple[str, ...], labelled: dict[str, str], said: list[str]
) -> None:
    """The agent has links a moment later than the labels: what it does not have yet is not lost."""
    specs = {"shop_web": {"linkwire.links": "shop_db"}, "shop_api": labelled, "shop_db": {}}
    services = [{"ID": name, "Spec": {"Name": name, "Labels": labels}} for name, labels in specs.items()]
    program = tmp_path / "docker"
    program.write_text(DROPPING.format(services=json.dumps(services)))
    program.chmod(0o755)
    links: list[dict[str, Any]] = [
        {"consumer": name, "provider": "shop_db", "aliases": [], "states": {}, "refused": None} for name in consumers
    ]
    answered = read(json.dumps({"version": 1, "links": links, "problems": []}))
    found = _dropped(Docker(str(program)), answered)
    assert [text.partition(" Deploy it")[0] for text in found] == said
