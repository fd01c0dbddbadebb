"""When links are good again after a node's agent was replaced."""

from __future__ import annotations

from typing import Any

import pytest

from compose_ext.convergence.link_health import good, missing, wrong
from compose_ext.install import upgrade

WEB, DB = "shop_web.1.w", "shop_db.1.d"


def answer(*pairs: dict[str, Any]) -> dict[str, Any]:
    return {"links": [{"pairs": list(pairs)}]}


def pair(state: str = "connected", **changes: object) -> dict[str, Any]:
    ends = {"consumer_task": WEB, "consumer_node": "n1", "provider_task": DB, "provider_node": "n2"}
    return {**ends, "state": state, "as_of": 1.0, "error": None, **changes}


BEFORE = frozenset({("w", "d")})


def test_pairs_that_were_good_are_remembered() -> None:
    broken = pair("broken", consumer_task="shop_web.2.x")
    assert good(answer(pair("idle"), broken)) == BEFORE


@pytest.mark.parametrize("state", ["connected", "idle", "stale", "no-handshake"])
def test_good_pair_needs_no_word(state: str) -> None:
    assert wrong(BEFORE, answer(pair(state)), {"n1": 5.0}) == ()


@pytest.mark.parametrize(
    ("now", "ages", "said"),
    [
        (pair("broken"), {}, f"{WEB} on n1 -> {DB} on n2: broken"),
        (pair("unwired", error="port taken"), {}, f"{WEB} on n1 -> {DB} on n2: unwired: port taken"),
        (pair("unknown"), {}, f"{WEB} on n1 -> {DB} on n2: unknown"),
        (pair(as_of=5.5), {"n1": 5.0}, f"{WEB} on n1 -> {DB} on n2: not measured yet by the new agent"),
        (pair(as_of=None), {"n1": 5.0}, f"{WEB} on n1 -> {DB} on n2: not measured yet by the new agent"),
    ],
)
def test_pair_that_is_not_good_is_named(now: dict[str, Any], ages: dict[str, float], said: str) -> None:
    assert wrong(BEFORE, answer(now), ages) == (said,)


def test_only_what_was_good_has_to_be() -> None:
    assert wrong(frozenset(), answer(pair("broken")), {}) == ()
    assert wrong(BEFORE, answer(), {}) == ()
    assert missing(BEFORE, answer()) == BEFORE
    assert missing(BEFORE, answer(pair("broken"))) == frozenset()
    assert wrong(BEFORE, answer(pair(as_of=50.0)), {"n2": 1.0}) == (), "another node's reading"


def test_swarm_waits_longer_than_links_may_take() -> None:
    assert upgrade.delay(0, 300) == 3600
    assert upgrade.delay(3600, 300) == 3601, "another number, or Swarm would not go on"
    assert upgrade.delay(3601, 86_400) > 86_400
