"""`linkwire-ask`: carries one query to the running agent, and its answer back.

`docker exec` starts it anew for each query, so it imports the standard library alone, and little of it: an agent's
own modules take half a second to import.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys

SOCKET = "/tmp/linkwire/queries"  # noqa: S108 - a tmpfs of the container's own, in a folder that only root enters
FOLLOW = "follow"
"""The argument of a query whose answer goes on until standard input ends: `docker exec` tells nobody of a client that
left, but closes its input."""
BAD_QUERY = 2
UNANSWERED = 3
"""Exit code: the agent's process did not answer. An answer is 0, also one that says that something is wrong."""
TIMEOUT_S = 5.0
"""Until the agent has taken a query: a hung process takes the connection, and then says nothing."""
_CHUNK = 65_536


def main() -> None:
    """Run the command."""
    sys.exit(ask(sys.argv[1:], SOCKET))


def ask(words: list[str], path: str) -> int:
    """Ask the agent and print its answer, one JSON document a line; returns the exit code.

    Args:
        words: the query's name, then, if it has any, its arguments as one JSON object.
        path: of the agent's socket.
    """
    try:
        name, arguments = words[0], json.loads(words[1]) if words[1:] else {}
        query = json.dumps({**arguments, "query": name})
    except (IndexError, TypeError, ValueError):
        return _complain("usage: linkwire-ask QUERY [JSON OBJECT]", BAD_QUERY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(path)
            connection.sendall(query.encode() + b"\n")
            if not arguments.get(FOLLOW):
                connection.shutdown(socket.SHUT_WR)
            taken = connection.recv(1)
        except (ConnectionResetError, BrokenPipeError):
            taken = b""
        except TimeoutError:
            return _complain(f"the agent's process did not answer within {TIMEOUT_S:g} s: it hangs", UNANSWERED)
        except OSError as error:
            return _complain(f"the agent's process does not run, or is starting ({error.strerror})", UNANSWERED)
        if not taken:
            return _complain("the agent's process answers too many queries already, or has ended", UNANSWERED)
        connection.settimeout(None)
        try:
            return _copy(connection, follow=bool(arguments.get(FOLLOW)))
        except OSError:  # whoever reads has gone, or the agent has
            return UNANSWERED


def _copy(connection: socket.socket, *, follow: bool) -> int:
    """Copy an answer to standard output, until it ends, or with `follow` until standard input does."""
    source = sys.stdin.fileno() if follow else -1
    waited = [connection.fileno(), *([source] if follow else [])]
    while True:
        ready = select.select(waited, (), ())[0]
        if source in ready and not os.read(source, _CHUNK):
            return 0
        if connection.fileno() in ready:
            part = connection.recv(_CHUNK)
            if not part:
                return 0
            while part:
                part = part[os.write(sys.stdout.fileno(), part) :]


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"{text}\n")
    return code
