"""`docker linkwire top`, `flows` and `support-bundle` with a docker that plays: what they ask, print and leave."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.unit.compose_ext.test_compose_json import ANSWER, LINK

CONTAINER = "c0ffee" + 58 * "0"
CANARY = "canary-of-the-bundle-7c1a"
KEY = "3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="
DOCKER = f"""#!/bin/sh
echo "$*" >>"$FOLDER/asked"
case "$*" in
"info"*) echo '{{"Swarm": {{"LocalNodeState": "active", "ControlAvailable": true, "NodeID": "m"}}}}' ;;
"version"*) echo '{{"Client": {{"Version": "20.10"}}, "Server": {{"Version": "20.10", "Secret": "{CANARY}"}}}}' ;;
"node ls --quiet"*) echo m ;;
"node ls"*) echo 'm n1' ; echo 'w node2' ; echo 'x n3' ;;
"node inspect"*) cat "$FOLDER/nodes" ;;
"service ls --quiet"*) echo s1 ;;
"service ls"*) printf 'linkwire_agent\\nshop_web\\n' ;;
"service inspect"*) cat "$FOLDER/services" ;;
"service ps --filter desired-state=running"*) echo n1 ;;
"service ps"*) echo t1 ;;
"inspect --type task"*) cat "$FOLDER/tasks" ;;
"service logs"*) cat "$FOLDER/log" ;;
"secret ls"*|"config ls"*) ;;
"exec -i {CONTAINER} linkwire-ask flows"*)
  cat "$FOLDER/flows"
  if [ -e "$FOLDER/goes-on" ]; then cat >/dev/null; fi ;;
"exec {CONTAINER} linkwire-ask records"*) cat "$FOLDER/records" ;;
"exec {CONTAINER} linkwire-agent events"*) cat "$FOLDER/events" ;;
"exec {CONTAINER} "*)
  n=$(cat "$FOLDER/n"); echo $((n + 1)) >"$FOLDER/n"
  cat "$FOLDER/answer.$n" 2>/dev/null || cat "$FOLDER/answer" ;;
*) echo "docker: unexpected: $*" >&2; exit 1 ;;
esac
"""
RUNNING = {"State": "running", "ContainerStatus": {"ContainerID": CONTAINER}, "Err": f"password={CANARY}"}
SERVICE = {
    "ID": "s1",
    "Spec": {
        "Name": "linkwire_agent",
        "Labels": {"x": CANARY},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "i", "Env": [f"OTHER={CANARY}", "LINKWIRE_LOG_LEVEL=info"], "Args": ["run"]}
        },
    },
}
ALONE = {"kind": "watched", "node": "m", "tasks": 2, "tasks_here": 3, "nodes_not_watched": ["w"], "problems": []}
"""Of an agent of an earlier version, which watches its own node and no other."""
WATCHED_HERE = {"node": "m", "tasks": 2, "tasks_here": 3, "problems": []}
WATCHED = {
    **ALONE,
    "tasks": 3,
    "nodes": [WATCHED_HERE, {"node": "w", "tasks": 1, "tasks_here": 1, "problems": []}],
    "nodes_not_watched": ["x"],
}
CONNECTION = {
    "kind": "connection",
    "node": "w",
    "time": 1_800_000_000.0,
    "consumer": "shop_web",
    "provider": "shop_db",
    "consumer_task": "k3v9x1a7b2c4d5e6f7g8h9i0j",
    "provider_task": "zq8w7e6r5t4y3u2i1o0pasdfg",
    "protocol": "tcp",
    "source": "fd00::1",
    "source_port": 40000,
    "destination": "fd00::9",
    "destination_port": 5432,
    "backend": "fd00::2",
}
REFUSED = {
    "kind": "refused",
    "node": "m",
    "time": 1_800_000_001.0,
    "service": "shop_web",
    "task": "k3v9x1a7b2c4d5e6f7g8h9i0j",
    "direction": "out",
    "other": "shop_db",
    "packets": 3,
}
END_ALONE = {"kind": "end", "events": 500, "shown": 1, "full_seconds": 1, "overflowed_tasks": 1, "tasks": 2}
SHORT = {
    "node": "w",
    "tasks": 1,
    "tasks_here": 1,
    "problems": ["a namespace is gone"],
    "full_seconds": 0,
    "overflowed_tasks": 0,
    "left_out": 7,
    "not_believed": 2,
    "missing_batches": 3,
    "is_silent": True,
}
END = {
    **END_ALONE,
    "nodes": [{**WATCHED_HERE, "full_seconds": 1, "overflowed_tasks": 1}, SHORT],
    "nodes_not_watched": ["x"],
    "problems": ["other nodes cannot be asked: a reason"],
}


class Played:
    """A docker whose answers a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "docker"
        program.write_text(DOCKER)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "LINKWIRE_DOCKER": str(program),
            "FOLDER": str(folder),
            "TZ": "UTC",
        }
        inspected = {
            "ID": "m",
            "Description": {"Hostname": "n1"},
            "Spec": {"Labels": {"mine": CANARY, "linkwire.gate": "true"}},
        }
        self.say("nodes", [inspected])
        self.say("services", [SERVICE])
        self.say("tasks", [{"ID": "t1", "Status": RUNNING}])
        self.say("answer", ANSWER)
        self.say(
            "records", {"key": "keys/m/t1", "record": {"sealed": "(80 bytes)", "public_key": KEY}}, {"left_out": 0}
        )
        self.say("events", {"v": 1, "time": 1, "kind": "link created", "details": {"reason": f"token: {CANARY}"}})
        self.say("n", 0)
        said = json.dumps({"event": "task wired", "level": "info", "key": KEY, "error": f"password={CANARY}"})
        self.folder.joinpath("log").write_text(f"2026-11-29T08:00:00Z linkwire_agent.0.x@n1    | {said}\n")

    def say(self, name: str, *documents: object) -> None:
        (self.folder / name).write_text("".join(json.dumps(one) + "\n" for one in documents))

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "compose_ext", *words]
        pipe = subprocess.PIPE
        environment = self.environment | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        return subprocess.Popen(command, env=environment, cwd=self.folder, stdout=pipe, stderr=pipe, text=True)

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return Played(tmp_path)


