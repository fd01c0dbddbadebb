"""IPsec as Docker sets it up for an overlay network with the option `encrypted`; no code of Docker's, nor of ours.

After moby 20.10, libnetwork/drivers/overlay/encryption.go: ESP in transport mode, AES-128-GCM with an ICV of 64
bits; it takes packets by a mark that those of the network's VNI get on VXLAN's port, and what comes in clear is
dropped. The rules are nftables' instead of iptables' with u32.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.model.net import IPAddress
from tests.support.by_hand import run

EXPANSION = 26
"""Bytes that ESP adds: SPI 4, sequence number 4, IV 8, padding's length 1, next header 1, ICV 8."""
_MARK = 0xD0C4E3
_RULES = """
table inet encrypted {{
    chain out {{
        type route hook output priority mangle;
        udp dport {port} @th,96,24 {vni} meta mark set {mark}
    }}
    chain in {{
        type filter hook input priority filter;
        udp dport {port} @th,96,24 {vni} meta secpath exists accept
        udp dport {port} @th,96,24 {vni} drop
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class End:
    """One node: the name of its namespace, and its address there."""

    netns: str
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Cipher:
    """A cipher of ESP's: its name in the kernel, the bytes of its key without the salt, and the bits of its ICV."""

    name: str
    key: int
    icv: int


DOCKERS = Cipher("rfc4106(gcm(aes))", 16, 64)
WIREGUARDS = Cipher("rfc7539esp(chacha20,poly1305)", 32, 128)
"""Not Docker's: what ESP costs with WireGuard's cipher. It adds 8 bytes more."""


def encrypt(ends: Sequence[End], vni: int, port: int, cipher: Cipher = DOCKERS) -> None:
    """Encrypt an overlay between all of the nodes. Raises ReferenceFailed where the kernel cannot.

    All have the same associations, each way one, and each has the policies for its own packets.
    """
    key = secrets.token_hex(cipher.key)
    rules = _RULES.format(port=port, vni=vni, mark=_MARK)
    states: list[str] = []
    policies: dict[str, list[str]] = {end.netns: [] for end in ends}
    for number, (here, there) in enumerate((a, b) for a in ends for b in ends if a is not b):
        spi = 0x1000 + number
        way = f"src {here.address} dst {there.address} proto esp spi {spi:#x} reqid {_MARK}"
        states.append(f"xfrm state add {way} mode transport aead {cipher.name} 0x{key}{spi:08x} {cipher.icv}")
        length = here.address.max_prefixlen
        selector = f"src {here.address}/{length} dst {there.address}/{length} proto udp dport {port} dir out"
        policies[here.netns].append(
            f"xfrm policy add {selector} mark {_MARK} mask 0xffffffff tmpl {way} mode transport"
        )
    for end in ends:
        lines = [*states, *policies[end.netns], ""]
        run("ip", "-n", end.netns, "-batch", "-", stdin="\n".join(lines))  # a key is no argument
        run("nsenter", f"--net=/run/netns/{end.netns}", "nft", "-f", "-", stdin=rules)


def encrypted_bytes(netns: str) -> int:
    """Return how many have passed the least used of a node's associations."""
    text = run("ip", "-n", netns, "-s", "xfrm", "state")
    return min(int(count) for count in re.findall(r"lifetime current:\s+(\d+)\(bytes\)", text))
