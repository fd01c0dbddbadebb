"""The agent, put together: its parts are made, run, and stopped on a signal. Also its commands that only read."""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import structlog

from agent import settings
from agent.asks.all_links import Sweep
from agent.asks.answerer import Answerer
from agent.asks.asker import Asker
from agent.asks.flow_answerer import FlowAnswerer
from agent.asks.flow_asker import FlowAsker
from agent.asks.survey import Survey
from agent.asks.writing import ShortLived
from agent.containers.after_reboot import AfterReboot
from agent.containers.docker_client import Containers, NodeIdentity
from agent.containers.holder_container import HolderContainer
from agent.desired_state import DesiredState
from agent.firewall import preflight
from agent.firewall.node_table import NodeTable
from agent.fitness.node_encryption import DeviceFilters
from agent.flows.watcher import Watcher
from agent.holder.client import HeldProcesses
from agent.linux.netns import OWN_NETNS, TaskNetns
from agent.loop import Agent
from agent.node_encryption.device import NAMES, NodeDevice
from agent.node_encryption.keeper import Keeper
from agent.node_encryption.key import NodeKeys
from agent.node_encryption.policy_routing import PlainPorts
from agent.node_gate import node_jobs
from agent.probes.examiner import Examiner
from agent.probes.tunnel_examiner import TunnelExaminer
from agent.queries.answers import Answers, Running
from agent.queries.backup import Backups
from agent.queries.client import SOCKET
from agent.queries.flows import Flows, wired
from agent.queries.records import Records
from agent.queries.server import serve as serve_queries
from agent.reporting import audit_log
from agent.reporting.encryption_metrics import EncryptionMetrics
from agent.reporting.metrics import Metrics
from agent.reporting.node_record import node_record
from agent.reporting.node_reports import NodeReports
from agent.state import atomic_file, installation
from agent.state.clock import WatchedClock
from agent.state.key_file import load_or_make_node_key
from agent.state.node_identity import Identity
from agent.state.verified_state import VerifiedState
from agent.status.node_tunnel import TunnelReader
from agent.walks import link_records
from agent.walks.between_nodes import NodesExplainer
from agent.walks.explain import Explainer
from agent.walks.many import Walks
from agent.wireguard.backend import USERSPACE, Backend, probe
from mesh.errors import LinkwireError, Retryable
from mesh.identity.key_files import read_verify_keys
from mesh.integrity.record_signing import RecordSigner
from mesh.process import metrics_page
from mesh.store.client import Store
from mesh.topology.underlay import ports_beside

log = structlog.get_logger(__name__)

RETRY_S = 1.0
HANGS_S = 30.0
"""Seconds in which an agent that was told to stop makes no step: Docker would wait for it for minutes."""


def inspect(options: settings.Settings) -> None:
    """Print what the records say of a stack's links, or of all. Raises LinkwireError."""
    keyring = read_verify_keys(options.verify_keys)
    store = Store(options.etcd, RecordSigner.reader(keyring), tls=options.tls)
    try:
        answers = Answers(store, keyring.cluster, options.state, options.certificates)
        for document in answers.links({"stack": options.stack}):
            sys.stdout.write(f"{json.dumps(document)}\n")
    finally:
        store.close()


def events(options: settings.Settings) -> None:
    """Print the audit log, and follow it where the settings say so. Raises LinkwireError."""
    store = Store(options.etcd, RecordSigner.reader(read_verify_keys(options.verify_keys)), tls=options.tls)
    try:
        audit_log.show(store, follow=options.follow)
    finally:
        store.close()


def _identity(containers: Containers) -> NodeIdentity:
    """Ask Docker which node this is, until it answers."""
    while True:
        try:
            return containers.identity()
        except Retryable as error:
            log.warning("node identity unknown, retrying", error=str(error))
            time.sleep(RETRY_S)


def _backend(options: settings.Settings) -> tuple[Backend, Callable[[], str]]:
    """Choose the node's backend; its wireguard-go processes are a holder's, where the settings name its folder.

    Returns:
        The backend, and a function that says what is wrong with the holder.
    """
    if options.holder is None:
        return probe(), lambda: ""
    container = HolderContainer(options.docker, options.holder)
    held = HeldProcesses(options.holder, container)
    backend = probe(processes=held)
    try:
        if backend.name == USERSPACE:
            held.watch()
            held.ready()
        elif options.holder.exists() and container.remove():
            # Its devices would be in the way of the kernel's.
            log.info("holder removed, the kernel has WireGuard now")
    except LinkwireError as error:  # tried again within seconds
        log.warning("holder not ready", error=str(error))
    return backend, lambda: held.problem


def _heed_signals(agent: Agent, stopped: threading.Event) -> None:
    """Have SIGTERM and SIGINT tell the agent to leave."""

    def stop(_signal: int, _frame: object) -> None:
        still_leaving()
        stopped.set()
        agent.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def still_leaving() -> None:
    """Give an agent that leaves HANGS_S more; after them it ends where it is, with all threads' stacks on stderr."""
    faulthandler.dump_traceback_later(HANGS_S, exit=True)