def counted(rx: int) -> dict[str, Any]:
    pair = LINK["pairs"][0]
    return {**ANSWER, "links": [{**LINK, "pairs": [{**pair, "rx": rx, "tx": 0, "as_of": 0.0}]}]}


def test_top_measures_between_two_answers(played: Played) -> None:
    played.say("answer.0", counted(0))
    played.say("answer.1", counted(4_000_000))
    code, out, _ = played.run("top", "--no-stream", "--interval", "1", "--format", "json")
    assert code == 0
    (link,) = json.loads(out)["links"]
    assert (link["consumer"], link["sent"], link["pairs"]) == ("shop_web", 0.0, 1)
    assert 400_000 < link["received"] <= 1_000_000, "4 s at least lie between the two answers"


def test_top_goes_on_until_interrupted(played: Played) -> None:
    process = played.start("top", "--interval", "1", "--format", "json")
    assert process.stdout
    read = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [list(document) for document in read] == [["time", "links", "problems"]] * 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_top_names_a_stack_without_links(played: Played) -> None:
    played.say("answer", {**ANSWER, "links": []})
    code, out, error = played.run("top", "--no-stream", "shopp")
    assert (code, out) == (1, "")
    assert "shopp" in error


def asked(played: Played) -> dict[str, Any]:
    """What the agent was asked."""
    text = (played.folder / "asked").read_text()
    return dict(json.loads(text.partition("linkwire-ask flows ")[2].splitlines()[0]))


def test_flows_are_written_and_summed(played: Played) -> None:
    played.say("flows", WATCHED, CONNECTION, {"kind": "counts"}, REFUSED, END)
    code, out, error = played.run("flows", "--for", "5", "shop")
    assert (code, error) == (0, "")
    ends = "shop_web (k3v9x1a7b2c4) -> shop_db (zq8w7e6r5t4y)"
    way = "5432/tcp, from [fd00::1]:40000 to the virtual address fd00::9, which chose fd00::2"
    assert out.splitlines()[:3] == [
        "watching 3 tasks on n1, node2 for 5 s; no answer: n3",
        f"08:00:00.000  node2  opened   {ends}: {way}",
        "08:00:01.000  n1     refused  shop_web -> shop_db: 3 packets, by the rules of task k3v9x1a7b2c4",
    ]
    assert "shop_web -> shop_db   1             3" in out
    assert asked(played) == {"seconds": 5, "follow": True, "name": "shop", "nodes": []}


@pytest.mark.parametrize(
    "note",
    [
        "n1 runs 3 such tasks; 2 of them, chosen at random, were watched",
        "in 1 s n1 had more than its agent reads",
        "the kernel of n1 dropped some of 1 tasks",
        "node2: a namespace is gone",
        "7 of node2 were more than one node may send to another",
        "3 messages of node2 did not arrive",
        "2 events of node2 are not shown",
        "node2 has fallen silent",
        "no answer from n3",
        "other nodes cannot be asked: a reason",
    ],
)
@pytest.mark.parametrize("kind", ["end", "counts"])
def test_flows_say_what_was_not_seen(played: Played, note: str, kind: str) -> None:
    """After Ctrl-C too, when the last counts are all that has come."""
    played.say("flows", WATCHED, {**END, "kind": kind})
    assert note in played.run("flows")[1]


