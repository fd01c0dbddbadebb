"""Rates of links from readings of counters, and the table made of them."""

from __future__ import annotations

import json
from typing import Any

from compose_ext.observe.traffic.rates import Meter, Rate, ordered
from compose_ext.observe.traffic.top import table
from compose_ext.swarm.link_states import Answer, read
from tests.unit.compose_ext.test_compose_json import LINK


def answer(*pairs: dict[str, Any], refused: int = 0, **more: object) -> Answer:

    counted = {"consumer": {"in": 0, "out": refused}, "provider": {"in": 0, "out": 0}}
    link = {**LINK, "pairs": list(pairs), "refused": counted, **more}
    return read(json.dumps({"version": 1, "links": [link], "problems": []}))


def pair(rx: int, tx: int, as_of: float | None = 1.0, task: str = "a", state: str = "connected") -> dict[str, Any]:
    return {
        **LINK["pairs"][0],
        "consumer_task": f"shop_web.1.{task}",
        "rx": rx,
        "tx": tx,
        "as_of": as_of,
        "state": state,
    }


def measure(*answers: tuple[Answer, float]) -> Rate:
    meter = Meter()
    for each, at in answers:
        (rate,) = meter.measure(each, at)
    return rate


def test_rates_are_by_the_readings_own_times() -> None:
    rate = measure((answer(pair(100, 0, 2.0), refused=4), 10.0), (answer(pair(1100, 5000, 3.0), refused=8), 16.0))
    assert (rate.received, rate.sent, rate.refused) == (200.0, 1000.0, 4 / 6)


def test_the_first_reading_gives_no_rate() -> None:
    rate = measure((answer(pair(100, 0)), 10.0))
    assert (rate.received, rate.sent, rate.refused, rate.total) == (None, None, None, -1.0)


def test_the_same_reading_again_keeps_the_rate() -> None:
    first, second = answer(pair(0, 0, 0.0)), answer(pair(500, 0, 0.0))
    rate = measure((first, 10.0), (second, 15.0), (answer(pair(500, 0, 0.3)), 15.3))
    assert rate.received == 100.0


def test_counters_that_begin_anew_give_none() -> None:
    rate = measure((answer(pair(9000, 0, 0.0)), 10.0), (answer(pair(10, 0, 0.0)), 15.0))
    assert rate.received is None
    rate = measure(
        (answer(pair(9000, 0, 0.0)), 10.0), (answer(pair(10, 0, 0.0)), 15.0), (answer(pair(60, 0, 0.0)), 20.0)
    )
    assert rate.received == 10.0


def test_silent_nodes_have_no_rate() -> None:
    rate = measure((answer(pair(0, 0, 99.0)), 10.0), (answer(pair(10, 0, 104.0)), 15.0))
    assert (rate.received, rate.as_of) == (None, 104.0)
    rate = measure((answer(pair(0, 0, None)), 10.0), (answer(pair(10, 0, None)), 15.0))
    assert (rate.received, rate.as_of) == (None, None)


def test_pairs_are_summed_and_the_worst_state_shown() -> None:
    first = answer(pair(0, 0, 0.0, "a"), pair(0, 0, 0.0, "b", "unknown"))
    second = answer(pair(50, 5, 0.0, "a"), pair(100, 10, 0.0, "b", "unknown"))
    rate = measure((first, 10.0), (second, 15.0))
    assert (rate.received, rate.sent, rate.pairs, rate.state) == (30.0, 3.0, 2, "unknown")


def rate(name: str, received: float | None, sent: float | None, refused: float | None, state: str) -> Rate:
    return Rate(name, "db", state, 1, received, sent, refused, 1.0)


def test_each_order_puts_the_most_first() -> None:
    rates = [
        rate("c", 1.0, 9.0, None, "connected"),
        rate("a", 5.0, 1.0, 2.0, "broken"),
        rate("b", None, None, 3.0, "idle"),
    ]
    orders = {
        sort: "".join(each.consumer for each in ordered(rates, sort))
        for sort in ("rate", "received", "sent", "refused", "state", "name")
    }
    assert orders == {
        "rate": "cab",
        "received": "acb",
        "sent": "cab",
        "refused": "bac",
        "state": "abc",
        "name": "abc",
    }


def test_the_table_has_a_dash_for_no_rate() -> None:
    text = str(table([rate("a", 1234567.0, 0.0, 0.5, "connected"), rate("b", None, None, None, "unknown")], ("bad",)))
    assert text.splitlines() == [
        "LINK      PAIRS   STATE       RECEIVED/S   SENT/S   REFUSED/S",
        "a -> db   1       connected   1.23MB       0B       0.5",
        "b -> db   1       unknown     -            -        -",
        "",
        "PROBLEMS",
        "  bad",
    ]
