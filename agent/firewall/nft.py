"""nftables of a task's namespace: reads and replaces the table of rules. The only module that runs nft.

A task may be given NET_ADMIN, and then what nft reads is what the task wrote. libnftables is not made for that: 1.0.6
uses freed memory when it lists a table that has one flag, which any task can set. So it is not loaded into the agent:
it runs in a process of its own, in the task's namespace, as no user there is, with NET_ADMIN and nothing else, where
there is no other namespace's file (`agent.firewall.nft_confinement`), and within limits. A table that it cannot list
is foreign, and is replaced.

A process takes some milliseconds, so it is run only when something has changed: the kernel's generation of nftables
tells that, whoever made the change (`agent.firewall.nf_tables_netlink`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import RulesRefusedError, RulesTooLargeError
from agent.firewall import nf_tables_netlink, nft_confinement, ruleset
from agent.firewall.ruleset import Table
from agent.linux import nft_json, privileges
from agent.linux.netns import TaskNetns
from agent.linux.nft_json import Rules
from mesh.errors import LinkwireError, Retryable, Terminal

# Protocols by number: their names are those of /etc/protocols, which an image may lack.
PROGRAM = "nft"
_COMMAND = (PROGRAM, "--numeric-protocol", "--json", "--file")
_COMMAND_IN_WORDS = (PROGRAM, "--numeric-protocol", "--file")
"""In its own language. Which one it is must be said: nft opens again what was no JSON, and a pipe has ended then."""
# A thousand peers of a hundred services take 60 MB, 0.3 s and 1 MB. A limit of CPU time ends it at once (the first
# process of a namespace heeds no other signal of itself than those for its own faults).
_LIMITS = {resource.RLIMIT_AS: 512 << 20, resource.RLIMIT_CPU: 20, resource.RLIMIT_FSIZE: 16 << 20}
_EVERYTHING = '{"nftables":[{"list":{"ruleset":null}}]}'
_TIMEOUT = 60.0  # seconds
_LONGEST_TEXT = 300
# The table was changed by somebody else between the look at it and the change.
_TRY_AGAIN = tuple(os.strerror(code) for code in (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EINTR, errno.EAGAIN))
_TOO_LARGE = tuple(os.strerror(code) for code in (errno.ENOMEM, errno.ENOBUFS))
_NO_TABLE = os.strerror(errno.ENOENT)
_UNREADABLE: Rules = ('{"unreadable":{}}',)
"""Equal to no rendering."""


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """nft did not do it; the text is its own."""


class _Broken(_Refused):
    """nft did not end as it should."""


@dataclass(slots=True)
class _Known:
    """A table of a namespace when it was last listed."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    generation: int | None = None
    rules: Rules | None = None


class _Tables(dict[str, _Known]):
    """The tables of a namespace, by name."""

    def __missing__(self, table: str) -> _Known:
        return self.setdefault(table, _Known())


def read(netns: TaskNetns, table: str = ruleset.NAME) -> Table | None:
    """Read a table of ours; None when there is none.

    A table that cannot be listed is no rendering of any policy, and counts nothing.

    Raises:
        NetnsGoneError, Retryable, Terminal.
    """
    with _of(netns, table) as listing:
        rules = _look(netns, listing, table)
    if rules is None:
        return None
    return Table(rules, ruleset.refused(nf_tables_netlink.counted(netns, table)))


def apply(netns: TaskNetns, rules: Rules, table: str = ruleset.NAME) -> None:
    """Make the table of that name be these rules, at once; nothing is done to a table that is them.

    Raises:
        NetnsGoneError, Retryable.
        Terminal: the kernel does not take them.
    """
    with _of(netns, table) as listing:
        present = _look(netns, listing, table)
        if present != rules:
            _do(netns, nft_json.transaction(rules, present), "set the rules")


def remove(netns: TaskNetns, table: str = ruleset.NAME) -> None:
    """Take the table away, if it is there. Raises NetnsGoneError, Retryable, Terminal."""
    with _of(netns, table) as listing:
        if _look(netns, listing, table) is not None:
            _do(netns, nft_json.removal(table), "remove the rules")


def enforce(netns: TaskNetns, command: str) -> None:
    """Run a command in nft(8)'s language, all of it or nothing. Raises NetnsGoneError, Retryable, Terminal."""
    try:
        _nft(netns, command, json=False)
    except _Refused as error:
        raise _explained("guard the addresses", error) from error


