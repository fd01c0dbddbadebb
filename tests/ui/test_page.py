"""The page in a real browser: what it shows, by mouse, by keyboard and read aloud, and what it never does."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from tests.ui import world
from tests.ui.browser import ENTER, ESCAPE, TAB, Browser
from tests.ui.served import Page

AXE = (Page.PROJECT / "tests/ui/vendor/axe.min.js").read_text()
PHONE, DESK = (390, 844), (1280, 800)
LOOKED_AT = (
    (DESK, "graph/service/shop_web"),
    (DESK, "links/link/shop_web/shop_db"),
    (DESK, "nodes/node/n1"),
    (DESK, "events"),
    (PHONE, "problems"),
    (PHONE, "graph"),
    (PHONE, "links/link/shop_web/shop_db"),
)
DRAWN = "window.linkwire?.graph.cy?.edges().length"


def is_drawn(browser: Browser) -> Any:  # noqa: ANN401 - a number of links
    return browser.run(f"return {DRAWN}")


def has_all(browser: Browser, text: str, selectors: tuple[str, ...]) -> bool:
    return all(text in browser.text(selector) for selector in selectors)


def is_beside(browser: Browser, wanted: bool) -> bool:
    """Whether the details are shown, or are not, as it is wanted."""
    return browser.find("#details").is_displayed() == wanted


def title(browser: Browser) -> str:
    return browser.text("#details-title")


def place(browser: Browser, identifier: str) -> tuple[float, float]:
    """Where a service or link is drawn, in the window."""
    found: dict[str, float] = browser.run(
        """
        const element = linkwire.graph.cy.getElementById(arguments[0]);
        const at = element.isNode() ? element.renderedPosition() : element.renderedMidpoint();
        const box = document.getElementById("graph").getBoundingClientRect();
        return { x: box.left + at.x, y: box.top + at.y };
        """,
        identifier,
    )
    return found["x"], found["y"]


def colours_at(browser: Browser, identifier: str) -> list[list[int]]:
    """The colours of the canvases on the upper border of a service."""
    found: list[list[int]] = browser.run(
        """
        const box = linkwire.graph.cy.getElementById(arguments[0]).renderedBoundingBox({ includeLabels: false });
        const area = document.getElementById("graph").getBoundingClientRect();
        return [...document.querySelectorAll("#graph canvas")].flatMap((canvas) => {
          const scale = canvas.width / area.width;
          const column = Math.round(((box.x1 + box.x2) / 2) * scale), rows = Math.round(12 * scale);
          const { data } = canvas.getContext("2d").getImageData(column, Math.round(box.y1 * scale) - 2, 1, rows);
          return Array.from({ length: rows }, (_, row) => [...data.slice(row * 4, row * 4 + 4)]);
        });
        """,
        identifier,
    )
    return found


def test_a_click_on_the_broken_link_explains(browser: Browser) -> None:
    browser.wait(lambda: is_drawn(browser) == 10)
    red = [0xCF, 0x22, 0x2E, 255]
    browser.wait(lambda: red in colours_at(browser, "service shop_web"))
    assert red not in colours_at(browser, "service shop_proxy")
    browser.click_at(*place(browser, "link shop_web shop_db"))
    browser.wait(lambda: title(browser) == "shop_web → shop_db" and browser.find("#details").is_displayed())
    said = browser.text("#details")
    for part in (
        "broken",
        "none come back",
        "17 packets",
        "shop_db 14 coming in",
        "shop_data, renewed 2027-01-",
        "6 min ago",
    ):
        assert part in said
    browser.wait(lambda: browser.find("#details-body a[href='#/graph/node/n3']"))
    browser.click_at(*place(browser, "service shop_proxy"))
    browser.wait(lambda: title(browser) == "shop_proxy")
    assert "Links to (1)" in browser.text("#details")


def test_a_change_is_shown_announced_and_kept(browser: Browser, page: Page) -> None:
    browser.go("#/links")
    browser.wait(lambda: len(browser.all("#links tr")) == 10)
    assert browser.texts("#links tr:first-child td")[:2] == ["✕ broken", "shop_web → shop_db"]
    page.document["links"][4]["pairs"][0]["state"] = "broken"
    browser.wait(lambda: browser.text("#announcer") == "shop_worker to shop_queue is broken")
    assert browser.texts("#links tr:nth-child(2) td")[:2] == ["✕ broken", "shop_worker → shop_queue"]
    assert "✕ 2 broken" in browser.texts("#counts button")
    browser.go("#/events")
    browser.wait(lambda: len(browser.all("#events li")) == 6)
    newest = [text for text in browser.texts("#events li") if "before: connected" in text]
    assert len(newest) == 1
    assert "link broken" in newest[0]
    assert "shop_worker" in newest[0]


def test_the_keyboard_alone_reaches_everything(browser: Browser) -> None:
    browser.go("#/links")
    browser.wait(lambda: len(browser.all("#links tr")) == 10)
    browser.press("/")
    assert browser.focused() == "search"
    browser.press(*"queue")
    browser.wait(lambda: len(browser.all("#links tr")) == 2)
    for _ in range(20):
        browser.press(TAB)
        if browser.focused() == "shop_worker → shop_queue":
            break
    browser.press(ENTER)
    browser.wait(lambda: browser.focused() == "details-title")
    assert title(browser) == "shop_worker → shop_queue"
    browser.press(ESCAPE)
    browser.wait(lambda: browser.focused() == "shop_worker → shop_queue")
    assert not browser.find("#details").is_displayed()
    for _ in range(20):
        browser.driver.switch_to.active_element.send_keys(TAB)
        if browser.focused() == "content":
            break


def test_a_state_alone_can_be_shown(browser: Browser) -> None:
    browser.go("#/links")
    browser.wait(lambda: len(browser.all("#links tr")) == 10)
    button = browser.find("#counts button[data-state=broken]")
    button.click()
    browser.wait(lambda: len(browser.all("#links tr")) == 1)
    assert button.get_attribute("aria-pressed") == "true"
    browser.go("#/graph")
    browser.wait(
        lambda: browser.run("return linkwire.graph.cy?.edges().filter((one) => !one.hasClass('dim')).length") == 1
    )
    button.click()
    browser.wait(lambda: browser.run("return linkwire.graph.cy.elements('.dim').length") == 0)


def test_names_and_texts_stay_text(browser: Browser, page: Page) -> None:
    bad = "<img src=x onerror=\"document.title='taken'\"><b>x</b>"
    page.document["problems"] = [bad]
    page.document["links"][1]["pairs"][0] |= {"error": bad, "consumer_node": bad}
    page.log.append(page.log[0] | {"details": {"reason": bad}})
    for view, selector in (("problems", "#problems"), ("events", "#events"), ("nodes", "#nodes")):
        browser.go(f"#/{view}/link/shop_web/shop_db")
        shown = (selector, "#details")
        browser.wait(partial(has_all, browser, bad, shown))
    assert browser.all("#content img, #details img, #content b") == []
    assert "taken" not in browser.driver.title


def test_nodes_show_their_encryption(browser: Browser, page: Page) -> None:
    browser.go("#/nodes/node/n1")
    browser.wait(lambda: "send, reaches 1 of 1" in browser.text("#nodes"))
    details = ("Encryption", "send, reaches 1 of 1 nodes", "12 s ago", "1.23MB received, 98.8kB sent")
    browser.wait(lambda: all(text in browser.text("#details") for text in details))
    nodes = page.document["nodes"]
    page.document["control"]["agents"][nodes[1]["id"]] = world.part(2, "UDP port 51819 is in use on the node")
    browser.go("#/problems/node/n2")
    browser.wait(lambda: "node n2: UDP port 51819 is in use on the node" in browser.text("#problems"))
    browser.wait(lambda: "UDP port 51819 is in use on the node" in browser.text("#details"))


def test_an_agent_that_is_silent_is_told(browser: Browser, page: Page) -> None:
    browser.wait(lambda: "As of" in browser.text("#freshness"))
    failure = page.failure = "the agent's process did not answer within 5 s: it hangs"
    browser.wait(lambda: failure in browser.text("#failure"))
    assert is_drawn(browser) == 10
    page.failure = None
    browser.wait(lambda: not browser.find("#failure").is_displayed())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, scheme: str) -> None:
    browser.colours(scheme)
    browser.wait(lambda: is_drawn(browser) == 10)
    browser.run(AXE)
    for (width, height), view in LOOKED_AT:
        browser.size(width, height)
        browser.go(f"#/{view}")
        browser.wait(partial(is_beside, browser, "/" in view))
        found = browser.run_async("axe.run({ resultTypes: ['violations'] }).then(done)")
        violations = [(view, one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
        assert violations == []
        assert len(found["passes"]) > 10
        assert browser.run("return document.scrollingElement.scrollWidth") <= width


def test_the_theme_can_be_chosen(browser: Browser) -> None:
    browser.wait(lambda: is_drawn(browser) == 10)
    background = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(background)
    button = browser.find("#theme")
    button.click()
    assert browser.run(background) == light
    button.click()
    assert browser.run(background) != light
    browser.wait(lambda: [0xFF, 0x7B, 0x72, 255] in colours_at(browser, "service shop_web"))
    assert button.get_attribute("aria-label") == "Theme: dark"
    assert browser.driver.find_elements(By.CSS_SELECTOR, "[style*=background]") == []
