"""The label codec: what it reads, what it refuses and in which words, and that it always comes round."""

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.labels.consent import CLOSED, Consent
from mesh.model.labels.durations import MAX_ROTATE, MIN_ROTATE, format_duration, parse_duration
from mesh.model.labels.link_labels import (
    EXPOSE,
    LINKS,
    MAX_ALL_RANGES,
    MAX_LABELS,
    MAX_LINKS,
    MAX_RANGES,
    MAX_VALUE,
    STRICTNESS,
    LabelError,
    LinkLabel,
    ServiceLabels,
    check_alias,
    check_service_name,
    decode,
    encode,
    suggestion,
)
from mesh.model.labels.ports import PortRange, merge

TCP_5432 = PortRange("tcp", 5432, 5432)

# --- ports


@pytest.mark.parametrize(
    ("text", "port", "canonical"),
    [
        ("5432/tcp", PortRange("tcp", 5432, 5432), "5432/tcp"),
        ("5432", PortRange("tcp", 5432, 5432), "5432/tcp"),
        (" 53/UDP ", PortRange("udp", 53, 53), "53/udp"),
        ("8000-8010/udp", PortRange("udp", 8000, 8010), "8000-8010/udp"),
        ("1-65535", PortRange("tcp", 1, 65535), "1-65535/tcp"),
        ("80-80", PortRange("tcp", 80, 80), "80/tcp"),
    ],
)
def test_port_is_read(text: str, port: PortRange, canonical: str) -> None:
    assert PortRange.parse(text) == port
    assert str(port) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"),
        ("http", "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"),
        ("0", "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"),
        ("080", "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"),
        ("-1", "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"),
        ("80:80", "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"),
        ("5432/", "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"),
        ("٥٤٣٢", "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"),
        ("65536", "a port is a number from 1 to 65535"),
        ("1-99999", "a port is a number from 1 to 65535"),
        ("8010-8000", "the range runs backwards: write 8000-8010"),
        ("80/sctp", "the protocol must be tcp or udp"),
        ("icmp", "icmp has no ports: only tcp and udp do"),
        ("8/icmp", "icmp has no ports: only tcp and udp do"),
    ],
)
def test_port_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        PortRange.parse(text)
    assert str(caught.value) == reason


def test_port_range_made_by_hand_is_checked() -> None:
    for first, last in ((0, 1), (1, 65536), (2, 1)):
        with pytest.raises(ValueError, match=r"port|range"):
            PortRange("tcp", first, last)
    with pytest.raises(ValueError, match="the protocol must be tcp or udp, not 'icmp'"):
        PortRange("icmp", 1, 1)  # type: ignore[arg-type]


def test_ranges_that_touch_are_one() -> None:
    ports = [PortRange.parse(text) for text in ("8011", "8000-8010", "8013", "8012/udp", "8005-8007")]
    assert [str(port) for port in merge(ports)] == ["8000-8011/tcp", "8013/tcp", "8012/udp"]


# --- names and durations


@pytest.mark.parametrize("name", ["db", "shop_db", "A-1", "a--b__c", "1", "a" * 63])
def test_service_name_is_accepted(name: str) -> None:
    check_service_name(name)


@pytest.mark.parametrize("name", ["", "_db", "db-", "a.b", "a b", "a/b", "ä", "db\n", "a" * 64])
def test_service_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a name"):
        check_service_name(name)


@pytest.mark.parametrize("alias", ["db", "db.shop.internal", "_sip._tcp", "a_b", "4db", "1.a", "a" * 63])
def test_alias_is_accepted(alias: str) -> None:
    check_alias(alias)


