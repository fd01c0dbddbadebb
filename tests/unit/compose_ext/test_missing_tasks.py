"""Links without a backend: named with why and how bad it is, once it lasts, and not while a service changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.health.judgement import BROKEN, DEGRADED
from compose_ext.health.missing_tasks import SLOW_S, is_settling, judged
from compose_ext.swarm import listings
from compose_ext.swarm.link_states import Link
from mesh.diagnosis.steps import STARTING_S
from mesh.diagnosis.swarm_facts import Change, SwarmFacts, SwarmNode, SwarmService, SwarmTask

WEB, DB = "shop_web", "shop_db"
CLOCKS = {
    "2026-11-29T21:07:56.123456789Z": datetime(2026, 11, 29, 21, 7, 56, tzinfo=UTC),
    "2026-11-29T22:07:56+01:00": datetime(2026, 11, 29, 21, 7, 56, tzinfo=UTC),
}
LASTS = Change(ago=600.0)
NO_NODE = "no suitable node (1 node not available for new tasks)"
NODES = {"a": SwarmNode("a", "n1", "ready", "active"), "b": SwarmNode("b", "n2", "ready", "drain")}


def link(consumer: str = WEB, *, consumers: int = 1, ready: int = 0) -> Link:
    return Link(consumer, DB, (), (), None, "", None, states={}, consumers=consumers, ready=ready)


def task(state: str = "running", wanted: str = "running", error: str = "", made: float = 600.0) -> SwarmTask:
    return SwarmTask("t", f"{DB}.1", "a" if state != "pending" else "", state, wanted, error, made, made)


def facts(*provider: SwarmTask, replicas: int | None = 1, consumer: tuple[SwarmTask, ...] = (task(),)) -> SwarmFacts:
    services = {WEB: SwarmService(WEB, (DB,), replicas=1), DB: SwarmService(DB, replicas=replicas)}
    services["blog_web"] = replace(services[WEB], name="blog_web")
    tasks = {WEB: consumer, DB: provider, "blog_web": consumer}
    return SwarmFacts(WEB, DB, services, "", tasks, NODES, {})


def said(facts: SwarmFacts, *links: Link, change: Change = LASTS) -> list[tuple[int, str]]:
    found = judged(links or (link(),), facts, {WEB: change, DB: change, "blog_web": change})
    return [(finding.severity, finding.text) for finding in found]


def test_scaled_to_none_is_degraded_and_said() -> None:
    text = "shop_web -> shop_db: no ready task: shop_db is scaled to 0; docker service scale shop_db=1"
    assert said(facts(replicas=0)) == [(DEGRADED, text)]
    both = said(facts(replicas=0), link(), link("blog_web"))
    assert both == [(DEGRADED, f"shop_web -> shop_db, blog_web -> {text.partition(' -> ')[2]}")]


def test_drained_provider_is_broken_and_said() -> None:
    ((severity, text),) = said(facts(task("pending", error=NO_NODE), task("shutdown", "shutdown")))
    assert severity == BROKEN
    assert text.startswith("shop_web -> shop_db: no ready task: shop_db.1 does not run: it is pending: no suitable")
    assert text.endswith("; drained: n2; docker node update --availability active n2")


def test_consumer_that_cannot_start_is_broken() -> None:
    stuck = (replace(task("pending", error=NO_NODE), name="shop_web.1"),)
    ((severity, text),) = said(facts(task(), consumer=stuck), link(consumers=0, ready=1))
    assert (severity, text.partition(NO_NODE)[0]) == (
        BROKEN,
        "shop_web -> shop_db: shop_web has no running task: shop_web.1 does not run: it is pending: ",
    )


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (link(ready=0), "no ready task: Swarm runs shop_db, and Linkwire cannot use it"),
        (link(consumers=0, ready=1), "shop_web has no linked task: Swarm runs it, and Linkwire has nothing of it"),
    ],
)
def test_running_task_of_which_linkwire_lacks_a_record(one: Link, words: str) -> None:
    assert said(facts(task()), one) == [
        (BROKEN, f"shop_web -> shop_db: {words}: docker linkwire explain shop_web shop_db")
    ]


@pytest.mark.parametrize(
    "quiet",
    [
        said(facts(replicas=0, consumer=(task("complete", "shutdown"),))),
        said(replace(facts(), services={WEB: SwarmService(WEB, replicas=0), DB: SwarmService(DB, replicas=0)})),
        said(facts(task()), link(ready=1)),
        said(facts(task(made=STARTING_S - 1))),
        said(facts(replicas=0), change=Change(STARTING_S - 1)),
    ],
    ids=["a job that is done", "nobody wants it", "one task linked to itself", "just running", "just scaled"],
)
def test_nothing_that_is_meant_so_is_said(quiet: list[tuple[int, str]]) -> None:
    assert quiet == []


@pytest.mark.parametrize(
    ("change", "tasks", "settling"),
    [
        (Change(STARTING_S - 1), (), True),
        (Change(STARTING_S + 1), (), False),
        (Change(600, updating=SLOW_S - 1), (task("pending", error=NO_NODE),), True),
        (Change(600, updating=SLOW_S + 1), (task("pending", error=NO_NODE),), False),
        (LASTS, (task("pending", error=NO_NODE, made=STARTING_S - 1),), True),
        (LASTS, (task("pending", error=NO_NODE, made=STARTING_S + 1),), False),
        (LASTS, (task("starting", made=SLOW_S - 1),), True),
        (LASTS, (task("starting", made=SLOW_S + 1),), False),
        (LASTS, (task("starting", made=1), task("shutdown", "shutdown", "exit code 143")), True),
        (LASTS, (task("starting", made=1), task("failed", "shutdown", "unhealthy container")), False),
        (LASTS, (task("ready", "ready", made=1), task("failed", "shutdown", "exit code 1")), False),
        (LASTS, (task("shutdown", "shutdown"),), False),
    ],
    ids=[
        "just changed",
        "no task at all",
        "being updated",
        "an update that hangs",
        "no node, just now",
        "no node",
        "starting",
        "starting for long",
        "replaced",
        "again after a failure",
        "a restart that waits",
        "all ended",
    ],
)
def test_what_may_settle_by_itself(change: Change, tasks: tuple[SwarmTask, ...], *, settling: bool) -> None:
    assert is_settling(change, tasks) is settling


@pytest.mark.parametrize("text", CLOCKS)
def test_managers_clock_is_read(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Docker, "ask", lambda *_: f"{text}\n")
    assert listings.clock(Docker("docker", ())) == CLOCKS[text]


def test_malformed_clock_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Docker, "ask", lambda *_: "<no value>")
    with pytest.raises(DockerError, match="which is no time"):
        listings.clock(Docker("docker", ()))