def listed(netns: TaskNetns) -> str:
    """List all tables of a namespace, as nft's JSON. Raises NetnsGoneError, Retryable, Terminal."""
    try:
        return _nft(netns, _EVERYTHING)
    except _Refused as error:
        raise _explained("list all tables", error) from error


def lacking(netns: TaskNetns, needed: Mapping[str, str]) -> list[str]:
    """Try commands, one on top of the other; return what the kernel does not take, and why.

    Args:
        netns: an empty namespace.
        needed: command in nft(8)'s language, by what it needs of the kernel.

    Raises:
        NetnsGoneError, Retryable, Terminal.
    """
    reasons = []
    for what, command in needed.items():
        try:
            _nft(netns, command, json=False)
        except _Refused as error:
            reasons.append(f"{what}: {error}")
    return reasons


@contextlib.contextmanager
def _of(netns: TaskNetns, table: str) -> Iterator[_Known]:
    listing = netns.own(_Tables)[table]
    with listing.lock:
        yield listing
    netns.check()


def _look(netns: TaskNetns, listing: _Known, table: str) -> Rules | None:
    generation = nf_tables_netlink.generation(netns)
    if generation != listing.generation:
        listing.generation, listing.rules = None, None  # whatever comes of it
        # A task that is wired for the first time has none: no process is needed to find out.
        rules = _listed(netns, table) if nf_tables_netlink.exists(netns, table) else None
        if generation != nf_tables_netlink.generation(netns):
            return rules
        listing.generation, listing.rules = generation, rules
    return listing.rules


def _listed(netns: TaskNetns, table: str) -> Rules | None:
    try:
        listing = _nft(netns, nft_json.request(table))
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
    if any(short in str(error) for short in _TOO_LARGE) or f"by {signal.SIGKILL.name}" in str(error):
        return RulesTooLargeError(text)  # or the kernel had no memory for nft: what is there stays
    if os.strerror(errno.EPERM) in str(error):
        return Terminal(f"{text} (the agent needs NET_ADMIN, and a table that a program owns is for no other)")
    return RulesRefusedError(text)


def _nft(netns: TaskNetns, text: str, *, json: bool = True) -> str:
    """Run an nft command in the namespace; return its output. Raises as `read`, and _Refused."""
    command = _COMMAND if json else _COMMAND_IN_WORDS
    with _memory() as output, _memory() as errors:
        done = netns.run(lambda: _ended(command, text.encode(), output, errors))
        problem = _in_one_line(_content(errors))
        if done < 0:
            raise _Broken(f"it was ended by {signal.Signals(-done).name}; {problem}")
        if done > 0:
            raise _Refused(problem or f"exit code {done}")
        return _content(output)


def _ended(command: Sequence[str], text: bytes, output: int, errors: int) -> int:
    """Run nft in this thread's namespace; return its exit code, or a signal's negative number."""
    folder = nft_confinement.enter(PROGRAM)
    privileges.give_up(keep=privileges.NET_ADMIN)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        with (
            nft_confinement.pipe(folder) as path,
            subprocess.Popen(
                (*command, str(path)), stdin=subprocess.PIPE, stdout=output, stderr=errors, env=environment, cwd="/"
            ) as nft,
        ):
            try:
                for what, limit in _LIMITS.items():  # before it is told anything
                    resource.prlimit(nft.pid, what, (limit, limit))
                _tell(nft, path, text)
            except BaseException:
                nft.kill()
                raise
    except subprocess.TimeoutExpired as error:
        raise Retryable(f"nft did not end within {_TIMEOUT:.0f} s") from error
    except OSError as error:
        raise Retryable(f"cannot run nft: {error.strerror}") from error
    return nft.returncode


def _tell(nft: subprocess.Popen[bytes], path: Path, text: bytes) -> None:
    """Have it read a text from a pipe with a name, and wait for its end. Raises TimeoutExpired, OSError."""
    began = time.monotonic()
    if nft.stdin is not None:
        nft.stdin.close()
    nft.stdin = nft_confinement.opened(path, nft, _TIMEOUT)
    nft.communicate(text if nft.stdin is not None else None, max(0.0, _TIMEOUT - (time.monotonic() - began)))


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
    """Extract nft's errors, without the place in the command that it shows below each."""
    errors = [line.partition("Error: ")[2] for line in text.splitlines() if "Error: " in line]
    problem = "; ".join(dict.fromkeys(errors)) or " ".join(text.split())
    return problem if len(problem) <= _LONGEST_TEXT else f"{problem[:_LONGEST_TEXT]}..."