def test_flows_of_an_older_agent(played: Played) -> None:
    connection = {name: value for name, value in CONNECTION.items() if name != "node"}
    played.say("flows", ALONE, connection, {"kind": "counts"}, END_ALONE)
    code, out, error = played.run("flows", "--for", "5", "shop")
    assert (code, error) == (0, "")
    first, second, *_ = out.splitlines()
    assert first == "watching 2 tasks on n1 for 5 s; not watched: node2"
    assert second.startswith("08:00:00.000  n1  opened   shop_web")
    assert "n1 runs 3 such tasks; 2 of them, chosen at random, were watched" in out
    assert "in 1 s n1 had more than its agent reads" in out
    assert (
        "only n1 was watched, since its agent is older than this program: connections between tasks of node2" in out
    )


def test_flows_of_one_node_by_its_name(played: Played) -> None:
    played.say("flows", WATCHED, END)
    assert played.run("flows", "--node", "node2", "--node=m", "--format", "json")[0] == 0
    assert asked(played)["nodes"] == ["w", "m"]
    code, _, error = played.run("flows", "--node", "elsewhere")
    assert code == 2
    assert "this Swarm has no node 'elsewhere'; there are: " in error


def test_refused_flows_alone_as_json(played: Played) -> None:
    played.say("flows", WATCHED, CONNECTION, {"kind": "counts"}, REFUSED, END)
    code, out, _ = played.run("flows", "--refused", "--format", "json")
    assert code == 0
    assert [json.loads(one)["kind"] for one in out.splitlines()] == ["watched", "refused", "end"]


def test_flows_end_with_their_reader(played: Played) -> None:
    played.say("flows", WATCHED, CONNECTION)
    (played.folder / "goes-on").touch()
    process = played.start("flows", "-f")
    assert process.stdout
    assert process.stdout.readline() == "watching 3 tasks on n1, node2 until Ctrl-C; no answer: n3\n"
    assert "shop_db" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "LINK" in out


@pytest.mark.parametrize("said", [{"error": "the agent knows no query 'flows'"}, {"strange": 1}])
def test_other_answers_about_flows_are_errors(played: Played, said: dict[str, Any]) -> None:
    played.say("flows", said)
    code, out, error = played.run("flows")
    assert (code, out) == (1, "")
    assert "knows no query" in error or "not one about flows" in error


def test_a_bundle_has_all_parts_and_no_secret(played: Played) -> None:
    code, out, error = played.run("support-bundle", "-o", "help.tar.gz", "--format", "json")
    assert (code, error) == (0, "")
    made = json.loads(out)
    path = played.folder / "help.tar.gz"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (made["file"], made["bytes"], made["problems"]) == ("help.tar.gz", path.stat().st_size, [])
    with tarfile.open(path) as tar:
        texts = {member.name.partition("/")[2]: tar.extractfile(member).read().decode() for member in tar}  # type: ignore[union-attr]
    assert set(texts) == {"README.txt", *(part["name"] for part in made["parts"])}
    assert {"about.json", "nodes.json", "services.json", "tasks.json", "certificates.json", "links.json"} < set(texts)
    for name in ("logs.jsonl", "records.jsonl", "events.jsonl"):
        assert texts[name], name
    assert CANARY not in "".join(texts.values())
    assert KEY not in "".join(texts.values())
    assert "LINKWIRE_LOG_LEVEL=info" in texts["services.json"]
    assert "linkwire.gate" in texts["nodes.json"]
    assert made["removed"] >= 4
    for name, text in texts.items():
        if name.endswith(".json"):
            json.loads(text)
        elif name.endswith(".jsonl"):
            list(map(json.loads, text.splitlines()))


def test_a_bundle_overwrites_nothing(played: Played) -> None:
    (played.folder / "help.tar.gz").write_text("mine")
    code, _, error = played.run("support-bundle", "-o", "help.tar.gz")
    assert code == 2
    assert "is there already" in error
    assert (played.folder / "help.tar.gz").read_text() == "mine"


def test_a_missing_part_is_named(played: Played) -> None:
    played.say("records", {"error": "the store does not answer"})
    code, out, error = played.run("support-bundle", "-o", "help.tar.gz")
    assert code == 0
    assert "left out: records.jsonl: the store does not answer" in error
    assert "help.tar.gz: " in out
    with tarfile.open(played.folder / "help.tar.gz") as tar:
        assert [name for name in tar.getnames() if name.endswith(("missing.txt", "records.jsonl"))] != []
