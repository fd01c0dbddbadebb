"""Result of `docker linkwire test --all-links`: links summed, failures named, flags that do not go together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compose_ext.cli import main
from compose_ext.connectivity import all_links
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.swarm import link_states, listings


def pair(consumer: str, provider: str, problem: str = "", slot: int = 1) -> dict[str, Any]:
    return {
        "consumer": consumer,
        "consumer_task": "k3v9x1a7b2c4d5e6",
        "consumer_slot": slot,
        "consumer_node": "a1",
        "provider": provider,
        "provider_task": "zq8w7e6r5t4y3u2i",
        "provider_slot": 0,
        "provider_node": "b2",
        "problem": problem,
    }


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the agent answers to `sweep`; to `links`, that nobody serves shop_cache."""
    said = list[dict[str, Any]]()
    node = {"ID": "a1", "Description": {"Hostname": "n1"}}
    links = [link("shop_web", "shop_cache", ready=0), link("shop_idle", "shop_cache", ready=0, consumers=0)]
    listed = {"version": 1, "links": links}

    def documents(_docker: Docker, query: str, *_: object, stack: str | None, **__: object) -> list[dict[str, Any]]:
        return said if query == "sweep" else [listed if stack == "shop" else {"version": 1, "links": []}]

    monkeypatch.setattr(link_states, "documents", documents)
    monkeypatch.setattr(listings, "nodes", lambda _: [node])
    return said


def link(consumer: str, provider: str, *, ready: int, consumers: int = 1) -> dict[str, Any]:
    counts = {"consumers": consumers, "ready": ready, "states": {}}
    return {"consumer": consumer, "provider": provider, "aliases": [], **counts}


def test_links_are_summed_and_failures_named(
    answers: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers += [
        pair("shop_web", "shop_db"),
        pair("shop_web", "shop_db", "no answer\x1b"),
        pair("shop_web", "blog_api"),
    ]
    assert main(["test", "--all-links", "--format", "json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["links"] == [
        {"consumer": "shop_web", "provider": "blog_api", "tried": 1, "ok": 1, "problem": ""},
        {"consumer": "shop_web", "provider": "shop_db", "tried": 2, "ok": 1, "problem": ""},
    ]
    (failure,) = said["failures"]
    assert (failure["consumer_task"], failure["consumer_node"]) == ("shop_web.1.k3v9x1a7b2c4", "n1")
    assert (failure["provider_task"], failure["provider_node"]) == ("shop_db.b2.zq8w7e6r5t4y", "b2")
    assert "\x1b" not in failure["problem"]
    assert main(["test", "--all-links"]) == 1
    told = capsys.readouterr()
    assert "shop_web -> shop_db    2       1    failed" in told.out
    assert "shop_web.1.k3v9x1a7b2c4 on n1 -> shop_db.b2.zq8w7e6r5t4y on b2: no answer" in told.out + told.err


def test_all_well_is_said_so(answers: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    answers += [pair("shop_web", "shop_db")]
    assert main(["test", "--all-links"]) == 0
    assert "failed" not in capsys.readouterr().out


def test_link_without_ready_task_fails_untried(
    answers: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers += [pair("shop_web", "shop_db")]
    assert main(["test", "--all-links", "shop"]) == 1
    told = capsys.readouterr().out
    assert "shop_web -> shop_cache   0       0    no ready task" in told
    assert "  shop_web -> shop_cache: no ready task of shop_cache" in told
    assert "shop_idle" not in told


def test_no_link_is_no_success(answers: list[dict[str, Any]]) -> None:
    with pytest.raises(DockerError, match="stack blog has no link between tasks"):
        all_links.sweep(Docker("docker", ()), "blog")
    answers.append({"consumer": "shop_web"})
    with pytest.raises(DockerError, match="the agent's answer has no 'consumer_task'"):
        all_links.sweep(Docker("docker", ()), None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--all-links", "--quick"], "--all-links deploys nothing: leave --quick and --keep out"),
        (["--all-links", "--keep"], "--all-links deploys nothing: leave --quick and --keep out"),
        (["shop"], "'shop': a stack can be named with --all-links only"),
    ],
)
def test_flags_that_do_not_go_together(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *words]) == 2
    assert said in capsys.readouterr().err
