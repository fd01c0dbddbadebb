"""DNS questions of a task: those for its links' names are answered on the node, all others go as they went before."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.dns import process_health, ruleset
from agent.dns.responder_client import Responder
from agent.firewall import nft
from agent.firewall.ruleset import render
from mesh.topology.policy import Policy, Resolving
from mesh.topology.wgtypes import Answer
from tests.netns.programs import EMULATED
from tests.netns.resolvers import (
    DOCKERS,
    OUTSIDE,
    SERVERS,
    Address,
    Upstream,
    addresses,
    asked,
    other_questions,
    question,
    rcode,
)
from tests.netns.world import MESH, MESH6, World, occupied, wait_for

VIP, TWIN = "10.99.128.1", "fd99::a63:8001"
TASKS = ("10.99.0.1", "10.99.0.2", "10.99.0.3")
LONG = "a-name-of-many-letters.and-of-more-than-one-label.database"
NAMES = ("cache", "d2", "db", "db.internal", LONG, "my_db")
SEARCH = ("corp.example", "internal")
RESOLVING = Resolving(NAMES, SERVERS, SEARCH)
POLICY = Policy(MESH, MESH6, resolving=RESOLVING)
ANSWERS = tuple(
    Answer("cache", tuple(map(ip_address, TASKS)), rotates=True)
    if name == "cache"
    else Answer(name, (ip_address(VIP), ip_address(TWIN)), rotates=False)
    for name in NAMES
)
CONTAINER = "c" * 64
STARTED_S = 90.0 if EMULATED else 20.0
"""Seconds in which the responder's process begins for sure: a question waits for it in the socket."""


@dataclass
class Resolved:
    """A task with links whose DNS questions are answered, and its other resolvers."""

    upstream: Upstream
    responder: Responder

    def serve(self, answers: tuple[Answer, ...] = ANSWERS) -> None:
        nft.apply(self.upstream.task, render(POLICY, "lw0"))
        self.responder.serve(CONTAINER, self.upstream.task, answers, RESOLVING)

    def ask(self, name: str, kind: int = 1, server: Address = DOCKERS, edns: int | None = None) -> bytes:
        answer = self.upstream.ask(question(name, kind, edns=edns), server, STARTED_S)
        assert answer is not None, name
        return answer


@pytest.fixture
def resolved(world: World) -> Iterator[Resolved]:
    made = Resolved(Upstream.beside(world), Responder())
    try:
        yield made
    finally:
        made.responder.close()
        made.upstream.close()


def test_link_name_is_answered_whichever_server_is_asked(resolved: Resolved) -> None:
    resolved.serve()
    for server in SERVERS:
        for name in NAMES:
            wanted = sorted(TASKS) if name == "cache" else [VIP]
            assert sorted(addresses(resolved.ask(name, server=server))) == wanted
            assert sorted(addresses(resolved.ask(name.swapcase(), edns=0, server=server))) == wanted
            assert addresses(resolved.ask(name, 28, server=server)) == ([] if name == "cache" else [TWIN])
        for kind in (15, 33, 65, 6, 16):
            answer = resolved.ask("db", kind, server=server)
            assert (rcode(answer), addresses(answer)) == (0, []), "there is such a name, and nothing of that kind"
        assert addresses(resolved.ask("db", 255, server=server)) == [VIP, TWIN]
    assert resolved.upstream.asked == [], "nothing of it left the task"


def test_link_name_with_search_domain_stays_and_fails(resolved: Resolved) -> None:
    resolved.serve()
    for server in SERVERS:
        for name in ("db.corp.example", "DB.Corp.Example", "cache.internal", f"{LONG}.corp.example"):
            assert rcode(resolved.ask(name, server=server)) == 3
    assert addresses(resolved.ask("db.internal")) == [VIP], "a link's name of its own"
    assert resolved.upstream.asked == []


