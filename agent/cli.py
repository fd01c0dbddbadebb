"""Command line of `linkwire-agent`: builds the parts, runs them, and stops them on a signal."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from importlib import metadata

import structlog

from agent import settings
from agent.containers.docker_client import Containers
from agent.desired_state import DesiredState
from agent.firewall import preflight
from agent.firewall.node_table import NodeTable
from agent.linux.netns import OWN_NETNS, TaskNetns
from agent.loop import Agent
from agent.node_gate import node_jobs, proof_link
from agent.reporting import audit_log
from agent.reporting.link_status import inspect, signers
from agent.reporting.metrics import Metrics, serve
from agent.reporting.node_record import node_record
from agent.reporting.node_reports import NodeReports
from agent.reporting.node_status import believed, nodes
from agent.state import installation
from agent.state.clock import WatchedClock
from agent.state.key_file import load_or_make_node_key
from agent.state.node_identity import Identity
from agent.state.verified_state import VerifiedState, remembered
from agent.supervisor import supervise
from agent.wireguard.backend import probe
from mesh.errors import LinkwireError, Retryable
from mesh.identity.key_files import read_verify_keys
from mesh.integrity.record_signing import RecordSigner
from mesh.model import keyspace
from mesh.model.device_readings import with_devices
from mesh.process import hardening
from mesh.process import log_setup as logging
from mesh.store.client import Store

log = structlog.get_logger(__name__)

RETRY_S = 1.0
OPEN_FILES = 65_536


def main() -> None:
    """Run the command; exit 1 on an error that no retry can mend."""
    hardening.protect()
    options = settings.parse(sys.argv[1:])
    _allow_open_files()
    logging.configure(options.log_level)
    if options.command == "supervise":
        sys.exit(supervise([argument for argument in sys.argv[1:] if argument != "supervise"]))
    if options.command in settings.NODE_JOBS:
        sys.exit(node_jobs.run(options.command, options.docker, options.containers))
    if options.command in settings.PROOF:
        sys.exit(proof_link.run(options.command, os.environ))
    try:
        if options.command == "inspect":
            _inspect(options)
        elif options.command == "events":
            _events(options)
        else:
            _run(options)
    except LinkwireError as error:
        log.error("agent stopped", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)


def _allow_open_files() -> None:
    """Raise the limit of open files: a wired task takes about ten, and Docker's default may be 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(most, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _inspect(options: settings.Settings) -> None:
    keyring = read_verify_keys(options.verify_keys)
    store = Store(options.etcd, RecordSigner.reader(keyring), tls=options.tls)
    root = options.certificates / "swarm-root-ca.crt"
    try:
        snapshot = store.load((*keyspace.FOLLOWED, keyspace.VIEWS))
        shown = with_devices(believed(snapshot, keyring.cluster))
        document = inspect(shown, time.time(), options.stack, remembered(options.state))
        roots = (root.read_bytes(),) if root.exists() else ()
        document["signed_by"] = signers(snapshot)
        document["nodes"] = list(nodes(snapshot, keyring.cluster, roots, datetime.now(UTC)))
        print(json.dumps(document))
    finally:
        store.close()


def _events(options: settings.Settings) -> None:
    store = Store(options.etcd, RecordSigner.reader(read_verify_keys(options.verify_keys)), tls=options.tls)
    try:
        audit_log.show(store, follow=options.follow)
    finally:
        store.close()


def _run(options: settings.Settings) -> None:
    stopped = threading.Event()
    keyring = read_verify_keys(options.verify_keys)
    key = load_or_make_node_key(options.state)
    backend = probe()
    answers_dns = preflight.require()
    node_jobs.require_places(options.docker, options.containers)
    containers = Containers(options.docker, folder=options.containers)
    version = metadata.version("linkwire")
    log.info("agent started", backend=backend.name, address=",".join(options.etcd), version=version)
    while True:
        try:
            here = containers.identity()
            break
        except Retryable as error:
            log.warning("node identity unknown, retrying", error=str(error))
            time.sleep(RETRY_S)
    identity = Identity(options.state, options.certificates, keyring.cluster, here.id, key.public)
    node = node_record(here, identity, backend, (options.first_port, options.last_port), options.address, version)
    store = Store(options.etcd, RecordSigner.agent(keyring, identity.key), tls=options.tls)
    metrics = Metrics(version, backend.name)
    if options.metrics is not None:
        serve(metrics, options.metrics)
    installation.bind(options.state, options.installation, keyring)
    trust = VerifiedState(options.state)
    trust.recover(store.opened)
    desired = DesiredState(node.id, key, trust, backend)
    reports = NodeReports(node, identity, metrics, WatchedClock(options.state))
    table = NodeTable(TaskNetns(OWN_NETNS))
    agent = Agent(containers, store, desired, reports, table, answers_dns=answers_dns)

    def stop(_signal: int, _frame: object) -> None:
        stopped.set()
        agent.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        agent.run(stopped)
    finally:
        store.close()
