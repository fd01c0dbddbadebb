"""The service that may have been meant by a link to one that does not exist. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from mesh.model.labels.link_labels import nearest

_ABSENT = re.compile(r"service (\S+): links to (\S+), which does not exist \(yet\)")
"""mesh.topology.agreed_links.absent_text."""


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
