"""A node's agent as a process of its own, so that its processor time and its memory are nobody else's.

It answers questions of the plugin and of other nodes as an agent does. Its containers, devices and rules are not
there.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.asks.answerer import Answerer
from agent.asks.asker import Asker
from agent.asks.survey import Survey
from agent.asks.writing import ShortLived
from agent.queries.answers import Answers, Running
from agent.queries.server import QueryServer
from agent.walks import link_records
from agent.walks.many import Walks
from mesh.integrity.record_signing import RecordSigner
from mesh.process.gc_tuning import IdleCollector
from mesh.process.log_setup import configure
from mesh.store.client import Store
from mesh.topology.link_graph import index
from tests.bench.links import key_of
from tests.bench.questions.swarm import Examiner, Size, verified
from tests.bench.scale.node import KEYRING
from tests.bench.scale.world import CLUSTER

FIRST_GENERATION = 1 << 40
"""Beyond those of what was there before."""


def main(told: dict[str, Any]) -> None:
    """Answer until standard input ends; each line there is an order to forget what is kept for the next answer.

    Args:
        told: `node`, its id; `etcd`, the store; `links` and `tasks`, as of Size; `folder`, for its socket.
    """
    configure("warning")
    node, folder = str(told["node"]), Path(told["folder"])
    records = verified(Size(int(told["links"]), int(told["tasks"])))
    graph = index(records)
    store = Store([told["etcd"]], RecordSigner.agent(KEYRING, key_of(node)))
    desired: Any = SimpleNamespace(graph=graph, verified=records, trust=SimpleNamespace(held=""))
    answers = Answers(store, CLUSTER, folder, folder, Running(desired, lambda: None, lambda _revision: 60.0))
    numbers = itertools.count(FIRST_GENERATION)
    identity: Any = SimpleNamespace(generation=lambda: next(numbers))
    examiner: Any = Examiner(graph)
    written = ShortLived(store, identity)
    answerer = Answerer(node, CLUSTER, store, written, examiner)
    survey = Survey(node, examiner, Asker(node, CLUSTER, store, written))
    walks = Walks(partial(link_records.read, store.load, desired, CLUSTER), survey)
    server = QueryServer(folder / "socket" / "queries", {**answers.handlers, "walks": walks.walks})
    answerer.start()
    IdleCollector().collect(time.monotonic())  # as in an agent, no collection goes over what stays
    print("ready", flush=True)
    for _ in sys.stdin:
        answers.forget()
        print("forgotten", flush=True)
    answerer.stop()
    server.close()
    store.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
