"""The rules of the design's section 8, as the model checks them after each step; they share nothing with the planner.

Rule 5 is the model's own: nothing but an agent's diff changes a device. Rule 6 is about reading back, for which the
netns suite has kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from immutables import Map

from agent.wireguard.peer_health import REJECT_AFTER_S
from controller.swarm.model import Swarm
from mesh.crypto.keys import PublicKey
from mesh.model import keyspace
from mesh.model.net import IPNetwork
from mesh.model.records import Address, Endpoint, Service
from mesh.topology.wgtypes import InterfaceConfig, Peer, PeerConfig
from tests.unit.model.agents import ModelAgent, ModelInterface
from tests.unit.model.controllers import REST_S
from tests.unit.model.environment import CLOCK
from tests.unit.model.etcd import Etcd

ROAMED_TO = 9
"""UDP port of a peer that was heard from elsewhere; no record of the model has it."""


class RuleBrokenError(AssertionError):
    """A rule does not hold in a state that was reached."""


def require(holds: object, rule: str, text: str) -> None:
    if not holds:
        raise RuleBrokenError(f"{rule}: {text}")


@dataclass(frozen=True, slots=True)
class Witnessed:
    """All that has happened and that the rules are about; no program knows it.

    Attributes:
        holders: address -> its last holder, and when that one let it go, None while it has it.
        lost: addresses that rested in a store that was lost, and do not rest again yet.
        apart: tasks that were over once, and pairs of services that were unlinked once.
        excused: whether the newest state was lost: no node that is up has seen it.
    """

    holders: Map[IPv4Address, tuple[str, float | None]] = field(
        default_factory=Map[IPv4Address, tuple[str, float | None]]
    )
    lost: frozenset[IPv4Address] = frozenset()
    apart: frozenset[str] = frozenset()
    excused: bool = False

    def fingerprint(self, now: float) -> tuple[object, ...]:
        held = sorted((str(a), who, None if at is None else now - at) for a, (who, at) in self.holders.items())
        return tuple(map(str, held)), self.lost, self.apart, self.excused

    def committed(self, before: Etcd, after: Etcd, now: float) -> Witnessed:
        """Check the addresses that a transaction gives and releases."""
        holders = self.holders
        for key in after.changed:
            old, new = (_given(etcd, key) for etcd in (before, after))
            # One that a store was set back to has been released before.
            if old is not None and new != old and holders.get(old[0], (old[1], None)) == (old[1], None):
                holders = holders.set(old[0], (old[1], now))
            if new is not None and new != old:
                last = holders.get(new[0])
                if last is not None and last[0] != new[1]:
                    held = f"{new[0]} goes from {last[0]} to {new[1]}"
                    require(last[1] is not None, "rule 1", f"{held}, which holds it still")
                    rested = now - (last[1] or 0.0)
                    require(rested >= REST_S, "rule 1", f"{held} after a rest of {rested:.0f} s")
                holders = holders.set(new[0], (new[1], None))
        return replace(self, holders=holders)

    def without(self, addresses: Iterable[IPv4Address]) -> Witnessed:
        """Forget addresses of which nobody can know any more."""
        holders = self.holders.mutate()
        for address in addresses:
            holders.pop(address, None)
        return replace(self, holders=holders.finish())

    def seen_apart(self, before: Swarm, after: Swarm) -> Witnessed:
        """Note which tasks are over and which services are no longer linked."""
        over = {task for task, found in before.tasks.items() if task not in after.tasks or not after.live(found)}
        over |= {task for task, found in after.tasks.items() if not after.live(found)}
        pairs = _linked_pairs(before) - _linked_pairs(after)
        pairs |= {f"{service}|" for service in _linked(before) - _linked(after)}
        return replace(self, apart=self.apart.union(over, pairs))


def _given(etcd: Etcd, key: str) -> tuple[IPv4Address, str] | None:
    match found.record if (found := etcd.records.get(key)) is not None else None:
        case Endpoint() as endpoint:
            return endpoint.address, endpoint.task
        case Service() as service:
            return service.vip, service.id
    return None


def resting(etcd: Etcd) -> frozenset[IPv4Address]:
    """Addresses that rest in a store."""
    return frozenset(record.address for record in etcd.snapshot.all(Address) if record.holder is None)


def _linked_pairs(swarm: Swarm, ending: Iterable[Service] = ()) -> set[str]:
    ends = [(found.id, found.name, found.labels.links) for found in swarm.services.values()]
    ends += [(found.id, found.name, found.links) for found in ending]
    return {
        _pair(one, other)
        for one, _, links in ends
        for link in links
        for other, name, _ in ends
        if name == link.provider
    }


def _linked(swarm: Swarm, ending: Iterable[Service] = ()) -> set[str]:
    """Services at either end of a link, or of one to a service that there is not."""
    ends = {service for pair in _linked_pairs(swarm, ending) for service in pair.split("|")}
    ends |= {service.id for service in ending if service.links}
    return ends | {service.id for service in swarm.services.values() if service.labels.links}


def _pair(one: str, other: str) -> str:
    return "|".join(sorted((one, other)))


def joined(swarm: Swarm, one: str, other: str, ending: Iterable[Service] = ()) -> bool:
    """Tell whether two tasks live, and their services are linked.

    Args:
        swarm: the lists.
        one: a task.
        other: another one.
        ending: services that Swarm has no more, while tasks of them live.
    """
    tasks = [swarm.tasks.get(one), swarm.tasks.get(other)]
    if any(task is None or not swarm.live(task) for task in tasks):
        return False
    return _pair(*(task.service for task in tasks if task is not None)) in _linked_pairs(swarm, ending)


def check_signed(etcd: Etcd) -> None:
    """What holds of every state that was signed."""
    if not etcd.is_signed():
        return
    snapshot = etcd.snapshot
    endpoints = list(snapshot.all(Endpoint))
    given = [e.address for e in endpoints] + [s.vip for s in snapshot.all(Service)]
    require(len(given) == len(set(given)), "rule 1", "an address was given twice")
    ports = Counter((e.node, e.underlay.port) for e in endpoints)
    require(all(count == 1 for count in ports.values()), "plan", "a UDP port was given twice")
    for endpoint in endpoints:
        # A record that was lost is no harm: the endpoint itself holds its address, and has it rest at its end.
        held = snapshot.get(keyspace.address(endpoint.address), Address)
        holds = held is None or held.holder == f"task/{endpoint.task}"
        require(holds, "rule 1", f"{endpoint.address} of {endpoint.task} rests or is another's")


# --- one pass of an agent


def check_pass(before: ModelAgent, after: ModelAgent, swarm: Swarm, seen: Witnessed) -> None:
    """Check everything that an agent has done to its devices in one pass."""
    keys = {e.public_key: e.task for e in before.desired.graph.by_task.values()}
    for task, interface in after.interfaces.items():
        old = before.interfaces.get(task)
        was = old.there if old is not None else None
        if was is not None and interface.there is None:
            require(after.was_complete, "rule 2", f"{task} was unwired on partial knowledge")
            _check_gone(task, [task], swarm, seen)
        if interface.changes is not None and interface.there is not None:
            _check_changes(task, interface, complete=after.was_complete)
            gone = set(was.device.peers) - set(interface.there.device.peers) if was is not None else set()
            _check_gone(task, [keys[key] for key in gone if key in keys], swarm, seen)


def _check_gone(task: str, gone: list[str], swarm: Swarm, seen: Witnessed) -> None:
    """No peer, and no device, goes while its reason is there, and always was."""
    for other in gone if not seen.excused else ():
        services = [swarm.tasks[end].service for end in (task, other) if end in swarm.tasks]
        pairs = {pair for pair in seen.apart if "|" in pair and set(services) & set(pair.split("|"))}
        if other != task:
            pairs &= {_pair(*services)} if len(services) == 2 else set()
        parted = pairs or seen.apart.intersection((task, other))
        is_device = other == task and swarm.tasks[task].service in _linked(swarm)
        lives = joined(swarm, task, other) if other != task else is_device and swarm.live(swarm.tasks[task])
        require(parted or not lives, "rule 2", f"{task} lost {other}, and nothing says so")


def _check_changes(task: str, interface: ModelInterface, *, complete: bool) -> None:
    changes, applied, (last, was) = interface.changes, interface.applied, interface.before
    assert changes is not None
    assert applied is not None
    assert interface.there is not None
    require(not (changes.create and was is not None), "rule 4", f"{task}: its device is made again")
    there = was.device.peers if was is not None else {}
    now = interface.there.device.peers
    _check_allowed_ips(task, interface, there)
    if not complete:
        named = changes.device.peers if changes.device is not None else ()
        takes = any(change.remove or change.replace_allowed_ips for change in named)
        require(there.keys() <= now.keys() and not takes, "rule 2", f"{task}: peers go on partial knowledge")
    for key, peer in there.items():
        if peer.endpoint is not None and peer.endpoint.port == ROAMED_TO and key in now and _is_alive(peer):
            require(now[key].endpoint == peer.endpoint, "rule 3", f"{task}: a peer that roamed is called back")
    _check_unconcerned(task, interface, last, there)


def _is_alive(peer: Peer) -> bool:
    return peer.last_handshake is not None and CLOCK.now - peer.last_handshake < REJECT_AFTER_S


def _check_unconcerned(
    task: str, interface: ModelInterface, last: InterfaceConfig | None, there: Mapping[PublicKey, Peer]
) -> None:
    """Nothing is done to a peer whose record is the same, nor to rules that are."""
    changes, applied = interface.changes, interface.applied
    assert changes is not None
    assert applied is not None
    if last is None:
        return
    same = {peer.public_key for peer in applied.peers if peer in last.peers and _is_as_wanted(peer, there)}
    named = {change.public_key for change in (changes.device.peers if changes.device is not None else ())}
    require(not same & named, "rule 4", f"{task}: a change touches peers that it does not concern")
    if last.policy == applied.policy:
        require((changes.first_rules, changes.rules) == (None, None), "rule 4", f"{task}: its rules are set again")


def _is_as_wanted(peer: PeerConfig, there: Mapping[PublicKey, Peer]) -> bool:
    seen = there.get(peer.public_key)
    return seen is not None and (seen.allowed_ips, seen.preshared_key) == (peer.allowed_ips, peer.preshared_key)


def _check_allowed_ips(task: str, interface: ModelInterface, there: Mapping[PublicKey, Peer]) -> None:
    """No peer takes an address from another one, at any moment of the changes."""
    owners = {network: key for key, peer in there.items() for network in peer.allowed_ips}
    device = interface.changes.device if interface.changes is not None else None
    for change in device.peers if device is not None else ():
        if change.remove:
            owners = {network: key for network, key in owners.items() if key != change.public_key}
        for network in change.allowed_ips or frozenset[IPNetwork]():
            owner = owners.setdefault(network, change.public_key)
            require(owner == change.public_key, "rule 1", f"{task}: {network} is taken from another peer")


# --- at rest


def check_settled(etcd: Etcd, swarm: Swarm, agents: Mapping[str, ModelAgent]) -> None:
    """At rest each task's peers are exactly those of its links, by Swarm's own lists."""
    snapshot = etcd.snapshot
    require(etcd.is_signed(), "liveness", "the store is not signed at rest")
    endpoints = {endpoint.task: endpoint for endpoint in snapshot.all(Endpoint)}
    left = {found.service for found in swarm.tasks.values() if swarm.live(found)} - swarm.services.keys()
    ending = [service for service in snapshot.all(Service) if service.id in left]
    linked = _linked(swarm, ending) | {service.id for service in ending}
    live = {task for task, found in swarm.tasks.items() if swarm.live(found) and found.service in linked}
    require(endpoints.keys() <= live, "liveness", f"endpoints of {sorted(endpoints.keys() - live)}, which are over")
    space = sum(1 for _ in snapshot.all(Address)) < 6
    for task in live - endpoints.keys():
        found = swarm.tasks[task]
        waits = not found.wanted or swarm.nodes[found.node].down or not space
        require(waits, "liveness", f"{task} lives, is linked, and has no endpoint")
    for agent in agents.values():
        node = swarm.nodes.get(agent.node)
        if node is None or node.down:
            continue
        for task, interface in agent.interfaces.items():
            if task not in endpoints:
                require(interface.there is None, "liveness", f"{task} has no endpoint, and a device")
                continue
            require(interface.there is not None, "liveness", f"{task} has an endpoint, and no device")
            assert interface.there is not None
            wanted = {o: e for o, e in endpoints.items() if o != task and joined(swarm, task, o, ending)}
            seen = interface.there.device.peers
            keys = {endpoint.public_key for endpoint in wanted.values()}
            lacks, surplus = len(keys - seen.keys()), len(seen.keys() - keys)
            require(not lacks and not surplus, "liveness", f"{task} lacks {lacks} peers, and has {surplus} too many")
            for endpoint in wanted.values():
                peer = seen[endpoint.public_key]
                addresses = {network.network_address for network in peer.allowed_ips}
                require(endpoint.address in addresses, "liveness", f"{task}: a peer without its address")
                require(peer.preshared_key is not None, "liveness", f"{task}: a peer without a preshared key")
