"""The rules' table in a task's network namespace, read and replaced by the program nft: the only place that runs it.

A task may be given NET_ADMIN, and then what nft reads is what the task wrote. libnftables is not made for that: 1.0.6
uses freed memory when it lists a table that has one flag, which any task can set. So it is not loaded into the agent:
it runs in a process of its own, in the task's namespace, as no user there is, with NET_ADMIN and nothing else, and
within limits. What it cannot list is foreign, and is replaced.

A process takes some milliseconds, so it is run only when something has changed: the kernel's generation of nftables
tells that, whoever made the change (`agent.nfnetlink`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from weakref import WeakKeyDictionary

import structlog

from agent import nfnetlink, rights
from agent import rules as ruleset
from agent.netns import TaskNetns, in_scratch_netns
from agent.nft_json import Rules
from agent.rules import Table
from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.policy import Allow, Balance, Policy, Resolving
from mesh.ports import PortRange

log = structlog.get_logger(__name__)

# Protocols by number: their names are those of /etc/protocols, which an image may lack.
_COMMAND = ("nft", "--numeric-protocol", "--file", "-")
# A thousand peers of a hundred services take 60 MB, 0.3 s and 1 MB. A limit of CPU time ends it at once (the first
# process of a namespace heeds no other signal of itself than those for its own faults).
_LIMITS = {resource.RLIMIT_AS: 512 << 20, resource.RLIMIT_CPU: 20, resource.RLIMIT_FSIZE: 16 << 20}
_TIMEOUT = 60.0  # seconds
_LONGEST_TEXT = 300
# The table was changed by somebody else between the look at it and the change, or the kernel is short of something.
_TRY_AGAIN = tuple(
    os.strerror(code)
    for code in (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS)
)
_NO_TABLE = os.strerror(errno.ENOENT)
_UNREADABLE: Rules = ('{"unreadable":{}}',)
"""What no rendering is."""

# One of each thing that the rules are made of, as nft(8) writes it, each on top of those before it.
_NEEDED: Mapping[str, str] = {
    "tables for both families (NF_TABLES_INET)": "add table inet linkwire; add chain inet linkwire c",
    "address translation (NFT_NAT)": "add chain inet linkwire n { type nat hook output priority -100; }; "
    "add rule inet linkwire n ip daddr 192.0.2.1 dnat ip to 192.0.2.2",
    "random choice (NFT_NUMGEN)": "add rule inet linkwire c ct mark set numgen random mod 2",
    "connection tracking (NFT_CT)": "add rule inet linkwire c ct state related ct direction reply accept",
    "look-up of local addresses (NFT_FIB_INET)": "add rule inet linkwire c fib daddr type local accept",
    "named counters (NF_TABLES)": "add counter inet linkwire k; add rule inet linkwire c counter name k",
    "maps of verdicts (NF_TABLES)": "add rule inet linkwire c ip saddr vmap { 192.0.2.1 : accept }",
    "sets of ranges (NF_TABLES)": "add rule inet linkwire c tcp dport { 1, 5-9 } accept",
    "refusal with an answer (NFT_REJECT_INET)": "add rule inet linkwire c reject with icmpx port-unreachable",
}
_PEERS = (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
_PORTS = (PortRange("tcp", 1, 1), PortRange("tcp", 5, 9), PortRange("udp", 1, 9))
_EVERYTHING = Policy(
    subnet=IPv4Network("192.0.2.0/24"),
    subnet6=IPv6Network("2001:db8::/96"),
    balance=(
        Balance(IPv4Address("192.0.2.8"), _PEERS, "one"),
        Balance(IPv4Address("192.0.2.9"), _PEERS[:1], "one"),
        Balance(IPv4Address("192.0.2.10"), (), "one"),
    ),
    outbound=(Allow("one", _PEERS, _PORTS),),
    inbound=(Allow("all", (IPv4Address("192.0.2.3"),), None), Allow("one", _PEERS[:1], ())),
    isolated=(IPv4Address("198.51.100.1"), IPv6Address("2001:db8:1::1"), IPv6Address("2001:db8:1::2")),
)
_DNS = Resolving(("cache.example", "db"), (IPv4Address("127.0.0.11"), IPv6Address("2001:db8::53")), ("corp.example",))


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """nft did not do it; the text is its own."""


class _Broken(_Refused):
    """nft did not end as it should."""


@dataclass(slots=True)
class _Known:
    """What a namespace's table was when it was last listed."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    generation: int | None = None
    rules: Rules | None = None


_known: WeakKeyDictionary[TaskNetns, _Known] = WeakKeyDictionary()
_known_lock = threading.Lock()


def read(netns: TaskNetns) -> Table | None:
    """The table as it is, or None when there is none.

    A table that cannot be listed is no rendering of any policy, and counts nothing.

    Raises:
        NetnsGone, Retryable, Terminal.
    """
    with _of(netns) as known:
        rules = _look(netns, known)
    if rules is None:
        return None
    return Table(rules, ruleset.refused(nfnetlink.counted(netns, ruleset.NAME)))


def apply(netns: TaskNetns, rules: Rules) -> None:
    """Make the table be these rules, at once; nothing is done to a table that is them.

    Raises:
        NetnsGone, Retryable.
        Terminal: the kernel does not take them.
    """
    with _of(netns) as known:
        present = _look(netns, known)
        if present != rules:
            _do(netns, ruleset.transaction(rules, present), "set the rules")


def remove(netns: TaskNetns) -> None:
    """Take the table away, if it is there. Raises NetnsGone, Retryable, Terminal."""
    with _of(netns) as known:
        if _look(netns, known) is not None:
            _do(netns, ruleset.removal(), "remove the rules")


