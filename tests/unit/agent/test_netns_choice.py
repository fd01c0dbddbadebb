"""The one namespace that can be a starting container's: every doubt rules out, and only doubt."""

from __future__ import annotations

import pytest

from agent.containers import netns_choice
from agent.containers.netns_choice import Candidates

MAC, OTHER = "02:42:ac:11:00:09", "02:42:ac:11:00:08"
STEP = 0.003


class Watched:
    """Candidates that are looked at every 3 ms, as NetnsDiscovery does."""

    def __init__(self, *there: str) -> None:
        self.now = 100.0
        self.names = list(there)
        self.macs: dict[str, set[str]] = {}
        self.candidates = Candidates(there, self.now)

    def announce(self, container: str, mac: str | None = MAC) -> None:
        self.candidates.announce(container, self.names, self.now)
        if mac is not None:
            self.candidates.learn(container, mac)

    def appear(self, name: str, *macs: str) -> None:
        self.names.append(name)
        self.macs[name] = set(macs)

    def forget(self, container: str) -> None:
        self.candidates.forget(container, self.names, self.now)

    def look(self, seconds: float = STEP) -> list[tuple[str, str]]:
        """Go on looking for so long; return what was found."""
        found, until = [], self.now + seconds
        while self.now < until:
            self.now += STEP
            self.candidates.see(self.names, self.now)
            for name in self.candidates.young(self.now):
                self.candidates.look(name, frozenset(self.macs.get(name, ())), self.now, self.now)
            found += self.candidates.choose(self.now)
        return found


def test_device_gets_its_address_after_the_namespace_appeared() -> None:
    watched = Watched("there")
    watched.announce("c")
    watched.look(0.2)
    watched.appear("new", "fa:16:3e:00:00:01")
    assert watched.look(0.1) == []
    watched.macs["new"].add(MAC)
    assert watched.look() == [("c", "new")]
    assert not watched.candidates.waits


def test_ten_at_once_are_all_found() -> None:
    watched = Watched()
    meant = {f"c{n}": (f"n{n}", f"02:42:ac:11:00:{n:02x}") for n in range(10)}
    for container, (_, mac) in meant.items():
        watched.announce(container, None)
        watched.look(0.01)
        watched.candidates.learn(container, mac)
    for name, _ in meant.values():
        watched.appear(name)
        watched.look(0.01)
    found = []
    for name, mac in meant.values():
        watched.macs[name].add(mac)
        found += watched.look(0.01)
    assert found == [(container, name) for container, (name, _) in meant.items()]


def test_namespace_from_before_is_none() -> None:
    watched = Watched()
    watched.look(0.01)
    watched.appear("old", MAC)
    watched.announce("c")
    assert watched.look(0.5) == []
    assert watched.candidates.reasons() == {"old": "it was there before"}


def test_what_appeared_while_nobody_looked_is_none() -> None:
    watched = Watched()
    watched.announce("c")
    watched.now += netns_choice.GAP_S
    watched.appear("new", MAC)
    assert watched.look(0.5) == []
    assert watched.candidates.reasons() == {"new": "it appeared while nobody looked"}


def test_a_gap_between_two_looks_rules_out() -> None:
    watched = Watched()
    watched.announce("c")
    watched.appear("new")
    watched.look()
    watched.candidates.see(watched.names, watched.now + netns_choice.GAP_S / 2)
    watched.now += netns_choice.GAP_S
    watched.macs["new"].add(MAC)
    assert watched.look(0.5) == []
    assert watched.candidates.reasons() == {"new": "it was not looked at for a while"}


def test_two_containers_in_one_namespace_are_none() -> None:
    watched = Watched()
    watched.announce("c")
    watched.announce("d", OTHER)
    watched.appear("new")
    watched.look()
    watched.macs["new"] |= {MAC, OTHER}
    assert watched.look(0.5) == []
    assert watched.candidates.reasons() == {"new": "it has the addresses of two containers"}


def test_two_namespaces_for_one_container_are_none() -> None:
    watched = Watched()
    watched.announce("c")
    watched.appear("one")
    watched.appear("two")
    watched.look()
    watched.macs = {"one": {MAC}, "two": {MAC}}
    assert watched.look(0.5) == []
    assert set(watched.candidates.reasons().values()) == {"two namespaces have the address"}


@pytest.mark.parametrize("learned_at", [0.0, 0.1])
def test_address_changed_after_its_own_was_seen(learned_at: float) -> None:
    """The attacker's own is not known yet, or nobody may be chosen just then."""
    watched = Watched()
    watched.announce("attacker", None if learned_at else OTHER)
    watched.announce("victim", None)
    watched.appear("attackers")
    watched.look()
    watched.macs["attackers"] = {OTHER}
    assert watched.look(0.03) == []
    watched.macs["attackers"] = {MAC}
    watched.look(learned_at)
    watched.candidates.learn("attacker", OTHER)
    watched.candidates.learn("victim", MAC)
    assert watched.look(0.5) == []


def test_address_changed_after_its_process_began() -> None:
    watched = Watched()
    watched.announce("attacker", OTHER)
    watched.announce("victim", None)
    watched.appear("attackers")
    watched.look()
    watched.macs["attackers"] = {OTHER}
    watched.look(0.03)
    watched.forget("attacker")
    watched.macs["attackers"] = {MAC}
    watched.candidates.learn("victim", MAC)
    assert watched.look(0.5) == []


def test_who_was_never_seen_may_be_anywhere() -> None:
    watched = Watched()
    watched.announce("victim")
    watched.announce("attacker", OTHER)
    watched.appear("attackers")
    watched.look()
    watched.forget("attacker")
    watched.macs["attackers"] = {MAC}
    assert watched.look(0.5) == []


@pytest.mark.parametrize("has_begun", [False, True])
def test_container_without_address_rules_out_what_came_since(has_begun: bool) -> None:
    watched = Watched()
    watched.announce("victim")
    watched.announce("attacker", "")
    watched.look()
    watched.appear("attackers")
    watched.look()
    if has_begun:
        watched.forget("attacker")
    watched.macs["attackers"] = {MAC}
    assert watched.look(0.5) == []
    if not has_begun:
        watched.forget("attacker")
    watched.macs["attackers"].clear()
    watched.look(netns_choice.YOUNG_S)
    watched.appear("victims")
    watched.look()
    watched.macs["victims"].add(MAC)
    assert watched.look() == [("victim", "victims")]


def test_after_a_break_of_events_nothing_is_chosen() -> None:
    watched = Watched()
    watched.candidates.unsettle(watched.now)
    watched.announce("c")
    watched.appear("new")
    watched.look()
    watched.macs["new"].add(MAC)
    assert watched.look(0.5) == []
    watched.announce("d", OTHER)
    watched.look(netns_choice.SETTLE_S)
    watched.appear("newer")
    watched.look()
    watched.macs["newer"].add(OTHER)
    assert watched.look() == [("d", "newer")]


def test_what_was_taken_is_nobody_elses() -> None:
    watched = Watched()
    watched.announce("attacker", OTHER)
    watched.announce("victim")
    watched.appear("attackers")
    watched.look()
    watched.macs["attackers"].add(OTHER)
    assert watched.look() == [("attacker", "attackers")]
    watched.macs["attackers"] = {MAC}
    assert watched.look(0.5) == []


def test_who_is_not_found_is_given_up() -> None:
    watched = Watched()
    watched.announce("c")
    watched.look(netns_choice.GIVE_UP_S + 1)
    assert not watched.candidates.waits
