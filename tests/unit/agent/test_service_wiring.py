"""What the agent tells `docker linkwire deploy` of services' links and tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.queries.service_wiring import wiring
from mesh.model.labels.link_labels import LinkLabel
from mesh.topology.agreed_links import ABSENT, REFUSED
from tests.unit.agent.test_link_status import SHOP, endpoint, node, report, service, snapshot, status


def told(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in document["services"] if one["name"] == name]
    return dict(found)


def test_service_with_its_links_and_tasks() -> None:
    assert told(wiring(snapshot(*SHOP, status(1), status(2))), "shop_web") == {
        "name": "shop_web",
        "links": [{"provider": "shop_db", "aliases": ["to-shop_db"], "allowed": True, "exists": True}],
        "tasks": [
            {"task": "t1", "node": "host1", "wired": True, "ready": True, "silent": False, "held": "", "error": ""}
        ],
    }


def test_unwired_task_says_why() -> None:
    unwired = report("shop_web", 1, wired=False, error="port taken")
    (task,) = told(wiring(snapshot(*SHOP, unwired, replace(status(1), held="old state"))), "shop_web")["tasks"]
    assert (task["wired"], task["error"], task["held"]) == (False, "port taken", "old state")
    suspect = replace(endpoint("shop_web", 1), suspect=True)
    (task,) = told(wiring(snapshot(*SHOP, suspect, status(1))), "shop_web")["tasks"]
    assert task["silent"]
    (task,) = told(wiring(snapshot(*SHOP)), "shop_web")["tasks"]
    assert task["silent"], "its node says nothing at all"


def test_link_that_is_not_made_is_told() -> None:
    links = tuple(LinkLabel(provider, ("x",)) for provider in (f"{REFUSED}blog_db", f"{ABSENT}gone", "shop_cache"))
    found = told(wiring(snapshot(*SHOP, replace(service("shop_web"), links=links))), "shop_web")["links"]
    assert [(one["provider"], one["allowed"], one["exists"]) for one in found] == [
        ("blog_db", False, True),
        ("gone", True, False),
        ("shop_cache", True, False),
    ]


def test_one_stack_with_the_other_ends() -> None:
    others = (service("blog_web", "shop_db"), service("blog_db"), service("workshop_web", "workshop_db"), node(2))
    document = wiring(snapshot(*SHOP, *others, service("workshop_db")), "shop")
    assert [one["name"] for one in document["services"]] == ["blog_web", "shop_db", "shop_web"]
