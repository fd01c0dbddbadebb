"""Last words of an agent that does not answer, from Docker's log of its task: hung, or cut off from etcd?"""

import json

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.terminal import line
from mesh.diagnosis.swarm_facts import SwarmTask

TIMEOUT = 6.0
"""Seconds; Docker waits for a node that is gone."""
_WINDOW_S = 15
"""Of the log: an agent that is cut off from etcd says so every second or two."""
_SHUTDOWN = "shutdown"
"""Swarm's word for a task that it has ended itself."""
_LONGEST = 300
_BAD = ("warning", "error", "critical")


def last_words(docker: Docker, task: SwarmTask) -> str:
    """Return what a task's log says of its state, in words; empty where nobody can tell.

    Args:
        docker: a manager's.
        task: the agent's. Of one that has ended the last complaint counts, however old; but not of one that Swarm has
            shut down, which did not end of what it complained of.
    """
    if task.state == _SHUTDOWN:
        return ""
    ended = not task.is_running
    window = ["--tail", "20"] if ended else ["--since", f"{_WINDOW_S}s"]
    try:
        text = docker.ask(["service", "logs", "--raw", *window, task.id], TIMEOUT, merged=True)
    except DockerError:
        return ""
    complaints = [found for raw in text.splitlines() if (found := _complaint(raw))]
    if complaints:
        # The newest of the worst: that a process ended is said after why it did.
        level = max(level for level, _ in complaints)
        return f"its log says: {next(words for at, words in reversed(complaints) if at == level)}"
    return "" if ended or text.strip() else f"its log has not had a line for {_WINDOW_S} s: it may hang"


def _complaint(raw: str) -> tuple[int, str] | None:
    """Return how bad a log line is, and its event and error, where it is one of a fault; None for any other."""
    try:
        entry = json.loads(raw)
        if entry["level"] not in _BAD:
            return None
        words = f"{entry['event']}: {entry['error']}" if entry.get("error") else str(entry["event"])
        return _BAD.index(entry["level"]), line(words)[:_LONGEST]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
