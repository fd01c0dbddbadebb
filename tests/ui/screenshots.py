"""Makes the pictures of docs/ui, `python -m tests.ui.screenshots`: three widths, both themes; many links."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from tests.ui import world
from tests.ui.browser import Browser, started
from tests.ui.served import Page

FOLDER = Page.PROJECT / "docs/ui"
SIZES = {"desk": (1280, 720), "tablet": (820, 720), "phone": (390, 720)}
BROKEN = "link/shop_web/shop_db"
VIEWS = {"desk": f"graph/{BROKEN}", "tablet": f"links/{BROKEN}", "phone": "graph"}


def is_drawn(browser: Browser, view: str) -> bool:
    links = browser.run("return window.linkwire?.graph.cy?.edges().length")
    return links == 10 and browser.find("#details").is_displayed() == ("/" in view)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    page, large = Page(), Page()
    large.document = world.large()
    with tempfile.TemporaryDirectory() as folder:
        driver = started(Path(folder))
        browser = Browser(driver)
        browser.size(*SIZES["desk"])
        browser.open(f"{page.address}#/graph")
        browser.wait(partial(is_drawn, browser, "graph"))
        for scheme in ("dark", "light"):
            browser.colours(scheme)
            for name, (width, height) in SIZES.items():
                browser.size(width, height)
                browser.go(f"#/{VIEWS[name]}")
                browser.wait(partial(is_drawn, browser, VIEWS[name]))
                time.sleep(2)  # for the last frame
                browser.shot(FOLDER / f"{name}-{scheme}.png")
        browser.size(*SIZES["desk"])
        browser.open(large.address)
        browser.wait(lambda: browser.run("return window.linkwire?.graph.drawn"))
        browser.shot(FOLDER / "large-light.png")
        driver.quit()
    page.close()
    large.close()


if __name__ == "__main__":
    main()
