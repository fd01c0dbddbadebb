"""Consent in compose files: `allow`, `accept` and `from`, what becomes of them, and what is refused."""

import pytest

from mesh.model.labels.consent import Consent
from mesh.model.labels.link_labels import LinkLabel
from tests.unit.compose_ext.compose_files import links
from tests.unit.compose_ext.test_compose_override import compiled, service_labels

APP = """\
services:
  web:
    image: x
    x-wireguard: {from: [proxy, front_*], allow: [blog, other_web], expose: ["80"]}
  db: {image: y}
"""
PROXY = """\
services:
  proxy: {image: x, x-wireguard: {accept: true}}
"""


def errors(text: str) -> list[str]:
    _, report = links(text)
    return [str(error) for error in report.errors]


def test_consent_becomes_labels_of_that_service() -> None:
    override = compiled(APP)
    assert list(override["services"]) == ["web"], "a service that has to do with no link says nothing"
    assert service_labels(override, "web").consent == Consent(("blog", "other_web"), None, ("proxy", "front"))
    assert override["services"]["web"]["labels"] == {"linkwire.gate": "auto"}


@pytest.mark.parametrize(
    ("written", "accept"),
    [
        ("true", ("*",)),
        ("false", None),
        ("'*'", ("*",)),
        ("[shop, blog_web]", ("shop", "blog_web")),
        ("[]", ()),
    ],
)
def test_accept_is_said_in_two_forms(written: str, accept: tuple[str, ...] | None) -> None:
    override = compiled(PROXY.replace("true", written))
    assert service_labels(override, "proxy").consent == Consent((), accept)


def test_allow_adds_up_over_files() -> None:
    more = "services: {web: {x-wireguard: {allow: [third]}}}"
    assert service_labels(compiled(APP, more), "web").consent.allow == ("blog", "other_web", "third")
    anybody = APP.replace("[blog, other_web]", "'*'")
    assert service_labels(compiled(anybody), "web").consent.allow == ("*",)


def test_from_within_these_files_is_a_link() -> None:
    text = "services: {web: {x-wireguard: {from: [proxy, far]}}, proxy: {}, db: {x-wireguard: {from: [proxy]}}}"
    override = compiled(text)
    assert service_labels(override, "proxy").links == (LinkLabel("shop_web", ("web",)), LinkLabel("shop_db", ("db",)))
    assert service_labels(override, "web").consent == Consent((), None, ("far",))
    twice = "services: {web: {x-wireguard: {from: [proxy]}}, proxy: {links: ['web:app']}}"
    assert service_labels(compiled(twice), "proxy").links == (LinkLabel("shop_web", ("app",)),)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("from: ['*']", "web': x-wireguard.from: '*': name the stack or the service that the links come from"),
        (
            "from: ['p:x']",
            "x-wireguard.from: 'p:x': the other side sees this service as STACK_SERVICE: no",
        ),
        ("from: proxy", "x-wireguard.from: must be a list, not a single value"),
        ("allow: [a/b]", "x-wireguard.allow: 'a/b': write the name of a stack, that of a service as Swarm has it"),
        ("allow: yes", "x-wireguard.allow: must be a list, not a single value"),
        ("accept: maybe", "x-wireguard.accept: 'maybe': write true or false"),
        ("accept:", "x-wireguard.accept: must be a list, not nothing"),
        ("alow: [a]", "x-wireguard: unknown key 'alow'; did you mean 'allow'?"),
    ],
)
def test_bad_consent_is_refused_in_plain_words(said: str, error: str) -> None:
    found = errors(f"services:\n  web:\n    image: x\n    x-wireguard:\n      {said}\n")
    assert len(found) == 1
    assert error in found[0]
    assert found[0].startswith("0.yml:5:") or ":5:" in found[0]


def test_consent_at_the_top_is_misplaced() -> None:
    assert any("it belongs to a service" in error for error in errors("x-wireguard: {allow: [a]}\nservices: {}\n"))
