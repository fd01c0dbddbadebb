"""A client of etcd whose wall clock is set: its open connection goes on, and a new one's error names the clock."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

from tests.lab.programs import INSIDE
from tests.store.etcd_server import EtcdServer
from tests.support.faults.fork_server import PROJECT

# Two years forward, where etcd's certificate is over, and two hours back, where it has not begun.
PROGRAM = """
import struct, sys
from pathlib import Path
from mesh.errors import LinkwireError
from mesh.identity.tls import Tls
from mesh.store.etcd_channel import ChannelPool
target, ca, own, off = sys.argv[1:]
def pool():
    return ChannelPool([target], 5.0, Tls(Path(ca), Path(own), Path(own)), b"/x")
def write(what, line):
    try:
        with line.use() as channel:
            channel.commit([], [(b"/x", b"y", 0)], [])
        print(what, "works")
    except LinkwireError as error:
        print(what, error)
first = pool()
write("first", first)
for seconds in (2 * 365 * 86400, -7200, 0):
    with open(off, "r+b") as file:
        file.write(struct.pack("q", seconds))
    write("open", first)
    write("new", pool())
"""


def test_open_connection_outlives_a_wrong_clock(tmp_path: Path) -> None:
    library, off = tmp_path / "clock.so", tmp_path / "off"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(INSIDE / "clock.c")], check=True)
    off.write_bytes(struct.pack("q", 0))
    with EtcdServer(tmp_path, secure=True) as etcd:
        assert etcd.tls is not None
        argv = [sys.executable, "-c", PROGRAM, etcd.target, str(etcd.tls.ca), str(etcd.tls.cert), str(off)]
        wrong = {**os.environ, "LD_PRELOAD": str(library), "LINKWIRE_TEST_CLOCK": str(off)}
        done = subprocess.run(argv, env=wrong, cwd=PROJECT, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert [line for line in said if line.startswith("open")] == ["open works"] * 3
    first, ahead, behind, right = (line for line in said if not line.startswith("open"))
    assert (first, right) == ("first works", "new works")
    for line, words in ((ahead, "certificate has expired"), (behind, "certificate is not yet valid")):
        assert words in line
        assert "by this node's clock, 20" in line
        assert "UTC: set it right, or renew the certificate" in line
