"""Runs in a task: sends datagrams in frames of its own making, by whatever address it is told. NET_RAW is enough.

Stdin: a JSON list of [device, the target's MAC address, the sender's, source address, target address, port].
"""

import json
import socket
import struct
import sys
from ipaddress import IPv4Address


def frame(target_mac: str, own_mac: str, source: str, target: str, port: int) -> bytes:
    """Return one datagram over IPv4 over Ethernet (RFC 791, RFC 768)."""
    datagram = struct.pack("!HHHH", 40000, port, 8 + 4, 0) + b"worn"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0)
    ends = IPv4Address(source).packed + IPv4Address(target).packed
    macs = bytes.fromhex((target_mac + own_mac).replace(":", ""))
    return macs + b"\x08\x00" + head[:10] + checksum(head + ends) + ends + datagram


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


if __name__ == "__main__":
    for device, target_mac, own_mac, source, target, port in json.load(sys.stdin):
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((device, 0))
            raw.send(frame(target_mac, own_mac, source, target, port))
