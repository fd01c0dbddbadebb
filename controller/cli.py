"""Command `linkwire-controller`: makes the parts, runs them and stops them on a signal."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from importlib import metadata

import structlog

from controller import settings
from controller.backup import restore_command as restore_program
from controller.etcd.clear import clear
from controller.loop import Controller
from controller.reporting.metrics import ControllerMetrics
from controller.steps import EncryptionGoal
from controller.swarm.docker_client import SwarmManager
from controller.swarm.poller import SwarmPoller
from controller.trust.link_secrets import ControllerIdentity
from mesh.crypto.signed_envelope import Signer
from mesh.errors import LinkwireError, Terminal
from mesh.identity.key_files import own_sealing_key, read_link_seed, read_signing_key, read_verify_keys
from mesh.integrity.record_signing import RecordSigner
from mesh.model import keyspace
from mesh.process import hardening, metrics_page
from mesh.process import log_setup as logging
from mesh.process.wakeup import Wake
from mesh.store.client import Store
from mesh.store.etcd_channel import ChannelPool

log = structlog.get_logger(__name__)

CLEAR_S = 10.0
"""Seconds for one request of `clear`."""


def main() -> None:
    """Run until SIGTERM or SIGINT; exit with 1 on an error that no retry can mend."""
    hardening.protect()
    options = settings.parse(sys.argv[1:])
    logging.configure(options.log_level)
    if options.command == "clear":
        sys.exit(_clear(options))
    if options.command == "restore":
        sys.exit(restore_program.run(options, sys.stdin.buffer))
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
        own = ControllerIdentity(options.node, own_sealing_key(options.own_key)) if options.node else None
        keyring = read_verify_keys(options.verify_keys)
        signer = Signer(keyring.cluster, read_signing_key(options.signing_seed))
        store = Store(options.etcd, RecordSigner.controller(keyring, signer.key), tls=options.tls)
    except Terminal as error:
        log.error("controller stopped", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)
    except ValueError as error:
        log.error("controller stopped", error=f"--etcd: {error}")  # noqa: TRY400 - the message says it all
        sys.exit(2)
    swarm = SwarmManager(options.docker)
    swarm.follow(wake)
    try:
        metrics = _answer_metrics(options)
        watch = SwarmPoller(swarm)
        running = Controller(
            watch,
            store,
            signer,
            wake,
            options.subnet,
            options.rest_s,
            options.name,
            link_seed,
            own,
            options.stack_share,
            metrics,
            EncryptionGoal(options.node_encryption, renewed=options.renewed, rotate=options.rotate),
        )
        running.run(stopped)
    except Terminal as error:
        log.error("controller stopped", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)
    finally:
        store.close()


def _answer_metrics(options: settings.Settings) -> ControllerMetrics:
    """Make the controller's metrics, and serve them where the settings say so."""
    metrics = ControllerMetrics(metadata.version("linkwire"), options.name)
    if options.metrics is not None:
        metrics_page.describe_process(metrics.registry, options.tls)
        metrics_page.serve(metrics.registry, options.metrics, lambda: metrics.wanted, shared=True)
    return metrics


def _clear(options: settings.Settings) -> int:
    """Delete all records, print one line of JSON as the agent's node jobs do, and return the exit code."""
    problems: list[str] = []
    targets = [endpoint.partition("://")[2] or endpoint for endpoint in options.etcd]
    line = ChannelPool(targets, CLEAR_S, options.tls, (keyspace.ROOT + keyspace.CLUSTER).encode())
    try:
        log.info("records deleted", count=clear(line, read_verify_keys(options.verify_keys)))
    except LinkwireError as error:
        problems.append(str(error))
    finally:
        line.close()
    print(json.dumps({"node": os.environ.get("LINKWIRE_NODE_ID", ""), "problems": problems}), flush=True)
    return 1 if problems else 0
