"""What the agent answers, and the table made of it."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compose_ext.commands.ps import link_table
from compose_ext.commands.ps.pair_table import narrow, table
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.swarm import link_states, listings
from compose_ext.swarm.link_states import read
from compose_ext.terminal import age, amount

ENDS = ("consumer", "provider")


def pair(**changes: object) -> dict[str, object]:
    return {
        "consumer_task": "shop_web.1.k3v9x1a7b2c4d5e6f7g8h9i0j",
        "consumer_node": "n1",
        "provider_task": "shop_db.1.zq8w7e6r5t4y3u2i1o0pasdfg",
        "provider_node": "n2",
        "state": "connected",
        "handshake_age": 12.9,
        "rx": 123,
        "tx": 4560,
        "error": None,
        "as_of": 1.2,
    } | changes


def answer(**changes: object) -> dict[str, Any]:
    link = {
        "consumer": "shop_web",
        "provider": "shop_db",
        "aliases": ["db", "shop_db"],
        "vip": "10.1.9.1",
        "vip6": "fd00::a01:901",
        "ports": "all",
        "refused": {"consumer": {"in": 1, "out": 20}, "provider": {"in": 300, "out": 4000}},
        "key": "shop_shop",
        "epoch": 1800000000,
        "pairs": [pair()],
    }
    return {"version": 1, "links": [link], "problems": []} | changes


def test_the_table() -> None:
    (first,) = answer()["links"]
    nothing = {"consumer": {"in": 0, "out": 0}, "provider": {"in": 0, "out": 0}}
    links = [
        first | {"pairs": [pair(), pair(provider_task="shop_db.2.x")]},
        {
            "consumer": "shop_web",
            "provider": "shop_cache",
            "aliases": ["shop_cache"],
            "pairs": [
                pair(state="unwired", handshake_age=None, rx=0, tx=0, error="port taken", provider_node="n3"),
                pair(state="broken", **{"for": 75.5}),
            ],
        },
        {
            "consumer": "shop_web",
            "provider": "gone",
            "aliases": [],
            "pairs": [],
            "refused": nothing,
            "key": "shop_web:gone",
        },
    ]
    assert str(table(read(json.dumps(answer(links=links, problems=["node n4 does not answer"]))))) == (
        "LINK                       CONSUMER TASK                          NODE   PROVIDER TASK                         NODE   STATE       HANDSHAKE   RECEIVED   SENT     REFUSED   KEY\n"  # noqa: E501 - a table
        "shop_web -> shop_db (db)   shop_web.1.k3v9x1a7b2c4d5e6f7g8h9i0j   n1     shop_db.1.zq8w7e6r5t4y3u2i1o0pasdfg   n2     connected   12s ago     123B       4.56kB   4321      shop_shop/1800000000\n"  # noqa: E501 - a table
        "shop_web -> shop_db (db)   shop_web.1.k3v9x1a7b2c4d5e6f7g8h9i0j   n1     shop_db.2.x                           n2     connected   12s ago     123B       4.56kB\n"  # noqa: E501 - a table
        "shop_web -> shop_cache     shop_web.1.k3v9x1a7b2c4d5e6f7g8h9i0j   n1     shop_db.1.zq8w7e6r5t4y3u2i1o0pasdfg   n3     unwired     never       0B         0B       -         -\n"  # noqa: E501 - a table
        "shop_web -> shop_cache     shop_web.1.k3v9x1a7b2c4d5e6f7g8h9i0j   n1     shop_db.1.zq8w7e6r5t4y3u2i1o0pasdfg   n2     broken 1m   12s ago     123B       4.56kB\n"  # noqa: E501 - a table
        "shop_web -> gone           -                                      -      -                                     -      -           -           -          -        0         own\n"  # noqa: E501 - a table
        "\n"
        "PROBLEMS\n"
        "  node n4 does not answer\n"
        "  shop_web.1.k3v9x1a7b2c4d5e6f7g8h9i0j -> shop_db.1.zq8w7e6r5t4y3u2i1o0pasdfg: port taken\n"
    )


LONG = "a-stack-of-a-long-name_a-service-of-a-long-name"


def test_terminal_shows_it_in_120_columns() -> None:
    (first,) = answer()["links"]
    other = pair(consumer_task="shop_web.1.otherwisenamedtask0000000")  # in a rolling update
    everywhere = pair(provider_task="shop_db.qjvr4xg5zq0qk2y0cnp6yj2oi.zq8w7e6r5t4y3u2i1o0pasdfg")
    measured = pair(rx=123_456_789, tx=987_654_321, consumer_node="worker-12", provider_node="worker-13")
    links = [
        first | {"pairs": [pair(), other, measured], "epoch": 1_800_000_000_000, "key": "shop_web:shop_db"},
        first | {"pairs": [everywhere | {"state": "broken", "for": 3700.0}], "refused": None},
    ]
    found = read(json.dumps(answer(links=links)))
    assert str(narrow(found, 120, 1_800_007_300.0)) == (
        "LINK                      CONSUMER        PROVIDER        STATE      HANDSHAKE  RECEIVED  SENT    REFUSED  KEY, AGE\n"  # noqa: E501 - a table
        "shop_web -> shop_db (db)  1 on n1 (k3v9)  1 on n2         connected  12s ago    123B      4.56kB  4321     own, 2h\n"  # noqa: E501 - a table
        "shop_web -> shop_db (db)  1 on n1 (othe)  1 on n2         connected  12s ago    123B      4.56kB\n"
        "shop_web -> shop_db (db)  1 on worker-12  1 on worker-13  connected  12s ago    123MB     988MB\n"
        "shop_web -> shop_db (db)  1 on n1 (k3v9)  on n2           broken 1h  12s ago    123B      4.56kB  -        shop_shop, 2h\n"  # noqa: E501 - a table
    )
    for links in ([first], [first | {"consumer": LONG, "provider": f"{LONG}-2"}]):
        shown = str(narrow(read(json.dumps(answer(links=links))), 120, 0.0)).splitlines()
        assert all(len(line) <= 120 for line in shown)
        assert ("\N{HORIZONTAL ELLIPSIS}" in shown[1]) == (links[0]["consumer"] == LONG), "the name alone is cut"
        assert shown[1].endswith("4321     shop_shop, 0s")


def test_no_links_is_a_header() -> None:
    assert str(table(read('{"version": 1, "links": [], "problems": []}'))).splitlines() == [
        "LINK   CONSUMER TASK   NODE   PROVIDER TASK   NODE   STATE   HANDSHAKE   RECEIVED   SENT   REFUSED   KEY"
    ]


def test_what_is_told_can_not_steer_a_terminal() -> None:
    found = read(json.dumps(answer(links=[], problems=["\x1b[2J\u202egone"])))
    assert found.problems == ("?[2J?gone",)
    found = read(json.dumps(answer(links=[answer()["links"][0] | {"consumer": "\x1b]0;x\x07\nweb"}])))
    assert found.links[0].consumer == "?]0;x? web"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "never"),
        (0.2, "0s ago"),
        (59.9, "59s ago"),
        (60, "1m ago"),
        (3599, "59m ago"),
        (3600, "1h ago"),
        (86399, "23h ago"),
        (86400, "1d ago"),
        (7300, "2h ago"),
        (200000, "2d ago"),
        (-3, "0s ago"),
    ],
)
def test_ages(seconds: float | None, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (1234567, "1.23MB"), (10**21, "1e+03EB")]
)
def test_amounts(count: int, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the agent's answer is not JSON"),
        ("[]", "the agent speaks version None, this program version 1: upgrade the older of the two"),
        ('{"version": 2}', "the agent speaks version 2, this program version 1: upgrade the older of the two"),
        ('{"version": 1, "links": [{}]}', "the agent's answer is incomplete (KeyError: 'consumer')"),
        (
            '{"version": 1, "links": 7}',
            "the agent's answer is incomplete (TypeError: 'int' object is not iterable)",
        ),
        (
            json.dumps(answer(links=[answer()["links"][0] | {"consumer": 3}])),
            "is incomplete (TypeError: '3' is not a text)",
        ),
        (
            json.dumps(answer(links=[answer()["links"][0] | {"refused": {end: {"in": -1} for end in ENDS}}])),
            "is incomplete (TypeError: '-1' is not a number that fits)",
        ),
        (
            json.dumps(answer(links=[answer()["links"][0] | {"refused": {"consumer": {"in": 1, "out": 0}}}])),
            "is incomplete (KeyError: 'provider')",
        ),
    ],
)
def test_what_is_no_answer(text: str, message: str) -> None:
    with pytest.raises(DockerError) as caught:
        read(text)
    assert message in str(caught.value)


def columns(**changes: object) -> dict[str, Any]:
    """An answer with two pairs of one consumer, in columns."""
    (link,) = answer()["links"]
    del link["pairs"]
    ends = {"task": ["web.1.a", "db.1.b", "db.2.c"], "node": ["n1", "n2", "n3"], "at": [0, None, None]}
    of_node = {
        "state": ["connected", "broken"],
        "handshake_age": [3.0, None],
        "rx": [1, 2],
        "tx": [3, 4],
        "for": {"1": 12.0},
        "error": {"1": "no answer"},
        "silent_for": None,
        "as_of": 1.2,
    }
    linked = link | {"consumer_ends": [0], "provider_ends": [1, 2]}
    return answer(links=[linked], ends=ends, measured=[of_node | changes])


def test_pairs_in_columns_are_the_same() -> None:
    first, second = read(json.dumps(columns())).links[0].pairs
    assert (first.consumer_task, first.provider_task, first.state, first.lasting) == (
        "web.1.a",
        "db.1.b",
        "connected",
        None,
    )
    assert (second.provider_node, second.state, second.lasting, second.error, second.sent) == (
        "n3",
        "broken",
        12.0,
        "no answer",
        4,
    )


@pytest.mark.parametrize("changes", [{"state": []}, {"rx": [1]}, {"tx": [1, -1]}, {"for": 3}, {"state": [1, 2]}])
def test_malformed_columns_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DockerError, match="is incomplete"):
        read(json.dumps(columns(**changes)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@example("rx", float("inf"))
@example("rx", 10**400)
@example("rx", -1)
@example("handshake_age", float("nan"))
@example("refused", {"consumer": {"in": -1, "out": 0}, "provider": {"in": 0, "out": 0}})
@given(
    st.sampled_from(
        ["links", "problems", "consumer", "aliases", "pairs", "state", "rx", "handshake_age", "error", "refused"]
    ),
    json_values,
)
def test_no_answer_makes_a_traceback(key: str, value: object) -> None:
    wrong = answer()
    link = wrong["links"][0]
    for place in (wrong, link, link["pairs"][0]):
        if key in place:
            place[key] = value
    with contextlib.suppress(DockerError):
        found = read(json.dumps(wrong))
        assert str(table(found))
        assert str(link_table.table(found))


def test_an_answer_too_deep() -> None:
    with pytest.raises(DockerError):
        read("[" * 100_000)


def test_nodes_have_names_where_swarm_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that has started since a node went silent knows its id alone; a worker's Docker knows no names."""
    ids = {"6frketw2zt05lsehj51gdd9tc": "n2", "rss26glxva5s9l0aeburkjlnf": 'n"3'}
    silent, named = ids
    task = "v08udjkha5v1tlg59n06oe2sr"
    (link,) = answer()["links"]
    pairs = [pair(consumer_node=named, provider_node=silent, provider_task=f"shop_db.1.{task}")]
    said = answer(
        problems=[f"node {silent}: its agent is silent"],
        links=[link | {"pairs": pairs}],
        nodes=[{"id": silent}],
    )
    nodes = [{"ID": one, "Description": {"Hostname": name}} for one, name in ids.items()]
    monkeypatch.setattr(link_states, "documents", lambda *_, **__: [said])
    monkeypatch.setattr(listings, "nodes", lambda _: nodes)
    found = link_states.ask(Docker("docker", ()), None)
    assert found.problems == ("node n2: its agent is silent",)
    (one,) = found.links[0].pairs
    assert (one.consumer_node, one.provider_node, one.provider_task) == ('n"3', "n2", f"shop_db.1.{task}")
    assert found.raw["nodes"] == [{"id": silent}], "programs go by ids"
    monkeypatch.setattr(listings, "nodes", failing)
    assert link_states.ask(Docker("docker", ()), None).problems == (f"node {silent}: its agent is silent",)


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("no such service: linkwire_agent", 1, "this Swarm has no Linkwire: docker linkwire install --image IMAGE"),
        ("", 0, "no Linkwire agent runs on this Docker endpoint. If Linkwire is installed, docker service ps"),
    ],
)
def test_absent_agent_is_told_from_absent_linkwire(tmp_path: Path, said: str, code: int, told: str) -> None:
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit {code}\n")
    program.chmod(0o755)
    with pytest.raises(DockerError, match=re.escape(told)):
        link_states.container(Docker(str(program)))


