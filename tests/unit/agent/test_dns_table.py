"""What the responder answers, what a resolv.conf says, and which questions the rules take."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from agent.containers.docker_client import LocalTask
from agent.dns import resolv_conf, ruleset, wire
from agent.dns.resolv_conf import DOCKERS_OWN, ResolvConf
from agent.dns.responder_client import Responder
from agent.dns.table import Table
from agent.dns.task_dns import TaskDns
from agent.interface.task import TaskState
from mesh.topology.policy import Resolving
from tests.netns.resolvers import addresses, question, rcode
from tests.support.link_graphs import CLUSTER, config, endpoint, graph, service

TABLE = Table(
    json.dumps(
        {
            "names": {
                "db": [["10.1.9.2", "fd12::902"], False],
                "all": [["10.1.0.1", "10.1.0.2"], True],
                "x": [[], True],
            },
            "search": ["corp.example"],
        }
    ).encode()
)


def ask(name: str, kind: int = 1) -> tuple[int, list[str]]:
    answer = TABLE.answer(question(name, kind))
    assert answer is not None
    return rcode(answer), addresses(answer)


def test_link_name_has_addresses_other_names_no_answer() -> None:
    assert (ask("DB"), ask("db", 28), ask("db", 33)) == ((0, ["10.1.9.2"]), (0, ["fd12::902"]), (0, []))
    assert (ask("x"), ask("db.corp.example"), ask("dbx.corp.example"), ask("db.example")) == (
        *((0, []), (3, [])),
        *((5, []), (5, [])),
    )
    assert TABLE.answer(b"what") is None


def test_dnsrr_name_rotates_its_first_address_evenly() -> None:
    first = Counter(ask("all")[1][0] for _ in range(1000))
    assert min(first.values()) > 400
    assert len(first) == 2
    # By A and AAAA in turns, as getaddrinfo asks, it is so too.
    first = Counter((ask("all")[1][0], ask("all", 28))[0] for _ in range(1000))
    assert min(first.values()) > 400


@pytest.mark.parametrize(
    ("content", "servers", "search"),
    [
        (
            b"nameserver 10.0.0.2\nsearch Corp.Example. b.example\noptions ndots:0\n",
            ["10.0.0.2"],
            ["corp.example", "b.example"],
        ),
        (b"domain a.example\nsearch b.example\n", [], ["b.example"]),
        (
            b"# nameserver 1.1.1.1\nnameserver fd00::1\nnameserver fe80::1%eth0\nnameserver x\nnameserver\n",
            ["fd00::1"],
            [],
        ),
        (b"search .\n", [], []),
        (b"\xff\xfe\0nameserver 1.2.3.4", [], []),
    ],
)
def test_a_resolv_conf_says_whom_to_ask(content: bytes, servers: list[str], search: list[str]) -> None:
    found = resolv_conf.parse(content)
    assert ([str(one) for one in found[0]], found[1]) == (servers, search)


def test_resolv_conf_is_remembered_and_may_be_missing(tmp_path: Path) -> None:
    file, link = tmp_path / "resolv.conf", tmp_path / "link"
    link.symlink_to(file)
    seen = ResolvConf()
    seen.look(str(file))
    assert [str(one) for one in seen.servers] == ["127.0.0.11"]
    file.write_text("nameserver 10.0.0.2\nsearch a.example")
    seen.look(str(link))
    assert [str(one) for one in seen.servers] == ["127.0.0.11"], "no link is followed"
    seen.look(str(file))
    file.write_text("nameserver 127.0.0.11\nsearch b.example\noptions ndots:0")
    seen.look(str(file))
    assert [str(one) for one in seen.servers] == ["127.0.0.11", "10.0.0.2"]
    assert seen.search == ("a.example", "b.example")
    file.write_text("\n".join(f"nameserver 10.0.0.{n}" for n in range(100)))
    seen.look(str(file))
    assert len(seen.servers) == ruleset.MOST_SERVERS


def test_without_names_or_servers_there_are_no_rules() -> None:
    servers = (DOCKERS_OWN, IPv6Address("fd00::1"))
    for resolving in (Resolving(), Resolving((), servers), Resolving(("db",)), Resolving(("x" * 64,), servers)):
        assert ruleset.chains(resolving) == {}
    made = ruleset.chains(Resolving(("db", "cache"), servers, ("corp.example",)))
    assert next(iter(made)) == "dns"
    jumps = {str(rule[-1]) for rule in made["dns_name"]}
    assert jumps == {f"{{'jump': {{'target': 'dns_after_{n}'}}}}" for n in (3, 6)}


def test_every_comparison_is_of_numbers_that_json_holds() -> None:
    """JSON's numbers, as nft writes them, end at 63 bits: a longer one would not be read back as it was meant."""
    name = ".".join(["A-Name_0" * 7] * 4)
    assert wire.encoded(name)
    made = ruleset.chains(Resolving((name,), (DOCKERS_OWN,), ("corp.example",)))
    lengths = [
        left.get("len", 0)
        for chain in made.values()
        for rule in chain
        for statement in rule
        if "match" in statement
        for left in [_payload(statement["match"]["left"])]
    ]
    assert max(lengths) == 32


def _payload(left: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = (left["&"][0] if "&" in left else left).get("payload", {})
    return found


def test_task_reports_unanswered_questions_where_node_cannot() -> None:
    """`docker linkwire check` shows what a task's report says."""
    local = LocalTask("c", "a1", "A", "a.1.x", "running", None, "/nowhere/hosts", None, (), gated=False)
    records = (CLUSTER, service("A", "a", ("b", "db")), service("B", "b"), endpoint("A", "a1", 1))
    for able in (True, False):
        state = TaskState(local, dns=TaskDns(Responder(able=able)))
        assert bool(state.dns.resolving(local.hosts, ("db",)).servers) is able, (
            "and no rule turns a question that nobody answers"
        )
        state.interface.applied = config(graph(*records), "a1")
        assert (state.report().error is None) is able
        assert state.report().wired
    assert "DNS questions for links are not answered" in str(state.report().error)
    state.interface.applied = config(graph(*records[:-1], endpoint("B", "b1", 1)), "b1")
    assert state.report().error is None, "it has no links"
