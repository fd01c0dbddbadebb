"""The page's door and its source: who may ask, what he gets, and how often the agent is asked."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compose_ext.diagnostics import DockerError
from compose_ext.ui import server, snapshot
from compose_ext.ui.encoded import GraphJson
from compose_ext.ui.guard import HEADERS
from compose_ext.ui.source import EVENTS_FRESH_S, FRESH_S, Source
from tests.ui import world
from tests.ui.served import Page

CONTAINER = "c0ffee" + 58 * "0"
RUNS = json.dumps([{"Status": {"State": "running", "ContainerStatus": {"ContainerID": CONTAINER}}}])
DOCKER = f"""#!/bin/sh
# Plays docker, with an agent on it.
case "$1 $2 $4" in
"service ps "*) echo agenttask ;;
"inspect --type "*) echo '{RUNS}' ;;
"exec {CONTAINER} links") cat "$ANSWER" ;;
*) echo "docker: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    found = Page()
    yield found
    found.close()


def ask(page: Page, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_documents_and_files_are_served(page: Page) -> None:
    status, headers, body = ask(page, f"/{page.token}/")
    assert (status, b'id="graph"' in body) == (200, True)
    assert {name.lower() for name in HEADERS} <= {name.lower() for name in headers}
    graph = json.loads(ask(page, f"/{page.token}/graph.json")[2])
    assert (len(graph["links"]), graph["failed"]) == (10, None)
    link = json.loads(ask(page, f"/{page.token}/link.json?consumer=shop_web&provider=shop_db")[2])
    assert link["state"] == "broken"
    for path in ("link.json", "service.json?name=x", "node.json", "nothing.json", "../server.py", "%2e%2e/server.py"):
        assert ask(page, f"/{page.token}/{path}")[0] == 404, path
    events = json.loads(ask(page, f"/{page.token}/events.json")[2])
    assert [event["kind"] for event in events["events"]] == [event["kind"] for event in reversed(world.LOG)]


def test_large_answers_are_packed_for_browsers(page: Page) -> None:
    path = f"/{page.token}/graph.json?known=1"
    ask(page, f"/{page.token}/graph.json")
    status, headers, body = ask(page, path, Accept_Encoding="gzip, deflate, br")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    plain = ask(page, path)[2]
    assert (gzip.decompress(body), len(body) < len(plain) / 4) == (plain, True)


@pytest.mark.parametrize("path", ["/", "/graph.json", "/x/graph.json", "//graph.json", "/{token}x/", "/{half}/"])
def test_without_the_token_there_is_nothing(page: Page, path: str) -> None:
    status, headers, body = ask(page, path.format(token=page.token, half=page.token[:16]))
    assert (status, b"copy the whole address" in body) == (404, True)
    assert headers["content-security-policy"].startswith("default-src 'self'")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    ],
)
def test_other_pages_and_names_get_nothing(page: Page, headers: dict[str, str]) -> None:
    filled = {name: value.format(port=page.port) for name, value in headers.items()}
    status, _, body = ask(page, f"/{page.token}/graph.json", **filled)
    assert (status, b"shop" in body) == (403, False)


