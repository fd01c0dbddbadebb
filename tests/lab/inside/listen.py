"""Runs in a task: answers on TCP and UDP ports, in both families, with its name and the host's; ends gracefully.

    listen.py NAME [--tcp 80,443] [--udp 53] [--drain SECONDS]

After SIGTERM it goes on answering for a while, as what is behind a load balancer should. It says on stdout, once for
each, who sent a datagram to which port.
"""

import argparse
import asyncio
import signal
import socket
from functools import partial
from pathlib import Path

LISTENS = Path("/tmp/listens")  # noqa: S108 - in a container
"""There is such a file when it listens: for a healthcheck."""


class Echo(asyncio.DatagramProtocol):
    """Answers every datagram."""

    def __init__(self, port: int, answer: bytes) -> None:
        self.port, self.answer = port, answer
        self.heard: set[str] = set()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, _: bytes, sender: tuple[str, int]) -> None:
        if sender[0] not in self.heard:
            self.heard.add(sender[0])
            print("heard", self.port, sender[0])
        self.transport.sendto(self.answer, sender)


def dual(kind: int, port: int) -> socket.socket:
    """A socket for both families: IPv6 may be turned on for a device that comes later."""
    one = socket.socket(socket.AF_INET6, kind)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.bind(("::", port))
    one.setblocking(False)
    return one


async def main(arguments: argparse.Namespace) -> None:
    """Listen until told to stop."""
    said = f"{arguments.name} {socket.gethostname()}".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    loop = asyncio.get_running_loop()
    for port in arguments.tcp:
        await asyncio.start_server(serve, sock=dual(socket.SOCK_STREAM, port), backlog=1024)
    for port in arguments.udp:
        await loop.create_datagram_endpoint(partial(Echo, port, said), sock=dual(socket.SOCK_DGRAM, port))
    LISTENS.touch()  # noqa: ASYNC240 - once, in memory
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await asyncio.sleep(arguments.drain)


def ports(text: str) -> list[int]:
    """Ports, comma separated."""
    return [int(port) for port in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--tcp", type=ports, default=[])
    parser.add_argument("--udp", type=ports, default=[])
    parser.add_argument("--drain", type=float, default=0.0)
    asyncio.run(main(parser.parse_args()))
