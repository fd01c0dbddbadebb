"""The programs of the connectivity test against each other, in a network namespace of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SETUP = """
set -e
ip link set lo up
ip link add lw1 type veth peer name far
ip link set lw1 up
ip addr add 100.96.0.9/32 dev lw1
exec "$0" "$@"
"""
SERVED = """
import json, os, signal, sys, threading, time
from pathlib import Path
from agent.connectivity import cases, clients, servers
if sys.argv[1:] == ["4"]:
    servers._INET6 = Path("/proc/net/none")  # as with ipv6.disable=1
child = os.fork()
if not child:
    servers.serve({"LINKWIRE_NODE": "n1", "LINKWIRE_GENERATION": "1"})
try:
    deadline = time.monotonic() + 10
    while True:
        try:
            document = cases.request("100.96.0.9")
            break
        except OSError:
            assert time.monotonic() < deadline
    results = cases.of_pair("n1", "100.96.0.9")
    stranger = clients.try_forbidden([{"node": "n1", "address": "100.96.0.9", **document["addresses"]}], "n1")
    print(json.dumps({
        "document": document,
        "ok": {one.case: one.ok for one in results},
        "stranger": [one.ok for one in stranger],
        "closed": cases.forbidden("closed", "n1", "100.96.0.9", 9).ok,
        "nobody": cases.tried("TCP", "n1", lambda: cases.request("100.96.0.9", port=9)).said,
    }))
finally:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("families", ["46", "4"])
def test_programs_meet_on_any_kernel(families: str) -> None:
    argv = [
        "unshare",
        "--net",
        "sh",
        "-c",
        f'{SETUP.strip()} && exec "$0" "$@"',
        sys.executable,
        "-c",
        SERVED,
        families,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["document"]["node"] == "n1"
    assert said["document"]["address"] == "100.96.0.9", "its own address, however it was called"
    assert said["document"]["addresses"]["other"] == ["100.96.0.9"]
    forbidden = "a port that the link does not allow, IPv4"
    assert said["ok"].pop(forbidden) is False, "here nothing forbids it, and that is seen"
    assert said["ok"].keys() >= {"TCP, IPv4", "TCP, IPv4, 1 MiB", "UDP, IPv4", "UDP, IPv4, a full packet"}
    assert all(said["ok"].values())
    assert said["stranger"]
    assert not any(said["stranger"]), "nor this"
    assert said["closed"] is True
    assert said["nobody"] == "Connection refused"
