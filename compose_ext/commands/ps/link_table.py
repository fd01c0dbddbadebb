"""A line for each link, the worst first, and under one that is not well some of its pairs of tasks. Pure.

A link of ten tasks at either end has a hundred pairs, and nearly always they are alike.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from compose_ext.commands.ps.pair_table import (
    NOT_ALLOWED,
    end,
    fitted,
    key_name,
    link_name,
    measured,
    renewed,
)
from compose_ext.swarm.link_states import NO_READY_TASK, Answer, Link, Pair, Totals
from compose_ext.terminal import Table, age, amount, lasting

_HEADER = ("LINK", "STATE", "PAIRS", "HANDSHAKE", "RECEIVED", "SENT", "REFUSED", "KEY")
_NARROW = (*_HEADER[:-1], "KEY, AGE")
_NO_TASKS = "no tasks"
_WORST_FIRST = (
    *("broken", "unwired", NO_READY_TASK, NOT_ALLOWED, "stale", "no-handshake", "unknown", _NO_TASKS, "idle"),
    "connected",
)
_WELL = frozenset({"connected", "idle"})
_MOST = 3
"""Pairs that are named of one link."""


def table(answer: Answer) -> Table:
    """Return the answer as a table of whole values, with everything that went wrong under it."""
    return Table(_HEADER, tuple(_rows(answer, _whole, key_name)), _problems(answer))


def narrow(answer: Answer, width: int, now: float) -> Table:
    """Return the answer as a table for a terminal.

    Args:
        answer: of the agent.
        width: columns of the terminal.
        now: seconds since the epoch, for the keys' ages.
    """
    pairs = [pair for link in answer.links for pair in totals(link).worst]
    tasks = {
        *((pair.consumer_task, pair.consumer_node) for pair in pairs),
        *((pair.provider_task, pair.provider_node) for pair in pairs),
    }
    places = Counter((task.rpartition(".")[0], node) for task, node in tasks)

    def ends(pair: Pair) -> str:
        mine, theirs = end(pair.consumer_task, pair.consumer_node, places), pair.provider_task
        return f"{mine} -> {end(theirs, pair.provider_node, places)}"

    rows = tuple(_rows(answer, ends, lambda link: renewed(link, now)))
    return fitted(Table(_NARROW, rows, _problems(answer), gap="  "), width)


def totals(link: Link) -> Totals:
    """Return what a link's pairs come to, also where an agent has named them all."""
    if link.totals is not None:
        return link.totals
    ages = [pair.handshake_age for pair in link.pairs if pair.handshake_age is not None]
    ill = sorted((pair for pair in link.pairs if pair.state not in _WELL), key=lambda pair: badness(pair.state))
    received, sent = sum(pair.received for pair in link.pairs), sum(pair.sent for pair in link.pairs)
    return Totals(received, sent, min(ages, default=None), tuple(ill[:_MOST]))


def state_of(link: Link) -> str:
    """Return a link's state: the worst of its pairs'."""
    if not link.allowed:
        return NOT_ALLOWED
    return NO_READY_TASK if link.is_without_backend else min(link.states, key=badness, default=_NO_TASKS)


def badness(state: str) -> int:
    """Return a state's place, the worst first; one that is not known here counts as `unknown`."""
    return _WORST_FIRST.index(state if state in _WORST_FIRST else "unknown")


def _rows(answer: Answer, ends: Callable[[Pair], str], key: Callable[[Link], str]) -> Iterator[tuple[str, ...]]:
    for link in sorted(answer.links, key=lambda link: badness(state_of(link))):
        state, told = state_of(link), totals(link)
        count = sum(link.states.values())
        of_state = link.states.get(state, count)
        pairs = "-" if not count else str(count) if of_state == count else f"{of_state} of {count}"
        seconds = [pair.lasting for pair in told.worst if pair.state == state and pair.lasting is not None]
        since = f"{state} {lasting(max(seconds))}" if seconds else state
        sums = (age(told.handshake_age), amount(told.received), amount(told.sent)) if count else ("-", "-", "-")
        refused = "-" if link.refused is None else str(link.refused)
        yield link_name(link), since, pairs, *sums, refused, key(link)
        for pair in told.worst:
            state_cell, *others = measured(pair)
            yield f"  {ends(pair)}", state_cell, "", *others, "", ""
        more = sum(number for name, number in link.states.items() if name not in _WELL) - len(told.worst)
        if told.worst and more > 0:
            yield (f"  and {more} more: --pairs", *[""] * (len(_HEADER) - 1))


def _whole(pair: Pair) -> str:
    return f"{pair.consumer_task} on {pair.consumer_node} -> {pair.provider_task} on {pair.provider_node}"


def _problems(answer: Answer) -> tuple[str, ...]:
    """Return what is wrong, with the errors of named pairs' tasks that are in no other line."""
    notes = [
        f"{pair.consumer_task} -> {pair.provider_task}: {pair.error}"
        for link in answer.links
        for pair in totals(link).worst
        if pair.error and not any(pair.error in problem for problem in answer.problems)
    ]
    return (*answer.problems, *notes)
