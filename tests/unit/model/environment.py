"""Surroundings of the production code in the model: a clock that steps set, keys in a fixed order, files in memory.

Everything is pure and the same in each run: a state is reached again by the same steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
import structlog

import agent.interface.render_cache
import agent.state.verified_state
import controller.decider
import controller.loop
import controller.recovery.recall_procedure
import controller.recovery.startup_wait
import controller.steps
import controller.transactions
import mesh.store.packing
from agent.firewall.ruleset import render
from agent.interface.render_cache import RenderCache
from controller.index.baseline import Baseline
from controller.planning.planner import Planner
from controller.trust.node_judgement import BelievedSnapshots
from mesh.crypto.keys import PrivateKey
from mesh.integrity.sealed_keys import sealed_key, sealed_link_key
from mesh.model.changelog import ChangeLog
from tests.support.swarm_world import private_key

START = 1_800_000_000.0
T = TypeVar("T")


class Clock:
    """Every clock of the mesh."""

    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now

    monotonic = time

    def datetime(self, zone: tzinfo = UTC) -> datetime:
        return datetime.fromtimestamp(self.now, zone)


class KeyMaker:
    """Makes private keys, none of them twice on one way through the states."""

    def __init__(self) -> None:
        self.made = 1000

    def generate(self) -> PrivateKey:
        self.made += 1
        return private_key(self.made)


CLOCK = Clock()
KEYS = KeyMaker()


class Folder:
    """Files of one node, each whole or not there, as agent.state.atomic_file promises."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def __truediv__(self, name: str) -> File:
        return File(self, name)


class File:
    """A path in such a folder."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name

    def with_name(self, name: str) -> File:
        return File(self.folder, name)

    def read_bytes(self) -> bytes:
        try:
            return self.folder.files[self.name]
        except KeyError:
            raise FileNotFoundError(self.name) from None


def _write(path: File, value: bytes) -> None:
    path.folder.files[path.name] = value


def _append(path: File, size: int, value: bytes) -> bool:
    content = path.folder.files.get(path.name, b"")
    if len(content) != size or not content:
        return False
    path.folder.files[path.name] = content + value
    return True


def _write_newest(path: File, value: bytes, number: Callable[[bytes], int]) -> None:
    path.folder.files[path.name] = max(path.folder.files.get(path.name, b""), value, key=number)


def _read_newest(path: File, number: Callable[[bytes], int]) -> bytes:
    del number
    return path.read_bytes()


_FILES = SimpleNamespace(write=_write, append=_append, write_newest=_write_newest, read_newest=_read_newest)


@contextmanager
def surroundings() -> Iterator[None]:
    """Put production code into them; each transaction of a plan is one step of it."""
    now = SimpleNamespace(now=CLOCK.datetime)
    with pytest.MonkeyPatch.context() as patch:
        for module in (
            controller.decider,
            controller.loop,
            controller.recovery.recall_procedure,
            controller.recovery.startup_wait,
            agent.state.verified_state,
        ):
            patch.setattr(module, "time", CLOCK)
        patch.setattr(controller.decider, "datetime", now)
        patch.setattr(controller.recovery.recall_procedure, "datetime", now)
        patch.setattr(agent.state.verified_state, "atomic_file", _FILES)
        patch.setattr(controller.transactions, "PrivateKey", KEYS)
        # The same boxes again for the same arguments: to seal is what takes longest.
        patch.setattr(controller.steps, "sealed_key", cache(sealed_key))
        patch.setattr(controller.steps, "sealed_link_key", cache(sealed_link_key))
        patch.setattr(agent.interface.render_cache, "render", cache(render))
        patch.setattr(mesh.store.packing, "MAX_OPS", 1)
        before = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        try:
            yield
        finally:
            structlog.configure(**before)


# --- copies of living objects

_MUTABLE = ("controller.", "agent.", "tests.unit.model.", "mesh.integrity.signature_cache", "mesh.process.multimap")
_ANEW: dict[type, Callable[[], object]] = {
    # What is only remembered to be quick is remembered no more: a copy starts like a process that has just started.
    Planner: Planner,
    Baseline: Baseline,
    BelievedSnapshots: BelievedSnapshots,
    ChangeLog: ChangeLog,
    RenderCache: RenderCache,
}


@cache
def _is_mutable(kind: Any) -> bool:  # noqa: ANN401 - a class, and whether it is frozen has no type
    if not kind.__module__.startswith(_MUTABLE) or issubclass(kind, tuple):
        return False
    params = getattr(kind, "__dataclass_params__", None)
    return params is None or not params.frozen


@cache
def _slots(kind: type) -> tuple[str, ...]:
    return tuple(name for base in kind.__mro__ for name in getattr(base, "__slots__", ()))


def copied(found: T) -> T:
    """Copy an object of ours with all that it owns; what never changes is shared."""
    return cast("T", _copied(found, {}))


def _copied(found: Any, memo: dict[int, object]) -> object:  # noqa: ANN401 - of any type
    kind: Any = type(found)
    if id(found) in memo:
        return memo[id(found)]
    if kind is dict:
        entries: dict[object, object] = {}
        memo[id(found)] = entries
        entries.update((key, _copied(value, memo)) for key, value in found.items())
        return entries
    if kind in (set, list):
        made = kind(_copied(value, memo) for value in found)
    elif kind in _ANEW:
        made = _ANEW[kind]()
    elif _is_mutable(kind):
        made = kind.__new__(kind)
    else:
        return found
    memo[id(found)] = made
    if _is_mutable(kind) and kind not in _ANEW:
        for name, value in getattr(found, "__dict__", {}).items():
            made.__dict__[name] = _copied(value, memo)
        for name in _slots(kind):
            if hasattr(found, name):
                setattr(made, name, _copied(getattr(found, name), memo))
    return made
