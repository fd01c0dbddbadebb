"""Choice of the namespace that is a starting container's, from what was seen of both. No I/O.

A device's MAC address is set by Docker, or by a process in the namespace that has NET_ADMIN. So an address counts
only in a namespace in which no process can have begun: one that appeared after the container was announced, that was
looked at without a gap from then on, and in which no other container's address was seen. Docker sets a container's
own address some 50 ms before its process begins, so whoever else it is of would have been seen there before.

What cannot be told apart is ruled out for good: Docker can be asked for it a moment later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

YOUNG_S = 5.0
"""A namespace that is older has its devices' addresses by now: whose it is, is known or does not matter."""
GAP_S = 0.04
"""Longest time between two looks at a namespace: no process begins sooner after its address is set (decision 38)."""
GIVE_UP_S = 60.0
SETTLE_S = 5.0
"""After the events began anew, a container may be starting that nobody told of."""


@dataclass(slots=True)
class _Starting:
    """A container that is about to start.

    Attributes:
        since: when it was announced.
        mac: its MAC address; "" where its network gives none, None while that is not known.
    """

    since: float
    mac: str | None = None


@dataclass(slots=True)
class _Namespace:
    """A namespace that appeared.

    Attributes:
        first: when it was first seen.
        looked: when it was last looked at.
        reason: why it is no candidate, "" where it is one.
        macs: all that were ever seen there.
    """

    first: float
    looked: float
    reason: str = ""
    macs: frozenset[str] = frozenset()


class Candidates:
    """Starting containers and young namespaces. Not safe for several threads; times are of one clock, in seconds."""

    def __init__(self, names: Iterable[str], now: float) -> None:
        """Begin with the namespaces that are there, none of which is a candidate."""
        self._starting: dict[str, _Starting] = {}
        self._namespaces = {name: _Namespace(now - YOUNG_S, now, "it was there before") for name in names}
        self._seen_at = now
        self._settled_at = now

    @property
    def waits(self) -> bool:
        """Whether there is a container to look for."""
        return bool(self._starting)

    def unsettle(self, now: float) -> None:
        """Note that containers may have been announced of which nothing was heard."""
        self._settled_at = now + SETTLE_S

    def announce(self, container: str, names: Collection[str], now: float) -> None:
        """Begin to look for a container; `names` are the namespaces that are there already."""
        self.see(names, now)
        self._starting.setdefault(container, _Starting(now))

    def learn(self, container: str, mac: str) -> None:
        """Note a container's MAC address, "" for none: its first one that is known counts."""
        starting = self._starting.get(container)
        if starting is not None and not starting.mac:
            starting.mac = mac

    def awaits(self, container: str) -> bool:
        """Tell whether a container is looked for."""
        return container in self._starting

    def forget(self, container: str, names: Collection[str], now: float) -> None:
        """Look no longer for a container that has begun, or never will: its namespace is for nobody else."""
        self.see(names, now)
        self._drop(container)

    def _drop(self, container: str) -> None:
        starting = self._starting.pop(container, None)
        if starting is None:
            return
        mine = [one for one in self._namespaces.values() if starting.mac and starting.mac in one.macs]
        for namespace in mine:
            self._rule_out(namespace, "another container's process has begun in it")
        if not mine:
            self._rule_out_since(starting.since, "another container's process may have begun in it")

    def see(self, names: Collection[str], now: float) -> None:
        """Note which namespaces there are now."""
        self._namespaces = {name: one for name, one in self._namespaces.items() if name in names}
        reason = ""
        if now - self._seen_at > GAP_S:
            reason = "it appeared while nobody looked"
        elif now < self._settled_at:
            reason = "a container may be starting that nobody told of"
        for name in names:
            self._namespaces.setdefault(name, _Namespace(now, now, reason))
        self._seen_at = now
        for container in [one for one, starting in self._starting.items() if now - starting.since > GIVE_UP_S]:
            self._drop(container)

    def young(self, now: float) -> set[str]:
        """Return the namespaces to look at: also those that are no candidates, since they may hold an address too."""
        young = (name for name, one in self._namespaces.items() if now - one.first < YOUNG_S)
        return set(young) if self._starting else set()

    def look(self, name: str, macs: frozenset[str], began: float, ended: float) -> None:
        """Note the MAC addresses of a namespace's devices, which were read between two moments."""
        namespace = self._namespaces.get(name)
        if namespace is None:
            return
        if ended - namespace.looked > GAP_S:
            self._rule_out(namespace, "it was not looked at for a while")
        namespace.macs, namespace.looked = namespace.macs | macs, began

    def choose(self, now: float) -> list[tuple[str, str]]:
        """Return containers with their namespaces, and look for them no longer."""
        self._rule_out_for_the_unseen()
        holders: dict[str, list[str]] = {}
        for name in self.young(now):
            namespace = self._namespaces[name]
            for container, starting in self._starting.items():
                if starting.mac and starting.mac in namespace.macs:
                    holders.setdefault(container, []).append(name)
        if any(starting.mac is None for starting in self._starting.values()):
            return []  # it is known in a moment
        claims: dict[str, list[str]] = {}
        for container, names in holders.items():
            for name in names:
                claims.setdefault(name, []).append(container)
        for container, names in holders.items():
            for name in names:
                self._judge(self._namespaces[name], self._starting[container], len(names), len(claims[name]))
        chosen = [(one, names[0]) for one, names in holders.items() if not self._namespaces[names[0]].reason]
        for container, name in chosen:
            del self._starting[container]
            self.take(name)
        return chosen

    def found(self, container: str) -> bool:
        """Look no longer for a container whose namespace somebody has named; return whether it was looked for."""
        return self._starting.pop(container, None) is not None

    def take(self, name: str) -> None:
        """Note that a namespace is a container's: nobody else's."""
        namespace = self._namespaces.get(name)
        if namespace is not None:
            namespace.first -= YOUNG_S
            self._rule_out(namespace, "it is another's")

    def reasons(self) -> dict[str, str]:
        """Return why namespaces are no candidates."""
        return {name: one.reason for name, one in self._namespaces.items() if one.reason}

    def _judge(self, namespace: _Namespace, starting: _Starting, holders: int, claims: int) -> None:
        if holders > 1:
            self._rule_out(namespace, "two namespaces have the address")
        if claims > 1:
            self._rule_out(namespace, "it has the addresses of two containers")
        if namespace.first <= starting.since:
            self._rule_out(namespace, "it was there before")

    def _rule_out_for_the_unseen(self) -> None:
        """A container without an address may be in any namespace that came since: nobody sees when it begins."""
        for starting in self._starting.values():
            if starting.mac == "":
                self._rule_out_since(starting.since, "it may be that of a container without an address")

    def _rule_out_since(self, since: float, reason: str) -> None:
        for namespace in self._namespaces.values():
            if namespace.first > since:
                self._rule_out(namespace, reason)

    def _rule_out(self, namespace: _Namespace, reason: str) -> None:
        namespace.reason = namespace.reason or reason
