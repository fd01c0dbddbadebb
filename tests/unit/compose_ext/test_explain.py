"""`docker linkwire explain`: names, Swarm's part of the walk, and the agent's; by a docker program that plays one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from compose_ext.cli import main
from compose_ext.docker_cli import choose
from compose_ext.install.options import Options
from compose_ext.swarm.installation import OPTIONS_LABEL
from compose_ext.walks import live
from compose_ext.walks.agent_log import last_words
from compose_ext.walks.live import problems
from mesh.diagnosis.swarm_facts import SwarmTask

NOW = "2026-01-01T00:00:00.123456789Z"
CONTAINERS = {"w1": "ab" * 32, "d1": "cd" * 32, "g1": "ef" * 32, "g2": "fe" * 32, "c1": "ad" * 32}


def service(name: str, replicas: int | None = 1, **labels: str) -> dict[str, Any]:
    mode = {"Replicated": {"Replicas": replicas}} if replicas is not None else {"Global": {}}
    spec = {"Name": name, "Labels": {f"linkwire.{key}": value for key, value in labels.items()}, "Mode": mode}
    return {"ID": f"{name}-id", "Spec": spec}


def task(name: str, node: str, state: str = "running") -> dict[str, Any]:
    status = {"State": state, "Timestamp": NOW, "ContainerStatus": {"ContainerID": CONTAINERS[name]}}
    services = {"w": "shop_web-id", "d": "shop_db-id", "c": "shop_api-id", "g": "linkwire_agent-id"}
    return {
        "ID": name,
        "ServiceID": services[name[0]],
        "NodeID": node,
        "Slot": 1,
        "DesiredState": "running",
        "CreatedAt": NOW,
        "Status": status,
    }


def node(name: str, host: str, state: str = "ready", **labels: str) -> dict[str, Any]:
    spec = {"Availability": "active", "Labels": {f"linkwire.{key}": value for key, value in labels.items()}}
    return {"ID": name, "Description": {"Hostname": host}, "Spec": spec, "Status": {"State": state}}


@dataclass
class Swarm:
    """A Swarm as docker tells of it, and what its agent answers."""

    services: list[dict[str, Any]] = field(
        default_factory=lambda: [
            service("shop_web", links="shop_db:db"),
            service("shop_db"),
            service("linkwire_agent", None),
        ]
    )
    tasks: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {
            "shop_web": [task("w1", "a")],
            "shop_db": [task("d1", "b")],
            "linkwire_agent": [task("g1", "a"), task("g2", "b")],
        }
    )
    nodes: list[dict[str, Any]] = field(default_factory=lambda: [node("a", "n1"), node("b", "n2")])
    steps: list[dict[str, str]] = field(
        default_factory=lambda: [step("record", "ok", "web.1 is 100.96.0.2 on n1"), step("name", "ok", "db is there")]
    )
    """Of the agent."""
    walks: list[dict[str, Any]] = field(default_factory=lambda: [{"link": 0}, {"link": 1}, {"unheard": {}}])
    """Of the agent, of many links."""
    log: str = ""
    """Of an agent that does not answer."""


def step(stage: str, outcome: str, text: str, **more: str) -> dict[str, str]:
    return {"stage": stage, "outcome": outcome, "text": text, **more}


PROGRAM = """\
#!/bin/sh
here=$(dirname "$0")
for last; do :; done
case "$*" in
  "service ls --quiet"*) cat "$here/ids" ;;
  "service inspect "*) cat "$here/services" ;;
  "node ls "*) printf 'a\\nb\\n' ;;
  "node inspect "*) cat "$here/nodes" ;;
  info*) echo 2026-01-01T00:10:00Z ;;
  "service ps --quiet --no-trunc --filter desired-state=running "*) cat "$here/ps.running" ;;
  "service ps "*" "*" "*" "*) cat "$here/ps" ;;
  "service ps "*) cat "$here/ps.$last" ;;
  "inspect --type task "*) shift 3; IFS=_; cat "$here/tasks.$*" ;;
  "service logs "*) cat "$here/log" >&2 ;;
  "exec "*" linkwire-ask walks "*) echo "$last" >> "$here/asked"; cat "$here/walks"; sleep $(cat "$here/hangs") ;;
  "exec "*" linkwire-ask explain"*" "*) echo "$last" >> "$here/asked"; cat "$here/steps" ;;
  *) echo "what is $*?" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Swarm:
    program = tmp_path / "docker"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("LINKWIRE_DOCKER", str(program))
    return Swarm()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def run(swarm: Swarm, folder: Path, *words: str) -> int:
    def say(name: str, text: object) -> None:
        (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))

    say("ids", "\n".join(one["ID"] for one in swarm.services))
    say("services", swarm.services)
    say("nodes", swarm.nodes)
    for name, tasks in swarm.tasks.items():
        say(f"ps.{name}", "\n".join(one["ID"] for one in tasks))
        say(f"tasks.{'_'.join(one['ID'] for one in tasks)}", tasks)
    every = [one for tasks in swarm.tasks.values() for one in tasks]
    say("ps", "\n".join(one["ID"] for one in every))
    say(f"tasks.{'_'.join(one['ID'] for one in every)}", every)
    running = [one for one in every if one["DesiredState"] == "running"]
    say("ps.running", "\n".join(one["ID"] for one in running))
    say(f"tasks.{'_'.join(one['ID'] for one in running)}", running)
    say("walks", "\n".join(json.dumps(one) for one in swarm.walks) + "\n")
    say("hangs", "0")
    say("steps", "\n".join(json.dumps({"step": one}) for one in swarm.steps))
    say("asked", "")
    say("log", swarm.log)
    return main(["explain", *words]) if words else 0


