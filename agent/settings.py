"""Settings of the agent: flags, or LINKWIRE_* in the environment, checked as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.identity.tls import Tls, with_node
from mesh.model.net import IPAddress
from mesh.process.options import Options, address, listen, udp_ports

SWARM_CERTIFICATES = "/run/linkwire/certificates"
NODE_JOBS = ("look", "place", "unwire", "remove")
"""See `agent.node_gate.node_jobs`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one agent.

    Attributes:
        command: `supervise` (the container's first process), `run` (the agent itself), `inspect`, `events`
            or NODE_JOBS.
        etcd: endpoints, `https://host:port`.
        tls: how they are spoken to; None for in clear.
        docker: URL of this node's Docker.
        first_port: UDP, the first that a task's device may use on this node.
        last_port: UDP, the last.
        address: where other nodes reach this one; None for what it advertises to the Swarm.
        state: the node's own folder, for its keys.
        certificates: Swarm's folder with this node's certificate and key.
        stack: for `inspect`: only links of this stack; None for all.
        log_level: debug, info, warning or error.
        metrics: the host and TCP port where Prometheus may ask; None for nowhere.
        verify_keys: file with the public keys that may sign the controller's records, and the cluster's id.
        containers: where Docker's folder `containers` is to be seen; empty for where Docker has it.
        installation: id of the installation that this agent is part of; empty where nobody says.
        holder: folder of wireguard-go's sockets that a holder has; None for children of the agent's own.
    """

    command: str
    etcd: tuple[str, ...]
    docker: str
    first_port: int
    last_port: int
    address: IPAddress | None
    state: Path
    certificates: Path
    stack: str | None
    log_level: str
    metrics: tuple[str, int] | None
    verify_keys: Path
    tls: Tls | None = None
    installation: str = ""
    containers: str = ""
    follow: bool = False
    holder: Path | None = None


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; on bad ones print them and exit with 2, as argparse does."""
    flags = Options("linkwire-agent", "Wires this node's tasks.", environ)
    flags.parser.add_argument(
        "command",
        nargs="?",
        default="supervise",
        choices=("supervise", "run", "inspect", "events", *NODE_JOBS),
        help="supervise: run, and run again when it ends (default); inspect: print every link as JSON; events: print "
        "the audit log; the others are for docker linkwire install and uninstall",
    )
    flags.add_common()
    flags.add("--docker", "LINKWIRE_DOCKER_URL", "unix:///var/run/docker.sock", str, "this node's Docker")
    flags.add("--ports", "LINKWIRE_PORTS", "51820-53819", udp_ports, "UDP ports of this node for its tasks")
    flags.add(
        "--address", "LINKWIRE_ADDRESS", "", address, "where other nodes reach this one, instead of what Swarm says"
    )
    flags.add("--state", "LINKWIRE_STATE", "/var/lib/linkwire", Path, "folder for the node's keys")
    text = "Swarm's folder with this node's certificate and key"
    flags.add("--certificates", "LINKWIRE_CERTIFICATES", SWARM_CERTIFICATES, Path, text)
    flags.add(
        "--metrics", "LINKWIRE_METRICS", "127.0.0.1:9586", listen, "where Prometheus may scrape, HOST:PORT, or off"
    )
    text = "where Docker's folder of containers is to be seen; where Docker has it, if not given"
    flags.add("--containers", "LINKWIRE_CONTAINERS", "", str, text)
    flags.add("--installation", "LINKWIRE_INSTALLATION", "", str, "id of the installation that the state belongs to")
    text = "folder of sockets for a container that has wireguard-go outlive the agent's; none, if not given"
    flags.add("--holder", "LINKWIRE_HOLDER", "", str, text)
    flags.parser.add_argument("--stack", help="for inspect: only this stack's links")
    text = "for events: go on until standard input ends"
    flags.parser.add_argument("--follow", action="store_true", help=text)
    read = flags.parser.parse_args(argv)
    tls = flags.tls(read)
    return Settings(
        command=read.command,
        etcd=read.etcd,
        tls=with_node(tls, read.certificates) if tls else None,
        docker=read.docker,
        first_port=read.ports[0],
        last_port=read.ports[1],
        address=read.address,
        state=read.state,
        certificates=read.certificates,
        stack=read.stack,
        log_level=read.log_level,
        metrics=read.metrics,
        verify_keys=read.verify_keys,
        installation=read.installation,
        containers=read.containers,
        follow=read.follow,
        holder=Path(read.holder) if read.holder else None,
    )
