"""Agreement of both sides: which links are made of what labels, and what each refusal says."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mesh.model.labels.consent import Consent
from mesh.model.labels.link_labels import MAX_LINKS, LinkLabel, ServiceLabels
from mesh.topology.agreed_links import (
    MAX_DECLARED,
    Agreement,
    Recorded,
    agree,
    hidden,
    known_hosts,
    network_aliases,
    shown,
)


@dataclass(frozen=True)
class Said:
    """A service and its labels."""

    name: str
    labels: ServiceLabels = field(default_factory=ServiceLabels)
    stack: str | None = None
    hosts: frozenset[str] = frozenset()
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        return f"#{self.name}"


def said(
    name: str, *providers: str, allow: str | None = None, accept: str | None = None, sources: str = "", **more: object
) -> Said:
    """A service of the stack that its name begins with."""
    links = tuple(LinkLabel(provider, (provider.partition("_")[2],)) for provider in providers)
    words = [None if word is None else tuple(filter(None, word.split(","))) for word in (allow, accept)]
    consent = Consent(words[0], words[1], tuple(filter(None, sources.split(","))))
    stack = name.partition("_")[0] if "_" in name else None
    return Said(name, ServiceLabels(links, consent=consent), **{"stack": stack, **more})  # type: ignore[arg-type]


def agreed(*services: Said, recorded: Recorded | None = None) -> Agreement:
    return agree({service.id: service for service in services}, recorded or Recorded())


def made(found: Agreement, consumer: str) -> list[str]:
    """The providers that a consumer's links lead to; `!` and `?` stand before those that they do not lead to."""
    return [link.provider for link in found.links.get(f"#{consumer}", ())]


def reasons(found: Agreement) -> list[tuple[str, str, str]]:
    return [(one.consumer, one.provider, one.reason) for one in found.refusals]


# --- a consumer's own links


@pytest.mark.parametrize(
    ("allow", "link"),
    [
        (None, "!shop_db"),
        ("", "!shop_db"),
        ("other,blog_db", "!shop_db"),
        ("blog", "shop_db"),
        ("blog_web", "shop_db"),
        ("*", "shop_db"),
    ],
)
def test_provider_allows_a_stack_a_service_anybody(allow: str | None, link: str) -> None:
    found = agreed(said("blog_web", "shop_db"), said("shop_db", allow=allow))
    assert made(found, "blog_web") == [link]
    assert [label.aliases for label in found.links["#blog_web"]] == [("db",)], "its name leads nowhere, not elsewhere"
    silent = "silent" if allow is None else "not allowed"
    assert reasons(found) == ([("blog_web", "shop_db", silent)] if hidden(link) else [])


def test_own_stack_is_always_allowed() -> None:
    assert made(agreed(said("shop_web", "shop_db"), said("shop_db", allow="")), "shop_web") == ["shop_db"]
    assert made(agreed(said("shop_web", "shop_db"), said("shop_db")), "shop_web") == ["shop_db"]


def test_services_of_no_stack_are_strangers() -> None:
    found = agreed(said("web", "db"), said("db"))
    assert made(found, "web") == ["!db"]
    assert made(agreed(said("web", "db"), said("db", allow="web")), "web") == ["db"]
    assert made(agreed(said("web", "web")), "web") == ["web"], "a service allows itself"


def test_a_name_alone_makes_no_stack() -> None:
    posing = said("shop_evil", "shop_db", stack=None)
    assert made(agreed(posing, said("shop_db")), "shop_evil") == ["!shop_db"]
    nested = said("shop_a_web", "shop_db", stack="shop_a")
    assert made(agreed(nested, said("shop_db", allow="shop")), "shop_a_web") == ["!shop_db"]


def test_link_to_a_missing_service_waits() -> None:
    web = said("blog_web", "shop_db")
    found = agreed(web)
    assert made(found, "blog_web") == ["?shop_db"]
    recorded = Recorded({"#blog_web": found.links["#blog_web"]})
    assert made(agreed(web, said("shop_db"), recorded=recorded), "blog_web") == ["!shop_db"]
    assert made(agreed(said("shop_web", "shop_db")), "shop_web") == ["shop_db"]


