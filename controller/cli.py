"""Command `linkwire-controller`: makes the parts, runs them and stops them on a signal."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

import structlog

from controller import settings
from controller.clear import clear
from controller.loop import Controller
from controller.swarm import SwarmManager
from controller.watch import SwarmWatch
from mesh import keyspace, memory
from mesh import log as logging
from mesh.envelope import Signer
from mesh.errors import LinkwireError, Terminal
from mesh.etcd import Line
from mesh.keyfiles import read_link_seed, read_signing_key, read_verify_keys
from mesh.seal import Sealer
from mesh.store import Store
from mesh.wake import Wake

log = structlog.get_logger(__name__)

CLEAR_S = 10.0
"""Seconds for one request of `clear`."""


def main() -> None:
    """Run until SIGTERM or SIGINT; exit with 1 on an error that no retry can mend."""
    memory.protect()
    options = settings.parse(sys.argv[1:])
    logging.configure(options.log_level)
    if options.command == "clear":
        sys.exit(_clear(options))
    stopped = threading.Event()
    wake = Wake()

    def stop(_signal: int, _frame: object) -> None:
        stopped.set()
        wake()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log.info("controller started", controller=options.name, address=options.etcd, network=str(options.subnet))
    try:
        link_seed = read_link_seed(options.link_seed)
        keyring = read_verify_keys(options.verify_keys)
        signer = Signer(keyring.cluster, read_signing_key(options.signing_seed))
        store = Store(options.etcd, Sealer.controller(keyring, signer.key), tls=options.tls)
    except Terminal as error:
        log.error("controller stopped", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)
    except ValueError as error:
        log.error("controller stopped", error=f"--etcd: {error}")  # noqa: TRY400 - the message says it all
        sys.exit(2)
    swarm = SwarmManager(options.docker)
    swarm.follow(wake)
    try:
        watch = SwarmWatch(swarm)
        Controller(watch, store, signer, wake, options.subnet, options.rest_s, options.name, link_seed).run(stopped)
    except Terminal as error:
        log.error("controller stopped", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)
    finally:
        store.close()


def _clear(options: settings.Settings) -> int:
    """Delete all records, print one line of JSON as the agent's node jobs do, and return the exit code."""
    problems: list[str] = []
    targets = [endpoint.partition("://")[2] or endpoint for endpoint in options.etcd]
    line = Line(targets, CLEAR_S, options.tls, (keyspace.ROOT + keyspace.CLUSTER).encode())
    try:
        log.info("records deleted", count=clear(line, read_verify_keys(options.verify_keys)))
    except LinkwireError as error:
        problems.append(str(error))
    finally:
        line.close()
    print(json.dumps({"node": os.environ.get("LINKWIRE_NODE_ID", ""), "problems": problems}), flush=True)
    return 1 if problems else 0