def test_long_answer_outlasts_a_short_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy agent takes its time over all links; what is short is asked with a short limit all the same."""
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\nsleep 0.5\necho '{json.dumps(answer())}'\n")
    program.chmod(0o755)
    docker = Docker(str(program))
    monkeypatch.setattr(link_states, "container", lambda _docker: "some")
    monkeypatch.setattr(link_states.documents, "__defaults__", (0.1,))
    assert link_states.links(docker, None) == answer()
    with pytest.raises(DockerError, match=r"docker did not answer within 0\.1 s"):
        link_states.documents(docker, "wiring")


def failing(_docker: Docker) -> list[dict[str, Any]]:
    raise DockerError("this node is not a swarm manager")


def counted(**changes: object) -> dict[str, Any]:
    """A link as the agent tells it without its pairs: what they come to, and the worst of them."""
    (link,) = answer()["links"]
    del link["pairs"]
    sums = {"rx": 1_230_000, "tx": 45_600_000, "handshake_age": 12.9}
    told = {"consumers": 2, "ready": 3, "states": {"connected": 6}, "totals": sums, "worst": []}
    return {**link, "key": "shop_all", "epoch": 1_800_000_000_000, **told, **changes}


def some_links() -> list[dict[str, Any]]:
    broken = [
        pair(state="broken", **{"for": 75.5}),
        pair(state="unwired", handshake_age=None, rx=0, tx=0, error="port taken", provider_node="n3"),
    ]
    none = {"rx": 0, "tx": 0, "handshake_age": None}
    return [
        counted(key="shop_web:shop_db"),
        counted(provider="shop_later", aliases=[], states={}, totals=none, consumers=2, ready=None),
        counted(provider="shop_cache", aliases=[], states={"broken": 3, "connected": 2, "unwired": 1}, worst=broken),
        counted(provider="shop_down", aliases=[], states={"idle": 2}, ready=0, totals=none),
        counted(provider="blog_db", aliases=[], allowed=False, states={}, totals=none, key="x", epoch=None),
    ]


def test_links_are_listed_with_the_worst_first() -> None:
    found = read(json.dumps(answer(links=some_links(), problems=["node n4 does not answer"])))
    assert str(link_table.narrow(found, 120, 1_800_007_300.0)) == (
        "LINK                      STATE          PAIRS   HANDSHAKE  RECEIVED  SENT    REFUSED  KEY, AGE\n"
        "shop_web -> shop_cache    broken 1m      3 of 6  12s ago    1.23MB    45.6MB  4321     shop_all, 2h\n"
        "  1 on n1 -> 1 on n2      broken 1m              12s ago    123B      4.56kB\n"
        "  1 on n1 -> 1 on n3      unwired                never      0B        0B\n"
        "  and 2 more: --pairs\n"
        "shop_web -> shop_down     no ready task  2       never      0B        0B      4321     shop_all, 2h\n"
        "shop_web -> blog_db       not allowed    -       -          -         -       4321     x\n"
        "shop_web -> shop_later    no tasks       -       -          -         -       4321     shop_all, 2h\n"
        "shop_web -> shop_db (db)  connected      6       12s ago    1.23MB    45.6MB  4321     own, 2h\n"
        "\n"
        "PROBLEMS\n"
        "  node n4 does not answer\n"
        "  shop_web.1.k3v9x1a7b2c4d5e6f7g8h9i0j -> shop_db.1.zq8w7e6r5t4y3u2i1o0pasdfg: port taken\n"
    )
    whole = str(link_table.table(found)).splitlines()
    first, second = "shop_web.1.k3v9x1a7b2c4d5e6f7g8h9i0j on n1", "shop_db.1.zq8w7e6r5t4y3u2i1o0pasdfg on n2"
    assert whole[2].startswith(f"  {first} -> {second}   broken 1m")
    assert whole[8].endswith("own/1800000000000")


def test_error_stands_in_one_line_alone() -> None:
    ill = [pair(state="unwired", error="port taken")]
    links = [counted(states={"unwired": 1}, worst=ill)]
    found = read(json.dumps(answer(links=links, problems=["shop_web task k on n1: port taken"])))
    assert str(link_table.table(found)).count("port taken") == 1


def test_older_agents_pairs_are_added_up() -> None:
    (link,) = answer()["links"]
    states = ("unknown", "broken", "unwired", "unknown")
    ill = [pair(state=state, rx=10, tx=20, handshake_age=None) for state in states]
    (found,) = read(json.dumps(answer(links=[link | {"pairs": [pair(), *ill]}]))).links
    told = link_table.totals(found)
    assert (told.received, told.sent, told.handshake_age) == (163, 4640, 12.9)
    assert [one.state for one in told.worst] == ["broken", "unwired", "unknown"]
    assert link_table.state_of(found) == "broken"
