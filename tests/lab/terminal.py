"""A plugin's command on a terminal of its own: what it writes there, and when."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.lab.node import Node
from tests.lab.process import docker_cli

LONGEST_S = 300.0


def written(
    node: Node, environment: Mapping[str, str], folder: Path, words: Sequence[str], size: tuple[int, int]
) -> Iterator[tuple[float, bytes]]:
    """Run a command of the plugin in a folder.

    Args:
        node: the Docker that it talks to.
        environment: from `Deployment.plugged_in`.
        folder: where it runs.
        words: after `docker linkwire`.
        size: columns and rows of the terminal.

    Yields:
        seconds since it was started, and what it wrote then.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    command = [docker_cli(), f"--host=unix://{node.socket}", "linkwire", *words]
    colours = {**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    began = time.monotonic()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=colours, cwd=folder) as process:
        os.close(theirs)
        while time.monotonic() < began + LONGEST_S:
            ready, _, _ = select.select([ours], [], [], 0.2)
            try:
                block = os.read(ours, 65_536) if ready else b""
            except OSError:  # its other end was closed
                break
            if block:
                yield time.monotonic() - began, block
            elif process.poll() is not None:
                break
        process.kill()
    os.close(ours)
