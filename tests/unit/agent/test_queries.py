"""The agent's query socket, and the program that carries a query to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from agent.queries import client
from agent.queries.server import MAX_QUERY, MOST, BadQueryError, Document, QueryServer, serve
from mesh.errors import Retryable

HELD = Event()


def echo(query: Document) -> Iterator[Document]:
    yield {"asked": dict(query)}


def fail(query: Document) -> Iterator[Document]:
    if query.get("crash"):
        raise ZeroDivisionError("a fault of ours")
    yield {} if query.get("good") else bad()


def bad() -> Document:
    raise BadQueryError("stack has to be a text")


def break_off(_query: Document) -> Iterator[Document]:
    yield {"part": 1}
    raise Retryable("etcd does not answer")


def hold(_query: Document) -> Iterator[Document]:
    HELD.wait(20)
    yield {}


def tick(_query: Document) -> Iterator[Document]:
    while True:
        yield {"tick": time.time()}
        time.sleep(0.02)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    socket_path = tmp_path / "folder" / "queries"
    handlers = {"echo": echo, "fail": fail, "break": break_off, "hold": hold, "tick": tick}
    server = QueryServer(socket_path, handlers)
    yield socket_path
    HELD.set()
    server.close()
    assert not socket_path.exists()


def ask(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; from agent.queries.client import ask; sys.exit(ask(sys.argv[1:], {str(path)!r}))"
    argv = [sys.executable, "-c", program, *words]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, check=False)


def test_query_is_answered(path: Path) -> None:
    done = ask(path, "echo", '{"stack": "shop"}')
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"asked": {"stack": "shop", "query": "echo"}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fail",), "stack has to be a text"),
        (("fail", '{"crash": 1}'), "the agent failed to answer: its log says why"),
        (("none",), "the agent knows no query 'none': it is older than what asks, and has to be upgraded"),
    ],
)
def test_error_is_an_answer(path: Path, words: tuple[str, ...], said: str) -> None:
    done = ask(path, *words)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"error": said})


def test_error_ends_what_has_begun(path: Path) -> None:
    lines = [json.loads(line) for line in ask(path, "break").stdout.splitlines()]
    assert lines == [{"part": 1}, {"error": "etcd does not answer"}]


@pytest.mark.parametrize("words", [(), ("echo", "{"), ("echo", "[1]"), ("echo", '"x"')])
def test_bad_words_are_refused(path: Path, words: tuple[str, ...]) -> None:
    done = ask(path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b"[" * 9000 + b"\n", b"x" * (MAX_QUERY + 2)])
def test_malformed_query_is_refused(path: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        assert b"a query is a JSON object" in connection.makefile("rb").read()


def test_absent_agent_is_named(tmp_path: Path) -> None:
    done = ask(tmp_path / "nothing", "echo")
    assert done.returncode == client.UNANSWERED
    assert "does not run, or is starting" in done.stderr


def test_hung_agent_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(str(tmp_path / "hung"))
        hung.listen()
        done = ask(tmp_path / "hung", "echo")
    assert done.returncode == client.UNANSWERED
    assert "it hangs" in done.stderr


def test_further_queries_are_turned_away(path: Path) -> None:
    HELD.clear()
    held = []
    for _ in range(MOST):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(path))
        connection.sendall(b'{"query": "hold"}\n')
        assert connection.recv(1) == b"\n"
        held.append(connection)
    assert "too many queries" in ask(path, "echo").stderr
    HELD.set()
    for connection in held:
        assert connection.recv(10) == b"{}\n"
        connection.close()
    assert ask(path, "echo").returncode == 0


def test_follower_ends_with_its_input(path: Path) -> None:
    program = f"import sys; from agent.queries.client import ask; sys.exit(ask(sys.argv[1:], {str(path)!r}))"
    argv = [sys.executable, "-c", program, "tick", '{"follow": true}']
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert b"tick" in process.stdout.readline()
        process.stdin.close()
        Thread(target=process.stdout.read, daemon=True).start()
        assert process.wait(10) == 0


def test_only_root_reaches_the_socket(path: Path) -> None:
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0


def test_client_imports_little() -> None:
    program = "import sys, agent.queries.client; print(*(n for n in sys.modules if n.startswith(('mesh', 'agent'))))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["agent", "agent.queries", "agent.queries.client"]


def test_killed_client_frees_its_thread(path: Path) -> None:
    program = f"import sys; from agent.queries.client import ask; sys.exit(ask(sys.argv[1:], {str(path)!r}))"
    for _ in range(MOST + 2):
        argv = [sys.executable, "-c", program, "tick", '{"follow": true}']
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert b"tick" in process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while ask(path, "echo").returncode != 0:
        assert time.monotonic() < deadline


def test_socket_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert serve(tmp_path / "file" / "queries", {}) is None
    folder = tmp_path / "foreign"
    folder.mkdir()
    os.chown(folder, 65_534, 65_534)
    assert serve(folder / "queries", {}) is None
    assert not (folder / "queries").exists()
