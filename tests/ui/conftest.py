"""A real Chromium without a window, and the page's real server beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ui.browser import Browser, started
from tests.ui.served import Page


@pytest.fixture
def page() -> Iterator[Page]:
    found = Page()
    yield found
    found.close()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    driver = started(tmp_path_factory.mktemp("chromium"))
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(chromium: Browser, page: Page) -> Iterator[Browser]:
    """A window on the page; what its console or policy complains about fails the test."""
    chromium.size(1280, 800)
    chromium.colours("light")
    chromium.forget()
    chromium.open(page.address)
    yield chromium
    complaints = chromium.complaints()
    strangers = [url for url in chromium.requests() if not url.startswith(page.address)]
    chromium.open("about:blank")
    assert complaints == []
    assert strangers == []
