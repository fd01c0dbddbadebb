"""The page with a large Swarm in Chromium: when it is drawn first, and how long its frames take while one drags.

    .venv/bin/python -m tests.bench.page [--beside FOLDER] [SERVICES LINKS]

Chromium has no GPU here, so the processor draws: a desk's figures are better. The server runs in the same process.
FOLDER has the page's files of another version (`git archive`), which is opened in turn with this one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from compose_ext.swarm.link_states import read
from compose_ext.ui.server import FILES
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
const { cy, drawing } = linkwire.graph, box = document.getElementById("graph").getBoundingClientRect();
const places = cy ? cy.nodes(".service").map((node) => node.renderedPosition()) : [...drawing.services.values()];
const far = (place) => Math.hypot(place.x - box.width / 2, place.y - box.height / 2);
const at = places.reduce((a, b) => (far(a) < far(b) ? a : b));
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


def opened(browser: Browser, page: Page) -> dict[str, list[float]]:
    """Open the page, and drag in it; returns the figures by name."""
    browser.open(page.address)
    browser.wait(lambda: browser.run("return window.linkwire?.graph.drawn"))
    used = spent(browser)
    figures = {
        "first text": [browser.run("return performance.getEntriesByName('first-contentful-paint')[0].startTime")],
        "drawn after": [browser.run("return linkwire.graph.drawn")],
        "drawn, its main thread's CPU": [used],
    }
    for name, script, place in DRAGS:
        browser.run(script)
        time.sleep(1)
        frames, used = drag(browser, *browser.run(place))
        figures[name] = frames
        figures[f"{name}, its main thread's CPU"] = [used]
    return figures


def measure(services: int, links: int, versions: dict[str, Path]) -> None:
    """Print what a page of this size takes, in each version."""
    document = world.large(services, links) if links > len(world.shop()["links"]) else world.shop()
    text = json.dumps(document)
    pages = {name: Page(lambda: read(text), files) for name, files in versions.items()}
    with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as folder:
        driver = started(Path(folder))
        try:
            browser = Browser(driver)
            browser.size(WIDTH, HEIGHT)
            driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            figures: dict[str, list[float]] = defaultdict(list)
            for page in pages.values():
                page.source.warm()
            for turn in range(TURNS):
                for version, page in pages.items() if turn % 2 else reversed(pages.items()):
                    for name, values in opened(browser, page).items():
                        figures[f"{version}{name}"].extend(values)
            for name, values in figures.items():
                told(f"{services} services, {links} links, {name}", values)
        finally:
            driver.quit()
            for page in pages.values():
                page.close()


def main() -> None:
    """Measure a small page, to see how busy the machine is, and a large one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--beside", type=Path)
    parser.add_argument("services", type=int, nargs="?", default=1000)
    parser.add_argument("links", type=int, nargs="?", default=5000)
    chosen = parser.parse_args()
    versions = {"": FILES} if chosen.beside is None else {"this version, ": FILES, "the other, ": chosen.beside}
    measure(9, 10, versions)
    measure(chosen.services, chosen.links, versions)


if __name__ == "__main__":
    main()
