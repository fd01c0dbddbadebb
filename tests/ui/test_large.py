"""The page of a large Swarm, whose graph is drawn on one canvas: what mouse and fingers reach there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver import Keys

from tests.ui import world
from tests.ui.browser import ENTER, Browser
from tests.ui.served import Page
from tests.ui.test_page import AXE, has_all, title

LINKS = 700
RED = [0xCF, 0x22, 0x2E, 255]


def large() -> dict[str, Any]:
    """Many, and two services apart from them whose link is broken."""
    found = world.large(200, LINKS - 1)
    found["links"].append(world.link("zz_a", "zz_b", world.pair("zz_a", "zz_b", state="broken")))
    return found


@pytest.fixture
def page() -> Iterator[Page]:
    found = Page()
    found.document = large()
    yield found
    found.close()


def drawn(browser: Browser) -> Any:  # noqa: ANN401 - a time
    return browser.run("return window.linkwire?.graph.drawing?.isDrawn && linkwire.graph.cy === null")


def place(browser: Browser, service: str) -> tuple[float, float]:
    """Where a service is drawn, in the window."""
    found: dict[str, float] = browser.run(
        """
        const at = linkwire.graph.drawing.placeOf(arguments[0]);
        const box = document.getElementById("graph").getBoundingClientRect();
        return { x: box.left + at.x, y: box.top + at.y };
        """,
        service,
    )
    return found["x"], found["y"]


def colour(browser: Browser, service: str) -> list[int]:
    """The colour of the middle of a service."""
    found: list[int] = browser.run(
        """
        const { x, y } = linkwire.graph.drawing.placeOf(arguments[0]);
        const canvas = document.querySelector("#graph > canvas"), scale = canvas.width / canvas.clientWidth;
        return [...canvas.getContext("2d").getImageData(Math.round(x * scale), Math.round(y * scale), 1, 1).data];
        """,
        service,
    )
    return found


def drag(browser: Browser, at: tuple[float, float], by: tuple[float, float]) -> None:
    browser.mouse("mousePressed", *at)
    for part in (0.5, 1.0):
        browser.mouse("mouseMoved", at[0] + part * by[0], at[1] + part * by[1])
    browser.mouse("mouseReleased", at[0] + by[0], at[1] + by[1])


def test_clicks_find_links_and_services(browser: Browser) -> None:
    browser.wait(lambda: drawn(browser))
    assert browser.run("return typeof window.cytoscape") == "undefined"
    assert colour(browser, "zz_a") == RED
    (x, y), (other_x, other_y) = place(browser, "zz_a"), place(browser, "zz_b")
    browser.click_at((x + other_x) / 2, (y + other_y) / 2)
    browser.wait(lambda: title(browser) == "zz_a → zz_b" and browser.find("#details").is_displayed())
    browser.wait(lambda: has_all(browser, "none come back", ("#details",)))
    browser.click_at(*place(browser, "zz_b"))
    browser.wait(lambda: title(browser) == "zz_b")


def test_a_dragged_service_stays_there(browser: Browser, page: Page) -> None:
    browser.wait(lambda: drawn(browser))
    before, other = place(browser, "zz_a"), place(browser, "zz_b")
    drag(browser, before, (60, 30))
    assert place(browser, "zz_a") == pytest.approx((before[0] + 60, before[1] + 30))
    assert place(browser, "zz_b") == pytest.approx(other)
    page.document["links"][-1]["pairs"][0]["state"] = "connected"
    browser.wait(lambda: browser.text("#announcer") == "zz_a to zz_b is connected")
    browser.wait(lambda: colour(browser, "zz_a") != RED)
    assert place(browser, "zz_a") == pytest.approx((before[0] + 60, before[1] + 30))
    assert not browser.find("#details").is_displayed()


def test_wheel_and_fingers_zoom_around_a_point(browser: Browser) -> None:
    browser.wait(lambda: drawn(browser))
    box = browser.run("const { x, y } = document.getElementById('graph').getBoundingClientRect(); return [x, y]")
    x, y = place(browser, "zz_a")
    drag(browser, (box[0] + 5, box[1] + 60), (50, -40))
    assert place(browser, "zz_a") == pytest.approx((x + 50, y - 40))
    x, y = place(browser, "zz_a")
    zoom = browser.run("return linkwire.graph.drawing.view.zoom")
    browser.driver.execute_cdp_cmd(
        "Input.dispatchMouseEvent", {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": -200}
    )
    browser.wait(lambda: browser.run("return linkwire.graph.drawing.view.zoom") == pytest.approx(2 * zoom))
    assert place(browser, "zz_a") == pytest.approx((x, y), abs=1)
    for kind, apart in (("touchStart", 40), ("touchMove", 50), ("touchMove", 60)):
        points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert browser.run("return linkwire.graph.drawing.view.zoom") == pytest.approx(3 * zoom, rel=0.05)
    assert place(browser, "zz_a") == pytest.approx((x, y), abs=3)
    assert not browser.find("#details").is_displayed()


def test_search_and_states_leave_the_rest_faint(browser: Browser) -> None:
    browser.wait(lambda: drawn(browser))
    browser.press("/", *"zz_b")
    browser.wait(lambda: browser.run("return linkwire.graph.drawing.services.get('stack1_service1').dim"))
    kept = "return [...linkwire.graph.drawing.services.values()].filter((one) => !one.dim).map((one) => one.name)"
    assert sorted(browser.run(kept)) == ["zz_a", "zz_b"]
    assert colour(browser, "zz_b") == RED
    browser.press(ENTER)
    browser.wait(lambda: browser.run("return linkwire.graph.drawing.view.zoom") == pytest.approx(1.2))
    browser.press(*[Keys.BACKSPACE] * 4)
    browser.wait(lambda: not browser.run("return linkwire.graph.drawing.services.get('stack1_service1').dim"))


def test_a_swarm_that_shrinks_is_drawn_anew(browser: Browser, page: Page) -> None:
    browser.wait(lambda: drawn(browser))
    page.document = world.shop()
    browser.wait(lambda: browser.run("return linkwire.graph.cy?.edges().length") == 10)
    assert browser.all("#graph > canvas") == []
    page.document = large()
    browser.wait(lambda: drawn(browser))
    assert len(browser.all("#graph canvas")) == 1


def test_axe_finds_nothing_in_a_large_graph(browser: Browser) -> None:
    browser.wait(lambda: drawn(browser))
    browser.run(AXE)
    found = browser.run_async("axe.run({ resultTypes: ['violations'] }).then(done)")
    assert [one["id"] for one in found["violations"]] == []
    assert browser.find("#graph").get_attribute("aria-label") == f"Graph of 202 services and {LINKS} links"
