"""Chromium for the tests of pages, one a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.report.site.browser import Browser, chromium


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    with chromium() as found:
        yield found


@pytest.fixture
def browser(driver: webdriver.Chrome, folder: Path) -> Iterator[Browser]:
    """On the report of the module's fixture `folder`; at the end nothing may have been complained of or fetched."""
    driver.get("about:blank")
    driver.get_log("browser"), driver.get_log("performance")
    found = Browser(driver, folder)
    found.window(1200, 900)
    found.scheme("light")
    yield found
    assert found.complaints() == []
