"""Command line of `linkwire-connectivity`: the programs of the connectivity test's tasks.

linkwire-connectivity serve      answers
linkwire-connectivity ask        asks all that answer, and prints what `compose_ext.swarm.node_jobs` reads
linkwire-connectivity healthy    exits with 0 if the server of this task answers
linkwire-connectivity stranger   tries to reach those that answer, which no link allows
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping

from agent.connectivity import clients
from agent.connectivity.cases import request, tried
from agent.connectivity.servers import serve


def main() -> None:
    """Run one of the programs."""
    role = sys.argv[1] if sys.argv[1:] else ""
    if role == "serve":
        serve(dict(os.environ))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if role == "healthy":
        sys.exit(0 if tried("health", "localhost", lambda: request("127.0.0.1")).ok else 1)
    if role == "ask":
        sys.exit(ask(os.environ))
    if role == "stranger":
        sys.exit(stranger(os.environ))
    sys.stderr.write("usage: linkwire-connectivity serve|healthy|ask|stranger\n")
    sys.exit(2)


def ask(environ: Mapping[str, str]) -> int:
    """Ask all tasks that answer, print the result, and return the exit code.

    Args:
        environ: LINKWIRE_NODE_ID says where this is. LINKWIRE_NODES has, in JSON, the names of the nodes that are to
            answer, or how many; LINKWIRE_SECONDS how long that may take. With LINKWIRE_CASES=all every case is tried
            and not the link alone, and with LINKWIRE_LOAD=GENERATION the virtual IP is asked until its tasks are of
            another generation.
    """
    nodes = json.loads(environ["LINKWIRE_NODES"])
    count = nodes if isinstance(nodes, int) else len(nodes)
    seconds = float(environ["LINKWIRE_SECONDS"])
    found, error = clients.find(count, seconds)
    problems = []
    if len(found) < count:
        named = sorted(set(nodes) - found.keys()) if isinstance(nodes, list) else [f"{count - len(found)} more"]
        missing = ", ".join(named)
        problems.append(f"over a link of its own no answer came in {seconds:g} s from {missing} ({error})")
    document: dict[str, object] = {"node": environ["LINKWIRE_NODE_ID"], "problems": problems, "answered": len(found)}
    if environ.get("LINKWIRE_CASES") == "all":
        clients.post(found.values(), seconds)
        results = clients.try_pairs(found.values()) + clients.try_virtual()
        document |= clients.summed(results)
        problems += [f"{one.case}: {one.to}: {one.said}"[: clients.LONGEST] for one in results if not one.ok][:5]
    if generation := environ.get("LINKWIRE_LOAD"):
        load = clients.Load()
        running = clients.in_background(load, generation)
        _print({"node": environ["LINKWIRE_NODE_ID"], "phase": "load"})
        running.join()
        document["load"] = load.as_record()
        if load.lost or not load.updated:
            problems.append(_words(load))
    _print(document)
    return 1 if problems else 0


def stranger(environ: Mapping[str, str]) -> int:
    """Try to reach the tasks that answer, print the result, and return the exit code; `environ` as of `ask`."""
    nodes = json.loads(environ["LINKWIRE_NODES"])
    count = nodes if isinstance(nodes, int) else len(nodes)
    posted = clients.fetch(count, float(environ["LINKWIRE_SECONDS"]))
    problems = [] if posted else ["what must not be reached was not learned: the link to the board carried nothing"]
    results = clients.try_forbidden(posted, environ["LINKWIRE_NODE"])
    problems += [f"{one.case}: {one.to}: {one.said}"[: clients.LONGEST] for one in results if not one.ok][:5]
    _print({"node": environ["LINKWIRE_NODE_ID"], "problems": problems, **clients.summed(results)})
    return 1 if problems else 0


def _words(load: clients.Load) -> str:
    if not load.updated:
        return f"a rolling update under load: its end was not seen in time ({load.said or 'old tasks still answer'})"
    return f"a rolling update under load: {load.lost} of {load.requests} requests were lost ({load.said})"


def _print(document: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