# --- links from before there was consent


def test_earlier_link_goes_on_until_provider_speaks() -> None:
    before = LinkLabel("shop_db", ("db",), rotate=3600)
    recorded = Recorded({"#blog_web": (before,), "#shop_db": ()})
    found = agreed(said("blog_web", "shop_db"), said("shop_db"), recorded=recorded)
    assert found.links["#blog_web"] == (before,), "as it was, whatever its labels say now"
    assert reasons(found) == []
    for allow in ("", "other"):
        found = agreed(said("blog_web", "shop_db"), said("shop_db", allow=allow), recorded=recorded)
        assert made(found, "blog_web") == ["!shop_db"]
    assert agreed(said("blog_web"), said("shop_db"), recorded=recorded).links == {}, "a link that is taken away ends"


def test_an_earlier_link_leads_to_no_new_service() -> None:
    recorded = Recorded({"#blog_web": (LinkLabel("shop_db", ("db",)),)})
    assert made(agreed(said("blog_web", "shop_db"), said("shop_db"), recorded=recorded), "blog_web") == ["!shop_db"]


def test_a_service_that_ends_keeps_its_links_only() -> None:
    old = Recorded({"#blog_web": (LinkLabel("shop_db", ("db",)),)}, frozenset({"shop_db"}))
    assert made(agreed(said("blog_web", "shop_db"), recorded=old), "blog_web") == ["shop_db"]
    new = Recorded({}, frozenset({"shop_db"}))
    squatter = said("shop_db", allow="*", stack=None)
    assert made(agreed(said("blog_web", "shop_db"), squatter, recorded=new), "blog_web") == ["?shop_db"]


# --- strict


def test_strangers_links_make_nobody_strict() -> None:
    recorded = Recorded(
        {"#evil_x": (LinkLabel("pay_api", ("a",)), LinkLabel("pay_db", ("b",)))} | {"#pay_api": (), "#pay_db": ()}
    )
    services = [said("evil_x", "pay_api", "pay_db"), said("pay_api"), said("pay_db")]
    assert agreed(*services, recorded=recorded).lax == {"#pay_api", "#pay_db"}
    assert agreed(*services).lax == frozenset()
    joined = [*services[:2], said("pay_db"), said("pay_web", "pay_db")]
    assert agreed(*joined, recorded=recorded).lax == {"#pay_api"}, "its own stack links to it"


# --- link keys


@pytest.mark.parametrize(
    ("stack", "key", "own"),
    [
        ("shop", "shop_shop", "shop_shop"),
        ("evil", "shop_shop", None),
        ("shop_a", "shop_a_b", "shop_a::b"),
        ("shop", "shop_a_b", "shop_a_b"),
        (None, "shop_shop", None),
    ],
)
def test_link_key_counts_in_its_own_stack(stack: str | None, key: str, own: str | None) -> None:
    name = f"{stack}_web" if stack else "web"
    label = LinkLabel(name, ("me",), key=key, rotate=600)
    found = agreed(Said(name, ServiceLabels((label,)), stack))
    assert [link.key for link in found.links[f"#{name}"]] == [own]
    assert [one.reason for one in found.refusals] == ([] if own else ["key"])
    again = agreed(
        Said(name, ServiceLabels((label,)), stack), recorded=Recorded({f"#{name}": found.links[f"#{name}"]})
    )
    assert again.links == found.links


# --- links that providers declare


def test_declared_link_needs_both_sides() -> None:
    proxy = said("proxy_front", accept="*")
    app = said("shop_web", sources="proxy")
    found = agreed(proxy, app)
    assert found.links == {"#proxy_front": (LinkLabel("shop_web", ("shop_web",)),)}
    assert reasons(found) == []
    for closed in (None, "", "blog"):
        found = agreed(said("proxy_front", accept=closed), app)
        assert found.links == {}
        assert reasons(found) == [("proxy", "shop_web", "not accepted")]
        assert "the owner of proxy can, by `x-wireguard: {accept: true}`" in found.refusals[0].text
    for open_ in ("shop", "shop_web"):
        assert made(agreed(said("proxy_front", accept=open_), app), "proxy_front") == ["shop_web"]
    assert agreed(proxy, said("shop_web", allow="proxy")).links == {}, "to allow is not to declare"


