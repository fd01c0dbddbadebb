"""The compose language: what is accepted, and every error with its place and words."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compose_ext.diagnostics import Report
from compose_ext.document.loader import Source, load
from compose_ext.language.override import compile_override, dump
from mesh.model.labels.ports import PortRange
from tests.unit.compose_ext.compose_files import links, told

SHOP = """\
x-wireguard:
  keys:
    shop: {rotate: 24h}

services:
  web:
    image: shop/web
    links: ["db:database", cache]
    external_links: [other_mail:mail]
    x-wireguard:
      links:
        db: {key: shop, ports: ["5432/tcp", 9000-9010/udp]}
  db:
    image: postgres
    x-wireguard: {expose: [5432], strict: false}
  cache:
    image: redis
"""


def test_the_shop() -> None:
    found, report = links(SHOP)
    assert told(report) == []
    assert found
    assert found.count == 3
    assert found.summary == "3 links between 4 services"
    assert found.linked == {"web", "db", "cache"}
    assert [(entry.provider, entry.alias, entry.external) for entry in found.entries["web"]] == [
        ("db", "database", False),
        ("cache", "cache", False),
        ("other_mail", "mail", True),
    ]
    web, db = found.project.services["web"], found.project.services["db"]
    assert web.options["db"].key == "shop"
    assert web.options["db"].ports == [PortRange("tcp", 5432, 5432), PortRange("udp", 9000, 9010)]
    assert (db.expose, db.strict, web.strict) == ([PortRange("tcp", 5432, 5432)], False, None)
    assert found.project.keys["shop"].rotate == 86400


@pytest.mark.parametrize(
    "text",
    [
        "services: {web: {image: x, links: []}}",
        "services:",
        "services: [nonsense]",
        "services: {web: nonsense}",
        "version: '2'",
        "x-other: {keys: 1}\nservices: {web: {x-wire: 1, x-guard-off: 1}}",
        "x-base: &base {x-wireguard: {}}",
    ],
)
def test_files_without_the_extension_do_not_concern_us(text: str) -> None:
    found, report = links(text)
    assert (found, told(report)) == (None, [])


@pytest.mark.parametrize(
    "text",
    [
        "x-wireguard:\nservices: {a: {image: x, links: [b]}, b: {image: x}}",
        "x-wireguard: {}\nservices: {a: {image: x, links: [b]}, b: {image: x}}",
        "services: {a: {image: x, links: [b]}, b: {image: x, x-wireguard: {}}}",
        "services: {a: {image: x, links: [b]}, b: {image: x, x-wireguard: }}",
        "x-base: &base {x-wireguard: {}, links: [b]}\nservices: {a: {<<: *base}, b: {image: x}}",
        'x-wireguard: {keys: }\nversion: "3.8"\nservices: {a: {links: [b]}, b: {}}'.replace("{keys: }", "{}"),
    ],
)
def test_any_extension_makes_every_link_ours(text: str) -> None:
    found, report = links(text)
    assert told(report) == []
    assert found
    assert [entry.provider for entry in found.entries["a"]] == ["b"]


@pytest.mark.parametrize(
    ("services", "path"),
    [
        ("a: {links: [b], x-wireguard: {gate: ready}}, b: {links: [a], x-wireguard: {gate: ready}}", "a -> b -> a"),
        (
            (
                "x: {links: [a], x-wireguard: {gate: ready}}, "
                "a: {links: [b, d], x-wireguard: {links: {b: {gate: ready}}}}, "
                "b: {links: [c], depends_on: {c: {condition: service_healthy}}}, "
                "c: {links: [a], x-wireguard: {gate: ready}}, d: {links: [a]}"
            ),
            "a -> b -> c -> a",
        ),
    ],
)
def test_circular_waiting_is_refused_with_the_path(services: str, path: str) -> None:
    _, report = links(f"x-wireguard: {{}}\nservices: {{{services}}}")
    (error,) = report.errors
    assert f"each waits until the next is ready, and so none ever starts: {path}. " in str(error)


@pytest.mark.parametrize(
    "services",
    [
        "a: {links: [b], x-wireguard: {gate: ready}}, b: {links: [a]}",
        (
            "a: {links: [b, c], x-wireguard: {gate: ready}}, "
            "b: {links: [c], x-wireguard: {gate: ready}}, c: {links: [a]}"
        ),
        "a: {links: [b], depends_on: {b: {condition: service_healthy}}}, b: {links: [a], depends_on: [a]}",
    ],
)
def test_links_without_waiting_may_be_circular(services: str) -> None:
    _, report = links(f"x-wireguard: {{}}\nservices: {{{services}}}")
    assert told(report) == []


def test_cycles_and_links_to_itself_are_links() -> None:
    found, report = links("x-wireguard: {}\nservices: {a: {links: [b]}, b: {links: [a, 'b:peers']}}")
    assert told(report) == []
    assert found
    assert found.summary == "3 links between 2 services"


def service(text: str) -> str:
    """Make a file in which the given lines belong to `web`, at column 5 from line 5 on."""
    lines = "".join(f"    {line}\n" for line in text.split("\n"))
    return f"x-wireguard: {{keys: {{shop: }}}}\nservices:\n  db: {{}}\n  web:\n{lines}"


USED = "links: [db]\nx-wireguard: {links: {db: {key: shop}}}"
WEB = "service 'web'"
TOO_OFTEN = "too often: a session lives for three minutes whatever its key, so write 10m or more"
NOT_A_NAME = "a name is made of letters, digits, '-' and '_', and begins and ends with a letter or digit"
NOT_A_HOST = "not a host name: use letters, digits, '-' and '_', parts with dots between, and '-' only inside a part"
EMPTY = "write `x-wireguard: {}` where there is nothing to say"
NOT_A_PORT = "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (USED, []),
        # links
        ("links: [dbb]", [f"a.yml:5:13: {WEB}: links: no service 'dbb' in these files; did you mean 'db'?"]),
        (
            "links: [other_thing]",
            [
                (
                    f"a.yml:5:13: {WEB}: links: no service 'other_thing' in these files; "
                    "a service of another stack stands in `external_links`"
                )
            ],
        ),
        ("links: db", [f'a.yml:5:12: {WEB}: links: must be a list, not a single value: write ["db"]']),
        ("links: [bd]", [f"a.yml:5:13: {WEB}: links: no service 'bd' in these files; there are: db"]),
        (
            'links: ["db:5432"]',
            [
                (
                    f"a.yml:5:13: {WEB}: links: the alias '5432': this is an alias's place, and no port's: the ports "
                    "of a link stand in `x-wireguard: {links: {db: {ports: [5432]}}}`"
                )
            ],
        ),
        ("links:", [f"a.yml:5:11: {WEB}: links: must be a list, not nothing"]),
        ("links: {db: x}", [f"a.yml:5:12: {WEB}: links: must be a list, not a mapping"]),
        (
            "links: [{db: x}]",
            [f'a.yml:5:13: {WEB}: links: YAML reads a mapping here: write "db:x", without the space after the colon'],
        ),
        ("links: [{a: x, b: y}]", [f"a.yml:5:13: {WEB}: links: must be a single value, not a mapping"]),
        ("links: [~]", [f"a.yml:5:13: {WEB}: links: must be a single value, not nothing"]),
        ('links: ["db:"]', [f"a.yml:5:13: {WEB}: links: 'db:': write it as SERVICE or SERVICE:ALIAS"]),
        ('links: [":db"]', [f"a.yml:5:13: {WEB}: links: ':db': write it as SERVICE or SERVICE:ALIAS"]),
        ('links: ["db:a:b"]', [f"a.yml:5:13: {WEB}: links: 'db:a:b': write it as SERVICE or SERVICE:ALIAS"]),
        ('links: [""]', [f"a.yml:5:13: {WEB}: links: '': write it as SERVICE or SERVICE:ALIAS"]),
        (
            "links: [db, db]",
            [f"a.yml:5:17: {WEB}: links: 'db' is here twice, first on line 5: Docker takes each entry once"],
        ),
        ('links: ["db:d b"]', [f"a.yml:5:13: {WEB}: links: the alias 'd b': {NOT_A_HOST}"]),
        (
            'links: ["db:10.1"]',
            [
                (
                    f"a.yml:5:13: {WEB}: links: the alias '10.1': a program would take this name for an address: "
                    "its last part must not be a number"
                )
            ],
        ),
        (
            'links: [db, "web:DB"]',
            [f"a.yml:5:17: {WEB}: links: the alias 'DB' is already that of 'db' (a.yml:5:13)"],
        ),
        (
            "links: [db]\nexternal_links: [x_db:db]",
            [f"a.yml:6:22: {WEB}: external_links: the alias 'db' is already that of 'db' (a.yml:5:13)"],
        ),
        (
            "external_links: [a.b]",
            [f"a.yml:5:22: {WEB}: external_links: 'a.b' cannot name a Swarm service: {NOT_A_NAME}"],
        ),
        # x-wireguard in a service
        ("x-wireguard: text", [f"a.yml:5:18: {WEB}: x-wireguard: must be a mapping, not a single value: {EMPTY}"]),
        ("x-wireguard: {linsk: {}}", [f"a.yml:5:19: {WEB}: x-wireguard: unknown key 'linsk'; did you mean 'links'?"]),
        ("x-wireguard: {zzz: {}}", [f"a.yml:5:19: {WEB}: x-wireguard: unknown key 'zzz'"]),
        (
            "x-wireguard: {keys: {}}",
            [
                (
                    f"a.yml:5:19: {WEB}: x-wireguard: unknown key 'keys': "
                    "link keys are defined at the top of the file, under `x-wireguard: keys:`"
                )
            ],
        ),
        (
            "x-wireguard: {links: [db]}",
            [
                (
                    f"a.yml:5:26: {WEB}: x-wireguard.links: must be a mapping, not a list: settings of links stand "
                    "here, by provider; the links themselves are the service's own `links`"
                )
            ],
        ),
        (
            "links: [db]\nx-wireguard: {links: {bd: {}}}",
            [
                (
                    f"a.yml:6:27: {WEB}: x-wireguard.links: 'bd' is not in this service's links; "
                    "add it to `links` or `external_links`"
                )
            ],
        ),
        (
            "links: [db]\nx-wireguard: {links: {dbs: {}}}",
            [f"a.yml:6:27: {WEB}: x-wireguard.links: 'dbs' is not in this service's links; did you mean 'db'?"],
        ),
        (
            "links: [db]\nx-wireguard: {links: {db: x}}",
            [f"a.yml:6:31: {WEB}: x-wireguard.links.db: must be a mapping, not a single value"],
        ),
        (
            "links: [db]\nx-wireguard: {links: {db: {prots: [80]}}}",
            [f"a.yml:6:32: {WEB}: x-wireguard.links.db: unknown key 'prots'; did you mean 'ports'?"],
        ),
        (
            "links: [db]\nx-wireguard: {links: {db: {rotate: 24h}}}",
            [
                (
                    f"a.yml:6:32: {WEB}: x-wireguard.links.db: unknown key 'rotate': "
                    "a key is rotated where it is defined, under `x-wireguard: keys:` at the top of the file"
                )
            ],
        ),
        (
            "links: [db]\nx-wireguard: {links: {db: {ports: [80, 0, http, 9-8, 1/sctp, icmp, 65536]}}}",
            [
                f"a.yml:6:44: {WEB}: x-wireguard.links.db.ports: '0': {NOT_A_PORT}",
                f"a.yml:6:47: {WEB}: x-wireguard.links.db.ports: 'http': {NOT_A_PORT}",
                f"a.yml:6:53: {WEB}: x-wireguard.links.db.ports: '9-8': the range runs backwards: write 8-9",
                f"a.yml:6:58: {WEB}: x-wireguard.links.db.ports: '1/sctp': the protocol must be tcp or udp",
                f"a.yml:6:66: {WEB}: x-wireguard.links.db.ports: 'icmp': icmp has no ports: only tcp and udp do",
                f"a.yml:6:72: {WEB}: x-wireguard.links.db.ports: '65536': a port is a number from 1 to 65535",
            ],
        ),
        (
            "links: [db]\nx-wireguard: {links: {db: {ports: 80}}}",
            [f'a.yml:6:39: {WEB}: x-wireguard.links.db.ports: must be a list, not a single value: write ["80"]'],
        ),
        (
            "links: [db]\nx-wireguard: {links: {db: {ports: []}}}",
            [
                (
                    f"a.yml:6:39: {WEB}: x-wireguard.links.db.ports: names no port; "
                    "leave the key out where every port is meant"
                )
            ],
        ),
        (
            "links: [db]\nx-wireguard: {links: {db: {key: shpo}}}",
            [f"a.yml:6:37: {WEB}: x-wireguard.links.db.key: no link key 'shpo'; did you mean 'shop'?"],
        ),
        (
            "links: [db]\nx-wireguard: {links: {db: {key: other}}}",
            [
                (
                    f"a.yml:6:37: {WEB}: x-wireguard.links.db.key: no link key 'other'; "
                    "define it at the top: `x-wireguard: {keys: {other: {}}}`"
                )
            ],
        ),
        (
            'links: [db]\nx-wireguard: {links: {db: {key: "a b"}}}',
            [f"a.yml:6:32: {WEB}: x-wireguard.links.db.key: 'a b' cannot name a link key: {NOT_A_NAME}"],
        ),
        (
            "x-wireguard: {strict: maybe}",
            [f"a.yml:5:27: {WEB}: x-wireguard.strict: 'maybe': write true, false or all"],
        ),
        (
            "x-wireguard: {strict: [true]}",
            [f"a.yml:5:27: {WEB}: x-wireguard.strict: must be a single value, not a list"],
        ),
        ("x-wireguard: {gate: 1}", [f"a.yml:5:25: {WEB}: x-wireguard.gate: '1': write auto, true, false or ready"]),
        ("x-wireguard: {gate: {}}", [f"a.yml:5:25: {WEB}: x-wireguard.gate: must be a single value, not a mapping"]),
        ("x-wireguard: {gate: false}", []),
        ("links: [db]\nx-wireguard: {gate: true}", []),
        ("links: [db]\nx-wireguard: {gate: Ready, links: {db: {gate: ready}}}", []),
        (
            "links: [db]\nx-wireguard: {links: {db: {gate: true}}}",
            [
                (
                    f"a.yml:6:38: {WEB}: x-wireguard.links.db.gate: 'true': a link's gate can only be `ready`; "
                    "all else is said of the service as a whole"
                )
            ],
        ),
        (
            "links: [db]\nx-wireguard: {gate: false, links: {db: {gate: ready}}}",
            [
                (
                    f"a.yml:6:51: {WEB}: x-wireguard.links.db.gate: `ready`: the service says `gate: false`, "
                    "and so starts at once. Take one of the two away"
                )
            ],
        ),
        (
            "x-wireguard: {gate: ready}",
            [f"a.yml:5:19: warning: {WEB}: x-wireguard.gate: `ready`: it links to nothing, and so waits for nothing"],
        ),
        (
            "links: [web]\nx-wireguard: {gate: ready}",
            [
                (
                    f"a.yml:6:19: {WEB}: x-wireguard.gate: each waits until the next is ready, and so none ever "
                    "starts: web -> web. Let one of them not wait"
                )
            ],
        ),
        (
            "x-wireguard: {gate: true}",
            [
                (
                    f"a.yml:5:19: warning: {WEB}: x-wireguard.gate: no link here has this service at either end: "
                    "it never starts, unless another stack links to it"
                )
            ],
        ),
        *(
            (
                labels,
                [
                    (
                        f"{place}: {WEB}: labels: 'linkwire.gate' is written by docker linkwire: "
                        "say it with `x-wireguard: {gate: true}`"
                    )
                ],
            )
            for labels, place in (
                ("labels: {linkwire.gate: 'false'}", "a.yml:5:14"),
                ("labels: [a=b, linkwire.gate=true, linkwire.role=agent]", "a.yml:5:19"),
            )
        ),
        ("x-wireguard: {expose: [x]}", [f"a.yml:5:28: {WEB}: x-wireguard.expose: 'x': {NOT_A_PORT}"]),
        # wrong places
        (
            "deploy: {x-wireguard: {}}",
            [f"a.yml:5:14: {WEB}: deploy: x-wireguard stands in the service itself, beside `deploy`"],
        ),
        ("x-wiregaurd: {}", ["a.yml:5:5: service 'web': unknown key 'x-wiregaurd'; did you mean 'x-wireguard'?"]),
        ("x_wireguard: {}", ["a.yml:5:5: service 'web': unknown key 'x_wireguard'; did you mean 'x-wireguard'?"]),
        (
            "deploy: {labels: {linkwire.links: db, linkwire.role: agent, other: x}}",
            [
                (
                    f"a.yml:5:23: {WEB}: deploy.labels: 'linkwire.links' is written by docker linkwire: "
                    "say it with links and x-wireguard"
                )
            ],
        ),
        (
            "deploy: {labels: [a=b, linkwire.strict=false]}",
            [
                (
                    f"a.yml:5:28: {WEB}: deploy.labels: 'linkwire.strict' is written by docker linkwire: "
                    "say it with links and x-wireguard"
                )
            ],
        ),
        # variables
        ("links: [$$x]", [f"a.yml:5:13: {WEB}: links: no service '$x' in these files; there are: db"]),
        (
            "links: [$]",
            [
                (
                    f"a.yml:5:13: {WEB}: links: '$': '$' must stand before a variable's name; "
                    "write '$$' for the character itself"
                )
            ],
        ),
        (
            'links: ["${PROVIDER:?say which}"]',
            [f"a.yml:5:13: {WEB}: links: '${{PROVIDER:?say which}}': the variable PROVIDER is required: say which"],
        ),
        # networks
        (
            "links: [db]\nnetwork_mode: host",
            [
                f"a.yml:6:19: warning: {WEB}: network_mode: docker stack deploy ignores it; name `networks` instead",
            ],
        ),
    ],
)
def test_what_is_said_of_a_service(text: str, expected: list[str]) -> None:
    _, report = links(service(text))
    unused = "a.yml:1:22: warning: x-wireguard.keys.shop: no link uses this key"
    assert [said for said in told(report) if said != unused] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x-wireguard: text", [f"a.yml:1:14: x-wireguard: must be a mapping, not a single value: {EMPTY}"]),
        ("x-wireguard: {kesy: {}}", ["a.yml:1:15: x-wireguard: unknown key 'kesy'; did you mean 'keys'?"]),
        (
            "x-wireguard: {links: {}}",
            [
                (
                    "a.yml:1:15: x-wireguard: unknown key 'links': it belongs to a service, "
                    "under `services: NAME: x-wireguard:`"
                )
            ],
        ),
        ("x-wireguard: {keys: [a]}", ["a.yml:1:21: x-wireguard.keys: must be a mapping, not a list"]),
        (
            'x-wireguard: {keys: {"a/b": {}}}',
            [f"a.yml:1:22: x-wireguard.keys.a/b: 'a/b' cannot name a link key: {NOT_A_NAME}"],
        ),
        (
            "x-wireguard: {keys: {a: {rotat: 1h}, b: {rotate: 24}, c: {rotate: soon}, d: 24h}}",
            [
                "a.yml:1:22: warning: x-wireguard.keys.a: no link uses this key",
                "a.yml:1:38: warning: x-wireguard.keys.b: no link uses this key",
                "a.yml:1:55: warning: x-wireguard.keys.c: no link uses this key",
                "a.yml:1:74: warning: x-wireguard.keys.d: no link uses this key",
                "a.yml:1:26: x-wireguard.keys.a: unknown key 'rotat'; did you mean 'rotate'?",
                "a.yml:1:50: x-wireguard.keys.b.rotate: '24': the unit is missing: write 24s, 24m or 24h",
                "a.yml:1:67: x-wireguard.keys.c.rotate: 'soon': not a duration: write it as 24h, 90m, 1h30m or 7d",
                "a.yml:1:77: x-wireguard.keys.d: must be a mapping, not a single value",
            ],
        ),
        (
            "x-wireguard: {keys: {a: {rotate: 9m59s}, b: {rotate: 10m}}}",
            [
                "a.yml:1:22: warning: x-wireguard.keys.a: no link uses this key",
                "a.yml:1:42: warning: x-wireguard.keys.b: no link uses this key",
                "a.yml:1:34: x-wireguard.keys.a.rotate: '9m59s': " + TOO_OFTEN,
            ],
        ),
        ("x-wireguard: {}\nservices: [a]", ["a.yml:2:11: services: must be a mapping, not a list"]),
        ("x-wireguard: {}\nservices: {web: }", ["a.yml:2:17: service 'web': must be a mapping, not nothing"]),
        ("x-wire-guard: {}", ["a.yml:1:1: unknown key 'x-wire-guard'; did you mean 'x-wireguard'?"]),
        (
            'version: "3.6"\nservices: {a: {x-wireguard: {}}}',
            [
                (
                    "a.yml:2:16: service 'a': x-wireguard: "
                    'version "3.6" has no x-* keys in a service: write version: "3.7" or later'
                )
            ],
        ),
        ('version: "3.6"\nx-wireguard: {}', []),
        (
            "version: '3.3'\nx-wireguard: {}",
            ['a.yml:2:1: x-wireguard: version "3.3" has no x-* keys at the top: write version: "3.7" or later'],
        ),
        (
            "version: '2.4'\nx-wireguard: {}",
            ["a.yml:1:10: version: docker stack deploy knows no version '2.4': write \"3.8\""],
        ),
        (
            "version: '3'\nx-wireguard: {}",
            [
                (
                    'a.yml:1:10: warning: version: Docker CLI 20.10 reads this as "3.0" and refuses x-wireguard: '
                    '"3.8" goes everywhere'
                )
            ],
        ),
        (
            "x-wireguard: {}\nservices: {a.b: {links: [a.b]}}",
            [
                f"a.yml:2:12: service 'a.b': 'a.b' cannot name a Swarm service: {NOT_A_NAME}",
            ],
        ),
        (
            "x-wireguard: {}\nservices: {a: {links: [b], networks: [front, net]}, b: {networks: {net: {}}}}",
            [
                (
                    "a.yml:2:46: warning: service 'a': networks: 'b' is on 'net' too: until a task is wired, "
                    "or if it never is, that name leads there, in plain text"
                )
            ],
        ),
        (
            "x-wireguard: {}\nservices: {a: {links: ['b:other'], networks: [net]}, b: {networks: [net]}}",
            [],
        ),
        (
            (
                "x-wireguard: {}\nservices: {a: {links: [b], networks: [h]}, b: {networks: [n]}}\n"
                "networks: {h: {external: true, name: host}, n: {external: {name: none}}}"
            ),
            [
                (
                    "a.yml:2:39: service 'a': networks: 'host' leaves the tasks without a network of their own: "
                    "WireGuard needs one"
                ),
                (
                    "a.yml:2:59: service 'b': networks: 'none' leaves the tasks without a network of their own: "
                    "WireGuard needs one"
                ),
            ],
        ),
    ],
)
def test_what_is_said_of_a_file(text: str, expected: list[str]) -> None:
    assert told(links(text)[1]) == expected


def test_all_errors_are_reported_in_file_order() -> None:
    _, report = links(
        "x-wireguard: {zzz: 1}\nservices: {web: {links: [nope]}, db: {}}",
        "services:\n  web:\n    links: [ddb]\n    x-wireguard: {strict: 1, expose: [x]}",
    )
    assert [str(problem.place) for problem in report.errors] == [
        "a.yml:1:15",
        "a.yml:2:26",
        "b.yml:3:13",
        "b.yml:4:27",
        "b.yml:4:39",
    ]


def test_a_thousand_errors_take_no_time() -> None:
    services = "".join(f"  service{number}: {{links: [servica{number}]}}\n" for number in range(1900))
    began = time.process_time()
    _, report = links(f"x-wireguard: {{}}\nservices:\n{services}")
    assert len(report.errors) == 1900
    assert "did you mean 'service0'?" in str(report.errors[0])
    assert time.process_time() - began < 10  # every one with a suggestion: two minutes


# --- several files


def test_files_add_up_as_docker_adds_them_up() -> None:
    found, report = links(
        "x-wireguard: {keys: {one: {rotate: 1h}}}\n"
        "services:\n"
        "  web: {links: [db], x-wireguard: {links: {db: {ports: [1], key: one}}, expose: [3], strict: true}}\n"
        "  db: {}",
        "x-wireguard: {keys: {two: {rotate: 2h}, one: {rotate: 3h}}}\n"
        "services:\n"
        "  web:\n"
        "    links: [db, cache]\n"
        "    x-wireguard: {links: {db: {ports: [2], key: two}, cache: {key: one}}, expose: [4], strict: false}\n"
        "  cache: {}",
    )
    message = "no link here leads to this service: only links of other stacks heed it"
    assert told(report) == [f"b.yml:5:75: warning: service 'web': x-wireguard.expose: {message}"]
    assert found
    web = found.project.services["web"]
    assert [entry.provider for entry in web.links] == ["db", "db", "cache"]
    assert [str(port) for port in web.options["db"].ports] == ["1/tcp", "2/tcp"]
    assert [str(port) for port in web.expose] == ["3/tcp", "4/tcp"]
    assert (web.options["db"].key, web.strict) == ("two", False)
    # Docker drops the second file's; we do not.
    assert {name: key.rotate for name, key in found.project.keys.items()} == {"one": 10800, "two": 7200}


@pytest.mark.parametrize(
    ("consumer", "provider", "warned"),
    [
        ("", "expose: [80]", True),
        ("", "expose: [80], x-wireguard: {expose: [80]}", False),
        ("x-wireguard: {links: {db: {ports: [80]}}}", "expose: [80]", False),
        ("x-wireguard: {links: {db: {gate: ready}}}", "expose: [80]", True),
        ("expose: [80]", "", False),
    ],
)
def test_dockers_expose_limits_no_link(consumer: str, provider: str, warned: bool) -> None:
    found, report = links(f"x-wireguard: {{}}\nservices:\n  web: {{links: [db], {consumer}}}\n  db: {{{provider}}}\n")
    message = (
        "a.yml:4:8: warning: service 'db': expose: this limits nothing, and links reach every port: write it under "
        "`x-wireguard:`, so that they reach these alone"
    )
    assert found
    assert told(report) == [message] * warned


@pytest.mark.parametrize(
    ("service", "summary"),
    [
        ("depends_on: [db]", "no service has `links`, so there is nothing to wire"),
        ("x-wireguard: {allow: [shop]}", "0 links between 0 services"),
        ("links: [db]", "1 link between 2 services"),
    ],
)
def test_files_without_any_link_say_so(service: str, summary: str) -> None:
    found, _ = links(f"x-wireguard: {{}}\nservices:\n  web: {{{service}}}\n  db: {{}}\n")
    assert found
    assert found.summary == summary


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ('version: "3.8"', 'version: "3.8"', []),
        (
            "version: 3.8",
            'version: "3.8"',
            [
                'a.yml:1:10: version: YAML reads a number here, and Docker wants a text: write version: "3.8"',
            ],
        ),
        ("", "version: '3.13'", []),
        (
            'version: "3.8"',
            'version: "3.7"',
            [
                (
                    "b.yml:1:10: version: Docker wants the same version in all files: "
                    "version '3.7' here, version '3.8' in a.yml"
                )
            ],
        ),
        (
            'version: "3.8"',
            "",
            ["b.yml:2:1: Docker wants the same version in all files: no version here, version '3.8' in a.yml"],
        ),
        (
            "",
            'version: "3.7"',
            [
                (
                    "b.yml:1:10: version: Docker wants the same version in all files: "
                    "version '3.7' here, no version in a.yml"
                )
            ],
        ),
    ],
)
def test_versions_of_several_files(first: str, second: str, expected: list[str]) -> None:
    _, report = links(f"{first}\nx-wireguard: {{}}", f"{second}\nservices: {{}}")
    assert told(report) == expected


def test_variables_are_replaced_in_what_we_read() -> None:
    text = (
        "x-wireguard: {keys: {k: {rotate: $ROTATE}}}\n"
        "services:\n"
        "  web:\n"
        "    links: ['${PROVIDER}:${ALIAS:-store}', \"${NOTHING-cache}\"]\n"
        "    networks: [$NETWORK]\n"
        "    x-wireguard: {links: {db: {ports: ['$PORT'], key: '${KEY?}'}}, strict: $STRICT}\n"
        "  db: {}\n"
        "  cache: {}"
    )
    environment = {
        "PROVIDER": "db",
        "PORT": "5432",
        "KEY": "k",
        "STRICT": "false",
        "ROTATE": "1h",
        "NETWORK": "net",
        "ALIAS": "",
    }
    found, report = links(text, environment=environment)
    assert told(report) == []
    assert found
    web = found.project.services["web"]
    assert [(entry.provider, entry.alias) for entry in web.links] == [("db", "store"), ("cache", "cache")]
    assert web.options["db"].ports == [PortRange("tcp", 5432, 5432)]
    assert (web.options["db"].key, web.strict, list(web.networks)) == ("k", False, ["net"])
    assert found.project.keys["k"].rotate == 3600


# --- nothing makes a traceback

words = st.sampled_from(
    [
        *["a", "b", "web", "db", "shop", "80", "80/tcp", "24h", "true", "[]", "{}", "~"],
        "db:x",
        "$X",
        "${",
        "a b",
        "",
        "x" * 70,
        "é",
        "1.2",
    ]
)
values = st.recursive(
    words,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "links",
                    "expose",
                    "strict",
                    "gate",
                    "keys",
                    "key",
                    "ports",
                    "rotate",
                    "db",
                    "web",
                    "shop",
                    "labels",
                    "x-wireguard",
                    "name",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
services = st.dictionaries(
    st.sampled_from(
        ["links", "external_links", "x-wireguard", "networks", "network_mode", "deploy", "x-wiregaurd", "image"]
    ),
    values,
    max_size=5,
)
files = st.fixed_dictionaries(
    {},
    optional={
        "version": words,
        "x-wireguard": values,
        "networks": values,
        "services": st.dictionaries(st.sampled_from(["web", "db", "a.b", "x" * 70]), services | values) | values,
    },
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(files, min_size=1, max_size=3))
def test_no_content_makes_a_traceback(contents: list[dict[str, object]]) -> None:
    found, report = links(*(dump(content) for content in contents), environment={"X": "db"})
    for problem in told(report):
        assert problem.startswith(("a.yml:", "b.yml:", "c.yml:"))
        assert problem.isprintable()
    if found and not report.errors:
        override = dump(compile_override(found, "stack", report))
        if not report.errors:
            assert load(Source("o.yml", override.encode(), rereadable=True), Report())


@settings(max_examples=300)
@given(
    st.integers(0, len(SHOP) - 1),
    st.integers(0, 12),
    st.sampled_from(
        ["", " ", "\n", "\t", ":", "[", "]", "{", "}", ",", "'", '"', "-", "x", "0", "*a", "&a ", "$", "<<: "]
    ),
)
def test_no_mutation_makes_a_traceback(at: int, length: int, inserted: str) -> None:
    text = SHOP[:at] + inserted + SHOP[at + length :]
    report = Report(["a.yml"])
    if load(Source("a.yml", text.encode(), rereadable=True), report):
        found, report = links(text)
        if found and not report.errors:
            compile_override(found, "stack", report)
    for problem in told(report):
        assert problem.startswith("a.yml:")


PLAIN = (
    "Docker ignores these, and without x-wireguard so does Linkwire: for links by WireGuard write "
    "`x-wireguard: {}` at the top of a.yml"
)


def test_links_without_the_mark_are_told() -> None:
    found, report = links(
        "services: {web: {links: [db], external_links: [o_x]}, db: {}}", "services: {db: {links: [web]}}"
    )
    assert found is None
    assert told(report) == [
        f"a.yml:1:18: warning: service 'web': links: {PLAIN}",
        f"a.yml:1:31: warning: service 'web': external_links: {PLAIN}",
        f"b.yml:1:17: warning: service 'db': links: {PLAIN}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x-linkwire: {}", "a.yml:1:1: unknown key 'x-linkwire'; did you mean 'x-wireguard'?"),
        ("x-wireguards: {}", "a.yml:1:1: unknown key 'x-wireguards'; did you mean 'x-wireguard'?"),
        ("x-wg: {}", "a.yml:1:1: unknown key 'x-wg'; did you mean 'x-wireguard'?"),
        ("x-wireguard-keys: {a: }", "a.yml:1:1: unknown key 'x-wireguard-keys': write `x-wireguard: {keys: ...}`"),
        (
            "x-wireguard:\nservices: {db: {x-linkwire: {expose: [1]}}}",
            "a.yml:2:17: service 'db': unknown key 'x-linkwire'; did you mean 'x-wireguard'?",
        ),
        (
            "x-wireguard:\nservices: {db: {x-wireguard-expose: [1]}}",
            "a.yml:2:17: service 'db': unknown key 'x-wireguard-expose': write `x-wireguard: {expose: ...}`",
        ),
        (
            "services: {x-wireguard: {}}",
            (
                "a.yml:1:12: services: x-wireguard is no service: it stands at the top of the file, "
                "or in one of the services"
            ),
        ),
        (
            "networks: {n1: {x-wireguard: {}}}",
            "a.yml:1:17: networks.n1: x-wireguard stands at the top of the file or in a service, not here",
        ),
        (
            "services: {a: {ports: [{target: 1, x-wireguard: {}}]}}",
            "a.yml:1:36: service 'a': ports: x-wireguard stands at the top of the file or in a service, not here",
        ),
        (
            "services: {a: {deploy: {x-wireguards: {}}}}",
            "a.yml:1:25: service 'a': deploy: unknown key 'x-wireguards'; did you mean 'x-wireguard'?",
        ),
    ],
)
def test_near_misses_of_the_key_are_errors_anywhere(text: str, expected: str) -> None:
    _, report = links(text)
    assert [str(error) for error in report.errors] == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "x-base: {x-wireguard: {}, x-wg: 1}",
        "services: {a: {labels: {x-wg: 1}, environment: {x-linkwire: 1}, build: {args: {x-wg: 2}}}}",
        "volumes: {v: {driver_opts: {x-wg: 1}}}\nx-web: 1\nx-wgets: 2",
    ],
)
def test_keys_of_the_users_own_are_left_alone(text: str) -> None:
    _, report = links(text)
    assert told(report) == []


SHARED = "until a task is wired, or if it never is, that name leads there, in plain text"


@pytest.mark.parametrize(
    ("services", "networks", "expected"),
    [
        (
            "{web: {links: ['db:database'], networks: [back]}, db: {networks: {back: {aliases: [Database]}}}}",
            "{back: {}}",
            [f"'database' (a name of 'db' there) is on 'back' too: {SHARED}"],
        ),
        (
            "{web: {links: ['db:database'], networks: [back]}, db: {networks: [back]}, database: {networks: [back]}}",
            "{back: {}}",
            [f"'database' is on 'back' too: {SHARED}"],
        ),
        (
            "{web: {links: ['db:database'], networks: [back]}, db: {}, database: {networks: [front]}}",
            "{back: {}, front: {}}",
            [],
        ),
        ("{web: {links: [db]}, db: {}}", "{default: {internal: true}}", [f"'db' is on 'default' too: {SHARED}"]),
        ("{web: {links: [db]}, db: {}}", "{other: {}}", []),
    ],
)
def test_names_that_docker_resolves_too(services: str, networks: str, expected: list[str]) -> None:
    _, report = links(f"x-wireguard:\nservices: {services}\nnetworks: {networks}")
    assert [problem.message for problem in report.warnings] == expected
    assert report.errors == []


@pytest.mark.parametrize("external", ["yes", "Y", '"on"', "TRUE", '"${E}"'])
def test_a_default_network_that_is_the_hosts(external: str) -> None:
    """Docker casts these to true; `default` is the network of services that name none."""
    services = "services: {a: {links: [b]}, b: {networks: [other]}}"
    networks = f"networks: {{other: , default: {{name: host, external: {external}}}}}"
    text = f"x-wireguard:\n{services}\n{networks}"
    _, report = links(text, environment={"E": "y"})
    (error,) = report.errors
    assert str(error).startswith(
        "a.yml:3:21: service 'a': networks: 'host' leaves the tasks without a network of their own"
    )


@pytest.mark.parametrize("external", ["no", "off", '"${E}"', "false"])
def test_a_network_that_is_named_like_the_hosts(external: str) -> None:
    text = (
        f"x-wireguard:\nservices: {{a: {{links: [a]}}}}\nnetworks: {{default: {{name: host, external: {external}}}}}"
    )
    _, report = links(text, environment={"E": "n"})
    assert report.errors == []


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("3.8", 'YAML reads a number here, and Docker wants a text: write version: "3.8"'),
        ("3", 'YAML reads a number here, and Docker wants a text: write version: "3.8"'),
        ("3.14", 'YAML reads a number here, and Docker wants a text: write version: "3.8"'),
        ("", 'docker stack deploy takes no empty version: write "3.8"'),
        ('"3.14"', "docker stack deploy knows no version '3.14': write \"3.8\""),
        ("[3.8]", 'must be a text, not a list: write version: "3.8"'),
    ],
)
def test_versions_that_no_docker_takes(version: str, expected: str) -> None:
    _, report = links(f"version: {version}\nx-wireguard:\nservices: {{a: {{links: [a]}}}}")
    assert [error.message for error in report.errors] == [expected]


def test_variables_that_are_not_set() -> None:
    text = 'x-wireguard:\nservices: {a: {links: ["${DB}", "${A}:x${B:-}"], x-wireguard: {expose: ["80${P}"]}}}'
    _, report = links(text, environment={"A": "a"})
    assert told(report) == [
        "a.yml:2:73: warning: service 'a': x-wireguard.expose: P is not set",
        "a.yml:2:24: service 'a': links: '': write it as SERVICE or SERVICE:ALIAS; DB is not set",
    ]


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("external_links: [db]", "external_links: 'db' is a service of these files: write it in `links`"),
        (
            "links: ['db:database'], x-wireguard: {links: {database: {}}}",
            (
                "x-wireguard.links: 'database' is not in this service's links: it is an alias of 'db', "
                "and that is what to write here"
            ),
        ),
        ("networks: 5", "networks: must be a list or a mapping of networks, not a single value"),
    ],
)
def test_what_is_nearly_right(service: str, expected: str) -> None:
    _, report = links(f"x-wireguard:\nservices: {{web: {{{service}}}, db: {{}}}}")
    (error,) = report.errors
    assert str(error).partition("service 'web': ")[2] == expected
