"""Resolvers that read a hosts file while it is written as fast as can be: how many miss a name, or see a wrong one.

    python -m tests.support.torn_reads [READS]

The readers are glibc's and musl's own getaddrinfo, each in a mount namespace where the file lies on /etc/hosts. The
writer is the agent's; beside it, for comparison, one that writes the whole file anew in place, as the agent once did.
Needs root, cc, and musl-gcc for musl's.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

from agent.linux import hosts_file
from mesh.topology.wgtypes import HostEntry

COMPILERS = {"glibc": "cc", "musl": "musl-gcc"}
_DOCKERS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n"
_HOSTS_LINE = b"172.17.0.2\t0123456789ab\n"
_READER = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Looks up each name in turn; an answer must begin with what belongs to it. Prints how many did not. */
int main(int count, char **arguments) {
    static const char *asked[][2] = {
        {"localhost", "127.0.0.1"}, {"db", "10.99."}, {"cache", "10.99."}, {"0123456789ab", "172.17.0.2"}};
    long reads = atol(arguments[1]), wrong = 0;
    for (long read = 0; read < reads; read++) {
        const char **one = asked[read % 4];
        struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found = 0;
        int right = getaddrinfo(one[0], 0, &hints, &found) == 0;
        for (struct addrinfo *each = found; each; each = each->ai_next) {
            char text[INET_ADDRSTRLEN];
            inet_ntop(AF_INET, &((struct sockaddr_in *)each->ai_addr)->sin_addr, text, sizeof text);
            right = right && strncmp(text, one[1], strlen(one[1])) == 0;
        }
        wrong += !right;
        if (found) freeaddrinfo(found);
    }
    printf("%ld\n", wrong);
    return 0;
}
"""
_MOUNTED = """
mount --bind "$1" /etc/hosts
echo 'hosts: files' >"$3/nsswitch" && mount --bind "$3/nsswitch" /etc/nsswitch.conf
echo 'nameserver 127.0.0.1' >"$3/resolv" && mount --bind "$3/resolv" /etc/resolv.conf
exec "$2" "$4"
"""

Writer = Callable[[str, tuple[HostEntry, ...]], object]


def ours(path: str, entries: tuple[HostEntry, ...]) -> None:
    """As the agent writes."""
    hosts_file.write(path, entries)


def anew(path: str, entries: tuple[HostEntry, ...]) -> None:
    """All of the file in place, as long as it happens to be."""
    lines = [f"{entry.address} {' '.join(entry.names)} # linkwire\n" for entry in entries]
    content = "".join(lines).encode() + _docker_lines()
    with open(path, "r+b", buffering=0) as file:  # noqa: PTH123 - unbuffered
        file.write(content)
        file.truncate()


def _docker_lines() -> bytes:
    """With a container's own line beyond the first KiB, so that both readers need more than one piece."""
    extra = b"".join(b"192.0.2.%d\textra-host-of-some-length-%d\n" % (n, n) for n in range(120))
    return _DOCKERS + extra + _HOSTS_LINE


def _states() -> Iterator[tuple[HostEntry, ...]]:
    """Links' names whose addresses are other and more or fewer each time, and a link that comes and goes."""
    for turn in itertools.count():
        number = turn % 200 + 1
        db = tuple(HostEntry(ip_address(f"10.99.{number}.{n}"), ("db",)) for n in range(1, 2 + turn % 7))
        cache = HostEntry(ip_address(f"10.99.{number * 7 % 256}.{number}"), ("cache", "redis"))
        other = HostEntry(ip_address("10.99.8.8"), ("a-link-that-comes-and-goes",))
        yield (*db, cache, other) if turn % 3 else (*db, cache)


def wrong_reads(libc: str, writer: Writer, reads: int) -> tuple[int, int]:
    """How many of so many look-ups failed or were wrong, and how often the file was written meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hosts = folder / "hosts"
        hosts.write_bytes(_docker_lines())
        states = _states()
        writer(str(hosts), next(states))
        program = folder / "reader"
        (folder / "reader.c").write_text(_READER)
        subprocess.run([COMPILERS[libc], "-O2", "-o", program, folder / "reader.c"], check=True)
        mounted = ["unshare", "--mount", "sh", "-ec", _MOUNTED, "sh", *map(str, (hosts, program, folder, reads))]
        with subprocess.Popen(mounted, stdout=subprocess.PIPE, text=True) as reader:
            written = 0
            while reader.poll() is None:
                writer(str(hosts), next(states))
                written += 1
            out = reader.stdout.read() if reader.stdout else ""
        if reader.returncode:
            raise RuntimeError(f"the reader ended with {reader.returncode}")
        return int(out), written


def here() -> list[str]:
    """The C libraries whose compilers are on this machine."""
    return [libc for libc, compiler in COMPILERS.items() if shutil.which(compiler)]


def main(arguments: list[str]) -> None:
    """Print a line for each reader and writer."""
    if os.geteuid() != 0:
        sys.exit("needs root, for a mount namespace")
    reads = int(arguments[0]) if arguments else 100_000
    for libc in here():
        for what, writer in (("as the agent writes", ours), ("all of it anew", anew)):
            wrong, written = wrong_reads(libc, writer, reads)
            print(f"{libc}, {what}: {wrong} of {reads} look-ups wrong while it was written {written} times")


if __name__ == "__main__":
    main(sys.argv[1:])
