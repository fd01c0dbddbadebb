"""The controller's settings: flags, or LINKWIRE_* in the environment, checked as a whole."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

SMALLEST_PREFIX = 29
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a controller is told.

    Attributes:
        etcd: endpoints, `http://host:port`.
        docker: URL of a manager's Docker.
        subnet: of the mesh; counts only for a store that is not in use yet.
        rest_s: seconds for which a freed address is given to nobody.
        name: of this controller, for people.
        log_level: debug, info, warning or error.
    """

    etcd: tuple[str, ...]
    docker: str
    subnet: IPv4Network
    rest_s: int
    name: str
    log_level: str


def _subnet(text: str) -> IPv4Network:
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 subnet such as 100.96.0.0/16: {error}") from None
    if subnet.prefixlen > SMALLEST_PREFIX:
        raise argparse.ArgumentTypeError(f"{text!r} has too few addresses: at most /{SMALLEST_PREFIX}")
    return subnet


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1")
    return int(text)


def _level(text: str) -> str:
    if text not in LEVELS:  # argparse holds a default, and so the environment, to a type but not to its choices
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(LEVELS)}")
    return text


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; on bad ones print them and exit with 2, as argparse does."""
    parser = argparse.ArgumentParser(prog="linkwire-controller", description="Plans the mesh from Swarm's services.")

    def add(flag: str, variable: str, default: str, read: Callable[[str], object], text: str) -> None:
        shown = f"{text} (${variable}; default {default})"
        parser.add_argument(flag, type=read, default=environ.get(variable) or default, help=shown)

    add("--etcd", "LINKWIRE_ETCD", "http://127.0.0.1:2379", str, "etcd endpoints, comma separated")
    add("--docker", "LINKWIRE_DOCKER_URL", "unix:///var/run/docker.sock", str, "a manager's Docker")
    add("--subnet", "LINKWIRE_SUBNET", "100.96.0.0/16", _subnet, "the mesh's addresses; fixed at first use")
    add("--address-rest", "LINKWIRE_ADDRESS_REST", "600", _positive, "seconds for which a freed address rests")
    add("--name", "LINKWIRE_NAME", socket.gethostname(), str, "of this controller, for people")
    add("--log-level", "LINKWIRE_LOG_LEVEL", "info", _level, f"one of {', '.join(LEVELS)}")
    read = parser.parse_args(argv)
    return Settings(
        etcd=tuple(part.strip() for part in read.etcd.split(",") if part.strip()),
        docker=read.docker,
        subnet=read.subnet,
        rest_s=read.address_rest,
        name=read.name,
        log_level=read.log_level,
    )
