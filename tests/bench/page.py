"""The page with a large Swarm in Chromium: when it is drawn first, and how long its frames take while one drags.

    .venv/bin/python -m tests.bench.page [SERVICES LINKS]

Chromium has no GPU here, so the processor draws: a desk's figures are better. The server runs in the same process.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.ui import world
from tests.ui.browser import Browser, started
from tests.ui.served import Page

TURNS, STEPS = 3, 30
WIDTH, HEIGHT = 1280, 800
FRAMES = """
window.frames_ = [];
const note = (at) => { window.frames_.push(at); window.frame_ = requestAnimationFrame(note); };
window.frame_ = requestAnimationFrame(note);
"""
TAKEN = "cancelAnimationFrame(window.frame_); return window.frames_;"
PLACE = """
const cy = linkwire.graph.cy, box = document.getElementById("graph").getBoundingClientRect();
const middle = { x: box.width / 2, y: box.height / 2 };
const far = (node) => Math.hypot(node.renderedPosition("x") - middle.x, node.renderedPosition("y") - middle.y);
const at = cy.nodes(".service").min(far).ele.renderedPosition();
return [box.left + at.x, box.top + at.y];
"""
"""The service nearest to the middle."""
EMPTY = """
const box = document.getElementById("graph").getBoundingClientRect();
return [box.left + 12, box.top + 12];
"""

DRAGS = (
    ("a frame while the whole is dragged", "", EMPTY),
    ("a frame while a service is dragged", "", PLACE),
    ("a frame while one drags close by", "linkwire.graph.zoom(12)", EMPTY),
)


def spent(browser: Browser) -> float:
    """Milliseconds of a processor that the page's main thread has taken."""
    metrics = browser.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return 1000 * next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


def drag(browser: Browser, x: float, y: float) -> tuple[list[float], float]:
    """The milliseconds between the frames while the mouse drags there and back, and of a processor for each."""
    browser.mouse("mousePressed", x, y)
    browser.run(FRAMES)
    before = spent(browser)
    for step in range(1, STEPS):
        browser.mouse("mouseMoved", x + 4 * min(step, STEPS - step), y + 2 * min(step, STEPS - step))
    browser.mouse("mouseReleased", x, y)
    frames: list[float] = browser.run(TAKEN)
    used = (spent(browser) - before) / max(1, len(frames))
    return [after - before for before, after in itertools.pairwise(frames)], used


def told(name: str, values: list[float]) -> None:
    """Print the median, the 95th percentile and the longest."""
    values = sorted(values)
    high, load = values[int(len(values) * 0.95)], os.getloadavg()[0]
    figures = f"{statistics.median(values):.0f} ms, 95 of 100 within {high:.0f}, at most {values[-1]:.0f}"
    print(f"{name}: {figures} ({len(values)} of them, load {load:.0f})", flush=True)


def measure(services: int, links: int) -> None:
    """Print what a page of this size takes."""
    page = Page()
    page.document = world.large(services, links) if links > len(world.shop()["links"]) else world.shop()
    with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as folder:
        driver = started(Path(folder))
        try:
            browser = Browser(driver)
            browser.size(WIDTH, HEIGHT)
            driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            figures: dict[str, list[float]] = {}
            page.source.warm()
            for _ in range(TURNS):
                browser.open(page.address)
                browser.wait(lambda: browser.run("return window.linkwire?.graph.drawn"))
                figures.setdefault("drawn after", []).append(browser.run("return linkwire.graph.drawn"))
                figures.setdefault("drawn, its main thread's CPU", []).append(spent(browser))
                for name, script, place in DRAGS:
                    browser.run(script)
                    time.sleep(1)
                    frames, used = drag(browser, *browser.run(place))
                    figures.setdefault(name, []).extend(frames)
                    figures.setdefault(f"{name}, its main thread's CPU", []).append(used)
            for name, values in figures.items():
                told(f"{services} services, {links} links, {name}", values)
        finally:
            driver.quit()
            page.close()


if __name__ == "__main__":
    chosen = [int(word) for word in sys.argv[1:]] or [1000, 5000]
    measure(9, 10)  # a small one, to see how busy the machine is
    measure(chosen[0], chosen[1])
