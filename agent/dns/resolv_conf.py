"""Name servers and search domains of a container's resolv.conf (resolv.conf(5))."""

from __future__ import annotations

import os
import stat
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent.dns.ruleset import MOST_SERVERS

DOCKERS_OWN = IPv4Address("127.0.0.11")
"""Docker's resolver in every container on a network that a user made (libnetwork, resolver.go)."""
_MAX_BYTES = 1 << 16
"""The file belongs to the container, which may have put anything into it."""
_MOST_DOMAINS = 6  # resolv.h, MAXDNSRCH
_LONGEST_DOMAIN = 253


class ResolvConf:
    """Union of everything that one container's file has said.

    Docker writes it twice while it starts a container, and a program may rewrite it: nothing that it named is
    forgotten, so that the rules change with it as rarely as can be. A server too many costs nothing.

    Attributes:
        servers: name servers; Docker's own is always one, since a program may be told to ask it by hand.
        search: domains, in lower case.
    """

    def __init__(self) -> None:
        self.servers: tuple[IPv4Address | IPv6Address, ...] = (DOCKERS_OWN,)
        self.search: tuple[str, ...] = ()

    def look(self, path: str) -> None:
        """Read the file; what cannot be read adds nothing."""
        servers, search = parse(_load(path))
        self.servers = tuple(dict.fromkeys((*self.servers, *servers)))[:MOST_SERVERS]
        self.search = tuple(dict.fromkeys((*self.search, *search)))[:_MOST_DOMAINS]


def parse(content: bytes) -> tuple[list[IPv4Address | IPv6Address], list[str]]:
    """Parse name servers, without those of a zone (`fe80::1%eth0`), and search domains, each in their order."""
    servers: list[IPv4Address | IPv6Address] = []
    search: list[str] = []
    for line in content.decode(errors="replace").splitlines():
        match line.split():
            case ["nameserver", text, *_]:
                try:
                    server = ip_address(text)
                except ValueError:
                    continue
                # Nor an IPv4 address written as an IPv6 one, which nft lists in another form than Python.
                embedded = server.version == 6 and int(server) >> 32 in {0, 0xFFFF} and int(server) >> 16  # noqa: PLR2004
                if getattr(server, "scope_id", None) is None and not embedded:
                    servers.append(server)
            case ["search" | "domain", *domains]:  # the last one counts
                search = [domain.lower().strip(".") for domain in domains]
            case _:
                pass
    return servers, [domain for domain in search if domain and len(domain) <= _LONGEST_DOMAIN]


def _load(path: str) -> bytes:
    try:
        # A container may have put something else in its place: follow no link, wait for no pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, _MAX_BYTES, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)