def require() -> bool:
    """Try in a namespace of its own all that the rules need.

    Returns:
        Whether they can also turn a task's DNS questions to the agent's responder: all else goes without that.

    Raises:
        Terminal: the node lacks some of it; the text says what.
        Retryable: it could not be tried.
    """
    if shutil.which(_COMMAND[0]) is None:
        raise Terminal(f"{_COMMAND[0]} is not installed: it is of the Debian package nftables")
    in_scratch_netns(lambda: _try_everything(_EVERYTHING))
    try:
        in_scratch_netns(lambda: _try_everything(replace(_EVERYTHING, resolving=_DNS)))
    except Terminal as error:
        log.warning("DNS questions for links are not answered here, names in hosts files are", error=str(error))
        return False
    return True


def _try_everything(policy: Policy) -> None:
    own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
    meant = ruleset.render(policy, "lw0")
    with TaskNetns(own) as netns:
        try:
            apply(netns, meant)
            table = read(netns)
        except LinkwireError as error:
            lacking = "; ".join(_lacking(netns))
            raise Terminal(f"nftables of this node cannot do what links need: {lacking or error}") from error
    if differing := sorted(set(meant).symmetric_difference(table.rules if table else ())):
        raise Terminal(f"nft lists rules in a form that is not understood: {differing[0][:_LONGEST_TEXT]}")


def _lacking(netns: TaskNetns) -> list[str]:
    """What of it the kernel does not take, and why."""
    lacking = []
    for what, command in _NEEDED.items():
        try:
            _nft(netns, command, json=False)
        except _Refused as error:
            lacking.append(f"{what}: {error}")
    return lacking


@contextlib.contextmanager
def _of(netns: TaskNetns) -> Iterator[_Known]:
    with _known_lock:
        known = _known.setdefault(netns, _Known())
    with known.lock:
        yield known
    netns.check()


def _look(netns: TaskNetns, known: _Known) -> Rules | None:
    generation = nfnetlink.generation(netns)
    if generation != known.generation:
        known.generation, known.rules = None, None  # whatever comes of it
        # A task that is wired for the first time has none: that is told without a process.
        rules = _listed(netns) if nfnetlink.exists(netns, ruleset.NAME) else None
        if generation != nfnetlink.generation(netns):
            return rules
        known.generation, known.rules = generation, rules
    return known.rules


def _listed(netns: TaskNetns) -> Rules | None:
    try:
        listing = _nft(netns, ruleset.request())
    except _Broken:
        return _UNREADABLE
    except _Refused as error:
        if _NO_TABLE in str(error):
            return None
        raise _explained("read the rules", error) from error
    try:
        return ruleset.parse(listing).rules
    except Terminal:
        return _UNREADABLE


def _do(netns: TaskNetns, command: str, doing: str) -> None:
    try:
        _nft(netns, command)
    except _Refused as error:
        raise _explained(doing, error) from error


def _explained(doing: str, error: _Refused) -> LinkwireError:
    text = f"cannot {doing} of the task: nftables says: {error}"
    if any(again in str(error) for again in _TRY_AGAIN):
        return Retryable(text)
    if os.strerror(errno.EPERM) in str(error):
        return Terminal(f"{text} (the agent needs NET_ADMIN, and a table that a program owns is for no other)")
    return Terminal(text)


def _nft(netns: TaskNetns, text: str, *, json: bool = True) -> str:
    """Give nft a command in the namespace and get its output. Raises _Refused, NetnsGone, Retryable, Terminal."""
    # Which language it is must be said: for its own one, nft opens again what was no JSON, and a pipe has ended then.
    command = (*_COMMAND, "--json") if json else _COMMAND
    with _memory() as output, _memory() as errors:
        done = netns.run(lambda: _ended(command, text.encode(), output, errors))
        said = _in_one_line(_content(errors))
        if done < 0:
            raise _Broken(f"it was ended by {signal.Signals(-done).name}; {said}")
        if done > 0:
            raise _Refused(said or f"exit code {done}")
        return _content(output)


def _ended(command: Sequence[str], text: bytes, output: int, errors: int) -> int:
    """How nft ended in this thread's namespace: an exit code, or a signal's negative number."""
    rights.give_up(keep=rights.NET_ADMIN)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        # The pipe is made by this thread and so is its user's: nft opens it once more, as /dev/stdin.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors, env=environment) as nft:
            try:
                for what, limit in _LIMITS.items():  # before it is told anything
                    resource.prlimit(nft.pid, what, (limit, limit))
                nft.communicate(text, _TIMEOUT)
            except BaseException:
                nft.kill()
                raise
    except subprocess.TimeoutExpired as error:
        raise Retryable(f"nft did not end within {_TIMEOUT:.0f} s") from error
    except OSError as error:
        raise Retryable(f"cannot run nft: {error.strerror}") from error
    return nft.returncode


@contextlib.contextmanager
def _memory() -> Iterator[int]:
    try:
        made = os.memfd_create("linkwire-nft")
    except OSError as error:
        raise Retryable(f"cannot make a file in memory: {error.strerror}") from error
    try:
        yield made
    finally:
        os.close(made)


def _content(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")


def _in_one_line(text: str) -> str:
    """What nft says is wrong, without the place in the command that it shows below each error."""
    errors = [line.partition("Error: ")[2] for line in text.splitlines() if "Error: " in line]
    said = "; ".join(dict.fromkeys(errors)) or " ".join(text.split())
    return said if len(said) <= _LONGEST_TEXT else f"{said[:_LONGEST_TEXT]}..."
