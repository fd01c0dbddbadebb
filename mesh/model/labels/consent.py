"""Consent in labels: the parties that a service lets link to it, and those whose links it takes. Pure.

A party is written in one of these ways:

    shop       every service of the stack `shop`; or the service `shop`, if it is in no stack
    shop_*     every service of the stack `shop`, whose name may have an underscore here
    shop_web   the service `shop_web`
    *          every service
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass

ALLOW = "linkwire.allow"
"""Parties, comma separated, that may link to the service; those of its own stack may in any case."""
ACCEPT = "linkwire.accept"
"""Parties, comma separated, whose `linkwire.from` the service heeds; that of its own stack it heeds in any case."""
FROM = "linkwire.from"
"""Parties, comma separated: a link leads here from each service of them that accepts it."""
NAMESPACE = "com.docker.stack.namespace"
"""Docker's own label of the services of a stack, with the stack's name."""

ANYBODY = "*"
MAX_PARTIES = 256
"""In one label."""

_MAX_NAME = 63  # as in a service's name
_WHOLE = "_*"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")

Complain = Callable[[str, str, str], None]
"""Takes a label, the bad part of its value, and the reason."""


@dataclass(frozen=True, slots=True)
class Consent:
    """A service's own word about links with other stacks."""

    allow: tuple[str, ...] | None = None
    """Parties that may link to it, beside its own stack; None where it says nothing."""
    accept: tuple[str, ...] | None = None
    """Parties whose declared links it takes, beside its own stack; None where it says nothing."""
    sources: tuple[str, ...] = ()
    """Parties from which it declares links to itself."""

    @property
    def takes_part(self) -> bool:
        """Whether the service is linked even while no link is there."""
        return self.accept is not None or bool(self.sources)

    def encoded(self) -> dict[str, str]:
        """Write the labels."""
        said = ((ALLOW, self.allow), (ACCEPT, self.accept), (FROM, self.sources or None))
        return {label: ",".join(parties) for label, parties in said if parties is not None}


SILENT = Consent()
CLOSED = Consent(())
"""Stands for labels that cannot be read."""


def canonical(consent: Consent) -> Consent:
    """Return the same consent in the form in which labels are read."""
    allow, accept = (None if said is None else _shortest(said) for said in (consent.allow, consent.accept))
    return Consent(allow, accept, _shortest(consent.sources))


def check_party(text: str) -> None:
    """Require that a text names a party.

    Raises:
        ValueError: it does not; the error quotes nothing.
    """
    name = text.removesuffix(_WHOLE)
    if text != ANYBODY and (len(name) > _MAX_NAME or not _NAME.fullmatch(name)):
        raise ValueError("write the name of a stack, that of a service as Swarm has it (STACK_SERVICE), or '*'")


def names(party: str, service: str, stack: str | None) -> bool:
    """Tell whether a party names a service.

    Args:
        party: as read from a label.
        service: its full name.
        stack: the stack that it is of; None for none.
    """
    if party in {ANYBODY, service}:
        return True
    if party.endswith(_WHOLE):
        return stack == party.removesuffix(_WHOLE)
    return stack == party and "_" not in party


def stack_of(service: str, namespace: str | None) -> str | None:
    """Return the stack that a service is of; None for none.

    Args:
        service: its full name, which Swarm keeps unique.
        namespace: Docker's own label. It counts where the name is of that stack too.
    """
    return namespace if namespace and service.startswith(f"{namespace}_") else None


def own_key(key: str, stack: str | None) -> str | None:
    """Return the name under which a stack has a link key; None for a key that is not its own.

    The key `b_c` of the stack `a` and the key `c` of the stack `a_b` have one name in labels, and are two keys.

    Args:
        key: as a label of one of the stack's services has it, STACK_KEY.
        stack: the stack; None for a service of none, which has none.
    """
    if stack is None or not key.startswith(f"{stack}_"):
        return None
    return f"{stack}::{key.removeprefix(f'{stack}_')}" if "_" in stack else key


def decode(ours: MutableMapping[str, str], shut: Iterable[str], complain: Complain) -> Consent:
    """Take a service's consent out of its labels; a bad party is reported, and is nobody.

    Args:
        ours: the labels that can be read.
        shut: those that cannot.
        complain: takes each error.
    """
    closed: dict[str, tuple[str, ...]] = dict.fromkeys(shut, ())
    read = {label: _parties(label, ours.pop(label, None), complain) for label in (ALLOW, ACCEPT, FROM)}
    allow, accept, sources = (closed.get(label, parties) for label, parties in read.items())
    if sources and ANYBODY in sources:
        complain(FROM, ANYBODY, "name the stack or the service that the links come from")
        sources = tuple(party for party in sources if party != ANYBODY)
    return Consent(allow, accept, sources or ())


def _parties(label: str, value: str | None, complain: Complain) -> tuple[str, ...] | None:
    if value is None:
        return None
    parties = []
    for text in (part.strip() for part in value.split(",")) if value.strip() else ():
        try:
            check_party(text)
        except ValueError as error:
            complain(label, text, str(error))
        else:
            parties.append(text)
    found = _shortest(parties)
    if len(found) > MAX_PARTIES:
        complain(label, value, f"{len(found)} names, at most {MAX_PARTIES} are allowed: the rest is left out")
    return found[:MAX_PARTIES]


def _shortest(parties: Iterable[str]) -> tuple[str, ...]:
    """Return each party once, `shop_*` as `shop`, and nothing beside `*` where that is among them."""
    said = dict.fromkeys(_short(party) for party in parties)
    return (ANYBODY,) if ANYBODY in said else tuple(said)


def _short(party: str) -> str:
    stack = party.removesuffix(_WHOLE)
    return stack if "_" not in stack else party