@pytest.mark.parametrize("sockets", ["one for each", "one for all"])
def test_other_questions_pass_unchanged_with_or_without_agent(resolved: Resolved, sockets: str) -> None:
    questions = other_questions(NAMES, 200, seed=len(sockets))

    def outcomes(*, links: bool) -> list[list[bytes | None]]:
        """What each question gets of each server, links' names being asked in between."""
        found = []
        for server in SERVERS:
            before = len(resolved.upstream.asked)
            with resolved.upstream.client(server, STARTED_S) as client:
                got = []
                for message in questions:
                    if sockets == "one for each":
                        got.append(resolved.upstream.ask(message, server, STARTED_S))
                    else:
                        got.append(asked(client, message, server))
                        if links:
                            answer = asked(client, question("db"), server)
                            assert answer is not None
                            assert addresses(answer) == [VIP]
            found.append(got)
            assert resolved.upstream.asked[before:] == questions
        return found

    plain = outcomes(links=False)
    assert all(answer is not None for got in plain for answer in got)
    resolved.serve()
    assert outcomes(links=True) == plain
    resolved.responder.close()  # as when the agent is dead
    assert outcomes(links=False) == plain
    assert resolved.upstream.ask(question("db"), seconds=0.2) is None
    assert question("db") not in resolved.upstream.asked, "it leads nowhere rather than to somebody else"
    nft.remove(resolved.upstream.task)
    assert outcomes(links=False) == plain


def test_with_dnsrr_each_answer_begins_with_another_task(resolved: Resolved) -> None:
    resolved.serve()
    first = Counter(addresses(resolved.ask("cache"))[0] for _ in range(300))
    assert first.keys() == set(TASKS)
    assert min(first.values()) > 60, first


def test_new_answers_count_at_once_dead_names_stay(resolved: Resolved) -> None:
    resolved.serve()
    assert addresses(resolved.ask("cache")) != []
    resolved.serve(tuple(replace(answer, addresses=()) for answer in ANSWERS))
    wait_for(lambda: addresses(resolved.ask("cache")) == [], seconds=STARTED_S)
    assert rcode(resolved.ask("cache")) == 0


def test_a_responder_that_is_killed_is_replaced(resolved: Resolved) -> None:
    resolved.serve()
    assert addresses(resolved.ask("db")) == [VIP]
    process = resolved.responder._process
    assert process is not None
    process.kill()
    wait_for(lambda: resolved.responder._process not in {None, process}, seconds=STARTED_S)
    assert addresses(resolved.ask("db")) == [VIP]


def test_a_responder_that_hangs_is_replaced(resolved: Resolved) -> None:
    """And what was asked meanwhile is answered: the questions wait in sockets that the next one is handed."""
    resolved.serve()
    assert addresses(resolved.ask("db")) == [VIP]
    process = resolved.responder._process
    assert process is not None
    time.sleep(2 * process_health.ASK_EVERY_S)
    assert resolved.responder._process is process, "one that answers is left alone"
    process.send_signal(signal.SIGSTOP)
    assert addresses(resolved.ask("db")) == [VIP]
    assert process.poll() == -signal.SIGKILL
    assert resolved.responder._process not in {None, process}


def test_agent_without_cap_kill_replaces_hanging_one(tmp_path: Path) -> None:
    """An agent in its container may signal no other user's process."""
    script = tmp_path / "replace.py"
    script.write_text(
        "import time\n"
        "from agent.dns.responder_client import Responder\n"
        "made = Responder()\n"
        "assert made._start()\n"
        "process = made._process\n"
        "while f'Uid:\\t{65533}' not in open(f'/proc/{process.pid}/status').read():\n    pass\n"
        "try:\n    process.kill()\nexcept PermissionError:\n    print(process.pid, flush=True)\n"
        "while made._process in {None, process}:\n    time.sleep(0.1)\n"
        "print(process.poll(), flush=True)\n"
        "made.close()\n"
    )
    without = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill", sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(without, env=environment, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        time.sleep(2 * process_health.ASK_EVERY_S)  # so that it has answered once
        os.kill(pid, signal.SIGSTOP)
        try:
            said = agent.communicate(timeout=STARTED_S)[0]
        finally:
            agent.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert said.splitlines()[-1] == str(-signal.SIGKILL)


