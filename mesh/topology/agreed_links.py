"""Agreement: the links that both sides want, from the words of all services. Pure.

A link leads from a consumer to a provider. Within a stack the word of one side is enough. Between stacks both have
to give theirs: the consumer by a link of its own or by accepting the provider's, the provider by allowing the
consumer or by declaring the link itself. Nobody else's labels count.

A link that the provider does not allow keeps its names in the consumer's record, under a provider that no service can
be (`hidden`): so they lead nowhere, as those of a provider that does not exist.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from mesh.model.labels.consent import names, own_key
from mesh.model.labels.durations import MIN_ROTATE
from mesh.model.labels.link_labels import MAX_LINKS, LinkLabel, ServiceLabels

MAX_DECLARED = 100
"""Links that the services of one stack may declare from one consumer of another stack."""

REFUSED = "!"
ABSENT = "?"
"""Stand before a provider's name: it does not allow the link, or there was no such service to ask. No service's name
has either."""

Reason = Literal["silent", "not allowed", "not accepted", "name taken", "too many", "key"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A link between two stacks that is not made, or a part of one."""

    consumer: str
    """A service, or the party that a declared link was to come from."""
    provider: str
    reason: Reason
    """`silent`: the provider does not say whether it allows it."""
    text: str

    def concerns(self, stack: str) -> bool:
        """Tell whether one side is, by its name, in a stack."""
        return any(name == stack or name.startswith(f"{stack}_") for name in (self.consumer, self.provider))


class Speaker(Protocol):
    """A service as its own labels describe it."""

    @property
    def id(self) -> str:
        """Swarm's id."""

    @property
    def name(self) -> str:
        """Full name."""

    @property
    def stack(self) -> str | None:
        """The stack that it is of; None for none."""

    @property
    def labels(self) -> ServiceLabels:
        """Its labels."""

    @property
    def hosts(self) -> frozenset[str]:
        """Names that its containers know without any network, in lower case."""

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        """Networks that it is on, each with a name that it has there, in lower case, or an empty one."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """State of the store, as far as it decides.

    Attributes:
        links: service id -> the links of its record.
        ending: names of removed services that still have live tasks.
    """

    links: Mapping[str, tuple[LinkLabel, ...]] = field(default_factory=dict)
    ending: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Agreement:
    """All links as they are to be made.

    Attributes:
        links: service id -> its links, those that are refused as well (`hidden`); only services that have any.
        lax: ids of the services that say nothing, and that only other stacks' links lead to: they are not strict.
        refusals: what is not made, and why.
    """

    links: Mapping[str, tuple[LinkLabel, ...]] = field(default_factory=dict)
    lax: frozenset[str] = frozenset()
    refusals: tuple[Refusal, ...] = ()


def hidden(provider: str) -> bool:
    """Tell whether a record's provider stands for one that does not allow the link, or that was not there."""
    return provider[:1] in {REFUSED, ABSENT}


def shown(provider: str) -> str:
    """Return the provider's name without the mark of `hidden`."""
    return provider[1:] if hidden(provider) else provider


def refusal_text(consumer: str, provider: str) -> str:
    """Say that a provider does not allow a link, and what to do."""
    return (
        f"service {consumer}: its link to {provider} is refused: {provider} does not allow it; its owner can, by "
        f"`x-wireguard: {{allow: [{consumer}]}}` in {provider}"
    )


def known_hosts(spec: Mapping[str, Any]) -> frozenset[str]:
    """Return the names that a service's containers know without any network, of its specification in Docker's API."""
    container = (spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}
    lines = (str(line).split() for line in container.get("Hosts") or ())  # as in /etc/hosts
    found = {name for line in lines for name in line[1:]} | {str(container.get("Hostname") or "")}
    return frozenset(name.lower() for name in found if name)


