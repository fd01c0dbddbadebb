"""A link to a service that does not exist: the sentence about it, and the service that may have been meant. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from mesh.model.labels.link_labels import nearest


def absent_text(consumer: str, provider: str) -> str:
    """Say that a service links to one that does not exist."""
    return f"service {consumer}: links to {provider}, which does not exist (yet)"


_ABSENT = re.compile(re.escape(absent_text("@", "@")).replace("@", r"(\S+)"))


def is_absent_text(problem: str) -> bool:
    """Tell whether a problem is what `absent_text` says of some link."""
    return _ABSENT.fullmatch(problem) is not None


def near_service(consumer: str, provider: str, names: Collection[str]) -> str:
    """Return `; did you mean 'shop_db'?` where a service is like an absent provider, else an empty text.

    A label names a service in full; who writes one may leave out the stack of the consumer.
    """
    stack = consumer.partition("_")[0]
    near = nearest(provider, names) or nearest(f"{stack}_{provider}", [n for n in names if n.startswith(f"{stack}_")])
    return f"; did you mean {near!r}?" if near else ""


def with_near_service(problem: str, names: Collection[str]) -> str:
    """Add a near service to a problem about a provider that does not exist; return any other problem as it is."""
    absent = _ABSENT.fullmatch(problem)
    return problem + near_service(absent[1], absent[2], names) if absent else problem