def test_declared_links_come_from_those_that_accept() -> None:
    services = [said("proxy_front", accept="*"), said("proxy_db"), said("other_front", accept="*")]
    found = agreed(*services, said("shop_web", sources="proxy"))
    assert set(found.links) == {"#proxy_front"}
    assert set(agreed(*services, said("shop_web", sources="other_front,proxy_front")).links) == {
        "#proxy_front",
        "#other_front",
    }
    within = agreed(said("shop_a"), said("shop_b"), said("shop_web", sources="shop"))
    assert set(within.links) == {"#shop_a", "#shop_b"}, "its own stack accepts it"


def test_declared_link_takes_no_name_from_consumer() -> None:
    app = said("auth_server", sources="proxy")
    own = Said(
        "proxy_front",
        ServiceLabels((LinkLabel("proxy_x", ("AUTH_server",)),), consent=Consent(accept=("*",))),
        "proxy",
    )
    hosts = said("proxy_front", accept="*", hosts=frozenset({"auth_server"}))
    beside = said("proxy_front", accept="*", aliases=(("net", ""), ("net", "front")))
    neighbour = said("proxy_auth_server", aliases=(("net", ""), ("net", "auth_server")))
    for services in ([own, said("proxy_x")], [hosts], [beside, neighbour]):
        found = agreed(app, *services)
        assert "auth_server" not in made(found, "proxy_front")
        assert reasons(found) == [("proxy_front", "auth_server", "name taken")]
    elsewhere = said("proxy_auth_server", aliases=(("far", "auth_server"),))
    assert made(agreed(app, beside, elsewhere), "proxy_front") == ["auth_server"]


def test_own_link_wins_over_a_declared_one() -> None:
    link = LinkLabel("shop_web", ("app",))
    proxy = Said("proxy_front", ServiceLabels((link,), consent=Consent(accept=("*",))), "proxy")
    assert agreed(proxy, said("shop_web", sources="proxy")).links == {"#proxy_front": (link,)}, "and it is allowed"


def test_one_stack_declares_no_more_than_its_share() -> None:
    proxy = said("proxy_front", accept="*")
    flood = [said(f"evil_{n:04}", sources="proxy") for n in range(MAX_LINKS + 50)]
    found = agreed(proxy, *flood, said("shop_web", sources="proxy"))
    assert len(made(found, "proxy_front")) == MAX_DECLARED + 1
    assert "shop_web" in made(found, "proxy_front")
    assert {reason for _, _, reason in reasons(found)} == {"too many"}
    kept = Recorded({"#proxy_front": (LinkLabel("evil_0900", ("evil_0900",)),)})
    assert "evil_0900" in made(agreed(proxy, *flood, recorded=kept), "proxy_front"), "those made first stay"


def test_names_are_read_from_dockers_specification() -> None:
    spec = {
        "Name": "proxy_front",
        "TaskTemplate": {
            "ContainerSpec": {"Hosts": ["192.0.2.1 Mail mail.corp"], "Hostname": "Front"},
            "Networks": [{"Target": "net", "Aliases": ["front", "Other_Name"]}, {"Target": "bare"}],
        },
    }
    assert known_hosts(spec) == {"mail", "mail.corp", "front"}
    assert network_aliases(spec) == (("bare", ""), ("net", ""), ("net", "front"), ("net", "other_name"))
    assert (known_hosts({}), network_aliases({"TaskTemplate": None})) == (frozenset(), ())


def test_a_marked_name_is_shown_without_its_mark() -> None:
    assert [shown(name) for name in ("!shop_db", "?shop_db", "shop_db")] == ["shop_db"] * 3
