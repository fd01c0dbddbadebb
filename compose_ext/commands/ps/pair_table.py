"""A line for each pair of tasks of each link. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from compose_ext.swarm.link_states import NO_READY_TASK, Answer, Link, Pair
from compose_ext.terminal import Table, age, amount, lasting

NOT_ALLOWED = "not allowed"
"""The state of a link whose provider does not allow it."""
_HEADER = (
    "LINK",
    "CONSUMER TASK",
    "NODE",
    "PROVIDER TASK",
    "NODE",
    "STATE",
    "HANDSHAKE",
    "RECEIVED",
    "SENT",
    "REFUSED",
    "KEY",
)
_STATE = _HEADER.index("STATE") - 1
_NARROW = ("LINK", "CONSUMER", "PROVIDER", "STATE", "HANDSHAKE", "RECEIVED", "SENT", "REFUSED", "KEY, AGE")
_SHORT_ID, _SHORTEST_LINK = 4, 24
"""Characters of a task's id that tell it from others of its slot, and of a link's name that are left at least."""
_MILLISECONDS = 10**11
"""An epoch above it is in milliseconds, as since version 0.1; below it in seconds."""


def table(answer: Answer) -> Table:
    """Return the answer as a table of whole values, with everything that went wrong under it."""
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for link in answer.links:
        name = link_name(link)
        refused = "-" if link.refused is None else str(link.refused)
        for pair in link.pairs:
            # It is counted for the link as a whole, and so is shown once.
            once = (refused, key_name(link)) if pair is link.pairs[0] else ("", "")
            rows.append((name, *_cells(pair), *once))
            if pair.error:
                notes.append(f"{pair.consumer_task} -> {pair.provider_task}: {pair.error}")
        if not link.pairs:
            blank = ["-"] * (len(_HEADER) - 3)
            blank[_STATE] = _untold(link)
            rows.append((name, *blank, refused, key_name(link)))
    return Table(_HEADER, tuple(rows), (*answer.problems, *notes))


def _untold(link: Link) -> str:
    """Return the state of a link that has no pair of tasks."""
    if not link.allowed:
        return NOT_ALLOWED
    return NO_READY_TASK if link.is_without_backend else "-"


def _cells(pair: Pair) -> tuple[str, ...]:
    return (
        pair.consumer_task,
        pair.consumer_node,
        pair.provider_task,
        pair.provider_node,
        *measured(pair),
    )


def measured(pair: Pair) -> tuple[str, ...]:
    """Return the cells of a pair's state, last handshake, and bytes in both directions."""
    return (
        pair.state if pair.lasting is None else f"{pair.state} {lasting(pair.lasting)}",
        age(pair.handshake_age),
        amount(pair.received),
        amount(pair.sent),
    )


def narrow(answer: Answer, width: int, now: float) -> Table:
    """Return the answer as a table for a terminal: tasks by slot and node, since the link names the services.

    Args:
        answer: of the agent.
        width: columns of the terminal.
        now: seconds since the epoch, for the keys' ages.
    """
    whole = table(answer)
    pairs = [pair for link in answer.links for pair in link.pairs]
    tasks = {
        *((pair.consumer_task, pair.consumer_node) for pair in pairs),
        *((pair.provider_task, pair.provider_node) for pair in pairs),
    }
    places = Counter((task.rpartition(".")[0], node) for task, node in tasks)
    rows: list[tuple[str, ...]] = []
    for link in answer.links:
        refused, key = "-" if link.refused is None else str(link.refused), renewed(link, now)
        for pair in link.pairs:
            ends = (
                end(pair.consumer_task, pair.consumer_node, places),
                end(pair.provider_task, pair.provider_node, places),
            )
            once = (refused, key) if pair is link.pairs[0] else ("", "")
            rows.append((link_name(link), *ends, *measured(pair), *once))
        if not link.pairs:
            rows.append((link_name(link), "-", "-", _untold(link), "-", "-", "-", refused, key))
    return fitted(Table(_NARROW, tuple(rows), whole.problems, gap="  "), width)


def fitted(made: Table, width: int) -> Table:
    """Cut the names of links, which are the first column, so that a table fits into a terminal's columns."""
    over = len("  ".join(made.padded()[0])) - width
    most = max((len(row[0]) for row in made.rows), default=0)
    if over <= 0 or most <= _SHORTEST_LINK:
        return made
    room = max(_SHORTEST_LINK, most - over)
    cut = (name if len(name) <= room else f"{name[: room - 1]}\N{HORIZONTAL ELLIPSIS}" for name, *_ in made.rows)
    return replace(made, rows=tuple((name, *row[1:]) for name, row in zip(cut, made.rows, strict=True)))


def end(task: str, node: str, places: Mapping[tuple[str, str], int]) -> str:
    """Name a task by its slot and node, and by its id where two of the slot are there, as in a rolling update."""
    stem, _, identity = task.rpartition(".")
    slot = stem.rpartition(".")[2]
    named = f"{slot} on {node}" if slot.isdecimal() else f"on {node}"  # a global service's slot is the node's id
    return named if places[stem, node] < 2 else f"{named} ({identity[:_SHORT_ID]})"  # noqa: PLR2004 - two of them


def link_name(link: Link) -> str:
    """Name a link by its ends, with its aliases."""
    shown = [alias for alias in link.aliases if alias != link.provider]
    return f"{link.consumer} -> {link.provider}" + (f" ({', '.join(shown)})" if shown else "")


def renewed(link: Link, now: float) -> str:
    """Return the key's name, and how long ago its secret was renewed."""
    name = "own" if link.key == f"{link.consumer}:{link.provider}" else link.key or "-"
    if link.epoch is None:
        return name
    began = link.epoch / 1000 if link.epoch > _MILLISECONDS else float(link.epoch)
    return f"{name}, {lasting(now - began)}"


def key_name(link: Link) -> str:
    """Return the key's name, `own` for a link's own, and its epoch; never the key."""
    name = "own" if link.key == f"{link.consumer}:{link.provider}" else link.key or "-"
    return name if link.epoch is None else f"{name}/{link.epoch}"
