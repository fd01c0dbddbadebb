"""Command-line options that have a variable each, and the validators of their values. Pure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, ip_address
from pathlib import Path

from mesh.identity.key_files import VERIFY_KEYS_FILE
from mesh.identity.tls import Tls, choose
from mesh.model.labels.ports import MAX_PORT
from mesh.model.net import IPAddress

LEVELS = ("debug", "info", "warning", "error")
SMALLEST_PREFIX = 29
"""Bits of the smallest subnet that a mesh can have."""
_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_ENDPOINT = re.compile(r"(https?://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


class Options:
    """An argument parser in which every option has a variable, and one validator for both."""

    def __init__(self, program: str, description: str, environ: Mapping[str, str]) -> None:
        """Start without options."""
        self.parser = argparse.ArgumentParser(prog=program, description=description)
        self._environ = environ

    def add(self, flag: str, variable: str, default: str, read: Callable[[str], object], text: str) -> None:
        """Add an option; `read` raises argparse.ArgumentTypeError, in the user's words, for a bad value."""
        shown = f"{text} (${variable}; default {default or 'none'})"
        self.parser.add_argument(flag, type=read, default=self._environ.get(variable) or default, help=shown)

    def add_common(self) -> None:
        """Add the options of all programs: etcd, the log level and the verify keys."""
        self.add("--etcd", "LINKWIRE_ETCD", "http://127.0.0.1:2379", endpoints, "etcd endpoints, comma separated")
        self.add("--log-level", "LINKWIRE_LOG_LEVEL", "info", level, f"one of {', '.join(LEVELS)}")
        for flag, variable, text in (
            ("--etcd-ca", "LINKWIRE_ETCD_CA", "CA bundle that etcd's certificate must chain to"),
            ("--etcd-cert", "LINKWIRE_ETCD_CERT", "client certificate for etcd"),
            ("--etcd-key", "LINKWIRE_ETCD_KEY", "private key of the client certificate"),
        ):
            self.add(flag, variable, "", _file, f"{text}, PEM file; for https:// endpoints")
        self.add("--etcd-insecure", "LINKWIRE_ETCD_INSECURE", "", _switch, "1: allow http:// to other hosts")
        text = "file with the public keys that may sign the mesh's records"
        self.add("--verify-keys", "LINKWIRE_VERIFY_KEYS_FILE", VERIFY_KEYS_FILE, Path, text)

    def tls(self, read: argparse.Namespace) -> Tls | None:
        """Return the TLS files for etcd, None for plain text; exit with a usage error where they do not fit."""
        try:
            return choose(read.etcd, (read.etcd_ca, read.etcd_cert, read.etcd_key), insecure=read.etcd_insecure)
        except ValueError as error:
            self.parser.error(str(error))


def _file(text: str) -> Path | None:
    return Path(text) if text else None


def _switch(text: str) -> bool:
    if text not in ("", "0", "1"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0")
    return text == "1"


def level(text: str) -> str:
    """Read a log level. argparse applies a type to a default, and so to the environment, but not its choices."""
    if text not in LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(LEVELS)}")
    return text


def number(least: int, most: int, unit: str) -> Callable[[str], int]:
    """Return a validator for a number of some unit, both ends included."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {unit} from {least} to {most}")
        return int(text)

    return read


def endpoints(text: str) -> tuple[str, ...]:
    """Read etcd endpoints: `https://HOST:PORT`, several with commas."""
    read = tuple(part.strip() for part in text.split(",") if part.strip())
    for part in read:
        if not _ENDPOINT.fullmatch(part):
            raise argparse.ArgumentTypeError(f"{part!r} is not an etcd endpoint such as https://10.0.0.1:2379")
    if not read:
        raise argparse.ArgumentTypeError("no etcd endpoint: give one such as https://10.0.0.1:2379")
    return read


def listen(text: str) -> tuple[str, int] | None:
    """Read an address to listen on, `HOST:PORT`; None for `off`."""
    if text in ("", "off"):
        return None
    match = _LISTEN.fullmatch(text)
    if match is None or not 0 < int(match.group(3)) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an address and port such as 127.0.0.1:9586 nor off")
    return match.group(1) or match.group(2), int(match.group(3))


def udp_ports(text: str) -> tuple[int, int]:
    """Read a range of UDP ports, `FIRST-LAST`."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) <= MAX_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of UDP ports such as 51820-53819")
    return int(first), int(last)


def address(text: str) -> IPAddress | None:
    """Read an IP address; None for an empty text."""
    try:
        return ip_address(text) if text else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address") from None


def subnet(text: str) -> IPv4Network:
    """Read the mesh's IPv4 subnet, with at least six addresses."""
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 subnet such as 100.96.0.0/16: {error}") from None
    if network.prefixlen > SMALLEST_PREFIX:
        raise argparse.ArgumentTypeError(f"{text!r} has too few addresses: at most /{SMALLEST_PREFIX}")
    return network