def test_own_page_and_followed_links_pass(page: Page) -> None:
    path = f"/{page.token}/"
    assert ask(page, path, Host=f"localhost:{page.port}")[0] == 200
    assert ask(page, path, Origin=page.origin, Sec_Fetch_Site="same-origin")[0] == 200
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask(page, path, **followed)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(page: Page, method: str) -> None:
    status, headers, _ = ask(page, f"/{page.token}/graph.json", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(DockerError, match=f"port {port} of .*in use.*choose another --port"):
            server.listener(port)


class Agent:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.now, self.links, self.logs = world.NOW, 0, 0
        self.failure = ""
        self.document = world.shop()
        self.source = Source(self.answer, self.log, lambda: self.now)

    def answer(self) -> Any:  # noqa: ANN401 - an Answer
        self.links += 1
        if self.failure:
            raise DockerError(self.failure)
        return world.answer(self.document)

    def log(self) -> list[dict[str, Any]]:
        self.logs += 1
        if self.failure:
            raise DockerError(self.failure)
        return [*world.LOG, {"v": 1, "problem": "2 pages are missing"}]


def test_windows_share_what_was_just_read() -> None:
    agent = Agent()
    assert agent.source.read() == agent.source.read()
    agent.now += FRESH_S - 0.1
    agent.source.read()
    assert agent.links == 1
    agent.now += 0.2
    agent.source.read()
    assert agent.links == 2
    agent.source.timeline()
    agent.source.timeline()
    agent.now += EVENTS_FRESH_S
    agent.source.timeline()
    assert agent.logs == 2


def test_a_silent_agents_last_word_is_kept() -> None:
    agent = Agent()
    first, _ = agent.source.read()
    agent.source.timeline()
    agent.failure = "the agent's process did not answer within 5 s: it hangs"
    agent.now += EVENTS_FRESH_S
    assert agent.source.read() == (first, agent.failure)
    assert agent.source.timeline()["problems"] == ["2 pages are missing", agent.failure]
    assert len(agent.source.timeline()["events"]) == len(world.LOG)
    agent.failure = ""
    agent.now += FRESH_S
    second, failed = agent.source.read()
    assert (failed, second is not None and second.at) == (None, agent.now)


def test_what_is_known_waits_for_nobody() -> None:
    agent = Agent()
    assert (agent.source.known(), agent.links) == ((None, None), 0)
    first, _ = agent.source.read()
    agent.now += 3600
    began, ends = threading.Event(), threading.Event()

    def hangs() -> Any:  # noqa: ANN401 - an Answer
        began.set()
        assert ends.wait(60)
        return world.answer(agent.document)

    agent.source._ask = hangs
    asks = threading.Thread(target=agent.source.read)
    asks.start()
    assert began.wait(60)
    assert agent.source.known() == (first, None)
    ends.set()
    asks.join(60)
    second, _ = agent.source.known()
    assert second is not None
    assert second.at == agent.now


def test_a_graph_is_encoded_once_for_a_reading() -> None:
    agent, graph_json = Agent(), GraphJson()
    assert json.loads(graph_json.of(None, "no agent")) == {"version": 1, "failed": "no agent"}
    reading, _ = agent.source.read()
    assert reading is not None
    made = graph_json.of(reading, None)
    assert graph_json.of(reading, None) is made
    assert json.loads(made) == snapshot.graph(reading) | {"failed": None}
    assert json.loads(graph_json.of(reading, "it hangs"))["failed"] == "it hangs"
    agent.document["links"].pop()
    agent.now += FRESH_S
    assert len(json.loads(graph_json.of(*agent.source.read()))["links"]) == len(agent.document["links"])


def test_changes_of_state_join_the_timeline() -> None:
    agent = Agent()
    agent.source.read()
    agent.document["links"][0]["pairs"][1]["state"] = "broken"
    agent.now += FRESH_S
    agent.source.read()
    newest = agent.source.timeline()["events"][0]
    assert (newest["kind"], newest["details"]["consumer"]) == ("link broken", "shop_proxy")


def test_without_an_agent_there_is_no_page() -> None:
    agent = Agent()
    agent.failure = "no Linkwire agent runs on this Docker endpoint"
    with pytest.raises(DockerError, match="no Linkwire agent"):
        agent.source.warm()


def command(tmp_path: Path, *words: str, document: dict[str, Any] | None = None) -> subprocess.Popen[str]:
    program, answer = tmp_path / "docker", tmp_path / "answer"
    program.write_text(DOCKER)
    program.chmod(0o755)
    answer.write_text(json.dumps(document or world.shop()) + "\n")
    environment = {"PATH": "/usr/bin:/bin", "LINKWIRE_DOCKER": str(program), "ANSWER": str(answer)}
    argv = [sys.executable, "-m", "compose_ext", "ui", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_the_command_serves_until_interrupted(tmp_path: Path) -> None:
    process = command(tmp_path)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    with urllib.request.urlopen(f"{address}graph.json") as answer:  # noqa: S310 - it was just printed
        assert len(json.load(answer)["links"]) == 10
    process.send_signal(2)
    began = time.monotonic()
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, ""), time.monotonic() - began


def test_the_page_goes_on_asking(tmp_path: Path) -> None:
    process = command(tmp_path)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    (tmp_path / "answer").write_text(json.dumps(world.shop() | {"links": world.shop()["links"][:3]}) + "\n")
    time.sleep(FRESH_S)
    with urllib.request.urlopen(f"{address}graph.json") as answer:  # noqa: S310 - it was just printed
        graph = json.load(answer)
    process.send_signal(2)
    _, error = process.communicate(timeout=30)
    assert (len(graph["links"]), graph["failed"], error) == (3, None, "")


def test_bad_words_and_no_agent_are_told(tmp_path: Path) -> None:
    for words, code, text in ((["--port", "x"], 2, "--port takes a number"), (["--port=70000"], 2, "--port takes")):
        process = command(tmp_path, *words)
        _, error = process.communicate(timeout=30)
        assert (process.returncode, text in error) == (code, True), error
    process = command(tmp_path, document={"error": "the agent failed to answer"})
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out, "failed to answer" in error) == (1, "", True)