def network_aliases(spec: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return `Speaker.aliases` of a service's specification in Docker's API."""
    networks = (spec.get("TaskTemplate") or {}).get("Networks") or spec.get("Networks") or ()
    named = [(str(n.get("Target") or ""), alias) for n in networks for alias in ("", *(n.get("Aliases") or ()))]
    return tuple(sorted({(network, str(alias).lower()) for network, alias in named}))


def agree(services: Mapping[str, Speaker], recorded: Recorded) -> Agreement:
    """Find the links that both sides want.

    Args:
        services: every service of the Swarm, by id.
        recorded: what the store has.
    """
    return _Agreeing(services, recorded).result()


class _Agreeing:
    """One run."""

    def __init__(self, services: Mapping[str, Speaker], recorded: Recorded) -> None:
        self._services = services
        self._recorded = recorded
        self._by_name: defaultdict[str, list[Speaker]] = defaultdict(list)
        self._by_stack: defaultdict[str, list[Speaker]] = defaultdict(list)
        self._accepting: defaultdict[str, list[Speaker]] = defaultdict(list)
        """Stack -> those of its services that accept links of other stacks."""
        for service in sorted(services.values(), key=lambda s: (s.name, s.id)):
            self._by_name[service.name].append(service)
            if service.stack is not None:
                self._by_stack[service.stack].append(service)
                if service.labels.consent.accept:
                    self._accepting[service.stack].append(service)
        self._refusals: list[Refusal] = []
        self._known: dict[str, dict[str, set[str]]] | None = None

    def result(self) -> Agreement:
        links: dict[str, tuple[LinkLabel, ...]] = {}
        declared = self._declared()
        for service in sorted(self._services.values(), key=lambda s: (s.name, s.id)):
            own = tuple(self._own(service))
            its = own + self._accepted(service, own, declared.get(service.id, ()))
            if its:
                links[service.id] = its
        return Agreement(links, self._lax(links), tuple(self._refusals))

    # --- links of the consumer's own labels

    def _own(self, consumer: Speaker) -> Iterator[LinkLabel]:
        before = {link.provider: link for link in self._recorded.links.get(consumer.id, ())}
        for link in consumer.labels.links:
            mark, made = self._judged(consumer, link, before.get(link.provider))
            if mark:
                yield LinkLabel(mark + link.provider, link.aliases)
            else:
                yield self._with_own_key(consumer, made)

    def _judged(self, consumer: Speaker, link: LinkLabel, before: LinkLabel | None) -> tuple[str, LinkLabel]:
        """Return the mark of a link that is not made, and the link as it is to be otherwise."""
        providers = self._by_name.get(link.provider, ())
        if not providers:
            if before is not None and link.provider in self._recorded.ending:
                return "", before
            own = consumer.stack is not None and link.provider.startswith(f"{consumer.stack}_")
            return ("" if own else ABSENT), link
        if all(_one_stack(consumer, provider) or consumer.id == provider.id for provider in providers):
            return "", link
        if all(allows(provider, consumer) for provider in providers):
            # Where tasks of another service of that name have not ended, the link would lead to them as well.
            return (ABSENT if before is None and link.provider in self._recorded.ending else ""), link
        # As made before there was consent: it goes on, as it is, until the provider says something.
        silent = all(provider.labels.consent.allow is None for provider in providers)
        if silent and before is not None and all(provider.id in self._recorded.links for provider in providers):
            return "", before
        self._refuse(consumer, providers[0], "silent" if silent else "not allowed")
        return REFUSED, link

    def _with_own_key(self, consumer: Speaker, link: LinkLabel) -> LinkLabel:
        if link.rotate is not None and link.rotate < MIN_ROTATE:
            link = replace(link, rotate=MIN_ROTATE)
        if link.key is None:
            return link
        key = own_key(link.key, consumer.stack) if "::" not in link.key else link.key
        if key is None:
            whose = "a service of no stack has none" if consumer.stack is None else f"write {consumer.stack}_NAME"
            text = (
                f"service {consumer.name}: {link.key!r} is no link key of its stack ({whose}): the link has its own"
            )
            self._refusals.append(Refusal(consumer.name, link.provider, "key", text))
        return replace(link, key=key)

    def _refuse(self, consumer: Speaker, provider: Speaker, reason: Reason, text: str = "") -> None:
        text = text or refusal_text(consumer.name, provider.name)
        self._refusals.append(Refusal(consumer.name, provider.name, reason, text))

    # --- links that providers declare

    def _declared(self) -> dict[str, list[Speaker]]:
        """Return consumer -> the providers that declare a link from it, which it accepts."""
        declared: defaultdict[str, dict[str, Speaker]] = defaultdict(dict)
        for provider in sorted(self._services.values(), key=lambda s: (s.name, s.id)):
            for party in provider.labels.consent.sources:
                consumers = self._party(party, provider)
                willing = [c for c in consumers if c.id != provider.id and _accepts(c, provider)]
                for consumer in willing:
                    declared[consumer.id][provider.id] = provider
                if not willing:
                    text = _not_accepted(provider, party)
                    self._refusals.append(Refusal(party, provider.name, "not accepted", text))
        return {consumer: list(providers.values()) for consumer, providers in declared.items()}

    def _party(self, party: str, provider: Speaker) -> list[Speaker]:
        """Return the services of a party that may be willing."""
        stack = party.removesuffix("_*")
        index = self._by_stack if stack == provider.stack else self._accepting
        whole = index.get(stack, ()) if stack != party or "_" not in party else ()
        return [*self._by_name.get(party, ()), *whole]

    def _accepted(
        self, consumer: Speaker, own: Collection[LinkLabel], providers: Iterable[Speaker]
    ) -> tuple[LinkLabel, ...]:
        """Return the declared links that take no name from the consumer, within bounds; those made before first."""
        linked = {shown(link.provider) for link in own}
        taken = {alias.lower() for link in own for alias in link.aliases}
        before = {link.provider for link in self._recorded.links.get(consumer.id, ())}
        counted: Counter[str | None] = Counter()
        links: dict[str, LinkLabel] = {}
        for provider in sorted(providers, key=lambda p: (p.name not in before, p.name, p.id)):
            name = provider.name.lower()
            if provider.name in linked or provider.name in links:
                continue
            if name in taken or name in consumer.hosts or self._others(consumer, provider):
                self._refuse(consumer, provider, "name taken", _taken(consumer, provider))
                continue
            foreign = not _one_stack(consumer, provider)
            if len(own) + len(links) >= MAX_LINKS or (foreign and counted[provider.stack] >= MAX_DECLARED):
                self._refuse(consumer, provider, "too many", _too_many(consumer, provider))
                continue
            counted[provider.stack] += 1
            links[provider.name] = LinkLabel(provider.name, (provider.name,))
        return tuple(links[name] for name in sorted(links))

    def _others(self, consumer: Speaker, provider: Speaker) -> bool:
        """Tell whether another service has the provider's name on one of the consumer's networks."""
        if self._known is None:
            self._known = {}
            for service in self._services.values():
                for network, alias in service.aliases:
                    self._known.setdefault(network, {}).setdefault(alias, set()).add(service.id)
        name = provider.name.lower()
        return any(self._known[on].get(name, set()) - {provider.id} for on, _ in consumer.aliases)

    # --- strict

    def _lax(self, links: Mapping[str, tuple[LinkLabel, ...]]) -> frozenset[str]:
        near: set[str] = set()
        far: set[str] = set()
        for consumer_id, its in links.items():
            for link in its:
                for provider in self._by_name.get(link.provider, ()):
                    (near if _one_stack(self._services[consumer_id], provider) else far).add(provider.id)
        return frozenset(id_ for id_ in far - near if self._services[id_].labels == ServiceLabels())


def _one_stack(one: Speaker, other: Speaker) -> bool:
    return one.stack is not None and one.stack == other.stack


def allows(provider: Speaker, consumer: Speaker) -> bool:
    """Tell whether a provider's own labels let a consumer link to it."""
    said = (*(provider.labels.consent.allow or ()), *provider.labels.consent.sources)
    return _one_stack(provider, consumer) or any(names(party, consumer.name, consumer.stack) for party in said)


def _accepts(consumer: Speaker, provider: Speaker) -> bool:
    said = consumer.labels.consent.accept or ()
    return _one_stack(provider, consumer) or any(names(party, provider.name, provider.stack) for party in said)


def _not_accepted(provider: Speaker, party: str) -> str:
    return (
        f"service {provider.name}: its link from {party} is refused: no service of that name accepts it; the owner "
        f"of {party} can, by `x-wireguard: {{accept: true}}`"
    )


def _taken(consumer: Speaker, provider: Speaker) -> str:
    return (
        f"service {provider.name}: its link from {consumer.name} is refused: {consumer.name} has another host of the "
        f"name {provider.name} already"
    )


def _too_many(consumer: Speaker, provider: Speaker) -> str:
    return (
        f"service {provider.name}: its link from {consumer.name} is refused: a service has at most {MAX_LINKS} links,"
        f" {MAX_DECLARED} of them declared by one stack"
    )
