"""The page of a comparison in a real Chromium."""

from pathlib import Path

import pytest

from finer_ray.compare.run import compare
from tests.report.site.browser import IN_A_BROWSER, WIDER, Browser
from tests.report.site.conftest import browser, driver
from tests.report.site.exports import make

pytestmark = IN_A_BROWSER
__all__ = ["browser", "driver"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    one = make(root / "a", images=24)
    other = make(root / "b", images=20, classes=("cat", "dog", "fox", "ant"))
    # A line of the two jobs that has no blank to break at.
    other.manifest.config["model"]["weights"] = f"{'long' * 40}.safetensors"
    compare(one, other, root / "to")
    return root / "to"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_closed_to_anybody(browser: Browser, scheme: str) -> None:
    browser.scheme(scheme)
    browser.open("index.html")
    assert browser.violations() == []


def test_it_fits_a_phone(browser: Browser) -> None:
    browser.window(390, 844, phone=True)
    browser.open("index.html")
    assert browser.driver.execute_script(WIDER) <= 0
