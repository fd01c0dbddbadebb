"""Arguments of etcd, and of a supervisor that has several members. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from controller.etcd.upkeep import HISTORY
from mesh.identity.tls import Tls
from mesh.process.options import endpoints


def common(data: Path, quota: int) -> list[str]:
    """Return the command of every start, without what follows."""
    return [
        "etcd",
        f"--data-dir={data}",
        f"--auto-compaction-retention={HISTORY}",
        f"--quota-backend-bytes={quota}",
        # It would act in the server's name (CVE-2018-16886), and no client of ours speaks JSON.
        "--enable-grpc-gateway=false",
        "--logger=zap",
    ]


def alone(peer: str, tls: Tls) -> list[str]:
    """Return those of an only member; `tls` is for its own loopback."""
    own = str(tls.cert)
    return [
        "--name=linkwire",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=linkwire={peer}",
        f"--peer-cert-file={own}",
        f"--peer-key-file={own}",
        f"--peer-trusted-ca-file={tls.ca}",
        "--peer-client-cert-auth",
    ]


def members(text: str) -> dict[str, str]:
    """Read `NAME=URL`, several with commas."""
    read = dict[str, str]()
    for part in filter(None, text.split(",")):
        name, equals, url = part.partition("=")
        if not (name and equals and url.startswith("https://")):
            raise argparse.ArgumentTypeError(f"{part!r} is not a member of etcd such as n1=https://10.0.0.1:2380")
        read[name] = endpoints(url)[0]
    return read


def host(url: str) -> str:
    """Return the host of a URL."""
    return urlsplit(url).hostname or ""


def listening(own: Sequence[str], urls: Sequence[str], tls: Tls) -> list[str]:
    """Return those of its listeners for clients: our own, and those for everybody."""
    return [
        f"--listen-client-urls={','.join([*own, *urls])}",
        f"--advertise-client-urls={','.join(urls or own)}",
        f"--cert-file={tls.cert}",
        f"--key-file={tls.key}",
        f"--trusted-ca-file={tls.ca}",
        "--client-cert-auth",
    ]
