"""The DNS responder outlives its agent, in whatever moment that one dies."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.dns import server
from agent.dns.server import ALIVE, ORDER, Server

REPO = Path(__file__).parents[3]


@pytest.mark.parametrize("is_read", [True, False], ids=["answer read", "answer not read"])
def test_agent_dies_before_an_answer_is_read(monkeypatch: pytest.MonkeyPatch, *, is_read: bool) -> None:
    """Closed with something unread a socket's other end is reset (unix(7)); the next agent's time is the same."""
    monkeypatch.setattr(server, "LINGER_S", 0.5)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lingering = threading.Thread(target=Server(theirs).run)
        lingering.start()
        ours.send(ORDER.pack(b"?", b""))
        assert ours.recv(1, 0 if is_read else socket.MSG_PEEK) == ALIVE
        ours.close()
        closed = time.monotonic()
        lingering.join(60)
        assert not lingering.is_alive()
        assert time.monotonic() - closed >= server.LINGER_S


def test_process_ends_without_a_word_when_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "agent.dns.server", str(theirs.fileno())]
        process = subprocess.Popen(command, cwd=REPO, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
        theirs.close()
        ours.send(ORDER.pack(b"!", b""))
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")
