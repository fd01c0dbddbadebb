"""Injection of faults: some of a program's calls to the kernel, nft, Docker, etcd and files are made to fail.

A program under test has its adapters' lowest functions wrapped (`Injector.wrap`). Each call has a name, made of its
kind and of the public function that made it, and a number among the calls of that name. So a first run can record
which calls there are, and later ones can each have another of them fail, the way the real thing fails: before it did
anything, or when it is done and its answer is lost. Threads may come in another order in each run; a name and a
number are the same call all the same, but for what is done now and then.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

HANGS_S = 0.3
"""How long a call hangs here that has no answer: adapters give up after 5 to 60 s, which nobody waits for."""

When = Literal["before", "after"]
Failure = Callable[[], Any]
"""Raises what the real thing raises, or returns what it returns then."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One call and what becomes of it.

    Attributes:
        operation: name of the call.
        number: which of the calls of that name, from 1 on.
        kind: name of the fault, of those that the operation has.
    """

    operation: str
    number: int
    kind: str

    def __str__(self) -> str:
        return f"{self.operation} #{self.number}: {self.kind}"


KILLED: Mapping[str, tuple[When, Failure]] = {
    "killed before": ("before", lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "killed after": ("after", lambda: os.kill(os.getpid(), signal.SIGKILL)),
}


def raising(make: Callable[[], BaseException]) -> Failure:
    """A failure that raises an error, made anew each time."""

    def fail() -> None:
        raise make()

    return fail


def hanging(make: Callable[[], BaseException]) -> Failure:
    """The same when the caller's patience has ended."""

    def fail() -> None:
        time.sleep(HANGS_S)
        raise make()

    return fail


class Injector:
    """Counts calls, tells of each, and makes some of them fail. Safe for several threads.

    Args:
        faults: of the calls that are to fail.
        told: called with the name of each call and the kinds of faults that it may have.
        fired: called before the fault is made.
    """

    def __init__(
        self,
        faults: Iterable[Fault],
        told: Callable[[str, tuple[str, ...]], None] = lambda _operation, _kinds: None,
        fired: Callable[[Fault], None] = lambda _fault: None,
    ) -> None:
        self._faults = {(fault.operation, fault.number): fault for fault in faults}
        self._told = told
        self._fired = fired
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def call(self, operation: str, kinds: Mapping[str, tuple[When, Failure]], do: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Do it, or have it fail."""
        self._told(operation, tuple(kinds))
        with self._lock:
            self._counts[operation] += 1
            fault = self._faults.get((operation, self._counts[operation]))
        if fault is None:
            return do()
        when, fail = kinds[fault.kind]
        if when == "after":
            do()
        self._fired(fault)
        return fail()

    def wrap(
        self,
        owner: Any,  # noqa: ANN401 - a module or a class
        name: str,
        kind: str,
        kinds: Mapping[str, tuple[When, Failure]],
        named: Callable[..., str] | None = None,
    ) -> None:
        """Have the calls of a function or method go through here.

        Args:
            owner: module or class that has it.
            name: of the function.
            kind: of the operation.
            kinds: what may become of it.
            named: returns the rest of the operation's name from the arguments; by default it is the caller.
        """
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def wrapped(*arguments: Any, **named_ones: Any) -> Any:  # noqa: ANN401
            rest = named(*arguments, **named_ones) if named is not None else caller(name)
            return self.call(f"{kind} {rest}", kinds, lambda: plain(*arguments, **named_ones))

        setattr(owner, name, wrapped)


def give(owner: Any, **others: object) -> None:  # noqa: ANN401 - a module or a class
    """Give a module or class other values of these names."""
    for name, value in others.items():
        setattr(owner, name, value)


class Module:
    """A module in which some functions are others: for one module that uses it, without a change for the rest."""

    def __init__(self, plain: Any, **others: Any) -> None:  # noqa: ANN401
        self.__dict__.update(others)
        self._plain = plain

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._plain, name)


def caller(name: str) -> str:
    """The public function of an adapter that is calling, as `module.function`."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        function = frame.f_code.co_name
        ours = module.startswith(("agent.", "controller.", "mesh."))
        is_public = function != name and not function.startswith(("_", "<"))
        if ours and is_public and not module.endswith("netlink_socket"):
            return f"{module.rpartition('.')[2]}.{function}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return f"{threading.current_thread().name.partition('_')[0]}"
