"""Consent in labels: who is named by what, and what a bad label opens (nothing)."""

import pytest

from mesh.model.labels.consent import ACCEPT, ALLOW, FROM, MAX_PARTIES, Consent, check_party, names, stack_of
from mesh.model.labels.durations import MIN_ROTATE
from mesh.model.labels.link_labels import LINKS, MAX_VALUE, LabelError, decode, encode


@pytest.mark.parametrize(
    ("party", "service", "stack", "named"),
    [
        ("*", "evil_x", "evil", True),
        ("shop", "shop_web", "shop", True),
        ("shop", "shop_a_web", "shop_a", False),
        ("shop", "shop", None, True),
        ("shop", "shop_web", None, False),
        ("shop_web", "shop_web", "shop", True),
        ("shop_web", "shop_web_1", "shop", False),
        ("shop_a", "shop_a", "shop", True),
        ("shop_a", "shop_a_web", "shop_a", False),
        ("shop_a_*", "shop_a_web", "shop_a", True),
        ("shop_a_*", "shop_a_web", "shop", False),
    ],
)
def test_party_names_a_stack_or_one_service(party: str, service: str, stack: str | None, named: bool) -> None:
    check_party(party)
    assert names(party, service, stack) is named


@pytest.mark.parametrize(
    ("service", "namespace", "stack"),
    [
        ("shop_web", "shop", "shop"),
        ("shop_web", None, None),
        ("web", "shop", None),
        ("shop_web", "", None),
        ("shop_a_web", "shop_a", "shop_a"),
        ("shopweb", "shop", None),
    ],
)
def test_a_stack_needs_dockers_label_and_name(service: str, namespace: str | None, stack: str | None) -> None:
    assert stack_of(service, namespace) == stack


def test_consent_is_read_from_labels() -> None:
    read, errors = decode({ALLOW: " proxy_*, blog_web ,proxy", ACCEPT: "*,shop", FROM: "proxy,a_b_*"})
    assert errors == ()
    assert read.consent == Consent(("proxy", "blog_web"), ("*",), ("proxy", "a_b_*"))
    assert encode(read) == {ALLOW: "proxy,blog_web", ACCEPT: "*", FROM: "proxy,a_b_*"}


def test_empty_consent_is_not_silence() -> None:
    assert decode({ALLOW: ""})[0].consent == Consent(allow=())
    assert encode(decode({ALLOW: ""})[0]) == {ALLOW: ""}


@pytest.mark.parametrize("bad", ["a/b", "**", "*_*", "shop_", "a b", "x" * 64, "x" * 64 + "_*", "shop.*"])
def test_bad_party_is_nobody_and_reported(bad: str) -> None:
    reason = "write the name of a stack, that of a service as Swarm has it (STACK_SERVICE), or '*'"
    for label in (ALLOW, ACCEPT, FROM):
        read, errors = decode({label: f"shop,{bad}"})
        assert errors == (LabelError(label, bad, reason),)
        assert ("shop",) in (read.consent.allow, read.consent.accept, read.consent.sources)


def test_unreadable_consent_opens_nothing() -> None:
    read, errors = decode({ALLOW: "*" * (MAX_VALUE + 1), ACCEPT: "," * (MAX_VALUE + 1)})
    assert (read.consent, len(errors)) == (Consent((), ()), 2)
    many = ",".join(f"s{n}" for n in range(MAX_PARTIES + 1))
    read, errors = decode({ALLOW: many})
    assert read.consent.allow is not None
    assert len(read.consent.allow) == MAX_PARTIES
    assert [error.reason for error in errors] == ["257 names, at most 256 are allowed: the rest is left out"]


def test_links_cannot_come_from_everybody() -> None:
    read, errors = decode({FROM: "*"})
    assert read.consent.sources == ()
    assert errors == (LabelError(FROM, "*", "name the stack or the service that the links come from"),)


@pytest.mark.parametrize("short", ["1s", "9m59s", "599s"])
def test_rotation_too_often_becomes_the_shortest(short: str) -> None:
    read, errors = decode({LINKS: "db", "linkwire.link.db.rotate": short})
    assert [link.rotate for link in read.links] == [MIN_ROTATE]
    assert [error.reason for error in errors] == [
        "too often: a session lives for three minutes whatever its key, so write 10m or more; until then it is 10m"
    ]