def queries(folder: Path) -> list[dict[str, Any]]:
    """The agent's queries."""
    return [json.loads(line) for line in (folder / "asked").read_text().splitlines()]


def test_good_link_is_walked(swarm: Swarm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(swarm, folder, "shop_web", "shop_db:5432") == 0
    assert capsys.readouterr().out.splitlines() == [
        "label      ok       shop_web links to shop_db",
        "consent    ok       both sides want it",
        "placement  ok       shop_web has 1 running task, on n1; shop_db has 1 running task, on n2",
        "agent      ok       an agent runs on n1, n2",
        "record     ok       web.1 is 100.96.0.2 on n1",
        "name       ok       db is there",
        "ok: shop_web reaches shop_db",
    ]
    (query,) = queries(folder)
    assert (query["consumer"], query["provider"], query["port"]) == ("shop_web", "shop_db", "5432/tcp")
    assert query["consumer_tasks"] == [{"id": "w1", "name": "shop_web.1", "node": "a", "host": "n1"}]


@pytest.mark.parametrize("named", ["shop_db", "shop_db-id", "shop_db.1", "shop_db.1.d1", "cdcdcd", "db"])
def test_provider_is_found_however_named(swarm: Swarm, folder: Path, named: str) -> None:
    assert run(swarm, folder, "shop_web", named) == 0
    (query,) = queries(folder)
    assert (query["provider"], [one["id"] for one in query["provider_tasks"]]) == ("shop_db", ["d1"])


def test_fault_of_the_agent_is_concluded(swarm: Swarm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swarm.steps[1:] = [
        step("underlay", "wrong", "UDP from n1 does not reach n2", place="n1 and n2", since="7 s", command="open it")
    ]
    assert run(swarm, folder, "shop_web", "shop_db") == 1
    captured = capsys.readouterr()
    assert captured.err == "", "what was found goes through a pipe whole"
    assert captured.out.splitlines()[-6:] == [
        "underlay   WRONG    UDP from n1 does not reach n2 (for 7 s)",
        "",
        "what:   UDP from n1 does not reach n2",
        "where:  n1 and n2",
        "since:  7 s ago",
        "mend:   open it",
    ]


def test_missing_link_ends_the_walk(swarm: Swarm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swarm.services[0] = service("shop_web", links="shop_bd:db")
    assert run(swarm, folder, "shop_web", "shop_db", "--format", "json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["cause"]["text"] == (
        "shop_web has no link to shop_db, but one to shop_bd, which does not exist; did you mean 'shop_db'?"
    )
    assert [one["stage"] for one in document["steps"]] == ["label"]
    assert queries(folder) == []


def test_absent_agent_is_a_warning(swarm: Swarm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swarm.tasks["linkwire_agent"] = [task("g1", "a"), task("g2", "b", "failed")]
    assert run(swarm, folder, "shop_web", "shop_db") == 1
    out = capsys.readouterr().out
    assert "agent      warning  no agent runs on n2: its task is failed" in out
    assert "what:   no agent runs on n2: its task is failed" in out
    assert queries(folder) != [], "the walk did not go on"


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "is silent; its log has not had a line for 15 s: it may hang"),
        ('{"level": "info", "event": "store listed"}\n', "is silent"),
        (
            '{"level": "warning", "event": "reports not written", "error": "no etcd"}\nnonsense\n',
            "not written: no etcd",
        ),
        (
            """\
{"level": "error", "event": "agent stopped", "error": "no tun"}
{"level": "warning", "event": "agent ended, restarting"}
""",
            "agent stopped: no tun",
        ),
    ],
)
def test_log_of_a_silent_agent_tells_more(
    swarm: Swarm, folder: Path, log: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    swarm.steps = [step("agent", "warning", "the agent on n2 is silent", node="b")]
    swarm.log = log
    assert run(swarm, folder, "shop_web", "shop_db", "--format", "json") == 1
    assert json.loads(capsys.readouterr().out)["cause"]["text"].endswith(said)


def test_steps_control_no_terminal(swarm: Swarm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swarm.steps = [step("record", "warning", "a\x1b[2Jb\nc")]
    run(swarm, folder, "shop_web", "shop_db")
    captured = capsys.readouterr()
    assert "a?[2Jb c" in captured.out
    assert "\x1b" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("shop_wep", "shop_db"), "no service, task or container 'shop_wep'; did you mean 'shop_web'?"),
        (("web", "shop_db"), "no service, task or container 'web'; did you mean 'shop_web'?"),
        (("n1", "n9"), "no service, task or container 'n1', but a node: a walk between nodes takes two that differ"),
        (("shop_web", "shop_db:x"), "'shop_db:x': not a port"),
        (("shop_web", "shop_db:1-2"), "'shop_db:1-2': name one port"),
    ],
)
def test_bad_names_are_refused(
    swarm: Swarm, folder: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(swarm, folder, *words) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def encrypting(swarm: Swarm) -> Swarm:
    """A Swarm with node encryption."""
    controller = service("linkwire_controller")
    controller["Spec"]["Labels"] = {OPTIONS_LABEL: Options(node_encryption="strict").label()}
    swarm.services.append(controller)
    swarm.steps = [step("member", "ok", "n1 and n2 are members"), step("route", "ok", "by the device")]
    return swarm


@pytest.mark.parametrize("names", [("n1", "n2"), ("a", "b"), ("n1", "b")])
def test_two_nodes_are_walked_between(
    encrypting: Swarm, folder: Path, names: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(encrypting, folder, *names) == 0
    assert capsys.readouterr().out.splitlines() == [
        "node       ok       n1 and n2 are up",
        "agent      ok       an agent runs on n1 and n2",
        "member     ok       n1 and n2 are members",
        "route      ok       by the device",
        "ok: overlay packets between n1 and n2 are encrypted",
    ]
    (query,) = queries(folder)
    assert (query["nodes"], query["wanted"]) == ([{"id": "a", "host": "n1"}, {"id": "b", "host": "n2"}], "strict")


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (node("b", "n2", "down"), "node n2 is down"),
        (node("b", "n2", revoked="2026-01-01"), "node n2 is revoked: it has no part in node encryption"),
    ],
)
def test_node_that_is_away_ends_the_walk(
    encrypting: Swarm, folder: Path, other: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    encrypting.nodes[1] = other
    assert run(encrypting, folder, "n1", "n2", "--format", "json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["one"], document["other"]) == (False, "n1", "n2")
    assert (document["cause"]["text"], document["cause"]["place"]) == (text, "node n2")
    assert queries(folder) == []


def test_fault_between_nodes_is_concluded(
    encrypting: Swarm, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encrypting.tasks["linkwire_agent"] = [task("g1", "a"), task("g2", "b", "failed")]
    encrypting.steps = [step("plain", "wrong", "the rules are not there", place="node n2", node="b")]
    assert run(encrypting, folder, "n1", "n2") == 1
    out = capsys.readouterr().out
    assert "agent      warning  no agent runs on n2; its kernel goes on with what is there" in out
    assert out.endswith(
        "what:   the rules are not there\nwhere:  node n2\nmend:   docker service logs --tail 20 g2\n"
    )


def test_service_goes_before_a_node(encrypting: Swarm, folder: Path) -> None:
    """Of the same name; by its id a node is meant in any case."""
    encrypting.services.append(service("n1"))
    encrypting.tasks["n1"] = [task("w1", "a")]
    assert run(encrypting, folder, "n1", "n2") == 2
    assert queries(folder) == []
    assert run(encrypting, folder, "a", "n2") == 0


@pytest.fixture
def two(swarm: Swarm) -> Swarm:
    """A Swarm with another consumer."""
    swarm.services.append(service("shop_api", links="shop_db:db"))
    swarm.tasks["shop_api"] = [task("c1", "b")]
    for one in swarm.services:
        one["Spec"].setdefault("Labels", {})["com.docker.stack.namespace"] = one["Spec"]["Name"].partition("_")[0]
    return swarm


def said(stack: str | None = None, *named: str) -> list[str]:
    return [str(cause) for cause in problems(choose(()), stack, lambda _text: None, named)]


CONTROLLER = {"step": step("record", "warning", "no controller leads", command="look"), "cause": "none leads"}


def test_live_check_asks_for_all_links_at_once(two: Swarm, folder: Path) -> None:
    run(two, folder)
    assert said() == []
    (query,) = queries(folder)
    assert query["links"] == [["shop_api", "shop_db"], ["shop_web", "shop_db"]]
    assert query["tasks"] == {
        "shop_api": [["c1", "1", "b"]],
        "shop_db": [["d1", "1", "b"]],
        "shop_web": [["w1", "1", "a"]],
    }
    assert query["hosts"] == {"a": "n1", "b": "n2"}
    assert said("other") == []


def test_live_check_names_each_cause_once(two: Swarm, folder: Path) -> None:
    two.walks = [{"link": 1, **CONTROLLER}, {"link": 0, **CONTROLLER}, {"unheard": {}}]
    run(two, folder)
    (text,) = said("shop")
    assert text == "shop_api -> shop_db, shop_web -> shop_db: no controller leads; look"
    assert said("shop", "broken: no controller leads, so nothing is wired") == [], "it is told already"


@pytest.mark.parametrize(
    ("documents", "why"),
    [
        ([{"link": 0}], "its answer is incomplete"),
        ([{"link": 0}, {"link": 7}], "its answer is incomplete"),
        ([{"link": 0}, {"step": 1, "link": 1}], "the agent's answer is incomplete"),
        ([{"link": 0}, {"error": "the agent knows no query 'walks': it is older"}], "it is older"),
    ],
)
def test_links_without_an_answer_are_no_good_ones(
    two: Swarm, folder: Path, documents: list[dict[str, Any]], why: str
) -> None:
    two.walks = documents
    run(two, folder)
    (text,) = said()
    assert text.startswith("shop_web -> shop_db: the agent on this Docker endpoint, which has to be asked, does not")
    assert why in text


def test_hanging_answer_ends(two: Swarm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "QUIET_S", 1.0)
    two.walks = [{"link": 0}]
    run(two, folder)
    (folder / "hangs").write_text("9")
    (text,) = said()
    assert "the agent did not answer within 1 s" in text


def test_silent_agents_log_is_asked_for_once(two: Swarm, folder: Path) -> None:
    silent = {"step": step("agent", "warning", "the agent on n2 is silent", node="b")}
    two.walks = [{"link": 0, **silent}, {"link": 1, **silent}, {"unheard": {"b": "hangs"}}]
    two.log = '{"level": "error", "event": "agent stopped", "error": "no tun"}\n'
    run(two, folder)
    (text,) = said()
    assert text == (
        "shop_api -> shop_db, shop_web -> shop_db: the agent on n2 is silent; its log says: agent stopped: no tun; "
        "docker service logs --tail 20 g2"
    )


def test_complaints_of_an_agent_shut_down_are_left(two: Swarm, folder: Path) -> None:
    """Swarm has ended it: that etcd was away an hour before has nothing to do with it."""
    two.log = '{"level": "error", "event": "agent stopped", "error": "no tun"}\n'
    run(two, folder)
    failed = SwarmTask("g2", "linkwire_agent", "b", "failed", "shutdown")
    assert last_words(choose(()), failed) == "its log says: agent stopped: no tun"
    assert not last_words(choose(()), replace(failed, state="shutdown"))


def test_service_without_a_task_is_not_asked_for(two: Swarm, folder: Path) -> None:
    ended = {**task("d1", "b", "failed"), "DesiredState": "shutdown"}
    ended["Status"]["Err"] = "exit code 1"
    two.tasks["shop_db"] = [ended]
    run(two, folder)
    (folder / "ps.shop_db").write_text("d1")
    (text,) = said()
    assert text.startswith(
        "shop_api -> shop_db, shop_web -> shop_db: shop_db.1 does not run on n2: it is failed: exit"
    )
    assert queries(folder) == []


@pytest.mark.parametrize(("changed", "told"), [("2026-01-01T00:09:55Z", 0), ("2026-01-01T00:09:45Z", 1)])
def test_absent_provider_may_still_be_deployed(two: Swarm, folder: Path, changed: str, told: int) -> None:
    two.services[0] = {**service("shop_web", links="shop_bd:db"), "UpdatedAt": changed}
    two.services[0]["Spec"]["Labels"]["com.docker.stack.namespace"] = "shop"
    two.walks = [{"link": 0}, {"unheard": {}}]
    run(two, folder)
    found = said()
    assert len(found) == told
    assert all("this Swarm has no service 'shop_bd'; did you mean 'shop_db'?" in text for text in found)


def test_progress_is_said_when_it_takes_long(two: Swarm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(two, folder)
    told: list[str] = []
    problems(choose(()), None, told.append)
    assert told == [], "it was done in a moment"
    monkeypatch.setattr(live, "SAID_AFTER_S", 0.0)
    problems(choose(()), None, told.append)
    assert told == ["waiting for links: 0 of 2 tried"]


def test_foreign_answer_is_refused(swarm: Swarm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swarm.steps = [{"stage": "record"}]
    assert run(swarm, folder, "shop_web", "shop_db") == 1
    assert "the agent's answer is incomplete" in capsys.readouterr().err
