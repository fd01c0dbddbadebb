"""Settings of the controller: flags, or LINKWIRE_* in the environment."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from mesh.identity.key_files import CONTROLLER_KEY_FILE, LINK_SEED_FILE, SEED_FILE
from mesh.identity.tls import Tls
from mesh.model.encryption.status import MODES, Mode
from mesh.model.labels.durations import parse_rotation
from mesh.process.options import Options, listen, number, subnet

MAX_REST_S = 7 * 86400
_LATEST = 2**40


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one controller.

    Attributes:
        etcd: endpoints, `https://host:port`.
        tls: certificates for etcd; None for plaintext.
        docker: URL of Docker on a manager.
        subnet: of the mesh; counts only for a store that is not in use yet.
        rest_s: seconds before a released address may be reused.
        stack_share: part of the mesh's addresses, and of a node's ports, that no stack exceeds where they are scarce.
        name: of this controller, for people.
        log_level: debug, info, warning or error.
        link_seed: file with the seed of all link keys.
        node: id of this controller's node; empty where it has no sealing key of its own.
        own_key: file with that sealing key.
        signing_seed: file with the seed of the controller's signing key.
        verify_keys: file with the public keys of signers, and the cluster's id.
        node_encryption: its mode; None for none.
        renewed: seconds since 1970: a node's key for it is not to be older.
        rotate: seconds after which nodes get new keys for it; None for never.
        metrics: the host and TCP port where Prometheus may ask; None for nowhere.
        command: `run`; `clear`, which deletes all records in etcd; or `restore`, which writes a backup's.
    """

    etcd: tuple[str, ...]
    docker: str
    subnet: IPv4Network
    rest_s: int
    stack_share: float
    name: str
    log_level: str
    link_seed: Path
    signing_seed: Path
    verify_keys: Path
    metrics: tuple[str, int] | None
    node_encryption: Mode | None = None
    renewed: int = 0
    rotate: int | None = None
    tls: Tls | None = None
    node: str = ""
    own_key: Path = Path(CONTROLLER_KEY_FILE)
    command: str = "run"


def _mode(text: str) -> Mode | None:
    """Read a mode of node encryption; `off` is None. Raises argparse.ArgumentTypeError."""
    if text == "off":
        return None
    for mode in MODES:
        if text == mode:
            return mode
    raise argparse.ArgumentTypeError(f"{text!r} is none of off, {', '.join(MODES)}")


def _rotation(text: str) -> int | None:
    """Read after how long something gets a new key; `off` is None. Raises argparse.ArgumentTypeError."""
    try:
        return None if text == "off" else parse_rotation(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; on an error print it and exit with 2, as argparse does."""
    flags = Options("linkwire-controller", "Plans the mesh from Swarm's services.", environ)
    flags.add_common()
    flags.add("--docker", "LINKWIRE_DOCKER_URL", "unix:///var/run/docker.sock", str, "URL of Docker on a manager")
    flags.add("--subnet", "LINKWIRE_SUBNET", "100.96.0.0/16", subnet, "IPv4 subnet of the mesh; fixed at first use")
    text = "seconds before a released address may be reused"
    flags.add("--address-rest", "LINKWIRE_ADDRESS_REST", "600", number(1, MAX_REST_S, "seconds"), text)
    text = "percent of the mesh's addresses and a node's UDP ports: who has as many gets none of the last ones"
    flags.add("--stack-share", "LINKWIRE_STACK_SHARE", "25", number(1, 100, "percent"), text)
    text = "encryption of overlay packets between nodes: prefer, strict, all, or off"
    flags.add("--node-encryption", "LINKWIRE_NODE_ENCRYPTION", "off", _mode, text)
    text = "after how long nodes get new keys for it: 30d, 24h; or off"
    flags.add("--node-key-rotation", "LINKWIRE_NODE_KEY_ROTATION", "off", _rotation, text)
    text = "seconds since 1970: nodes get new keys for it where theirs are older; for docker linkwire rotate --nodes"
    flags.add("--node-keys-since", "LINKWIRE_NODE_KEYS_SINCE", "0", number(0, _LATEST, "seconds"), text)
    flags.add("--name", "LINKWIRE_NAME", socket.gethostname(), str, "name of this controller in logs")
    flags.add("--signing-seed", "LINKWIRE_SIGNING_SEED_FILE", SEED_FILE, Path, "file with the signing seed")
    flags.add("--link-seed", "LINKWIRE_LINK_SEED_FILE", LINK_SEED_FILE, Path, "file with the seed of all link keys")
    text = "id of this node, where this controller keeps its sealing key; empty: it has none"
    flags.add("--node", "LINKWIRE_NODE_ID", "", str, text)
    flags.add("--own-key", "LINKWIRE_CONTROLLER_KEY_FILE", CONTROLLER_KEY_FILE, Path, "file with that sealing key")
    text = "where Prometheus may scrape, HOST:PORT, or off"
    flags.add("--metrics", "LINKWIRE_CONTROLLER_METRICS", "127.0.0.1:9587", listen, text)
    text = "run: plan until stopped (default); for docker linkwire uninstall and restore: clear deletes all records, "
    text += "restore writes a backup's"
    flags.parser.add_argument("command", nargs="?", default="run", choices=("run", "clear", "restore"), help=text)
    read = flags.parser.parse_args(argv)
    return Settings(
        etcd=read.etcd,
        tls=flags.tls(read),
        docker=read.docker,
        subnet=read.subnet,
        rest_s=read.address_rest,
        stack_share=read.stack_share / 100,
        node_encryption=read.node_encryption,
        renewed=read.node_keys_since,
        rotate=read.node_key_rotation,
        name=read.name,
        log_level=read.log_level,
        link_seed=read.link_seed,
        signing_seed=read.signing_seed,
        verify_keys=read.verify_keys,
        node=read.node,
        own_key=read.own_key,
        metrics=read.metrics,
        command=read.command,
    )
