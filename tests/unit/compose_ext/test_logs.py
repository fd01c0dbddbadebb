"""`docker linkwire logs`: lines of all parts in one order, chosen by what they are about, by a docker that plays."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compose_ext.observe.diagnosis.log_lines import Backlog, Choice, Line, Subject, read

TASK, OTHER, SERVICE = "k3v9x1a7b2c4d5e6f7g8h9i0j", "zq8w7e6r5t4y3u2i1o0pasdfg", "s" * 25
AGENT_TASK = "a" * 25
DOCKER = f"""#!/bin/sh
# Plays docker, on a manager of a Swarm in which the stack shop has one service with one task.
echo "$*" >>"$FOLDER/asked"
case "$*" in
"info"*) echo '{{"Swarm": {{"LocalNodeState": "active", "ControlAvailable": true, "NodeID": "m"}}}}' ;;
"stack ls"*) echo shop ;;
"service ls --format"*) cat "$FOLDER/services" ;;
"service ls --quiet --filter label=com.docker.stack.namespace=shop") echo {SERVICE} ;;
"service ls --filter name=shop_web "*) echo shop_web; echo shop_web2 ;;
"service ls"*) ;;
"service ps --filter desired-state=running"*) printf 'n1\\nn2\\n' ;;
"service ps"*) echo {TASK} ;;
"inspect --type task"*) echo '[{{"ID": "{TASK}", "ServiceID": "{SERVICE}", "Slot": 1}}]' ;;
"service logs"*"linkwire_"*)
  name=${{*##* linkwire_}}
  case "$*" in *--follow*) cat "$FOLDER/$name"; echo $$ >>"$FOLDER/pids"; exec sleep 60 ;; esac
  cat "$FOLDER/$name" >&2
  if [ -e "$FOLDER/$name.hangs" ]; then exec sleep 60; fi
  if [ -e "$FOLDER/$name.fails" ]; then cat "$FOLDER/$name.fails" >&2; exit 1; fi ;;
*) echo "docker: unexpected: $*" >&2; exit 1 ;;
esac
"""


def written(second: float, said: object, node: str = "n1", part: str = "agent") -> str:
    at = f"2026-11-29T08:00:{second:012.9f}Z"
    text = said if isinstance(said, str) else json.dumps(said)
    return f"{at} linkwire_{part}.0.{AGENT_TASK}@{node}    | {text}\n"


def wired(second: float, name: str = f"shop_web.1.{TASK}", level: str = "info", **more: str) -> str:
    task = name.rpartition(".")[2]
    fields = {"event": "task wired", "level": level, "timestamp": "2026-11-29T08:00:00Z", "task": task, "name": name}
    return written(second, fields | more)


class Played:
    """A docker with three services of Linkwire whose logs a test writes."""

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
        self.log("services", "linkwire_etcd\nlinkwire_controller\nlinkwire_agent\nshop_web\n")
        for part in ("agent", "controller", "etcd"):
            self.log(part)

    def log(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(lines))

    @property
    def asked(self) -> str:
        return (self.folder / "asked").read_text()

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "compose_ext", "logs", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return Played(tmp_path)


def line(at: float, text: str, level: str = "info") -> Line:
    return Line(at, "n1", "agent", "linkwire_agent.0.x", level, text, {}, text)


def test_lines_of_all_parts_come_in_order(played: Played) -> None:
    played.log("agent", wired(3, level="warning", error="two words"), written(1, "no JSON", node="n2"))
    played.log("controller", written(2, {"event": "plan written", "level": "info", "steps": 3}, part="controller"))
    code, out, error = played.run()
    assert (code, error) == (0, "")
    fields = f'task={TASK} name=shop_web.1.{TASK} error="two words"'
    assert out.splitlines() == [
        "2026-11-29T08:00:01.000+00:00  n2  agent       info     no JSON",
        "2026-11-29T08:00:02.000+00:00  n1  controller  info     plan written  steps=3",
        f"2026-11-29T08:00:03.000+00:00  n1  agent       warning  task wired  {fields}",
    ]
    code, out, _ = played.run("--format", "json", "--level", "warning")
    (document,) = map(json.loads, out.splitlines())
    assert document == {
        "time": "2026-11-29T08:00:03.000000+00:00",
        "node": "n1",
        "component": "agent",
        "task": f"linkwire_agent.0.{AGENT_TASK}",
        "level": "warning",
        "event": "task wired",
        "fields": {"task": TASK, "name": f"shop_web.1.{TASK}", "error": "two words"},
    }


def test_a_name_chooses_its_lines(played: Played) -> None:
    gone, ended = "g" * 25, written(5, {"event": "key dropped", "task": "g" * 25})
    lines = [
        wired(1),
        wired(2, f"workshop_web.1.{OTHER}"),
        written(3, {"event": "step", "key": f"endpoints/{SERVICE}/{TASK}"}),
        wired(4, f"shop_web.9.{gone}"),
        ended,
        written(6, {"event": "store listed"}),
        wired(7, f"shop_web2.1.{OTHER}"),
    ]
    played.log("agent", *lines)

    def seconds(*words: str) -> list[int]:
        code, out, error = played.run("--format", "json", *words)
        assert (code, error) == (0, "")
        return [int(json.loads(one)["time"][17:19]) for one in out.splitlines()]

    assert seconds("shop") == [1, 3, 4, 5, 7], "with a task that is no longer, which only the log knows"
    assert seconds("shop_web") == [1, 3, 4, 5]
    assert seconds("shop_web.1") == [1, 3]
    assert seconds(TASK) == [1, 3]
    assert seconds() == [1, 2, 3, 4, 5, 6, 7]
    code, out, error = played.run("nobody")
    assert (code, out) == (1, "")
    assert "no line of Linkwire's logs is about 'nobody'" in error


def test_docker_is_asked_for_no_more_than_needed(played: Played) -> None:
    played.log("agent", *(wired(second) for second in range(9)))
    code, out, _ = played.run("--tail", "2", "--since", "1796000000")
    assert code == 0
    assert [line.split()[0][17:19] for line in out.splitlines()] == ["07", "08"]
    assert "logs --timestamps --no-trunc --since 1796000000.000000 --tail 2 linkwire_agent" in played.asked
    _, out, _ = played.run("--tail", "2", "shop")
    assert len(out.splitlines()) == 2
    assert "logs --timestamps --no-trunc linkwire_agent" in played.asked


def test_a_part_that_fails_is_told(played: Played) -> None:
    played.log("agent", wired(1))
    played.log("etcd.fails", "warning: incomplete log stream: node n3 is not available")
    code, out, error = played.run()
    assert code == 1
    assert "task wired" in out
    assert "etcd: warning: incomplete log stream: node n3 is not available" in error


def test_docker_is_not_waited_for_forever(played: Played) -> None:
    played.log("agent", wired(1))
    played.log("agent.hangs")
    began = time.monotonic()
    code, out, error = played.run()
    assert code == 1
    assert "task wired" in out
    assert "agent: Docker did not hand on the log of n2 within 10 s" in error
    assert time.monotonic() - began < 40


def test_following_ends_with_its_readers(played: Played) -> None:
    played.log("agent", wired(2), wired(1))
    played.log("controller", written(1.5, {"event": "plan written"}, part="controller"))
    process = played.start("-f")
    assert process.stdout
    read_lines = [process.stdout.readline() for _ in range(3)]
    assert [one.split()[0][17:21] for one in read_lines] == ["01.0", "01.5", "02.0"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    pids = [int(pid) for pid in (played.folder / "pids").read_text().split()]
    assert len(pids) == 3
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a docker was left behind"
        time.sleep(0.05)


def test_bad_words_are_refused(played: Played) -> None:
    for words in (["--since", "soon"], ["--tail", "0"], ["--tail", "many"], ["--level", "loud"], ["a", "b"]):
        code, _, error = played.run(*words)
        assert code == 2, (words, error)
    played.log("services", "shop_web\n")
    code, _, error = played.run()
    assert code == 1
    assert "Linkwire is not installed" in error


def test_docker_lines_are_read_or_left() -> None:
    found = read(written(1.25, "\x1b[31mred"), "etcd")
    assert found is not None
    assert (found.node, found.event, found.rank) == ("n1", "?[31mred", 1)
    assert found.task == f"linkwire_agent.0.{AGENT_TASK}"
    for text in ("", "words", "yesterday x@n1 | {}", "[" * 100_000):
        assert read(text, "agent") is None
    deep = read(written(1, '{"event":' + "[" * 100_000), "agent")
    assert deep is not None


def test_a_long_backlog_keeps_the_newest() -> None:
    backlog = Backlog(3)
    for at in (5, 1, 9, 7, 3, 8, 2):
        backlog.add(line(at, "x"))
    assert [one.at for one in backlog.take()] == [7, 8, 9]
    assert backlog.dropped == 4


def test_levels_and_subjects_choose_together() -> None:
    choice = Choice(Subject("shop", is_stack=True), "warning")
    assert choice.takes(line(1, "name=shop_db.1", "error"))
    assert choice.takes(line(1, "of shop_db: bad", "critical"))
    assert not choice.takes(line(1, "name=shop_db.1"))
    assert not choice.takes(line(1, "name=my-shop_db.1", "error"))
    assert not choice.takes(line(1, "shop", "error"))