def _answer_metrics(options: settings.Settings, version: str, backend: str) -> Metrics:
    """Make the agent's metrics, and serve them where the settings say so."""
    metrics = Metrics(version, backend)
    if options.metrics is not None:
        metrics_page.describe_process(metrics.registry, options.tls)
        metrics_page.serve(metrics.registry, options.metrics)
    return metrics


def run(options: settings.Settings) -> None:
    """Run the agent until it is told to stop. Raises LinkwireError."""
    stopped = threading.Event()
    keyring = read_verify_keys(options.verify_keys)
    key = load_or_make_node_key(options.state)
    backend, holder = _backend(options)
    answers_dns = preflight.require()
    node_jobs.require_places(options.docker, options.containers)
    containers = Containers(options.docker, folder=options.containers)
    version = metadata.version("linkwire")
    log.info("agent started", backend=backend.name, address=",".join(options.etcd), version=version)
    here = _identity(containers)
    identity = Identity(options.state, options.certificates, keyring.cluster, here.id, key.public)
    ports = (options.first_port, options.last_port)
    node_keys = NodeKeys(options.state, ports_beside(*ports))
    node = node_record(here, identity, backend, ports, options.address, version)
    store = Store(options.etcd, RecordSigner.agent(keyring, identity.key), tls=options.tls)
    metrics = _answer_metrics(options, version, backend.name)
    atomic_file.drop_leftovers(options.state)
    installation.bind(options.state, options.installation, keyring)
    trust = VerifiedState(options.state)
    trust.recover(store.opened)
    desired = DesiredState(node.id, key, trust, backend, node_keys=node_keys)
    reader = TunnelReader(TaskNetns(OWN_NETNS), backend, lambda: desired.verified)
    reports = NodeReports(
        node, identity, metrics, WatchedClock(options.state), node_keys, tunnel=reader.figures, holder=holder
    )
    table = NodeTable(TaskNetns(OWN_NETNS))
    keeper = _keeper(options, backend, metrics, reader)
    agent = Agent(containers, store, desired, reports, table, keeper=keeper, answers_dns=answers_dns)

    _heed_signals(agent, stopped)
    running = Running(desired, lambda: reports.status, agent.age, agent.exact_age, reader.peers, reader.fits)
    answers = Answers(store, keyring.cluster, options.state, options.certificates, running)
    node_device = NodeDevice(TaskNetns(OWN_NETNS), backend)
    tunnel = TunnelExaminer(here.id, node_device, lambda: desired.verified, lambda: keeper.status, ports)
    examiner = Examiner(agent.tasks, lambda: desired.graph, backend, ports, tunnel=tunnel)
    written = ShortLived(store, identity)
    watcher = Watcher(lambda: wired(agent.tasks), lambda: desired.graph)
    flow_answerer = FlowAnswerer(here.id, keyring.cluster, store, written, watcher)
    answerer = Answerer(here.id, keyring.cluster, store, written, examiner, beside=flow_answerer.heard)
    flows = Flows(here.id, watcher, lambda merge: FlowAsker(here.id, keyring.cluster, store, written, merge))
    survey = Survey(here.id, examiner, Asker(here.id, keyring.cluster, store, written))
    read_links = partial(link_records.read, store.load, desired, keyring.cluster)
    queries = serve_queries(
        Path(SOCKET),
        {
            **answers.handlers,
            "explain": Explainer(read_links, survey).explain,
            "explain-nodes": NodesExplainer(store.load, desired, keyring.cluster, survey).explain,
            "walks": Walks(read_links, survey).walks,
            "sweep": Sweep(lambda: desired.graph, survey).sweep,
            "flows": flows.flows,
            "records": Records(store.load).records,
            "backup": Backups(store.load, keyring.cluster, version).backup,
        },
    )
    answerer.start()
    try:
        agent.run(stopped, still_leaving)
    finally:
        answerer.stop()
        if queries is not None:
            queries.close()
        store.close()


def _keeper(options: settings.Settings, backend: Backend, metrics: Metrics, reader: TunnelReader) -> Keeper:
    """Make the keeper of the node's part in node encryption, with its metrics."""
    home = TaskNetns(OWN_NETNS)
    after_reboot = AfterReboot(options.state, options.docker, NAMES)
    device = NodeDevice(home, backend)
    filtered, plain = DeviceFilters(home).problem, _plain_ports(options)
    keeper = Keeper(device, filtered=filtered, after_reboot=after_reboot.refuse, plain=plain)
    metrics.registry.register(EncryptionMetrics(lambda: keeper.status, reader.peers))
    return keeper


def _plain_ports(options: settings.Settings) -> PlainPorts:
    """Return the ports of what stays outside in mode `all`."""
    tasks = (options.first_port, options.last_port)
    clients = {int(endpoint.rpartition(":")[2]) for endpoint in options.etcd if options.tls is not None}
    # Members of the etcd that we bring reach one another at the next one.
    return PlainPorts(ports_beside(*tasks), tasks, tuple(sorted({*clients, *(port + 1 for port in clients)})))
