"""A window of Chromium, by chromedriver."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

DEADLINE_S = 60.0
"""For the page to show something; a busy machine is slow, and not wrong."""


FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--force-color-profile=srgb", "--hide-scrollbars", "--lang=en"),
)


def started(folder: Path) -> Chrome:
    """Start Debian's Chromium, without a window.

    Args:
        folder: for its profile.
    """
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options, ChromeService("/usr/bin/chromedriver"))


class Browser:
    """One window."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        self.driver.get("about:blank")  # the same address but for its hash would not be loaded again
        self.driver.get(address)

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def colours(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - what the script returns
        return self.driver.execute_script(script, *arguments)

    def run_async(self, script: str) -> Any:  # noqa: ANN401 - likewise
        """Run a script that ends with `done(value)`."""
        self.driver.set_script_timeout(60)
        return self.driver.execute_async_script(f"const done = arguments[arguments.length - 1]; {script}")

    def go(self, route: str) -> None:
        self.run("location.hash = arguments[0]", route)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        texts: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText.trim())", selector
        )
        return texts

    def text(self, selector: str) -> str:
        return "\n".join(self.texts(selector))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def focused(self) -> str:
        """The id of what has the focus, or its text where it has none."""
        found: str = self.run("const a = document.activeElement; return a.id || a.innerText || a.tagName")
        return found

    def wait(self, held: Callable[[], object]) -> None:
        """Wait until something holds; fails with the page's text where it never does."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                if held():
                    return
            except StaleElementReferenceException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"never seen; the page is now:\n{self.text('body')}")

    def shot(self, file: Path) -> None:
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        file.write_bytes(base64.b64decode(taken["data"]))

    def mouse(self, kind: str, x: float, y: float, **more: object) -> None:
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1, **more}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def click_at(self, x: float, y: float) -> None:
        self.mouse("mouseMoved", x, y, button="none", buttons=0)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def forget(self) -> None:
        self.complaints()
        self.requests()

    def complaints(self) -> list[str]:
        """Return what the console said since it was last asked: errors, refused sources."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        messages = [str(entry["message"]) for entry in entries if entry["level"] in ("SEVERE", "WARNING")]
        return [text for text in messages if "getImageData" not in text]  # the tests' own

    def requests(self) -> list[str]:
        """Return the addresses that pages asked for since it was last asked; not Chromium's own first page."""
        entries = self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        own = ("chrome://", "chrome-untrusted://")  # Chromium's first page may still be loading
        return [one["request"]["url"] for one in sent if not one["documentURL"].startswith(own)]


ESCAPE, ENTER, TAB = Keys.ESCAPE, Keys.ENTER, Keys.TAB
