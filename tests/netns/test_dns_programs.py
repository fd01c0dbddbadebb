"""Programs with a resolver of their own, and C libraries without a hosts file, find a link's name by DNS."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.request import urlopen

import pytest

from agent.dns import wire
from agent.dns.responder_client import Responder
from agent.dns.wire import Rcode
from agent.firewall import nft
from agent.firewall.ruleset import render
from agent.linux.netns import TaskNetns
from mesh.topology.policy import Policy, Resolving
from mesh.topology.wgtypes import Answer
from tests.netns.resolvers import DOCKERS, OUTSIDE, SERVERS, Upstream
from tests.netns.world import MESH, MESH6, World, wait_for

LINKED, OTHER = "127.0.0.77", "127.0.0.78"
"""Where a link's name leads to, and every name that the upstream is asked for."""
PORT = 9000
RESOLVING = Resolving(("web",), SERVERS, ("corp.example",))
BY_MUSL = """
#include <netdb.h>
#include <stdio.h>
int main(int n, char **arguments) {
    struct addrinfo *found, hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET};
    char text[64];
    if (getaddrinfo(arguments[1], "80", &hints, &found)) return 1;
    getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
    puts(text);
    return 0;
}
"""
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
    access_log off;
    resolver 127.0.0.11 valid=1s ipv6=off;
    server {{ listen 127.0.0.1:8080; location ~ ^/(.*)$ {{ set $to $1; proxy_pass http://$to:9000; }} }}
}}
"""
HAPROXY = """
resolvers docker
    nameserver one 127.0.0.11:53
    hold valid 200ms
    timeout resolve 200ms
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen both
    bind 127.0.0.1:8081
    use-server other if { path /other.example }
    server linked web:9000 resolvers docker init-addr none resolve-prefer ipv4
    server other other.example:9000 weight 0 resolvers docker init-addr none resolve-prefer ipv4
"""


@pytest.fixture
def upstream(world: World) -> Iterator[Upstream]:
    """A task that is linked to `web`; of its other resolvers every name is OTHER's."""
    made = Upstream.beside(world)

    def reply(message: bytes, _: int) -> bytes:
        question = wire.parse(message)
        return b"" if question is None else wire.answer(question, Rcode.NO_ERROR, [ip_address(OTHER)], 1)

    made.reply = reply
    responder = Responder()
    nft.apply(made.task, render(Policy(MESH, MESH6, resolving=RESOLVING), "lw0"))
    responder.serve("c" * 64, made.task, (Answer("web", (ip_address(LINKED),), rotates=False),), RESOLVING)
    try:
        yield made
        assert not [message for message in made.asked if b"\3web" in message.lower()], (
            "no such question left the task"
        )
    finally:
        responder.close()
        made.close()


def run(netns: TaskNetns, *command: str) -> str:
    done = netns.run(lambda: subprocess.run(command, capture_output=True, text=True, timeout=60, check=False))
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def with_files(folder: Path, server: object, *command: str) -> tuple[str, ...]:
    """The command with a resolv.conf that names a server and a hosts file that names nobody."""
    (folder / "resolv.conf").write_text(f"nameserver {server}\nsearch corp.example\noptions ndots:1 timeout:1\n")
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    script = 'mount --bind $0/resolv.conf /etc/resolv.conf && mount --bind $0/hosts /etc/hosts && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, str(folder), *command)


def _answering(own: str) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(own.encode())

        def log_message(self, *_: object) -> None:
            pass

    return Answers


@contextmanager
def serving(netns: TaskNetns) -> Iterator[None]:
    """HTTP servers at both addresses, which answer with their own."""

    servers = [netns.run(partial(ThreadingHTTPServer, (own, PORT), _answering(own))) for own in (LINKED, OTHER)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def through(upstream: Upstream, port: int, *command: str) -> None:
    """Let a proxy that runs in the task fetch by a link's name and by another, in turns."""
    netns = upstream.task

    def fetch(path: str) -> str:
        def body() -> str:
            try:
                with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
                    return str(answer.read().decode())
            except OSError as error:
                return str(error)

        return netns.run(body)

    with serving(netns):
        proxy = netns.run(lambda: subprocess.Popen(command, stderr=subprocess.DEVNULL))
        try:
            wait_for(lambda: fetch("web") == LINKED, seconds=20)
            for _ in range(3):
                assert fetch("other.example") == OTHER
                assert fetch("web") == LINKED
        finally:
            proxy.kill()
            proxy.wait()


def test_nginx_with_resolver_proxies_to_link_name(upstream: Upstream, tmp_path: Path) -> None:
    """It asks everything by one socket: the first question decides nothing about the next."""
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path))
    through(upstream, 8080, "nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"))


def test_haproxy_with_resolvers_proxies_to_a_links_name(upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(HAPROXY)
    through(upstream, 8081, "haproxy", "-f", str(tmp_path / "haproxy.cfg"))


def test_dig_and_node_find_a_links_name(upstream: Upstream) -> None:
    for server in SERVERS:
        assert run(upstream.task, "dig", "+short", f"@{server}", "Web") == f"{LINKED}\n"
        assert run(upstream.task, "dig", "+short", f"@{server}", "other.example") == f"{OTHER}\n"
    if shutil.which("node") is None:
        pytest.fail("node is not installed: run deploy/bootstrap.sh")
    script = (
        "const dns = require('dns').promises; dns.setServers([process.argv[1]]);"
        "Promise.all(['web', 'other.example'].map(n => dns.resolve4(n))).then(f => console.log(JSON.stringify(f)))"
    )
    for server in (DOCKERS, OUTSIDE):
        assert json.loads(run(upstream.task, "node", "-e", script, str(server))) == [[LINKED], [OTHER]]


def test_libraries_find_link_name_absent_from_hosts_files(upstream: Upstream, tmp_path: Path) -> None:
    """With `ndots:1`, as on the bridge, they ask for the name with its search domain first."""
    source, program = tmp_path / "find.c", tmp_path / "find"
    source.write_text(BY_MUSL)
    subprocess.run(["musl-gcc", "-static", "-o", str(program), str(source)], check=True)
    commands: dict[str, Callable[[str], tuple[str, ...]]] = {
        "musl": lambda name: (str(program), name),
        "glibc": lambda name: ("getent", "ahostsv4", name),
    }
    for server in (DOCKERS, OUTSIDE):
        for command in commands.values():
            for name, wanted in (("web", LINKED), ("other.example.", OTHER)):
                said = run(upstream.task, *with_files(tmp_path, server, *command(name)))
                assert said.split()[0] == wanted
