"""Answers of an agent for the page: a small shop in which something is wrong, and a large Swarm."""

from __future__ import annotations

import json
import random
from typing import Any

from compose_ext.swarm.link_states import Answer, read

NOW = 1_800_000_000.0
NODES = ("n1", "n2", "n3")


def task(service: str, slot: int = 1) -> str:
    return f"{service}.{slot}.{random.Random(f'{service} {slot}').randbytes(16).hex()[:25]}"  # noqa: S311 - a name


def pair(consumer: str, provider: str, slot: int = 1, **changes: object) -> dict[str, Any]:
    numbers = random.Random(f"{consumer} {provider} {slot}")  # noqa: S311 - reproducible
    return {
        "consumer_task": task(consumer),
        "consumer_node": numbers.choice(NODES),
        "provider_task": task(provider, slot),
        "provider_node": numbers.choice(NODES),
        "state": "connected",
        "handshake_age": numbers.uniform(1, 110),
        "rx": numbers.randrange(10**6),
        "tx": numbers.randrange(10**6),
        "error": None,
        "as_of": 1.0,
    } | changes


def link(consumer: str, provider: str, *pairs: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {
        "consumer": consumer,
        "provider": provider,
        "aliases": [provider.partition("_")[2]],
        "vip": "100.96.0.9",
        "vip6": "fd00::9",
        "ports": "5432/tcp",
        "refused": {"consumer": {"in": 0, "out": 0}, "provider": {"in": 0, "out": 0}},
        "key": f"{consumer}:{provider}",
        "epoch": 1_799_000_000_000,
        "allowed": True,
        "pairs": list(pairs) or [pair(consumer, provider)],
    } | changes


def node(name: str, **changes: object) -> dict[str, Any]:
    number = int(name[1:])
    return {
        "id": f"{number:025}",
        "hostname": name,
        "fingerprint": f"{number:064x}",
        "unproven": None,
        "address": f"192.0.2.{number % 250 + 1}",
        "ports": [51820, 53819],
        "accepted": True,
    } | changes


def part(number: int, problem: str = "") -> dict[str, Any]:
    """What an agent says of a node: here of its part in node encryption."""
    state = {"generation": 7, "step": "send", "peers": 1, "ready": 1, "refused": 0, "problem": problem}
    figures = {"received": 1_234_567 * number, "sent": 98_765, "handshake_age": 12.5}
    encryption = {"able": True, "placed": True, "state": state, "figures": figures}
    return {"hostname": f"n{number}", "encryption": encryption}


def shop() -> dict[str, Any]:
    """Two stacks with each state that a link can have."""
    refused = {"consumer": {"in": 0, "out": 3}, "provider": {"in": 14, "out": 0}}
    no_answer: dict[str, Any] = {
        "state": "broken",
        "handshake_age": 412.0,
        "for": 95.0,
        "consumer_node": "n1",
        "provider_node": "n3",
    }
    links = [
        link("shop_proxy", "shop_web", pair("shop_proxy", "shop_web"), pair("shop_proxy", "shop_web", 2)),
        link(
            "shop_web",
            "shop_db",
            pair("shop_web", "shop_db", **no_answer),
            key="shop_data",
            epoch=1_799_999_400_000,
            refused=refused,
        ),
        link("shop_web", "shop_cache", pair("shop_web", "shop_cache", state="idle", handshake_age=900.0)),
        link("shop_worker", "shop_db", pair("shop_worker", "shop_db")),
        link("shop_worker", "shop_queue", pair("shop_worker", "shop_queue")),
        link("shop_web", "shop_queue", pair("shop_web", "shop_queue")),
        link("blog_web", "blog_db", pair("blog_web", "blog_db", state="unwired", error="port 51823 is taken")),
        link("blog_web", "shop_cache", allowed=False, vip=None, vip6=None, ports=None, epoch=None) | {"pairs": []},
        link("blog_cron", "blog_db") | {"pairs": []},
        link("blog_admin", "blog_db", pair("blog_admin", "blog_db", state="unknown", handshake_age=None)),
    ]
    problems = ["service blog_web: links to shop_cache, which its stack does not allow"]
    return {
        "version": 1,
        "links": links,
        "apart": {"shop_db": 7},
        "problems": problems,
        "nodes": [node("n1"), node("n2"), node("n3", accepted=False, unproven="it gives no proof of its keys")],
        "control": {
            "encryption": {"mode": "strict", "step": "send", "data_path_port": 4789, "generation": 7},
            "agents": {f"{number:025}": part(number) for number in (1, 2)},
        },
    }


def large(services: int = 1000, links: int = 5000) -> dict[str, Any]:
    """A Swarm of many stacks of ten services, one link in fifty to another stack."""
    numbers = random.Random(services)  # noqa: S311 - reproducible
    names = [f"stack{number // 10}_service{number % 10}" for number in range(services)]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    while len(found) < links:
        first = numbers.randrange(services)
        other = numbers.randrange(services) if not numbers.randrange(50) else first // 10 * 10 + numbers.randrange(10)
        if first != other:
            state = numbers.choices(("connected", "idle", "broken", "unknown"), (80, 17, 2, 1))[0]
            found[names[first], names[other]] = link(
                names[first], names[other], pair(names[first], names[other], state=state)
            )
    return {"version": 1, "links": list(found.values()), "problems": [], "nodes": [node(name) for name in NODES]}


def answer(document: dict[str, Any]) -> Answer:
    return read(json.dumps(document))


def event(at: float, kind: str, **details: str) -> dict[str, Any]:
    return {
        "v": 1,
        "time": at,
        "stream": "decisions",
        "page": 3,
        "controller": "m1",
        "kind": kind,
        "details": details,
    }


LOG = [
    event(NOW - 7200, "node accepted", node="n3", by="proof"),
    event(NOW - 3600, "service linked", service="shop_web", index="112"),
    event(NOW - 3599, "link created", consumer="shop_web", provider="shop_db", key="shop_data"),
    event(NOW - 600, "link key renewed", key="shop_data", epoch="1799999400000"),
    event(
        NOW - 20, "link refused", consumer="blog_web", provider="shop_cache", reason="the provider allows blog only"
    ),
]