@pytest.mark.parametrize(
    ("alias", "reason"),
    [
        ("", "not a host name"),
        ("db.", "not a host name"),
        ("-db", "not a host name"),
        ("d b", "not a host name"),
        ("db\n", "not a host name"),
        ("düb", "not a host name"),
        ("a" * 64, "at most 253 characters, 63 between two dots"),
        (".".join(["a" * 50] * 6), "at most 253 characters, 63 between two dots"),
        ("10.0.0.1", "take this name for an address"),
        ("5", "take this name for an address"),
        ("db.0x7f", "take this name for an address"),
        ("LocalHost", "localhost is the task itself"),
    ],
)
def test_alias_is_refused(alias: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_alias(alias)


def test_checking_a_long_name_takes_no_time() -> None:
    # Swarm's own expression, in a backtracking engine, would not end within the age of the universe.
    with pytest.raises(ValueError, match="not a host name"):
        check_alias("a" * 62 + "!")
    with pytest.raises(ValueError, match="a name"):
        check_service_name("a" * 62 + "!")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86400), ("90m", 5400), ("1h30m", 5400), ("7d", 604800), ("2w", 1209600), (" 1s ", 1)],
)
def test_duration_is_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a duration: write it as 24h, 90m, 1h30m or 7d"),
        ("24 h", "not a duration: write it as 24h, 90m, 1h30m or 7d"),
        ("1.5h", "not a duration: write it as 24h, 90m, 1h30m or 7d"),
        ("daily", "not a duration: write it as 24h, 90m, 1h30m or 7d"),
        ("9" * 5000 + "h", "not a duration: write it as 24h, 90m, 1h30m or 7d"),
        ("86400", "the unit is missing: write 86400s, 86400m or 86400h"),
        ("0s", "a duration is at least 1s and at most 3650d"),
        ("3651d", "a duration is at least 1s and at most 3650d"),
    ],
)
def test_duration_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_duration(text)
    assert str(caught.value) == reason


