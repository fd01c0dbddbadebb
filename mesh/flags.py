"""How controller and agent read a setting: a flag, else a variable of the environment, else a default. Pure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from mesh.keyfiles import VERIFY_KEYS_FILE
from mesh.tls import Tls, choose

LEVELS = ("debug", "info", "warning", "error")
MAX_PORT = 65535
_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_ENDPOINT = re.compile(r"(https?://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


class Flags:
    """An argument parser in which every flag has a variable, and both are held to the same rule."""

    def __init__(self, program: str, description: str, environ: Mapping[str, str]) -> None:
        """Start with no flags."""
        self.parser = argparse.ArgumentParser(prog=program, description=description)
        self._environ = environ

    def add(self, flag: str, variable: str, default: str, read: Callable[[str], object], text: str) -> None:
        """Add a flag; `read` raises argparse.ArgumentTypeError, in the user's words, for a value that will not do."""
        shown = f"{text} (${variable}; default {default or 'none'})"
        self.parser.add_argument(flag, type=read, default=self._environ.get(variable) or default, help=shown)

    def add_common(self) -> None:
        """What both sides take: etcd, the log level, and whom to believe."""
        self.add("--etcd", "LINKWIRE_ETCD", "http://127.0.0.1:2379", endpoints, "etcd endpoints, comma separated")
        self.add("--log-level", "LINKWIRE_LOG_LEVEL", "info", level, f"one of {', '.join(LEVELS)}")
        for flag, variable, what in (
            ("--etcd-ca", "LINKWIRE_ETCD_CA", "whose certificates etcd may show"),
            ("--etcd-cert", "LINKWIRE_ETCD_CERT", "the certificate to show to etcd"),
            ("--etcd-key", "LINKWIRE_ETCD_KEY", "its private key"),
        ):
            self.add(flag, variable, "", _file, f"file in PEM: {what}; for https:// endpoints")
        self.add("--etcd-insecure", "LINKWIRE_ETCD_INSECURE", "", _switch, "1: speak to an etcd elsewhere in clear")
        text = "file with the public keys that may sign the mesh's records"
        self.add("--verify-keys", "LINKWIRE_VERIFY_KEYS_FILE", VERIFY_KEYS_FILE, Path, text)

    def tls(self, read: argparse.Namespace) -> Tls | None:
        """How etcd is spoken to; what cannot be is an error of the command line."""
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
    """A log level. argparse holds a default, and so the environment, to a type but not to its choices."""
    if text not in LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(LEVELS)}")
    return text


def endpoints(text: str) -> tuple[str, ...]:
    """Read etcd endpoints: `https://HOST:PORT`, several with commas."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for part in found:
        if not _ENDPOINT.fullmatch(part):
            raise argparse.ArgumentTypeError(f"{part!r} is not an etcd endpoint such as https://10.0.0.1:2379")
    if not found:
        raise argparse.ArgumentTypeError("no etcd endpoint: give one such as https://10.0.0.1:2379")
    return found


def listen(text: str) -> tuple[str, int] | None:
    """Read where to listen, `HOST:PORT`; None for `off`."""
    if text in ("", "off"):
        return None
    found = _LISTEN.fullmatch(text)
    if found is None or not 0 < int(found.group(3)) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an address and port such as 127.0.0.1:9586 nor off")
    return found.group(1) or found.group(2), int(found.group(3))