def test_agent_without_cap_kill_ends_it(tmp_path: Path) -> None:
    """An agent in its container has no CAP_KILL, and the process is another user's."""
    script = tmp_path / "close.py"
    script.write_text(
        "from agent.dns.responder_client import Responder\n"
        "made = Responder()\n"
        "assert made._start()\n"
        "process = made._process\n"
        "while f'Uid:\\t{65533}' not in open(f'/proc/{process.pid}/status').read():\n    pass\n"
        "made.close()\n"
        "print(process.poll())\n"
    )
    without = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill", sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(without, check=False, env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_responder_has_no_privileges_and_keeps_no_namespace(resolved: Resolved) -> None:
    resolved.serve()
    resolved.ask("db")
    process = resolved.responder._process
    assert process is not None
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65533"}
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
    assert status["NoNewPrivs"].strip() == "1"

    def open_sockets() -> int:
        found = 0
        for path in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a table that it has read meanwhile
                found += str(path.readlink()).startswith("socket:")
        return found

    before = open_sockets()
    resolved.responder.stop(CONTAINER)
    wait_for(lambda: open_sockets() == before - len(SERVERS), seconds=STARTED_S)


def test_each_task_gets_its_own_answers(world: World, resolved: Resolved) -> None:
    resolved.serve()
    other = world.netns()
    nft.apply(other, render(POLICY, "lw0"))
    its_own = Answer("db", (ip_address("10.99.128.9"),), rotates=False)
    resolved.responder.serve("d" * 64, other, (its_own,), RESOLVING)
    beside = Upstream(other).ask(question("db"), seconds=STARTED_S)
    assert beside is not None
    assert addresses(beside) == ["10.99.128.9"]
    assert addresses(resolved.ask("db")) == [VIP]
    unknown = Upstream(other).ask(question("my_db"), seconds=STARTED_S)
    assert unknown is not None
    assert rcode(unknown) == 5, "turned by its rules, and no name of its table"


def test_flood_from_one_task_leaves_others_answered(world: World, resolved: Resolved) -> None:
    """And garbage ends nothing: each is a task's, and read as such."""
    resolved.serve()
    other = world.netns()
    nft.apply(other, render(POLICY, "lw0"))
    resolved.responder.serve("d" * 64, other, ANSWERS, RESOLVING)
    beside = Upstream(other)
    with resolved.upstream.client(DOCKERS) as flood:
        deadline = time.monotonic() + 2.0
        answered = 0
        while time.monotonic() < deadline:
            for _ in range(200):
                flood.sendto(question("db") + os.urandom(40), (str(DOCKERS), 53))
                flood.sendto(os.urandom(60), ("127.0.0.1", ruleset.FIRST_PORT))
            answer = beside.ask(question("db"), seconds=STARTED_S)
            assert answer is not None
            assert addresses(answer) == [VIP]
            answered += 1
    assert answered > 3


def test_taken_port_breaks_nothing_else(resolved: Resolved) -> None:
    with occupied(resolved.upstream.task, ruleset.FIRST_PORT):
        resolved.serve()
        assert addresses(resolved.ask("db", server=OUTSIDE)) == [VIP], "another server's socket"
        problem = resolved.responder.problem(CONTAINER)
        assert problem is not None
        assert problem.endswith("127.0.0.1 port 61953: Address already in use"), "shown by `docker linkwire check`"
    resolved.serve()
    assert resolved.responder.problem(CONTAINER) is None
    assert addresses(resolved.ask("db")) == [VIP], "as soon as it is free"