@given(st.integers(1, MAX_ROTATE))
def test_duration_comes_round(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


# --- decode


def test_labels_written_by_hand() -> None:
    labels, errors = decode(
        {
            "linkwire.links": " shop_db:db, shop_db:database ,shop_cache",
            "linkwire.link.shop_db.ports": "5432/tcp, 9000-9010/udp",
            "linkwire.link.shop_db.key": "shop_shop",
            "linkwire.link.shop_db.rotate": "24h",
            "linkwire.expose": "443,80",
            "linkwire.strict": "False",
            "com.docker.stack.namespace": "shop",
            "linkwireless": "not ours",
        }
    )
    assert errors == ()
    assert labels == ServiceLabels(
        links=(
            LinkLabel("shop_db", ("db", "database"), (TCP_5432, PortRange("udp", 9000, 9010)), "shop_shop", 86400),
            LinkLabel("shop_cache", ("shop_cache",)),
        ),
        expose=(PortRange("tcp", 80, 80), PortRange("tcp", 443, 443)),
        strict=False,
    )


def test_no_labels_and_empty_links_say_nothing() -> None:
    assert decode({}) == (ServiceLabels(), ())
    assert decode({LINKS: " ", "linkwire.role": "agent"}) == (ServiceLabels(), ())


def test_the_same_entry_twice_is_one() -> None:
    labels, errors = decode({LINKS: "db,db:db,db:DB,db"})
    assert (labels.links, errors) == ((LinkLabel("db", ("db",)),), ())


def test_self_link_is_a_link() -> None:
    assert decode({LINKS: "shop_web:peers"})[0].links == (LinkLabel("shop_web", ("peers",)),)


NOT_A_NAME = "a name is made of letters, digits, '-' and '_', and begins and ends with a letter or digit"
NOT_A_PORT = "not a port: write it as 5432/tcp, 8000-8010/udp or 5432"


@pytest.mark.parametrize(
    ("labels", "kept", "errors"),
    [
        (
            {LINKS: "a.b:db,web"},
            ("web",),
            [LabelError(LINKS, "a.b:db", NOT_A_NAME)],
        ),
        (
            {LINKS: "web,,"},
            ("web",),
            [LabelError(LINKS, "", "a name is missing")] * 2,
        ),
        (
            {LINKS: "a:db,b:DB,c:db", "linkwire.link.b.key": "k"},
            ("a",),
            [
                LabelError(LINKS, "b:DB", "the alias 'DB' is already that of 'a'"),
                LabelError(LINKS, "c:db", "the alias 'db' is already that of 'a'"),
            ],
        ),
        (
            {LINKS: "web", "linkwire.link.wbe.key": "k"},
            ("web",),
            [LabelError("linkwire.link.wbe.key", "k", "linkwire.links names no service 'wbe'; did you mean 'web'?")],
        ),
        (
            {LINKS: "web", "linkwire.link.web.prots": "80"},
            ("web",),
            [
                LabelError(
                    "linkwire.link.web.prots",
                    "80",
                    "no such label; did you mean 'linkwire.link.web.ports'?",
                )
            ],
        ),
        (
            {"linkwire.link": "web", "Linkwire.Links": "web", "linkwire.wholly-other": ""},
            (),
            [
                LabelError("Linkwire.Links", "web", "no such label; did you mean 'linkwire.links'?"),
                LabelError("linkwire.link", "web", "no such label; did you mean 'linkwire.links'?"),
                LabelError("linkwire.wholly-other", "", "no such label"),
            ],
        ),
        (
            {LINKS: "web", "linkwire.link.web.rotate": "24"},
            ("web",),
            [LabelError("linkwire.link.web.rotate", "24", "the unit is missing: write 24s, 24m or 24h")],
        ),
        (
            {LINKS: "web", "linkwire.link.web.key": "a/b"},
            ("web",),
            [LabelError("linkwire.link.web.key", "a/b", NOT_A_NAME)],
        ),
        (
            {"linkwire.strict": "maybe"},
            (),
            [LabelError("linkwire.strict", "maybe", "write true, false or all")],
        ),
        (
            {EXPOSE: "icmp"},
            (),
            [LabelError(EXPOSE, "icmp", "icmp has no ports: only tcp and udp do")],
        ),
    ],
)
def test_bad_parts_are_reported_and_good_ones_kept(
    labels: dict[str, str], kept: tuple[str, ...], errors: list[LabelError]
) -> None:
    read, found = decode(labels)
    assert tuple(link.provider for link in read.links) == kept
    assert list(found) == errors
    assert read.strict


def test_a_bad_port_never_opens_more() -> None:
    read, errors = decode({LINKS: "web,db", "linkwire.link.web.ports": "543o", "linkwire.link.db.ports": "80,x"})
    assert read.links == (LinkLabel("db", ("db",), (PortRange("tcp", 80, 80),)),)
    assert [(error.value, error.reason) for error in errors] == [("x", NOT_A_PORT), ("543o", NOT_A_PORT)]
    assert decode({LINKS: "web", "linkwire.link.web.ports": ""})[0].links == ()


@pytest.mark.parametrize(
    ("value", "expose", "reasons"),
    [
        (None, None, []),
        ("", (), []),
        (" ", (), []),
        ("543o", (), [NOT_A_PORT]),
        (",", (), [NOT_A_PORT] * 2),
        ("icmp,all", (), ["icmp has no ports: only tcp and udp do", "all has no ports: only tcp and udp do"]),
        ("80,x", (PortRange("tcp", 80, 80),), [NOT_A_PORT]),
        ("1" * (MAX_VALUE + 1), (), [f"longer than {MAX_VALUE} characters"]),
    ],
)
def test_an_expose_that_is_there_never_exposes_everything(
    value: str | None, expose: tuple[PortRange, ...] | None, reasons: list[str]
) -> None:
    read, errors = decode({} if value is None else {EXPOSE: value})
    assert read.expose == expose
    assert (read.expose is None) == (value is None)
    assert [(error.label, error.reason) for error in errors] == [(EXPOSE, reason) for reason in reasons]


def test_unreadably_long_ports_do_not_open_everything() -> None:
    read, errors = decode(
        {LINKS: "web,db", "linkwire.link.web.ports": "80," * MAX_VALUE, "linkwire.link.web.key": "k"}
    )
    assert read.links == (LinkLabel("db", ("db",)),)
    assert [error.reason for error in errors] == [f"longer than {MAX_VALUE} characters"]


def test_an_error_reads_as_a_sentence() -> None:
    (error,) = decode({LINKS: "web:a b"})[1]
    assert str(error) == (
        "label 'linkwire.links': 'web:a b': not a host name: use letters, digits, '-' and '_', "
        "parts with dots between, and '-' only inside a part"
    )


def test_sizes_are_bounded() -> None:
    read, errors = decode({LINKS: "x" * (MAX_VALUE + 1), EXPOSE: "80"})
    assert (read.links, read.expose) == ((), (PortRange("tcp", 80, 80),))
    assert [error.reason for error in errors] == [f"longer than {MAX_VALUE} characters"]
    assert len(errors[0].value) < 300

    read, errors = decode({LINKS: ",".join(f"s{n}" for n in range(MAX_LINKS + 5))})
    assert len(read.links) == MAX_LINKS
    assert [error.reason for error in errors] == ["1005 links, at most 1000 are allowed: the rest is left out"]

    odd = ",".join(map(str, range(1, 2 * MAX_RANGES, 2)))
    for label in ("linkwire.link.web.ports", EXPOSE):
        read, errors = decode({LINKS: "web,db", label: odd})
        assert (len(read.links), errors) == (2, ())
        read, errors = decode({LINKS: "web,db", label: f"{odd},4000"})
        assert (len(read.links), read.expose) == ((2, ()) if label == EXPOSE else (1, None))
        assert [(error.label, error.reason) for error in errors] == [
            (label, "65 port ranges, at most 64 are allowed")
        ]

    full = {f"linkwire.link.s{n:02}.ports": odd for n in range(MAX_ALL_RANGES // MAX_RANGES)}
    named = ",".join(f"s{n:02}" for n in range(len(full)))
    read, errors = decode({LINKS: f"{named},web,db", **full, "linkwire.link.web.ports": "80"})
    assert {link.provider for link in read.links} == {*named.split(","), "db"}
    assert [(error.label, error.reason) for error in errors] == [
        ("linkwire.link.web.ports", "4097 port ranges in the service's links, at most 4096 are allowed")
    ]

    long = {LINKS: "web", EXPOSE: "80", **{f"linkwire.x{n}": "x" * MAX_VALUE for n in range(4)}}
    read, errors = decode(long)
    assert read == ServiceLabels(expose=(), consent=CLOSED)
    size = sum(map(len, itertools.chain(*long.items())))
    text = f"{size} characters in all, at most {MAX_LABELS} are allowed: all are left out"
    assert [error.reason for error in errors] == [text]

    _, errors = decode({LINKS: "!," * 999})
    assert len(errors) == 51
    assert errors[-1].reason == "and 950 more errors"


def test_a_suggestion_is_never_sought_for_long() -> None:
    assert suggestion("x" * 100_000, ["x" * 100]) == ""
    assert suggestion("DB2", ["db", "cache"]) == "; did you mean 'db'?"


# --- encode

names = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,20}[A-Za-z0-9])?", fullmatch=True)
aliases = st.from_regex(r"(?:[a-z_][a-z0-9_-]{0,10}\.){0,2}[a-z](?:[a-z0-9_-]{0,10}[a-z0-9])?", fullmatch=True)
ports = st.lists(
    st.builds(
        lambda protocol, ends: PortRange(protocol, min(ends), max(ends)),
        st.sampled_from(["tcp", "udp"]),
        st.tuples(st.integers(1, 65535), st.integers(1, 65535)),
    ),
    max_size=5,
)


def hostname(alias: str) -> bool:
    try:
        check_alias(alias)
    except ValueError:
        return False
    return True


listed = st.lists(names | names.map("a_{}_*".format).filter(lambda name: len(name) < 60), unique=True, max_size=4)
parties = st.just(("*",)) | listed.map(tuple)


@st.composite
def service_labels(draw: st.DrawFn) -> ServiceLabels:
    providers = draw(st.lists(names, unique=True, max_size=6))
    given_names = draw(st.lists(aliases.filter(hostname), unique_by=str.lower, min_size=len(providers), max_size=12))
    links = []
    for number, provider in enumerate(providers):
        own = given_names[number :: len(providers)]
        links.append(
            LinkLabel(
                provider,
                tuple(own),
                merge(draw(ports)),
                draw(st.none() | names),
                draw(st.none() | st.integers(MIN_ROTATE, MAX_ROTATE)),
            )
        )
    strict, closed = draw(st.sampled_from([*STRICTNESS.values()]))
    consent = Consent(draw(st.none() | parties), draw(st.none() | parties), tuple(draw(listed)))
    return ServiceLabels(tuple(links), draw(st.none() | ports.map(merge)), strict, closed, consent=consent)


@given(service_labels())
def test_labels_come_round(labels: ServiceLabels) -> None:
    written = encode(labels)
    assert decode(written) == (labels, ())
    assert list(written) == sorted(written)
    assert encode(decode(written)[0]) == written


def test_defaults_are_not_written() -> None:
    assert encode(ServiceLabels()) == {}
    assert encode(ServiceLabels((LinkLabel("db", ("db", "x")),))) == {LINKS: "db,db:x"}
    assert encode(ServiceLabels(expose=())) == {EXPOSE: ""}


@pytest.mark.parametrize(
    "labels",
    [
        ServiceLabels((LinkLabel("db", ()),)),
        ServiceLabels((LinkLabel("d b", ("db",)),)),
        ServiceLabels((LinkLabel("db", ("x,y",)),)),
        ServiceLabels((LinkLabel("db", (" db",)),)),
        ServiceLabels((LinkLabel("a", ("x",)), LinkLabel("b", ("x",)))),
        ServiceLabels((LinkLabel("a", ("x",)), LinkLabel("a", ("y",)))),
        ServiceLabels((LinkLabel("a", ("x",), key="k/k"),)),
        ServiceLabels((LinkLabel("a", ("x",), rotate=0),)),
        ServiceLabels(tuple(LinkLabel(f"s{n}", (f"s{n}",)) for n in range(MAX_LINKS + 1))),
    ],
)
def test_encode_refuses_what_would_not_come_round(labels: ServiceLabels) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode(labels)


ours = st.sampled_from(
    [LINKS, EXPOSE, "linkwire.strict", "linkwire.link.a.ports", "linkwire.link.a.key", "linkwire.link.a.rotate"]
)
near_values = st.text(alphabet="ab:,./-_ 0185" + string.ascii_lowercase[:4], max_size=60)


@given(
    st.dictionaries(
        ours | st.text(max_size=20).map("linkwire.".__add__) | st.text(max_size=20),
        st.text(max_size=200) | near_values | st.just("a:a"),
        max_size=8,
    )
)
def test_decode_never_raises_and_returns_valid_links(labels: dict[str, str]) -> None:
    read, errors = decode(labels)
    assert decode(encode(read)) == (read, ())
    assert (read.expose is None) == (EXPOSE not in labels)
    assert len(errors) <= 51
    for error in errors:
        assert str(error).isprintable()


@given(ports)
def test_merged_ports_are_the_same_ports_and_apart(given_ports: list[PortRange]) -> None:
    merged = merge(given_ports)
    for one, two in itertools.pairwise(merged):
        assert one.protocol != two.protocol or one.last + 1 < two.first
    for port in given_ports:
        assert any(
            whole.protocol == port.protocol and whole.first <= port.first and port.last <= whole.last
            for whole in merged
        )
    ends = {(port.protocol, port.first) for port in given_ports}
    assert {(port.protocol, port.first) for port in merged} <= ends
    assert merge(merged) == merged == merge(reversed(given_ports))
